"""One task of a sweep: a process of its own that dies with the one that started it.

    python -m experiments.harness.task [--processors 0,1] run CONFIG ...   as python -m experiments
    python -m experiments.harness.task [--processors 0,1] environment EXPERIMENT

The parent holds the other end of the task's standard input. However the parent ends, by kill -9
too, that pipe is closed then, and so is the task: else it would hold the lock of its run folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from experiments.harness.run_folder import BUSY

BAD_INPUT = 2
TRIES = 3
PAUSE = 10.0  # seconds before a folder that another process has is tried again


@dataclass(frozen=True)
class Outcome:
    """How a task ended: exit code, what it printed last, seconds, the signals that killed it."""

    code: int
    output: str
    seconds: float
    killed: tuple[int, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether another process has the folder: a run, a sweep, a task whose driver is gone."""
        return self.code == BAD_INPUT and BUSY in self.output


def run(
    words: Sequence[str],
    cwd: str,
    started: Callable[[subprocess.Popen[bytes]], object] = lambda process: None,
    again: Callable[[int, int], bool] = lambda number, tries: True,
) -> Outcome:
    """Runs a task to its end; where a signal killed it, again, twice at most.

    Args:
      words: the arguments of this module.
      cwd: the folder that it runs in.
      started: told of the process.
      again: asked, with the signal and how often it was tried, whether to try again.
    """
    safe = ["-P"] if sys.flags.safe_path else []
    killed: list[int] = []
    begun = time.perf_counter()
    while True:
        # A file, not a pipe: nobody has to read it while the task runs.
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                [sys.executable, *safe, "-m", "experiments.harness.task", *words],
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it by way of its parent alone
            )
            started(process)
            code = process.wait()
            assert process.stdin
            process.stdin.close()
            _end_group(process.pid)
            output.seek(0)
            text = output.read().decode(errors="replace")
        number = -code if code < 0 else code - 128 if code in (137, 143) else 0
        if number:
            killed.append(number)
            if len(killed) < TRIES and again(number, len(killed)):
                continue
        return Outcome(code, text, time.perf_counter() - begun, tuple(killed))


def on_worker(words: Sequence[str], cwd: str, log: str) -> Outcome:
    """`run`, on a worker that may be killed itself: the log counts how often that was so."""
    with open(log, "a+") as file:
        file.seek(0)
        deaths = len(file.readlines())
        file.write("begun\n")
    killed = (int(signal.SIGKILL),) * deaths
    if deaths >= TRIES:
        return Outcome(-signal.SIGKILL, "", 0.0, killed)
    while (outcome := run(words, cwd)).busy:
        time.sleep(PAUSE)
    return replace(outcome, killed=(*killed, *outcome.killed))


def _end_with_parent() -> None:
    """Waits until nobody holds the other end of the standard input any more."""
    while os.read(0, 1):
        pass
    if hasattr(os, "getpgrp") and os.getpgrp() == os.getpid():
        _end_group(os.getpid())
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def _end_group(leader: int) -> None:
    """What a task started and left: one that it forked would hold the lock of its run folder."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)


def main(words: list[str]) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if words[0] == "--processors":  # before JAX counts them
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, map(int, words[1].split(",")))
        words = words[2:]
    if words[0] == "environment":
        from experiments.harness import environment

        print("\n" + json.dumps(environment.describe(words[1])))
        return 0
    from experiments.__main__ import main as experiments_main

    return experiments_main(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
