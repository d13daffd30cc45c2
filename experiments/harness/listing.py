"""The run folders there are: what each is of, what differs from the default, how far it came."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.cells import cell_len

from experiments.harness import config, registry, terminal
from experiments.harness.experiment import Table, in_words
from experiments.harness.results import point_key
from experiments.harness.run_folder import RUNS, RunFolder, check_root

_SWEEP = "sweep.json"
_CELL = 44  # characters
_FOLDER = 50
_LEAST = 16


@dataclass(frozen=True)
class Row:
    """One folder, in words; what cannot be read of it is among them."""

    changed: float
    experiment: str
    differs: str
    state: str
    points: str
    size: int
    path: Path
    fault: str = ""

    def cells(self, room: int = _CELL) -> tuple[str, ...]:
        return (
            datetime.fromtimestamp(self.changed).strftime("%Y-%m-%d %H:%M"),
            terminal.shortened(self.path.name, _FOLDER),
            _short(self.differs, room),
            self.state,
            self.points,
            _bytes(self.size),
            self.experiment,
        )


def list_runs(*, runs: Path = RUNS) -> int:
    """Show the run folders: date, experiment, what differs from the default, state, size.

    Args:
      runs: the folder that holds the run folders.
    """
    check_root(runs)
    console = terminal.output(width=200)
    found = rows(runs)
    if not found:
        console.print(
            f"{runs}: holds no run yet; start one with: python -m experiments run NAME",
            soft_wrap=True,
            markup=False,
        )
        return 0
    # The folder first, which is named after its experiment: a narrow terminal drops the last.
    columns = ("changed", "folder", "not the default", "state", "points", "size", "experiment")
    # What differs gives way to a narrow terminal, but not wholly.
    beside = sum(max(cell_len(row.cells()[column]) for row in found) + 3 for column in (0, 1))
    room = min(_CELL, max(_LEAST, console.width - 2 - beside - 3))
    cells = tuple(row.cells(room) for row in found)
    count = "one folder" if len(found) == 1 else f"{len(found)} folders"
    table = Table(f"{runs}: {count}, {_bytes(sum(r.size for r in found))}", columns, cells)
    terminal.show_table(console, table, "A wider terminal shows further columns.")
    for row in found:
        if row.fault:  # whole: the table has room for its beginning alone
            console.print(f"\n{row.fault}", soft_wrap=True, markup=False, highlight=False)
    return 0


def rows(root: Path) -> list[Row]:
    """The run folders and sweeps below `root`, the newest first."""
    folders = [path for path in root.glob("*") if _is_listed(path)]
    return sorted((_row(path) for path in folders), key=lambda row: -row.changed)


def _is_listed(path: Path) -> bool:
    names = ("config.json", "results.jsonl", _SWEEP)
    closed = os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK)
    return closed or any(os.path.isfile(path / name) for name in names)


def _row(path: Path) -> Row:
    stats = [stat for file in path.rglob("*") if (stat := _stat(file))]
    changed = max((stat.st_mtime for stat in stats), default=0.0)
    size = sum(stat.st_size for stat in stats)
    if os.path.isfile(path / _SWEEP):
        return Row(changed, "sweep", "", "", "", size, path)
    run, name, differs, points, fault = RunFolder(path), "?", "", "", ""
    try:
        name = run.title
        where, experiment, mine = registry.reopen(path)
        records, _ = run.records(), run.environment
        done = {point_key(record["point"]) for record in records}
        points = str(len(done))
        differs = _differs(where, experiment.Config, mine)
        whole = run.holds_all(records)
        state = "finished" if whole else _so_far(experiment.plan(mine), done)
    except registry.REFUSALS as error:
        state, fault = f"not readable: {_why(error, path)}", str(error)
    except (Exception, SystemExit) as error:  # of an experiment's own code: it hides no other
        state = f"not readable: {_short(in_words(error))}"
    return Row(changed, name, differs, state, points, size, path, fault)


def _stat(file: Path) -> os.stat_result | None:
    """Of a file; None of what is none, or was there a moment ago: a run may be going on."""
    try:
        return file.stat() if file.is_file() else None
    except OSError:
        return None


def _so_far(planned: Iterable[dict], done: set[str]) -> str:
    keys = [point_key(point) for point in planned]
    return f"unfinished {sum(key in done for key in keys)} of {len(keys)}"


def _differs(name: str, model: type[config.Config], mine: config.Config) -> str:
    """`key=value` of what is not as in the default config, the shortest first: a list is long."""
    default = config.resolve(model, registry.find_config(name).values)
    dumped = (each.model_dump(mode="json") for each in (default, mine))
    return " ".join(sorted(config.differences(*dumped), key=len))


def _why(error: Exception, path: Path) -> str:
    """The first fault, in one short line."""
    lines = [line.strip() for line in str(error).splitlines()]
    faults = getattr(error, "faults", None) or lines
    return _short(faults[0].replace(f"{path}/", "").replace(f"{path}: ", ""))


def _short(text: str, width: int = _CELL) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _bytes(count: int) -> str:
    """
    >>> _bytes(900), _bytes(15_300), _bytes(2_500_000)
    ('900 B', '15 kB', '2.5 MB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB" if count >= 1e3 else f"{count} B"
