"""The lines of results.jsonl, one a record: how they are written, and which are believed.

The lines of a point are written together and each knows how many they are, so that a point is there
as a whole or not at all. Each ends in a hash of itself and of its run, so that one that was changed
or brought from another run is told. Lines of older versions have none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.harness.experiment import Point, Record
from experiments.harness.files import MOVE_AWAY, RunFolderError, canonical, to_json, unreadable

OF_THE_FILE = ("line", "lines", "hash")  # fields of a line that are no measurement
_ENDING = re.compile(rb', "hash": "([0-9a-f]{16})"}\r?\n')  # git may have changed how lines end


def point_key(point: Point) -> str:
    """Points are equal when their JSON is."""
    return canonical(point)


def lines_of(point: Point, records: Sequence[Record], run: str) -> bytes:
    """The records of a point as lines; `run` is the hash that its folder bears."""
    count = len(records)
    texts = [
        to_json({**record, "point": point, "line": number, "lines": count}).encode()
        for number, record in enumerate(records, start=1)
    ]
    return b"".join(
        b'%s, "hash": "%s"}\n' % (text[:-1], _hash(text, run).encode()) for text in texts
    )


def read(path: Path, run: str) -> tuple[list[Record], int]:
    """The records of complete points, and where the last of these ends in the file.

    A line that an interruption tore is left out, with its point. A RunFolderError names the line
    that is none, was changed, or repeats a point.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise unreadable(path, error) from None
    records: list[Record] = []
    group: list[Record] = []
    first: dict[str, int] = {}
    end = offset = 0
    for number, line in enumerate(lines, start=1):
        offset += len(line)
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            record = None
        if record is None and number == len(lines) and _is_torn(line):
            break
        fault = _fault(record, line, group, run)
        if fault or record is None:
            raise RunFolderError(f"{path}: line {number} {fault}; {MOVE_AWAY}")
        if _ENDING.search(line):  # else it is a field that an older record may have
            del record["hash"]
        group.append(record)
        if len(group) < record["lines"]:
            continue
        key, begun = point_key(record["point"]), number - len(group) + 1
        if key in first:
            raise RunFolderError(
                f"{path}: line {begun} begins the point {key}, which line {first[key]} began "
                f"already; remove the lines of one of both, or {MOVE_AWAY}"
            )
        first[key] = begun
        records.extend(group)
        group, end = [], offset
    return records, end


def _fault(record: Any, line: bytes, group: Sequence[Record], run: str) -> str:
    """What is wrong with a line after those of its point so far; empty where nothing is."""
    if record is None:
        return "is not JSON"
    if not isinstance(record, dict) or not {"point", "line", "lines"} <= record.keys():
        return "is no record"
    if not isinstance(record["point"], dict):
        return "is no record: its point should be a table"
    ending = _ENDING.search(line)
    if run and "hash" not in record:
        return "is no record of this run: it bears no hash"
    if not _is_right(ending, line, run) if ending else run:
        return "was changed after it was measured, or is of another run"
    begun = group[0] if group else record
    if record["line"] != len(group) + 1 or any(
        record[key] != begun[key] for key in ("point", "lines")
    ):
        return "does not follow on the one before it"
    if not isinstance(record["lines"], int) or record["lines"] < record["line"]:
        return "is no record: its point should have as many lines at least"
    return ""


def _is_torn(line: bytes) -> bool:
    """Whether it is what an interruption leaves of a record, and no file of another kind."""
    return line.startswith(b"{") or not line.strip(b"\0 \r\n\t")


def _is_right(ending: re.Match[bytes], line: bytes, run: str) -> bool:
    """Whether the hash at the end of a line is that of the rest."""
    return _hash(line[: ending.start()] + b"}", run).encode() == ending[1]


def _hash(line: bytes, run: str) -> str:
    return hashlib.sha256(run.encode() + line).hexdigest()[:16]
