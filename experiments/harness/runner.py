"""Runs an experiment into its folder: skips what is finished, writes what is measured, reports."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.harness import environment, progress, report, run_folder
from experiments.harness.config import Config
from experiments.harness.experiment import Experiment, Point, Record
from experiments.harness.run_folder import RunFolder

INTERRUPTED = 130  # what a shell reports of a command that Ctrl-C ended


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

    Args:
      name: of the experiment and its folder.
      experiment: the module that follows the protocol.
      config: its validated config.
      root: where run folders lie.
      console: where to print.
      again: the command that continues this run, for the message after Ctrl-C.
    """
    started = time.perf_counter()
    planned = plan(name, experiment, config)
    folder = run_folder.make(root, name, config, environment.describe())
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
                _measure(experiment, config, missing, writer, shown)
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
            return INTERRUPTED
        seconds = time.perf_counter() - started
        if not folder.finished:
            folder.mark_finished({"points": len(planned), "seconds": round(seconds, 1)})
    report.show(console, summary, device)
    console.print(f"\nFinished in {seconds:.0f} s. Open the report in a browser:")
    console.print(f"  {folder.report}", soft_wrap=True, markup=False)
    return 0


def rebuild(
    name: str, experiment: Experiment, config: Config, folder: RunFolder, console: Console
) -> int:
    """Writes the report of a folder again from its records; returns the exit code."""
    records = folder.records()
    planned = plan(name, experiment, config)
    status = Status(len(planned) - len(remaining(planned, records)), len(planned))
    summary = report.write(folder, name, experiment, records, str(status), status.complete)
    report.show(console, summary, environment.device_name(folder.environment))
    console.print(f"\n{name}, {status}. The report:")
    console.print(f"  {folder.report}", soft_wrap=True, markup=False)
    return 0


def plan(name: str, experiment: Experiment, config: Config) -> list[Point]:
    """The planned points, as they read back from JSON, checked to be distinct."""
    points = experiment.plan(config)
    keys = [run_folder.point_key(point) for point in points]
    if not points:
        raise ValueError(f"{name}: plan(config) names no points; there should be one at least")
    if len(set(keys)) < len(keys):
        twice = next(point for point, key in zip(points, keys, strict=True) if keys.count(key) > 1)
        raise ValueError(f"{name}: plan(config) names the point {twice} more than once")
    return points


def remaining(planned: Sequence[Point], records: Iterable[Record]) -> list[Point]:
    """The planned points that have no records yet."""
    done = {run_folder.point_key(record["point"]) for record in records}
    return [point for point in planned if run_folder.point_key(point) not in done]


def _measure(
    experiment: Experiment,
    config: Config,
    points: list[Point],
    writer: run_folder.Writer,
    shown: progress.Progress,
) -> None:
    describe = getattr(experiment, "describe", describe_point)
    for point in points:
        shown.begin(describe(point))
        # One point a call: when the iterator ends, the point is whole and can be written.
        records = list(experiment.run(config, [point]))
        for record in records:
            if run_folder.point_key(record["point"]) != run_folder.point_key(point):
                raise ValueError(
                    f"run(config, [{point}]) yielded a record of {record['point']}; should be of "
                    "the point that was asked for"
                )
        writer.append(point, records)
        shown.done()


def describe_point(point: Point) -> str:
    """`layer=LRU length=512`: what a point says of itself."""
    return " ".join(f"{key}={value}" for key, value in point.items())
