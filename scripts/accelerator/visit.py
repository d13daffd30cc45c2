"""Runs the stages one after another, within the time there is; what is finished is not lost."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from experiments.harness.visit import StageOutcome, Visit
from scripts.accelerator import archive, process
from scripts.accelerator.machine import Machine
from scripts.accelerator.stages import FIGURES, RESERVE, SECONDS, Stage

LAUNCHER = "RNNSCAN_CUDA_LAUNCHER"
LOG = "accelerator.log"
PASSED, FAILED, CUT = "passed", "failed", "cut short"
LEAST_SECONDS = 3.0  # what has less is not begun
REPORT_SECONDS = 15.0


@dataclass
class Journey:
    """A visit under way: where it writes, until when, and what became of its stages so far.

    Args:
      out: the folder for what comes back.
      runs: a folder for run folders.
      log: is written line by line.
      machine: where this is.
      started: the moment from which the time counts, as `time.time()` gives it.
      seconds: how long the visit may last.
      options: as they were given, for the record.
      rehearsal: whether small configs run, and no GPU is asked for.
    """

    out: Path
    runs: Path
    log: TextIO
    machine: Machine
    started: float
    seconds: float
    options: str = ""
    rehearsal: bool = False
    launcher: str = field(default_factory=lambda: os.environ.get(LAUNCHER, ""))
    outcomes: list[StageOutcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        reserve = max(3.0, RESERVE * self.seconds / SECONDS)
        self._end = self.started + self.seconds - reserve
        self._archive = archive.Archive(self.out / archive.NAME, self.runs)
        self._figures = 0

    def go(self, stages: Sequence[Stage]) -> bool:
        """Runs all of them; returns whether each passed."""
        self.say(f"=== {self.tell()}")
        self.update()
        if shutil.which("nvidia-smi"):
            self.run(["nvidia-smi"], 10)
        interrupted = False
        for number, stage in enumerate(stages):
            # A rehearsal is of small things: whoever is slow there may be.
            later = 0 if self.rehearsal else sum(it.seconds for it in stages[number + 1 :])
            if interrupted or self.left() < LEAST_SECONDS:
                outcome = StageOutcome(name=stage.name, outcome="not begun", seconds=0)
            else:
                outcome, interrupted = self._stage(stage, later)
            self.outcomes.append(outcome)
            self.update()
        self._sum_up()
        return all(outcome.outcome == PASSED for outcome in self.outcomes)

    def tell(self) -> Visit:
        """The visit as it stands."""
        return Visit(
            started=datetime.fromtimestamp(self.started, UTC).replace(microsecond=0),
            seconds=round(time.time() - self.started, 1),
            launcher=self.launcher,
            options=self.options,
            stages=tuple(self.outcomes),
            **vars(self.machine),
        )

    def update(self) -> None:
        self._archive.update(self.tell)

    def say(self, line: str) -> None:
        self.log.write(line + "\n")
        self.log.flush()
        with suppress(OSError):  # nobody listens any more
            print(line, flush=True)

    def left(self) -> float:
        return self._end - time.time()

    def run(
        self, command: Sequence[str], seconds: float, variables: Mapping[str, str] | None = None
    ) -> process.Ended:
        environment = os.environ | {
            "PYTHONUNBUFFERED": "1",
            "MPLBACKEND": "Agg",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            **({LAUNCHER: self.launcher} if self.launcher else {}),
            **(variables or {}),
        }
        # The records are in the archive before the log announces them.
        return process.run(command, environment, seconds, self.update, self.say)

    def _stage(self, stage: Stage, later: float) -> tuple[StageOutcome, bool]:
        """What became of a stage, and whether somebody interrupted the visit."""
        started = time.monotonic()
        self.say(f"=== {stage.name}: {stage.what} ({self.left():.0f} s left)")
        command, note = self._command(stage)
        word, interrupted = CUT, False
        try:
            if stage.launchers:
                word, note = self._first_that_passes(stage, command)
            else:
                # What earlier stages left over may be used, what later ones need may not.
                limit = min(self.left(), max(stage.seconds, self.left() - later))
                word = self._judge(stage, self.run(command, limit))
        except KeyboardInterrupt:
            word, interrupted = "interrupted", True
        for folder in sorted(self.runs.glob(f"{stage.experiment}-*")) if stage.experiment else []:
            interrupted = interrupted or self._report(folder)
            self._bring_figures(stage, folder)
        seconds = time.monotonic() - started
        self.say(f"=== {stage.name}: {word}, {seconds:.0f} s" + (f"; {note}" if note else ""))
        outcome = StageOutcome(name=stage.name, outcome=word, seconds=round(seconds, 1), note=note)
        return outcome, interrupted

    def _command(self, stage: Stage) -> tuple[list[str], str]:
        """The words to run, and what the machine lacks for it."""
        words = [sys.executable, *(stage.rehearsal if self.rehearsal else stage.command)]
        if stage.experiment:
            words += ["--runs", str(self.runs)]
        if not stage.under or self.rehearsal:
            return words, ""
        if not shutil.which(stage.under[0]):
            return words, f"{stage.under[0]} is missing here, so it ran without"
        return [*stage.under, *words], ""

    def _first_that_passes(self, stage: Stage, command: Sequence[str]) -> tuple[str, str]:
        word = "not begun"
        for launcher in stage.launchers:
            self.launcher = launcher
            limit = min(stage.seconds, self.left())
            if limit < LEAST_SECONDS:
                break
            word = self._judge(stage, self.run(command, limit))
            if word == PASSED:
                break
            self.say(f"=== {stage.name}: {word} with launcher {launcher}")
        return word, f"launcher {self.launcher}"

    def _judge(self, stage: Stage, ended: process.Ended) -> str:
        if ended.cut:
            return CUT
        if ended.code in (stage.rehearsed if self.rehearsal else (0,)):
            return PASSED
        if ended.code < 0:
            return f"{FAILED} ({signal.Signals(-ended.code).name})"
        return f"{FAILED} (exit code {ended.code})"

    def _report(self, folder: Path) -> bool:
        """Killed before it could report: the records are there all the same.

        Returns whether somebody interrupted the visit meanwhile.
        """
        seconds = min(REPORT_SECONDS, self.left())
        if not (folder / "report.html").exists() and seconds >= LEAST_SECONDS:
            command = [sys.executable, "-m", "experiments", "report", str(folder)]
            try:
                self.run(command, seconds)
            except KeyboardInterrupt:
                return True
        return False

    def _bring_figures(self, stage: Stage, folder: Path) -> None:
        drawn = sorted((folder / "figures").glob("*.png"), key=lambda path: path.stat().st_mtime_ns)
        for path in drawn[: min(stage.figures, FIGURES - self._figures)]:
            shutil.copyfile(path, self.out / f"{stage.experiment}-{path.name}")
            self._figures += 1

    def _sum_up(self) -> None:
        self.say(f"=== Summary: {self.tell()}, {time.time() - self.started:.0f} s")
        for it in self.outcomes:
            self.say(f"{it.outcome:24s} {it.seconds:5.0f} s  {it.name}  {it.note}".rstrip())
        files = sorted(path for path in self.out.iterdir() if path.is_file())
        self.say(", ".join(f"{path.name} ({path.stat().st_size} bytes)" for path in files))
