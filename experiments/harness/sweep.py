"""Runs an experiment over values: every point a process, finished ones known by their folders.

    python -m experiments sweep digits small seeds=[1,2] parameters=[2000,5000] --jobs 2

The driver resolves every config before anything runs, and starts no JAX backend: devices, flags
and memory start fresh in each task. What is done is read from the run folders alone, so the same
command continues after any interruption.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from experiments.harness import (
    registry,
    run_folder,
    sources,
    sweep_points,
    sweep_report,
    task,
    terminal,
)
from experiments.harness.config import ConfigError
from experiments.harness.run_folder import RUNS, RunFolder, RunFolderError
from experiments.harness.sweep_points import SweepPoint
from experiments.harness.sweep_report import FINISHED
from experiments.harness.terminal import INTERRUPTED, Flag


@dataclass
class Tasks:
    """The running tasks of this process, so that Ctrl-C can end them."""

    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    stopped: threading.Event = field(default_factory=threading.Event)

    def started(self, process: subprocess.Popen[bytes]) -> None:
        self.running.add(process)
        if self.stopped.is_set():
            process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        """They keep the points that they have measured, and end."""
        self.stopped.set()
        for process in list(self.running):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)


def sweep(
    name: Annotated[str, tyro.conf.arg(metavar="NAME_OR_PATH")],
    changes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[CONFIG] KEY=[V1,V2] ...")],
    /,
    *,
    side_by_side: Annotated[Flag, tyro.conf.arg(name="zip")] = False,
    jobs: int = 1,
    workers: str = "",
    yes: Flag = False,
    runs: Path = RUNS,
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
    """
    console = terminal.output()
    short, changed = registry.split_short(changes)
    axes, fixed = sweep_points.parse(changed)
    file = registry.find_config(name, short)
    experiment = registry.load(file.experiment)
    _check(jobs, workers, file.experiment)
    points = sweep_points.resolve(
        experiment.Config, file.values, axes, fixed, zipped=side_by_side, many=yes
    )
    again = ["python", "-m", "experiments", "sweep", name, *changes]
    again += ["--zip"] * side_by_side + (["--jobs", str(jobs)] if jobs > 1 else [])
    again += (["--workers", workers] if workers else []) + ["--yes"] * yes
    again += ["--runs", str(runs)] if runs != RUNS else []
    asked = run_folder.canonical([file.experiment, file.values, fixed, axes, side_by_side])
    key = hashlib.sha256(asked.encode()).hexdigest()[:10]
    folder = runs / f"sweep-{run_folder.title(file.experiment)}-{key}"
    shares = _shares(jobs)
    tasks = Tasks()
    engine = _client(workers) if workers else None
    try:
        facts = _environment(file.experiment, shares[0], tasks, engine)
        folders = [run_folder.place(runs, file.experiment, p.config, facts) for p in points]
        states = [_state(found) for found in folders]
        words = {
            number: _words(folder, file.experiment, number, point, runs)
            for number, point in enumerate(points)
            if not states[number]
        }
        console.print(
            f"{len(points)} points, {len(words)} to run, into {folder}/",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
        for point, state in zip(points, states, strict=True):
            if state not in ("", FINISHED):
                console.print(f"{point}: left alone: {state}", markup=False, soft_wrap=True)
        say = _teller(console, points, len(points) - len(words))
        interrupted = False
        try:
            ended = (
                _on_engine(engine, words)
                if engine
                else _here(words, shares, tasks, points, console)
            )
            for number, outcome in ended:
                states[number] = _outcome(outcome)
                say(number, outcome)
        except KeyboardInterrupt:
            interrupted = True
    finally:
        if engine:
            engine.close()
    states = [state or "unfinished" for state in states]
    command = shlex.join(again)
    sweep_report.write(
        folder, file.experiment, experiment, axes, points, folders, states, console, command
    )
    if interrupted:
        console.print(
            f"Interrupted. To continue, run again:\n  {command}", soft_wrap=True, markup=False
        )
        return INTERRUPTED
    return 0 if set(states) == {FINISHED} else 1


def _words(folder: Path, experiment: str, number: int, point: SweepPoint, runs: Path) -> list[str]:
    """Writes the config of a point, and says how a task runs it."""
    path = folder / "configs" / f"{number}.json"
    resolved = {"experiment": experiment, **point.config.model_dump(mode="json")}
    run_folder.write_atomically(path, json.dumps(resolved, indent=2) + "\n")
    return ["run", str(path.resolve()), "--runs", str(runs.resolve())]


def _check(jobs: int, workers: str, experiment: str) -> None:
    faults = []
    if jobs < 1:
        faults.append(f"--jobs = {jobs}: should be 1 at least")
    if workers and jobs != 1:
        faults.append(f"--jobs = {jobs}: should be left out with --workers, which has its own")
    if jobs > 1 and sources.times(experiment):
        faults.append(
            f"--jobs = {jobs}: {run_folder.title(experiment)} times what it runs, and points that "
            "run at once would slow each other down; should be 1"
        )
    if faults:
        raise ConfigError(faults, "of the sweep")


def _shares(jobs: int) -> list[list[str]]:
    """The arguments that give each job its processors; none where there is one job."""
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(jobs)]
    processors = sorted(os.sched_getaffinity(0))
    parts = [processors[n::jobs] or [processors[n % len(processors)]] for n in range(jobs)]
    return [["--processors", ",".join(map(str, part))] for part in parts]


def _environment(name: str, share: list[str], tasks: Tasks, engine: Any) -> dict[str, Any]:
    """Where a task measures: asked of one, since a backend would have to be started."""
    words = [*share, "environment", name]
    if engine:
        outcome = engine.submit(task.run, words, os.getcwd(), pure=False).result()
    else:
        outcome = task.run(words, os.getcwd(), tasks.started)
    try:
        return json.loads(outcome.output.splitlines()[-1])
    except (IndexError, ValueError):
        raise RunFolderError(f"a task could not say where it runs:\n{outcome.output}") from None


def _state(folder: RunFolder) -> str:
    """Whether it is finished, or why it cannot be continued; empty where it is to be run."""
    if not folder.path.exists():
        return ""
    try:
        if (folder.path / "config.json").exists():
            _ = folder.config, folder.environment
        folder.records()
    except RunFolderError as error:
        return str(error)
    return FINISHED if folder.finished else ""


def _here(
    words: dict[int, list[str]],
    shares: list[list[str]],
    tasks: Tasks,
    points: Sequence[SweepPoint],
    console: Console,
) -> Iterator[tuple[int, task.Outcome]]:
    """The tasks on this machine, as many at once as there are shares of its processors."""
    free = list(shares)

    def one(number: int) -> task.Outcome:
        def again(signal_: int, tries: int) -> bool:
            if signal_:
                console.print(
                    f"{points[number]}: killed by signal {signal_}, tried again ({tries} of 2)",
                    markup=False,
                    highlight=False,
                )
            return not tasks.stopped.is_set()

        share = free.pop()
        try:
            return task.run([*share, *words[number]], os.getcwd(), tasks.started, again)
        finally:
            free.append(share)

    with futures.ThreadPoolExecutor(len(shares)) as pool:
        numbers = {pool.submit(one, number): number for number in words}
        try:
            for done in futures.as_completed(numbers):
                yield numbers[done], done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            tasks.stop()
            raise


def _client(address: str) -> Any:
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise ConfigError(
            ["--workers: dask is not installed: python -m pip install 'rnnscan[sweep]'"],
            "of the sweep",
        ) from None
    try:
        return Client(address, timeout=20, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            [f"--workers = {address}: no scheduler answers: {error}"], "of the sweep"
        ) from None


def _on_engine(engine: Any, words: dict[int, list[str]]) -> Iterator[tuple[int, task.Outcome]]:
    """The tasks on the workers of a dask scheduler, which tries those of a killed worker again."""
    from distributed import as_completed

    numbers = {}
    for number, mine in words.items():
        log = Path(mine[1]).with_suffix(".begun")
        log.unlink(missing_ok=True)
        job = engine.submit(task.on_worker, mine, os.getcwd(), str(log), pure=False)
        numbers[job] = number
    for done in as_completed(numbers, loop=engine.loop):
        error = done.exception()
        yield numbers[done], done.result() if not error else task.Outcome(1, f"{error}", 0.0)


def _outcome(outcome: task.Outcome) -> str:
    if outcome.code == 0:
        return FINISHED
    if len(outcome.killed) >= task.TRIES:
        return f"killed by signal {outcome.killed[-1]}, {task.TRIES} times"
    return "failed: " + " ".join(outcome.output.split()[-40:])


def _teller(
    console: Console, points: Sequence[SweepPoint], before: int
) -> Callable[[int, task.Outcome], None]:
    count, width = before, len(str(len(points)))

    def say(number: int, outcome: task.Outcome) -> None:
        nonlocal count
        count += 1
        state = _outcome(outcome)
        text = f"[{count:{width}}/{len(points)}] {points[number]}  {outcome.seconds:.1f} s"
        if outcome.killed and state == FINISHED:
            tries = len(outcome.killed) + 1
            text += f"  (killed by signal {outcome.killed[-1]}, tried {tries} times)"
        console.print(
            text if state == FINISHED else f"{text}  {state}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    return say
