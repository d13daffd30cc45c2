"""The folder of one run: what was asked, where it ran, what was measured.

    runs/<experiment>-<key>/
      config.json        the resolved config, readable by `python -m experiments run`
      environment.json   versions, device, git commit when it was made
      results.jsonl      append-only, one measurement a line
      figures/           png and svg
      report.html        self-contained
      finished.json      written last; a folder without it is unfinished

The key is a hash of what the numbers depend on, so that the same command continues its folder and
anything else gets another one: experiment, resolved config, device, processor, Python, packages,
JAX's settings, and the sources of rnnscan and of what the experiment imports (`sources.py`). Where
it times nothing, the system and the number of processors and bytes of memory are left out.
Neither is the commit in it, nor other experiments, tests, pages: a commit to these costs no
measurement. environment.json has the commit at which the folder was made.

The lines of a point are written together and each knows how many they are, so that a point is there
as a whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.harness import sources
from experiments.harness.config import Config
from experiments.harness.environment import device_name, that_measures
from experiments.harness.experiment import Point, Record

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

RUNS = Path("runs")  # where run folders lie unless told otherwise
NUMBERING = ("line", "lines")  # of a record within its point, and of how many
CURES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, the quota is used up",
    errno.EFBIG: "allow larger files (ulimit -f)",
}
OTHER_FOLDER = "choose another folder with --runs"
BUSY = "another process is measuring into it"


class RunFolderError(RuntimeError):
    """A run folder that cannot be used, and why."""


@dataclass(frozen=True)
class RunFolder:
    """A folder of runs/; made by `make`, found again by `find` and `latest`."""

    path: Path

    @property
    def results(self) -> Path:
        return self.path / "results.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def finished(self) -> bool:
        return (self.path / "finished.json").exists()

    @property
    def experiment(self) -> str:
        """Its name; of an experiment of one's own the path of its folder."""
        name = self.config.get("experiment")
        if not isinstance(name, str) or not title(name):
            path = self.path / "config.json"
            raise RunFolderError(f'{path}: does not say which experiment it is of: "experiment"')
        return name

    @property
    def title(self) -> str:
        """What its experiment is called, wherever that lies."""
        return title(self.experiment)

    @property
    def config(self) -> dict[str, Any]:
        return _read_json(self.path / "config.json")

    @property
    def environment(self) -> dict[str, Any]:
        path = self.path / "environment.json"
        facts = _read_json(path)
        try:
            _ = device_name(facts), facts["packages"]["jax"]
        except (KeyError, TypeError) as error:
            raise RunFolderError(f"{path}: says no device or version: {error}") from None
        return facts

    def records(self) -> list[Record]:
        """The records of all finished points; a torn tail is left out."""
        return _complete(self.results)[0]

    def holds_all(self, records: Sequence[Record]) -> bool:
        """Whether it was finished, and these are as many points as then: a copy may be torn."""
        if not self.finished:
            return False
        points = _read_json(self.path / "finished.json").get("points")
        return points in (None, len({point_key(record["point"]) for record in records}))

    def mark_finished(self, facts: dict[str, Any]) -> None:
        write_atomically(self.path / "finished.json", json.dumps(facts, indent=2) + "\n")


def key_of(experiment: str, config: Config, environment: dict[str, Any]) -> str:
    """Ten hexadecimal digits that tell runs apart; the top of this file says by what."""
    facts = {
        "experiment": experiment,
        "config": config.model_dump(mode="json"),
        "environment": that_measures(environment, times=sources.times(experiment)),
    }
    return hashlib.sha256(canonical(facts).encode()).hexdigest()[:10]


def place(root: Path, experiment: str, config: Config, environment: dict[str, Any]) -> RunFolder:
    """The folder that this config in this environment has below `root`, there or not."""
    key = key_of(experiment, config, environment)
    return RunFolder(root / f"{title(experiment)}-{key}")


def title(experiment: str) -> str:
    """What an experiment is called: that of a folder of one's own is known by its path.

    >>> title("wallclock"), title("/where/it/is/mine")
    ('wallclock', 'mine')
    """
    return Path(experiment).name


def make(root: Path, experiment: str, config: Config, environment: dict[str, Any]) -> RunFolder:
    """The folder of this config in this environment below `root`: made, or found as it was left."""
    folder = place(root, experiment, config, environment)
    resolved = {"experiment": experiment, **config.model_dump(mode="json")}
    for name, facts in (("environment.json", environment), ("config.json", resolved)):
        with _writes(folder.path):
            there = (folder.path / name).exists()
        if not there:
            write_atomically(folder.path / name, json.dumps(facts, indent=2) + "\n")
    return folder


def find(path: Path) -> RunFolder:
    """The run folder at `path`."""
    if not os.path.isfile(path / "config.json"):  # false of what cannot be a path at all
        raise RunFolderError(
            f"{path}: is no run folder; there should be a config.json in it, or the visit.json of "
            "a folder of results/"
        )
    return RunFolder(path)


def check_root(root: Path) -> None:
    """Raises a RunFolderError where `root` can hold no run folders, as it is one or a file."""
    for path, what in ((root, "a file"), (root / "config.json", "a run folder")):
        if os.path.isfile(path):
            raise RunFolderError(
                f"{root}: is {what}; should be the folder that holds the run folders"
            )


def latest(root: Path) -> RunFolder:
    """The folder below `root` that was measured or made last."""
    check_root(root)
    found = [path.parent for path in root.glob("*/config.json")]
    if not found:
        raise RunFolderError(
            f"{root}: holds no run yet; start one with: python -m experiments run NAME"
        )
    return RunFolder(max(found, key=_last_change))


def point_key(point: Point) -> str:
    """Points are equal when their JSON is."""
    return canonical(point)


@contextmanager
def writing(folder: RunFolder) -> Iterator[Writer]:
    """Opens `results.jsonl` for appending, alone, after dropping what an interruption tore.

    A folder that is written to is unfinished until it is marked again.
    """
    with _writes(folder.path):
        # Unbuffered: nothing is left that closing would try to write once more.
        file = folder.results.open("ab", buffering=0)
    with file:
        _lock(file, folder)
        _, end = _complete(folder.results)
        with _writes(folder.path):
            file.truncate(end)
        yield Writer(folder, file)


@dataclass(frozen=True)
class Writer:
    """Appends whole points to the results of a folder."""

    folder: RunFolder
    file: io.FileIO

    def append(self, point: Point, records: Sequence[Record]) -> None:
        """Writes the records of a point at once, and returns when they are on the disk."""
        count = len(records)
        lines = [
            _to_json({**record, "point": point, "line": number, "lines": count})
            for number, record in enumerate(records, start=1)
        ]
        left = "".join(line + "\n" for line in lines).encode()
        with _writes(self.folder.path):
            (self.folder.path / "finished.json").unlink(missing_ok=True)
            while left:
                left = left[self.file.write(left) :]
            os.fsync(self.file.fileno())


def write_atomically(path: Path, content: str | bytes, *, otherwise: str = OTHER_FOLDER) -> None:
    """Writes a file so that a reader sees the old or the new one, never half of it.

    otherwise: what helps where the disk refuses it for good.
    """
    with _writes(path, otherwise):
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        data = as_bytes(content) if isinstance(content, str) else content
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def as_bytes(text: str) -> bytes:
    r"""UTF-8, and an escape of what has none: a byte of a path, half of a pair in JSON.

    >>> as_bytes("\u00fc \udcff")
    b'\xc3\xbc \\udcff'
    """
    return text.encode(errors="backslashreplace")


@contextmanager
def _writes(path: Path, otherwise: str = OTHER_FOLDER) -> Iterator[None]:
    """What the disk refuses, in one message with the cure."""
    try:
        yield
    except (OSError, ValueError) as error:  # a path with a null character
        cure = CURES.get(getattr(error, "errno", 0), "mend that")
        raise RunFolderError(
            f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}. What was "
            f"measured before is kept: {cure} and run the same command again, or {otherwise}."
        ) from None


def unwritable(record: Any) -> str:
    """What keeps a record or point from being written as JSON; empty where nothing does.

    >>> unwritable({"length": 8, "seen": {1}})
    "'seen': {1} of type set is no JSON value"
    """
    if not isinstance(record, dict):
        return f"{record!r} is no dict"
    for field, value in record.items():
        try:
            if not isinstance(field, str):
                raise TypeError("a field's name should be a string")
            _to_json({field: value})
        except (TypeError, ValueError, RecursionError) as error:
            return f"{field!r}: {error}"
    return ""


def canonical(value: Any) -> str:
    """JSON without a choice: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _complete(path: Path) -> tuple[list[Record], int]:
    """The records of complete points, and where the last of these ends in the file."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read: {error}") from None
    records: list[Record] = []
    group: list[Record] = []
    end = offset = 0
    for number, line in enumerate(lines, start=1):
        offset += len(line)
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            record = None
        if record is None:
            if number == len(lines):
                break
            raise RunFolderError(f"{path}: line {number} is not JSON; move the folder away")
        if not isinstance(record, dict) or not {"point", "line", "lines"} <= record.keys():
            raise RunFolderError(f"{path}: line {number} is no record; move the folder away")
        if record["line"] != len(group) + 1:
            raise RunFolderError(f"{path}: line {number} does not follow on the one before it")
        group.append(record)
        if len(group) == record["lines"]:
            records.extend(group)
            group, end = [], offset
    return records, end


def _lock(file: io.FileIO, folder: RunFolder) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunFolderError(f"{folder.path}: {BUSY}; wait for it or stop it") from None
    except OSError as error:  # of a file system that has none, as some of clusters
        raise RunFolderError(
            f"{folder.path}: cannot be locked: {error.strerror}; two processes could write into "
            "it: choose a folder of another file system with --runs"
        ) from None


def _to_json(record: Record) -> str:
    return json.dumps(record, default=_plain)


def _plain(value: Any) -> Any:
    """numpy and jax values as JSON's."""
    if isinstance(value, np.generic) or hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    raise TypeError(f"{value!r} of type {type(value).__name__} is no JSON value")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: cannot be read: {error}") from None
    if not isinstance(facts, dict):
        raise RunFolderError(f"{path}: cannot be read: should hold a table")
    return facts


def _last_change(folder: Path) -> float:
    return max(
        (folder / name).stat().st_mtime
        for name in ("config.json", "results.jsonl", "finished.json")
        if (folder / name).exists()
    )
