"""One command, its lines as they come, and no longer than it may take."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from scripts.accelerator.stages import ROOT

GRACE = 10.0  # seconds, at most, between the request to end and the kill
POLL = 0.2  # seconds
# In a group of its own a command would outlive a visit that is killed, and keep the machine busy.
# Said by the command itself, before it is the command: a fork may run nothing of Python's.
ENDS_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell starts behind its back ignores it
os.execvp(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal, and whether it was made to."""

    code: int
    seconds: float
    cut: bool


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    seconds: float,
    poll: Callable[[], None],
    show: Callable[[str], None],
) -> Ended:
    """Runs a command in a group of its own, from the top of the tree.

    Args:
      command: its words.
      environment: all of its variables.
      seconds: after these it is killed with all of its group; some seconds before, it is
        interrupted as by Ctrl-C, so that it can tidy up.
      poll: called several times a second, and always between the arrival of lines and `show`.
      show: is given each line of its output.
    """
    started = time.monotonic()
    interrupt_at = started + seconds - min(GRACE, seconds / 4)
    interrupted = killed = False
    pending = b""
    tied = [sys.executable, "-I", "-S", "-c", ENDS_WITH_PARENT] if sys.platform == "linux" else []
    process = subprocess.Popen(
        [*tied, *command],
        cwd=ROOT,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = process.stdout.fileno()
    os.set_blocking(output, False)
    try:
        while True:
            ended = process.poll() is not None
            if ended:
                _signal_group(process, signal.SIGKILL)  # what it left behind holds the pipe
            chunk = _read(output, 0 if ended else POLL)
            *lines, pending = (pending + chunk).split(b"\n")
            if ended and pending:
                lines.append(pending)
            poll()
            for line in lines:
                show(line.decode(errors="replace").rstrip("\r"))
            if ended:
                break
            now = time.monotonic()
            if now > started + seconds:
                killed = True
                _signal_group(process, signal.SIGKILL)
            elif now > interrupt_at and not interrupted:
                interrupted = True
                _signal_group(process, signal.SIGINT)
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return Ended(process.returncode, time.monotonic() - started, interrupted or killed)


def _read(output: int, seconds: float) -> bytes:
    """All that lies in the pipe, waiting for the first of it."""
    select.select([output], [], [], seconds)
    with suppress(BlockingIOError):
        if chunk := os.read(output, 2**20):
            return chunk
        time.sleep(seconds)  # closed, though the command may live on
    return b""


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
