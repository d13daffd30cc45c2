"""What was measured so far, in one file that is whole at every moment.

    records.tar.gz
      visit.json
      <experiment>-<key>/config.json, environment.json, results.jsonl, finished.json

It is written anew beside itself and put in its own place at once: a kill finds the old or the new.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from experiments.harness import visit
from experiments.harness.visit import Visit

NAME = "records.tar.gz"
RECORDS = "results.jsonl"
OF_A_RUN = ("config.json", "environment.json", RECORDS, "finished.json")


@dataclass
class Archive:
    """Follows the run folders below `runs`."""

    path: Path
    runs: Path
    _seen: object = field(default=None, init=False)

    def update(self, tell: Callable[[], Visit]) -> None:
        """Brings it up to date, if anything was measured or any stage ended since the last time."""
        now = tell()
        seen = now.stages, now.launcher, [_stamp(path) for path in self._files()]
        if seen != self._seen:
            write(self.path, _contents(self.runs, self._files(), now))
            self._seen = seen

    def _files(self) -> list[Path]:
        return [
            folder / name
            for folder in sorted(self.runs.glob("*"))
            for name in OF_A_RUN
            if (folder / name).is_file()
        ]


def write(path: Path, contents: dict[str, bytes]) -> None:
    """Writes an archive of files by name; what was at `path` is there until it is whole."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w:gz", compresslevel=4) as archive:
            for name, data in contents.items():
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(data), int(time.time())
                archive.addfile(member, io.BytesIO(data))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _contents(runs: Path, files: list[Path], now: Visit) -> dict[str, bytes]:
    contents = {visit.FILE: (now.model_dump_json(indent=2) + "\n").encode()}
    for path in files:
        with suppress(FileNotFoundError):  # finished.json goes when a run goes on
            data = path.read_bytes()
            if path.name == RECORDS:  # as far as it is written
                data = data[: data.rfind(b"\n") + 1]
            contents[path.relative_to(runs).as_posix()] = data
    return contents


def _stamp(path: Path) -> tuple:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (path,)
    return path, found.st_size, found.st_mtime_ns
