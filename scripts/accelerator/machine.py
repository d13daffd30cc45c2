"""What this machine is, asked in a process of its own: one that has asked holds the GPU's memory.

Prints a line of JSON; whatever JAX has to say comes before it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from scripts.accelerator.stages import ROOT


@dataclass(frozen=True)
class Machine:
    device: str
    platform: str
    python: str
    jax: str


class MachineError(RuntimeError):
    """JAX does not start here; the message holds its last words."""


def ask(seconds: float) -> Machine:
    """What JAX sees here."""
    command = [sys.executable, "-m", "scripts.accelerator.machine"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise MachineError(f"JAX has not found its devices within {seconds:.0f} s") from None
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode or not lines:
        raise MachineError(f"JAX does not start: {lines[-1] if lines else done.returncode}")
    return Machine(**json.loads(lines[-1]))


def describe() -> dict[str, str]:
    from experiments.harness import environment

    found = environment.describe()
    return {
        "device": environment.device_name(found),
        "platform": found["device"]["platform"],
        "python": found["python"],
        "jax": found["packages"]["jax"],
    }


if __name__ == "__main__":
    print(json.dumps(describe()))
