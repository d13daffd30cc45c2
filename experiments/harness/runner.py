"""Runs an experiment into its folder: skips what is finished, writes what is measured, reports."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.harness import environment, progress, report, results, run_folder
from experiments.harness.config import Config
from experiments.harness.experiment import (
    Experiment,
    Point,
    ProtocolError,
    Record,
    Summary,
    check,
)
from experiments.harness.results import point_key
from experiments.harness.run_folder import RunFolder
from experiments.harness.terminal import INTERRUPTED
from experiments.harness.words import command


@dataclass(frozen=True)
class Status:
    """How many of the planned points are in the folder."""

    finished: int
    planned: int

    @property
    def complete(self) -> bool:
        return self.finished == self.planned

    def __str__(self) -> str:
        if self.complete:
            return f"finished: all {self.planned} points measured"
        return f"unfinished: {self.finished} of {self.planned} points measured"


def run(
    name: str,
    experiment: Experiment,
    config: Config,
    *,
    root: Path,
    console: Console,
    again: str,
) -> int:
    """Measures what is missing of a run and writes its report; returns the exit code.

    That is 0, INTERRUPTED, or 1 where all is measured and the report lacks what could not be drawn
    or summed up.

    Args:
      name: of the experiment, or the path of a folder of one's own.
      experiment: the module that follows the protocol.
      config: its validated config.
      root: where run folders lie.
      console: where to print.
      again: the command that continues this run, for the message after Ctrl-C.
    """
    started = time.perf_counter()
    where, name = name, run_folder.title(name)
    check(name, experiment)
    planned = plan(name, experiment, config)
    folder = run_folder.make(root, where, config, environment.describe(where))
    device = environment.device_name(folder.environment)
    with run_folder.writing(folder) as writer:
        missing = remaining(planned, folder.records())
        before = len(planned) - len(missing)
        console.print(f"{name} on {device}, into {folder.path}/", soft_wrap=True, markup=False)
        if before:
            left = f"{before} of {len(planned)} points were measured before"
            console.print(f"{left}; nothing is left to measure." if not missing else f"{left}.")
        interrupted = False
        try:
            with progress.show(console, len(planned), before) as shown:
                _measure(name, experiment, config, missing, writer, shown)
        except KeyboardInterrupt:
            interrupted = True
        records = folder.records()
        status = Status(len(planned) - len(remaining(planned, records)), len(planned))
        if interrupted:
            console.print(
                f"Interrupted. {status.finished} of {status.planned} points are kept; "
                f"to continue, run again:\n  {again}",
                soft_wrap=True,
                markup=False,
            )
        summary = report.write(folder, name, experiment, records, str(status), status.complete)
        if interrupted:
            _tell(console, name, folder, summary)
            return INTERRUPTED
        seconds = time.perf_counter() - started
        if not folder.holds_all(records):
            # Of a run that went on from another the time of the whole is not known.
            took = {} if before else {"seconds": round(seconds, 1)}
            folder.mark_finished({"points": len(planned), **took})
    report.show(console, summary, device)
    console.print(f"\nFinished in {seconds:.0f} s. Open the report in a browser:")
    console.print(f"  {folder.report}", soft_wrap=True, markup=False)
    return _tell(console, name, folder, summary)


def rebuild(
    name: str, experiment: Experiment, config: Config, folder: RunFolder, console: Console
) -> int:
    """Writes the report of a folder again from its records; returns the exit code of `run`."""
    records = folder.records()
    planned = plan(name, experiment, config)
    status = Status(len(planned) - len(remaining(planned, records)), len(planned))
    summary = report.write(folder, name, experiment, records, str(status), status.complete)
    report.show(console, summary, environment.device_name(folder.environment))
    console.print(f"\n{name}, {status}. The report:")
    console.print(f"  {folder.report}", soft_wrap=True, markup=False)
    return _tell(console, name, folder, summary)


def _tell(console: Console, name: str, folder: RunFolder, summary: Summary) -> int:
    """Says what the report lacks; returns the exit code."""
    if not summary.failures:
        return 0
    lines = [
        f"\n{name}: the report is not whole:",
        *(f"  {failure}" for failure in summary.failures),
        "What was measured is safe; to draw and sum up again:",
        f"  {command('python', '-m', 'experiments', 'report', folder.path)}",
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
    return 1


def plan(name: str, experiment: Experiment, config: Config) -> list[Point]:
    """The planned points, checked to be writable and distinct."""
    points = experiment.plan(config)
    if not isinstance(points, Iterable):
        raise ProtocolError(f"{name}: plan(config) returned {points!r}; should return points")
    points = list(points)
    if not points:
        raise ProtocolError(f"{name}: plan(config) names no points; there should be one at least")
    for point in points:
        fault = run_folder.unwritable(point)
        if fault:
            raise ProtocolError(f"{name}: plan(config) names the point {point}: {fault}")
    keys = [point_key(point) for point in points]
    if len(set(keys)) < len(keys):
        twice = next(point for point, key in zip(points, keys, strict=True) if keys.count(key) > 1)
        raise ProtocolError(f"{name}: plan(config) names the point {twice} more than once")
    return points


def remaining(planned: Sequence[Point], records: Iterable[Record]) -> list[Point]:
    """The planned points that have no records yet."""
    done = {point_key(record["point"]) for record in records}
    return [point for point in planned if point_key(point) not in done]


def measure(name: str, experiment: Experiment, config: Config, point: Point) -> list[Record]:
    """The records of one point, checked to be such, of this point, and writable."""
    # One point a call: when the iterator ends, the point is whole and can be written.
    asked = f"{name}: run(config, [{point}])"
    records = experiment.run(config, [point])
    if not isinstance(records, Iterable):
        raise ProtocolError(f"{asked} returned {records!r}; should yield records")
    records = list(records)
    if not records:
        raise ProtocolError(f"{asked} yielded no record; a point yields at least one")
    for record in records:
        fault = run_folder.unwritable(record)
        if fault:
            raise ProtocolError(f"{asked} yielded a record that cannot be written: {fault}")
        if taken := [name for name in results.OF_THE_FILE if name in record]:
            raise ProtocolError(
                f"{asked} yielded a record with {' and '.join(taken)}, by which results.jsonl "
                "numbers the records of a point; should have another name"
            )
        if "point" not in record:
            raise ProtocolError(
                f'{asked} yielded a record without "point"; it has {", ".join(map(str, record))}'
            )
        if point_key(record["point"]) != point_key(point):
            raise ProtocolError(
                f"{asked} yielded a record of {record['point']}; should be of the point that was "
                "asked for"
            )
    return records


def _measure(
    name: str,
    experiment: Experiment,
    config: Config,
    points: list[Point],
    writer: run_folder.Writer,
    shown: progress.Progress,
) -> None:
    describe = getattr(experiment, "describe", describe_point)
    for point in points:
        shown.begin(describe(point))
        writer.append(point, measure(name, experiment, config, point))
        shown.done()


def describe_point(point: Point) -> str:
    """`layer=LRU length=512`: what a point says of itself."""
    return " ".join(f"{key}={value}" for key, value in point.items())
