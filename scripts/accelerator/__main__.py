"""bash scripts/accelerator.sh OUTDIR [--only STAGE ...] [--seconds N] [--allow-cpu] [--list]"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from scripts.accelerator import archive, machine
from scripts.accelerator.stages import SECONDS, STAGES, Stage
from scripts.accelerator.visit import LOG, Journey

REFUSED = 2
INTERRUPTED = 130
LEAST_SECONDS = 10
STARTED = "RNNSCAN_VISIT_STARTED"  # by accelerator.sh: installing wheels is part of the visit


class RefusedError(RuntimeError):
    """Nothing was run, and why."""


@dataclass(frozen=True)
class Options:
    """Measure on a machine that one has for minutes: what is worth most first, all of it kept.

    Args:
      outdir: the folder for what comes back, 8 files at most: the records in one archive, the log,
        a few figures.
      only: run these stages alone, in their usual order.
      seconds: the visit ends within these, 10 to 360.
      allow_cpu: rehearse with small configs, GPU or not.
      list_stages: show the stages and end.
    """

    outdir: Annotated[
        tyro.conf.Positional[Path | None], tyro.conf.arg(name="outdir", metavar="OUTDIR")
    ] = None
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STAGE ...")] = ()
    seconds: int = SECONDS
    allow_cpu: bool = False
    list_stages: Annotated[bool, tyro.conf.arg(name="list")] = False

    def __str__(self) -> str:
        """As they would be typed, without the folder."""
        words = ["--allow-cpu"] if self.allow_cpu else []
        words += ["--only", *self.only] if self.only else []
        words += ["--seconds", str(self.seconds)] if self.seconds != SECONDS else []
        return shlex.join(words)


def main(arguments: Sequence[str] | None = None, stages: Sequence[Stage] = STAGES) -> int:
    started = float(os.environ.pop(STARTED, time.time()))
    # Whoever asks a visit to end gets its summary all the same.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = tyro.cli(Options, prog="bash scripts/accelerator.sh", args=arguments)
    if options.list_stages:
        for stage in stages:
            print(f"{stage.name:15s} {stage.seconds:3d} s  {stage.what}")
        return 0
    try:
        chosen, out = _chosen(stages, options.only), _prepared(options)
        here = _machine(options, started)
    except RefusedError as error:
        print(error, file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
        (out / LOG).open("w", encoding="utf-8") as log,
    ):
        journey = Journey(
            out=out,
            runs=Path(scratch) / "runs",
            log=log,
            machine=here,
            started=started,
            seconds=options.seconds,
            options=str(options),
            rehearsal=options.allow_cpu,
        )
        return 0 if journey.go(chosen) else 1


def _chosen(stages: Sequence[Stage], only: Sequence[str]) -> list[Stage]:
    names = [stage.name for stage in stages]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise RefusedError(f"no such stage: {', '.join(unknown)}; there are {', '.join(names)}")
    return [stage for stage in stages if not only or stage.name in only]


def _prepared(options: Options) -> Path:
    """The folder, made where it was missing; another visit's records are not overwritten."""
    if not LEAST_SECONDS <= options.seconds <= SECONDS:
        raise RefusedError(f"--seconds {options.seconds}: should be {LEAST_SECONDS} to {SECONDS}")
    if options.outdir is None:
        raise RefusedError("OUTDIR is missing: the folder for what comes back")
    out = options.outdir
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RefusedError(f"{out}: cannot be written: {error.strerror}") from None
    if there := [name for name in (archive.NAME, LOG) if (out / name).exists()]:
        raise RefusedError(f"{out}: holds the {there[0]} of another visit; name another folder")
    return out.resolve()


def _machine(options: Options, started: float) -> machine.Machine:
    try:
        found = machine.ask(seconds=started + options.seconds - time.time())
    except machine.MachineError as error:
        raise RefusedError(str(error)) from None
    if found.platform != "gpu" and not options.allow_cpu:
        raise RefusedError("JAX sees no GPU here; --allow-cpu rehearses the visit without one")
    return found


if __name__ == "__main__":
    sys.exit(main())
