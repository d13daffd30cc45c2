"""Runs an experiment over values: every point a process, finished ones known by their folders.

    python -m experiments sweep digits small 'seeds=[1,2]' 'parameters=[2000,5000]' --jobs 2

The driver resolves every config before anything runs, and starts no JAX backend: devices, flags
and memory start fresh in each task. What is done is read from the run folders alone, so the same
command continues after any interruption.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.harness import (
    registry,
    run_folder,
    sources,
    sweep_points,
    task,
    terminal,
)
from experiments.harness.config import ConfigError
from experiments.harness.experiment import Record
from experiments.harness.files import RunFolderError, canonical, write_atomically
from experiments.harness.run_folder import RUNS, RunFolder
from experiments.harness.sweep_dask import LostError, OnDask
from experiments.harness.sweep_here import Here, processors
from experiments.harness.sweep_points import FINISHED, SweepPoint, counted
from experiments.harness.terminal import INTERRUPTED, SHOWN, Flag
from experiments.harness.words import command


@dataclass
class Sweep:
    """What is to be run: points, the run folder of each, and how far it came.

    Args:
      experiment: its name, or the path of a folder of one's own.
      folder: the sweep's own.
      environment: where its points run.
      states: finished, or why not; empty where it is to be run.
    """

    experiment: str
    folder: Path
    points: Sequence[SweepPoint]
    environment: dict[str, Any] = field(default_factory=dict)
    folders: Sequence[RunFolder] = ()
    states: list[str] = field(default_factory=list)

    def config(self, number: int) -> Path:
        return self.folder / "configs" / f"{number}.json"

    def log(self, number: int) -> Path:
        """Where what a point printed is kept if it failed."""
        return self.folder / "configs" / f"{number}.txt"


def sweep(
    name: Annotated[str, tyro.conf.arg(metavar="NAME_OR_PATH")],
    changes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[CONFIG] KEY=[V1,V2] ...")],
    /,
    *,
    side_by_side: Annotated[Flag, tyro.conf.arg(name="zip")] = False,
    jobs: int = 1,
    workers: str | None = None,
    yes: Flag = False,
    runs: Path = RUNS,
    dry_run: Flag = False,
) -> int:
    """Run an experiment over values, the product of all axes, or continue where it stopped.

    Args:
      name: an experiment, the folder of one of your own, or the path of a config.
      changes: the name of one of its configs (small, say), then axes, key=[v1,v2], and values that
        are fixed for all points, key=value.
      side_by_side: the axes go side by side, and no product is taken.
      jobs: how many points run at once, the processors divided among them.
      workers: the address of a dask scheduler; its workers have to see the same --runs folder.
      yes: run more than 10,000 points.
      runs: the folder that holds the run folders.
      dry_run: say which points there are and which are left to run, and stop there.
    """
    console = terminal.output()
    say = partial(console.print, soft_wrap=True, markup=False, highlight=False)
    short, changed = registry.split_short(changes)
    axes, fixed = sweep_points.parse(changed)
    file = registry.find_config(name, short)
    experiment = registry.load(file.experiment)
    _check(jobs, workers, file.experiment)
    points = sweep_points.resolve(
        experiment.Config, file.values, axes, fixed, zipped=side_by_side, many=yes
    )
    asked = canonical([file.experiment, file.values, fixed, axes, side_by_side])
    key = hashlib.sha256(asked.encode()).hexdigest()[:10]
    mine = Sweep(file.experiment, runs / f"sweep-{run_folder.title(file.experiment)}-{key}", points)

    def tell(number: int | None, text: str) -> None:
        say(text if number is None else f"{points[number]}: {text}")

    engine = Here(jobs, tell) if workers is None else OnDask(workers, file.experiment, tell)
    with contextlib.closing(engine):
        facts = _environment(engine.environment(file.experiment))
        mine.environment = facts
        mine.folders = [run_folder.place(runs, mine.experiment, p.config, facts) for p in points]
        mine.states = [_state(mine, number) for number in range(len(points))]
        left = [number for number, state in enumerate(mine.states) if not state]
        say(f"{counted(len(points), 'point')}, {len(left)} to run, into {mine.folder}/")
        for number, state in enumerate(mine.states):
            if state not in ("", FINISHED):
                tell(number, f"left alone: {state}")
        if dry_run:
            return _preview(mine, left, say)
        stopped, status = _measure(mine, engine, {n: _words(mine, n, runs) for n in left}, say)
    again = ["python", "-m", "experiments", "sweep", name, *changes]
    again += ["--zip"] * side_by_side + (["--jobs", str(jobs)] if jobs > 1 else [])
    again += (["--workers", workers] if workers else []) + ["--yes"] * yes
    again += ["--runs", runs] if runs != RUNS else []
    to_continue = command(*again)
    # A point that ended while all was stopped has said so in its folder alone.
    states = [
        state or _state(mine, number) or "unfinished" for number, state in enumerate(mine.states)
    ]
    refused = {number for number in range(len(points)) if _is_refused(mine, number)}
    from experiments.harness import sweep_report  # it draws: no other command should wait for that

    sweep_report.write(
        mine.folder,
        mine.experiment,
        experiment,
        axes,
        points,
        mine.folders,
        states,
        console,
        to_continue,
        refused,
    )
    if stopped:
        say(f"{stopped} To continue, run again:\n  {to_continue}")
        return status
    return 0 if set(states) == {FINISHED} else 1


def _measure(
    mine: Sweep, engine: Here | OnDask, words: dict[int, list[str]], say: Callable[[str], None]
) -> tuple[str, int]:
    """Runs the points and keeps their states; why it stopped early, and the exit code of that."""
    count, every = len(mine.points) - len(words), len(mine.points)
    try:
        with contextlib.closing(engine.run(words)) as ended:
            for number, outcome in ended:
                count += 1
                mine.states[number] = _outcome(mine, number, outcome)
                text = f"[{count:{len(str(every))}}/{every}] {mine.points[number]}"
                say(f"{text}  {outcome.seconds:.1f} s{_remarks(mine, number, outcome)}")
    except KeyboardInterrupt:
        return engine.interrupted, INTERRUPTED
    except LostError as error:
        return str(error), 1
    return "", 0


def _words(mine: Sweep, number: int, runs: Path) -> list[str]:
    """Writes the config of a point, and says how a task runs it."""
    path = mine.config(number)
    config = mine.points[number].config.model_dump(mode="json")
    resolved = {"experiment": mine.experiment, **config}
    write_atomically(path, json.dumps(resolved, indent=2) + "\n")
    mine.log(number).unlink(missing_ok=True)
    return ["run", str(path.resolve()), "--runs", str(runs.resolve())]


def _preview(mine: Sweep, left: Sequence[int], say: Callable[[str], None]) -> int:
    lines = [f"  {mine.points[number]}" for number in left[:SHOWN]]
    lines += [f"  and {len(left) - SHOWN} more"] if len(left) > SHOWN else []
    say("\n".join([*lines, "Nothing was measured or written."]))
    return 0


def _check(jobs: int, workers: str | None, experiment: str) -> None:
    faults, most = [], len(processors())
    if jobs < 1:
        faults.append(f"--jobs = {jobs}: should be 1 at least")
    if workers is not None and jobs != 1:
        faults.append(f"--jobs = {jobs}: should be left out with --workers, which has its own")
    elif jobs > 1 and sources.times(experiment):
        faults.append(
            f"--jobs = {jobs}: {run_folder.title(experiment)} times what it runs, and points that "
            "run at once would slow each other down; should be 1"
        )
    elif jobs > most:
        faults.append(f"--jobs = {jobs}: should be {most} at most, the processors that there are")
    if faults:
        raise ConfigError(faults, "of the sweep")


def _environment(outcome: task.Outcome) -> dict[str, Any]:
    """Where a task measures: asked of one, since a backend would have to be started."""
    try:
        return json.loads(outcome.output.splitlines()[-1])
    except (IndexError, ValueError):
        raise RunFolderError(f"a task could not say where it runs: {_error(outcome)}") from None


def _state(mine: Sweep, number: int) -> str:
    """Whether a point is finished, or why it cannot be continued; empty where it is to be run."""
    try:
        whole = mine.folders[number].holds_all(_records(mine, number))
    except RunFolderError as error:
        return str(error)
    return FINISHED if whole else ""


def _is_refused(mine: Sweep, number: int) -> bool:
    """Whether the state of a point is a fault of its folder."""
    try:
        _records(mine, number)
    except RunFolderError:
        return True
    return False


def _records(mine: Sweep, number: int) -> list[Record]:
    """What was measured of a point; a RunFolderError where its folder holds another run."""
    folder = mine.folders[number]
    folder.check_is_of(mine.experiment, mine.points[number].config, mine.environment)
    return folder.records()


def _outcome(mine: Sweep, number: int, outcome: task.Outcome) -> str:
    """The state of a point whose task has ended: its folder says it, and else how it ended."""
    folder = mine.folders[number]
    if state := _state(mine, number):
        return state
    if outcome.output:
        with contextlib.suppress(RunFolderError):  # a full disk: the state says so
            write_atomically(mine.log(number), outcome.output)
    if len(outcome.killed) >= task.TRIES:
        return f"killed by signal {outcome.killed[-1]}, {task.TRIES} times"
    if outcome.code:
        return f"failed: {_error(outcome)}"
    return (
        f"failed: its task ended well, but {folder.path} is not finished: it stopped early, or it "
        "ran where processor, versions or sources are others"
    )


def _error(outcome: task.Outcome) -> str:
    """The error that a task ended with: what follows its last traceback, else its last line.

    >>> said = "Traceback (most recent call last):|  line 1|ValueError: two|lines|"
    >>> _error(task.Outcome(1, said.replace("|", "\\n"), 0.1))
    'ValueError: two lines'
    """
    _, raised, text = outcome.output.rpartition("Traceback (most recent call last):")
    lines = [line for line in text.splitlines() if line.strip()]
    if raised:
        lines = list(itertools.dropwhile(lambda line: line.startswith(" "), lines))
    found = " ".join(" ".join(lines if raised else lines[-1:]).split())
    found = found or f"exit code {outcome.code}"
    return found if len(found) <= 300 else f"{found[:297]}..."


def _remarks(mine: Sweep, number: int, outcome: task.Outcome) -> str:
    """What is said of a point beside its name."""
    state, kept = mine.states[number], mine.log(number)
    if state != FINISHED:
        return f"  {state}" + (f"; all that it printed: {kept}" if kept.exists() else "")
    text = ""
    if outcome.killed:
        tries = len(outcome.killed) + 1
        text += f"  (killed by signal {outcome.killed[-1]}, tried {tries} times)"
    if outcome.code:
        again = command("python", "-m", "experiments", "report", mine.folders[number].path)
        text += f"  (its report is not whole: {again})"
    return text
