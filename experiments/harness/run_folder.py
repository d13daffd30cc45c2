"""The folder of one run: what was asked, where it ran, what was measured.

    runs/<experiment>-<key>/
      config.json        the resolved config, readable by `python -m experiments run`
      environment.json   versions, device, git commit when it was made
      results.jsonl      append-only, one measurement a line
      figures/           png and svg
      report.html        self-contained
      finished.json      written last; a folder without it is unfinished

The key is a hash of what the numbers depend on, so that the same command continues its folder and
anything else gets another one: experiment, resolved config, device, processor, the CPU kernel and
its instruction set, Python, packages, JAX's settings, and the sources of rnnscan and of what the
experiment imports (`sources.py`). Where it times nothing, the system and the number of processors,
threads and bytes of memory are left out.
Neither is the commit in it, nor other experiments, tests, pages: a commit to these costs no
measurement. environment.json has the commit at which the folder was made.

environment.json also holds the hashes of config.json and of itself, and each line of results.jsonl
its own (`results.py`): a folder that was changed by hand, or put together of two, is told, and no
number of it is shown. Folders of older versions bear no hashes and are believed.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments.harness import results, sources
from experiments.harness.config import Config
from experiments.harness.environment import device_name, that_measures
from experiments.harness.experiment import Point, Record
from experiments.harness.files import (
    MOVE_AWAY,
    RunFolderError,
    canonical,
    hash_of,
    read_json,
    unreadable,
    write_atomically,
    writes,
)
from experiments.harness.results import point_key
from experiments.harness.words import command

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

RUNS = Path("runs")  # where run folders lie unless told otherwise
BUSY = "another process is measuring into it"
_CONFIG, _ENVIRONMENT, _FINISHED = "config.json", "environment.json", "finished.json"
_HASHES = "hashes"  # in environment.json


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
        """Whether it was marked so; a mark that cannot be read is none, and is written again."""
        with suppress(RunFolderError):
            read_json(self.path / _FINISHED)
            return True
        return False

    @property
    def experiment(self) -> str:
        """Its name; of an experiment of one's own the path of its folder."""
        path = self.path / _CONFIG
        name = read_json(path).get("experiment")
        if not isinstance(name, str) or not title(name):
            raise RunFolderError(f'{path}: does not say which experiment it is of: "experiment"')
        return name

    @property
    def title(self) -> str:
        """What its experiment is called, wherever that lies."""
        return title(self.experiment)

    @property
    def config(self) -> dict[str, Any]:
        """What was asked, the name of the experiment with it."""
        return self._made()[0]

    @property
    def environment(self) -> dict[str, Any]:
        """Where it ran, as `environment.describe` said it."""
        facts = self._made()[1]
        try:
            _ = device_name(facts), facts["packages"]["jax"]
        except (KeyError, TypeError) as error:
            raise RunFolderError(
                f"{self.path / _ENVIRONMENT}: says no device or version: {error}; {MOVE_AWAY}"
            ) from None
        return facts

    @property
    def hash(self) -> str:
        """Of config and environment: what binds the lines of results.jsonl to this run."""
        return self._made()[2]

    def _made(self) -> tuple[dict[str, Any], dict[str, Any], str]:
        """config.json, environment.json and their hash, as `make` wrote them or not at all.

        Older versions wrote no hash, and a folder in the making has neither file.
        """
        path, where = self.path / _CONFIG, self.path / _ENVIRONMENT
        config, environment = (
            read_json(each) if os.path.lexists(each) else {} for each in (path, where)
        )
        hashes = environment.pop(_HASHES, {})
        hashed = isinstance(hashes, dict)
        of_config = hashes.get(_CONFIG) if hashed else None
        if config and not environment:
            raise RunFolderError(f"{where}: says nothing, or is missing; {MOVE_AWAY}")
        if not hashed or (hashes and hashes != _hashes(of_config, environment)):
            raise RunFolderError(
                f"{where}: was changed after it was written; put it back, or {MOVE_AWAY}"
            )
        if hashes and config and of_config != _hash_of(config):
            again = command("python", "-m", "experiments", "run", path)
            raise RunFolderError(
                f"{path}: is not what was measured: it was changed, or is of another run; put it "
                f"back, or {MOVE_AWAY}. What it says now is measured by: {again}"
            )
        return config, environment, hashes.get(_ENVIRONMENT, "")

    def check_is_of(self, experiment: str, config: Config, environment: dict[str, Any]) -> None:
        """Raises where what lies at this place is of another run, or was changed."""
        asked, where, _ = self._made()
        if not (asked or where):  # not there: of a sweep most, and each would read all sources
            return
        measures = partial(that_measures, times=sources.times(experiment))
        for name, there, wanted in (
            (_CONFIG, asked, _asked(experiment, config)),
            (_ENVIRONMENT, measures(where), measures(environment)),
        ):
            if there and hash_of(there) != hash_of(wanted):
                raise RunFolderError(
                    f"{self.path / name}: is of another run than its folder is named; {MOVE_AWAY}"
                )

    def records(self) -> list[Record]:
        """The records of all finished points; a torn tail is left out."""
        return results.read(self.results, self.hash)[0]

    def holds_all(self, records: Sequence[Record]) -> bool:
        """Whether it was finished, and these are as many points as then: a copy may be torn."""
        if not self.finished:
            return False
        points = read_json(self.path / _FINISHED).get("points")
        return points in (None, len({point_key(record["point"]) for record in records}))

    def mark_finished(self, facts: dict[str, Any]) -> None:
        write_atomically(self.path / _FINISHED, json.dumps(facts, indent=2) + "\n")


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
    folder.check_is_of(experiment, config, environment)
    asked = _asked(experiment, config)
    hashed = {**environment, _HASHES: _hashes(_hash_of(asked), environment)}
    for name, facts in ((_ENVIRONMENT, hashed), (_CONFIG, asked)):
        path = folder.path / name
        with writes(folder.path):
            there = path.exists()
        if not there:  # twice at once, the first stays: the lines of both bear its hash
            write_atomically(path, json.dumps(facts, indent=2) + "\n", once=True)
    return folder


def _asked(experiment: str, config: Config) -> dict[str, Any]:
    return {"experiment": experiment, **config.model_dump(mode="json")}


def _hash_of(config: dict[str, Any]) -> str:
    """Of config.json. The folder of an experiment of one's own may be moved: its name counts."""
    return hash_of({**config, "experiment": title(str(config.get("experiment")))})


def _hashes(config: str | None, environment: dict[str, Any]) -> dict[str, str | None]:
    """Of config.json and environment.json, of which the second is of both."""
    return {_CONFIG: config, _ENVIRONMENT: hash_of([config, environment])}


def find(path: Path) -> RunFolder:
    """The run folder at `path`."""
    _check_open(path, os.X_OK)
    if not os.path.isfile(path / _CONFIG):  # false of what cannot be a path at all
        raise RunFolderError(
            f"{path}: is no run folder; there should be a config.json in it, or the visit.json of "
            "a folder of results/"
        )
    return RunFolder(path)


def check_root(root: Path) -> None:
    """Raises a RunFolderError where `root` can hold no run folders, as it is one or a file."""
    _check_open(root, os.R_OK | os.X_OK)
    for path, what in ((root, "a file"), (root / "config.json", "a run folder")):
        if os.path.isfile(path):
            raise RunFolderError(
                f"{root}: is {what}; should be the folder that holds the run folders"
            )


def _check_open(folder: Path, mode: int) -> None:
    """Raises where nobody may look: what lies there would seem not to be."""
    if os.path.isdir(folder) and not os.access(folder, mode):
        raise unreadable(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def latest(root: Path) -> RunFolder:
    """The folder below `root` that was measured or made last."""
    check_root(root)
    found = [path.parent for path in root.glob("*/config.json") if os.path.isfile(path)]
    if not found:
        raise RunFolderError(
            f"{root}: holds no run yet; start one with: python -m experiments run NAME"
        )
    return RunFolder(max(found, key=_last_change))


@contextmanager
def writing(folder: RunFolder) -> Iterator[Writer]:
    """Opens `results.jsonl` for appending, alone, after dropping what an interruption tore.

    A folder that is written to is unfinished until it is marked again.
    """
    run = folder.hash
    with writes(folder.results):
        # Unbuffered: nothing is left that closing would try to write once more.
        file = folder.results.open("ab", buffering=0)
    with file:
        _lock(file, folder)
        _, end = results.read(folder.results, run)
        with writes(folder.path):
            file.truncate(end)
        yield Writer(folder, run, file)


@dataclass(frozen=True)
class Writer:
    """Appends whole points to the results of a folder, whose hash is `run`."""

    folder: RunFolder
    run: str
    file: io.FileIO

    def append(self, point: Point, records: Sequence[Record]) -> None:
        """Writes the records of a point at once, and returns when they are on the disk."""
        left = results.lines_of(point, records, self.run)
        with writes(self.folder.path):
            (self.folder.path / _FINISHED).unlink(missing_ok=True)
            while left:
                left = left[self.file.write(left) :]
            os.fsync(self.file.fileno())


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
            canonical({field: value})
        except (TypeError, ValueError, RecursionError) as error:
            return f"{field!r}: {error}"
    return ""


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


def _last_change(folder: Path) -> float:
    return max(
        (folder / name).stat().st_mtime
        for name in ("config.json", "results.jsonl", _FINISHED)
        if (folder / name).exists()
    )
