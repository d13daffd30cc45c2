"""Count in a process that has so many devices: `python -m scripts.collectives.count N [options]`.

The devices are the CPU's, forced by XLA_FLAGS, which must be set before JAX begins: `count_with`
starts such a process. What is printed is one JSON object a line.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scripts.collectives.hlo import counted
from scripts.collectives.programs import PROGRAMS, Program, Sizes, gradient, lowered

DIRECTIONS = ("forward", "gradient")
ROOT = Path(__file__).resolve().parents[2]
QUICK = {"xla_backend_optimization_level": 0}  # of the code, which does not run: HLO is the same


def count_with(devices: int, *options: str) -> list[dict[str, Any]]:
    """The records of a process with so many devices; raises RuntimeError with what it said."""
    others = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
    flags = " ".join([*others, f"--xla_force_host_platform_device_count={devices}"])
    done = subprocess.run(
        [sys.executable, "-m", "scripts.collectives.count", str(devices), *options],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{devices} devices: {done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def count(program: Program, sizes: Sizes, devices: int, direction: str) -> dict[str, Any]:
    """One record: what the compiled program of a device does."""
    jitted, args = lowered(program, sizes, devices, direction == "gradient")
    compiled = jitted.lower(*args).compile(compiler_options=QUICK)
    found = counted(compiled.as_text(), devices)
    memory = compiled.memory_analysis()
    return {
        "program": program.name,
        "direction": direction,
        "devices": devices,
        "sizes": dataclasses.asdict(sizes),
        "collectives": dict(found.counts),
        "received": {kind: round(n) for kind, n in found.received.items()},
        "turns": found.turns,
        "open": found.open,
        "temporary": memory.temp_size_in_bytes if memory else None,
        "jax": jax.__version__,
    }


def check(program: Program, devices: int) -> None:
    """Values and gradients on the mesh are those of one device; AssertionError where not."""
    rng = np.random.default_rng(0)

    def draw(shape: Sequence[int], dtype: Any) -> Any:
        if dtype == jnp.bool_:
            return jnp.asarray(rng.random(shape) < 0.05)
        scale = 1 / shape[-1] if len(shape) == 4 else 1  # matrices
        return jnp.asarray(scale * rng.uniform(0.3, 0.95, shape), dtype)

    sizes = Sizes.small()
    for backward in (False, True):
        jitted, args = lowered(program, sizes, devices, backward, draw)
        whole = gradient(program.whole, program.wrt) if backward else program.whole
        alone = jax.jit(whole)(*jax.tree.map(np.asarray, args))
        for ours, theirs in zip(*map(jax.tree.leaves, (jitted(*args), alone)), strict=True):
            allowed = 1e-4 * np.abs(theirs).max() if theirs.size else 0
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=allowed, err_msg=program.name)


def records(
    devices: int, names: Sequence[str], directions: Sequence[str], sizes: Sizes
) -> Iterator[dict[str, Any]]:
    """Of the programs of these names, or of all."""
    for program in PROGRAMS:
        if not names or program.name in names:
            for direction in directions:
                yield count(program, sizes, devices, direction)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("devices", type=int)
    parser.add_argument("--check", action="store_true", help="run each once and compare")
    parser.add_argument("--long", type=int, default=Sizes().long, help="steps of the long sequence")
    parser.add_argument("--programs", nargs="*", default=[])
    parser.add_argument("--directions", nargs="*", default=DIRECTIONS)
    given = parser.parse_args()
    assert jax.device_count() == given.devices, f"{jax.device_count()} devices"
    for record in records(given.devices, given.programs, given.directions, Sizes(long=given.long)):
        print(json.dumps(record), flush=True)
    if given.check:
        for program in PROGRAMS:
            check(program, given.devices)


if __name__ == "__main__":
    main()
