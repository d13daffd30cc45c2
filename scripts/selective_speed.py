"""The speed of `selective_scan`, beside its own stretches, its exponentials, and torch.

    python -m scripts.selective_speed [--rounds 9] [--batch 8] [--steps 4096] [--channels 64]

What is timed takes turns, and only what agrees is timed: y and the gradients of x, delta, A, B, C
and D, float32. The least that the scan can take is an exponential for each number of its states:
`exponentials in a cache` are as many, over and over the same array, one for each core, the best of
some sizes. A call that takes longer than 10 seconds has three turns.

torch and mambapy are timed if they can be imported, in a process of their own, whose threads sleep
while JAX has its turn: mambapy's S6 by its `pscan`, and the published loop over time
(`selective_scan_ref` of mamba_ssm; its slices by `unbind`, whose gradient is one array of all steps
and not one for each of them).
"""

import argparse
import functools
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NAMES = ("y", "x", "delta", "A", "B", "C", "D")
PEERS = ("mambapy pscan", "torch, step by step")
CACHED = tuple(2**k for k in range(14, 20))  # numbers: 64 KB to 2 MB
TOLERANCE = 1e-4  # relative, in the 2-norm
CORES = os.cpu_count() or 1
SLOW, TURNS_OF_SLOW = 10.0, 3  # seconds


class Shape(NamedTuple):
    batch: int
    steps: int
    channels: int
    size: int

    @property
    def numbers(self) -> int:
        """In all states."""
        return self.batch * self.steps * self.channels * self.size


def operands(shape: Shape) -> list[np.ndarray]:
    """x, delta, A, B, C, D and the cotangent of y."""
    batch, steps, channels, size = shape
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, batch, steps, channels), np.float32)
    b, c = rng.standard_normal((2, batch, steps, size), np.float32)
    delta = np.exp(rng.uniform(np.log(1e-3), np.log(0.1), x.shape)).astype(np.float32)
    a = -np.tile(np.arange(1, size + 1, dtype=np.float32), (channels, 1))
    return [x, delta, a, b, c, np.ones(channels, np.float32), g]


def in_jax(shape: Shape) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """Calls by name, and bytes of temporaries of those with a gradient."""
    import jax
    import jax.numpy as jnp

    from rnnscan import selective_scan

    *given, g = map(jax.device_put, operands(shape))
    found, temporaries = {}, {}

    def forward(method, *given):
        return selective_scan(*given, method=method)[0]

    def both(method, g, *given):
        y, pull = jax.vjp(functools.partial(forward, method), *given)
        return y, *pull(g)

    def repeated(count, x):
        return jax.lax.fori_loop(0, count, lambda _, x: jnp.exp(-x), x)

    def call(function, *arguments):
        compiled = jax.jit(function).lower(*arguments).compile()
        return (lambda: jax.block_until_ready(compiled(*arguments))), compiled

    for method in ("native", "stretches"):
        found[f"{method} forward"], _ = call(functools.partial(forward, method), *given)
        name = f"{method} both"
        found[name], compiled = call(functools.partial(both, method), g, *given)
        memory = compiled.memory_analysis()
        assert memory is not None
        temporaries[name] = memory.temp_size_in_bytes
    pool = ThreadPoolExecutor(CORES)  # XLA would put a loop on one core
    for size in CACHED:
        turns = shape.numbers // size // CORES
        one, _ = call(functools.partial(repeated, turns), jnp.linspace(0, 1, size))

        def on_all(one=one):
            return [each.result() for each in [pool.submit(one) for _ in range(CORES)]]

        found[f"exponentials {size}"] = on_all
    found["exponentials in memory"], _ = call(jnp.exp, jnp.linspace(-1, 0, shape.numbers))
    return found, temporaries


def in_torch(shape: Shape) -> dict[str, Callable[[], list[Any]]]:
    """Calls by name, of what is installed."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(2)
    *given, g = map(torch.from_numpy, operands(shape))

    def by_pscan(x, delta, a, b, c, d):
        pscan = importlib.import_module("mambapy.pscan").pscan
        decay = torch.exp(delta.unsqueeze(-1) * a)
        drive = delta.unsqueeze(-1) * b.unsqueeze(2) * x.unsqueeze(-1)
        h = pscan(decay, drive)
        return (h @ c.unsqueeze(-1)).squeeze(3) + d * x

    def by_loop(x, delta, a, b, c, d):
        decay = torch.exp(torch.einsum("bld,dn->bldn", delta, a))
        drive = torch.einsum("bld,bln,bld->bldn", delta, b, x)
        h, ys = torch.zeros_like(drive[:, 0]), []
        for a_t, b_t, c_t in zip(decay.unbind(1), drive.unbind(1), c.unbind(1), strict=True):
            h = a_t * h + b_t
            ys.append(torch.einsum("bdn,bn->bd", h, c_t))
        return torch.stack(ys, 1) + d * x

    def forward(scan):
        with torch.no_grad():
            return [scan(*given)]

    def both(scan):
        leaves = [x.detach().requires_grad_() for x in given]
        y = scan(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, g)]

    scans = dict(zip(PEERS, (by_pscan, by_loop), strict=True))
    try:
        importlib.import_module("mambapy.pscan")
    except ImportError:
        del scans[PEERS[0]]
    return {
        f"{name} {direction.__name__}": functools.partial(direction, scan)
        for name, scan in scans.items()
        for direction in (forward, both)
    }


def serve(shape: Shape, folder: Path) -> None:
    """Says which calls there are; answers each name of one on a line with its seconds, and leaves
    what the first of each returns in the folder."""
    try:
        calls = in_torch(shape)
    except ImportError:
        calls = {}
    print(*calls, sep="\t", flush=True)
    for line in sys.stdin:
        name = line.rstrip("\n")
        start = time.perf_counter()
        results = calls[name]()
        seconds = time.perf_counter() - start
        path = folder / f"{name}.npz"
        if not path.exists():
            np.savez(path, *(x.numpy() for x in results))
        print(seconds, flush=True)


def check(name: str, found: Any, expected: Any) -> None:
    for what, x, like in zip(NAMES, found, expected, strict=False):
        far = np.linalg.norm(x - like) / np.linalg.norm(like)
        if not far < TOLERANCE:
            raise SystemExit(f"{name}: {what} differs by {far:.1e}, more than {TOLERANCE:.0e}")


def measure(shape: Shape, rounds: int) -> tuple[dict[str, float], dict[str, int]]:
    """Medians in seconds by name, and bytes of temporaries."""
    calls, temporaries = in_jax(shape)
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen(
            [sys.executable, __file__, *map(str, shape), "--serve", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        asked, answers = child.stdin, child.stdout
        assert asked is not None
        assert answers is not None
        theirs = [name for name in answers.readline().strip("\n").split("\t") if name]

        def seconds(name):
            if name in calls:
                start = time.perf_counter()
                calls[name]()
                return time.perf_counter() - start
            asked.write(f"{name}\n")
            asked.flush()
            return float(answers.readline())

        expected = [np.asarray(x) for x in calls["stretches both"]()]
        check("native forward", [calls["native forward"]()], expected)
        check("stretches forward", [calls["stretches forward"]()], expected)
        check("native both", calls["native both"](), expected)
        turns = dict.fromkeys([*calls, *theirs], rounds + 1)
        for name in theirs:
            if seconds(name) > SLOW:
                turns[name] = TURNS_OF_SLOW + 1
            check(name, np.load(Path(folder) / f"{name}.npz").values(), expected)
        samples = {name: [] for name in turns}
        for turn in range(rounds + 1):  # the first warms up
            for name in samples:
                if turn < turns[name]:
                    samples[name].append(seconds(name))
        asked.close()
        child.wait()
    return {name: statistics.median(all_[1:]) for name, all_ in samples.items()}, temporaries


def main() -> None:
    parser = argparse.ArgumentParser(description="The speed of `selective_scan`.")
    for name, size in zip(Shape._fields, (8, 4096, 64, 16), strict=True):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    shape = Shape(given.batch, given.steps, given.channels, given.size)
    before = os.getloadavg()[0]
    medians, temporaries = measure(shape, given.rounds)
    cached = {name: medians.pop(name) for name in [f"exponentials {size}" for size in CACHED]}
    best = min(cached, key=cached.__getitem__)
    medians["exponentials in a cache"] = cached[best]
    print(
        f"{shape}, float32, medians of {given.rounds}; load {before:.1f}, {os.getloadavg()[0]:.1f}"
    )
    for name, found in medians.items():
        own = medians["native both" if name.endswith("both") else "native forward"]
        print(f"{name:32s} {found * 1e3:10.1f} ms {found / own:8.2f} of native")
    for name, found in temporaries.items():
        print(f"{name:32s} {found / 2**20:10.1f} MB of temporaries")
    print(f"in a cache: arrays of {best.split()[1]} numbers")
    for peer in PEERS:
        if f"{peer} forward" not in medians:
            print(f"{peer}: left out, not installed")


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve(Shape(*map(int, sys.argv[1:5])), Path(sys.argv[6]))
    else:
        main()
