"""The speed of this tree against that of another commit, case by case and turn by turn.

    git worktree add ../before COMMIT
    python scripts/compare_speed.py ../before [--only RNN] [--rounds 9]

Either tree runs in a process of its own, in the environment of this one (its CPU kernel must have
been compiled there: by `pip install`, or by a copy of the library where the C++ is the same). They
take turns within every case. Ratios above 1 are slower here. The cases are calls of public
functions alone: scans, recurrent layers at the sizes of `torch_example`, every layer at those of
`wallclock`'s small config; `eager` is a call outside of any jit.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SECONDS = 0.03  # of a sample, at least one call


def cases() -> dict[str, Callable[[], Callable[[], object]]]:
    """By name, what makes a function without arguments that runs one call."""
    import jax
    import numpy as np

    import rnnscan

    rng = np.random.default_rng(0)

    def normal(*shape):
        return jax.device_put(rng.standard_normal(shape, np.float32))

    def called(function, *arguments):
        return lambda: jax.block_until_ready(function(*arguments))

    def with_pull(function, *arguments):
        def both(*arguments):
            y, pull = jax.vjp(function, *arguments)
            return y, pull(y)

        return called(jax.jit(both), *arguments)

    def scan(shape, method, direction):
        def make():
            a, b = jax.nn.sigmoid(normal(*shape)), normal(*shape)

            def run(a, b):
                return rnnscan.linear_scan(a, b, axis=1, method=method)

            return (with_pull if direction == "both" else called)(jax.jit(run), a, b)

        return make

    def layer(init, size, direction):
        def make():
            made, x = init(jax.random.key(0)), normal(*size)

            def run(made, x):
                return made(x)[0]

            if direction == "eager":
                return called(run, made, x)
            return (with_pull if direction == "both" else called)(jax.jit(run), made, x)

        return make

    found = {}
    for shape in [(1, 1024, 1024), (64, 128, 1), (1, 64, 64)]:
        for method in ("auto", "sequential", "associative"):
            for direction in ("forward", "both"):
                name = f"linear_scan {'x'.join(map(str, shape))} {method} {direction}"
                found[name] = scan(shape, method, direction)
    sizes = [
        (512, 1, 100, 128),
        (512, 16, 100, 128),
        (2048, 16, 100, 128),
        (512, 64, 256, 512),
        (16384, 1, 16, 32),
    ]
    for steps, batch, inputs, hidden in sizes:
        for kind in ("RNN", "LSTM", "GRU"):
            for direction in ("forward", "both"):

                def init(key, kind=kind, inputs=inputs, hidden=hidden):
                    return getattr(rnnscan, kind).init(key, inputs, hidden)

                name = f"{kind} T{steps} B{batch} I{inputs} H{hidden} {direction}"
                found[name] = layer(init, (batch, steps, inputs), direction)
    kinds = {
        **{
            kind: lambda key, kind=kind: getattr(rnnscan, kind).init(key, 32, 32)
            for kind in ("RNN", "LSTM", "GRU", "LinearRNN", "LRU", "MinGRU", "MinLSTM")
        },
        "SelectiveSSM": lambda key: rnnscan.SelectiveSSM.init(key, 32),
        "Mamba": lambda key: rnnscan.Mamba.init(key, 32),
        "attention": lambda key: rnnscan.CausalSelfAttention.init(key, 32),
        "conv": lambda key: rnnscan.CausalConv1D.init(key, 32, 32),
    }
    for kind, init in kinds.items():
        for steps in (64, 1024):
            for direction in ("eager", "forward", "both"):
                found[f"{kind} T{steps} {direction}"] = layer(init, (8, steps, 32), direction)
    for kind in ("SelectiveSSM", "Mamba"):
        for direction in ("forward", "both"):

            def wide(key, kind=kind):
                return getattr(rnnscan, kind).init(key, 64)

            found[f"{kind} T4096 D64 {direction}"] = layer(wide, (8, 4096, 64), direction)
    return found


def serve(tree: Path) -> None:
    """Answers each name of a case on a line with the seconds of a call."""
    import rnnscan

    assert Path(rnnscan.__file__).is_relative_to(tree), rnnscan.__file__
    from rnnscan.scan.cpu_kernel import library

    known, made, repeats = cases(), {}, {}
    print(library.why_not() or "ready", flush=True)
    for line in sys.stdin:
        name = line.strip()
        if name not in made:
            made.clear()
            made[name] = known[name]()
            made[name]()
            start = time.perf_counter()
            made[name]()
            repeats[name] = max(1, round(SECONDS / (time.perf_counter() - start)))
        start = time.perf_counter()
        for _ in range(repeats[name]):
            made[name]()
        print((time.perf_counter() - start) / repeats[name], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    before = given.before.resolve()
    if given.serve:
        serve(before)
        return

    def start(tree):
        process = subprocess.Popen(
            [sys.executable, __file__, str(tree), "--serve"],
            env={**os.environ, "PYTHONPATH": str(tree)},
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        print(f"{tree}: {process.stdout.readline().strip()}")

        def seconds(name):
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        return seconds

    old, new = start(before), start(HERE)
    ratios = []
    for name in cases():
        if given.only not in name:
            continue
        samples = []
        for turn in range(given.rounds + 1):  # the first warms up
            order = (old, new) if turn % 2 else (new, old)
            pair = {f: f(name) for f in order}
            samples.append((pair[old], pair[new]))
        there, here = (statistics.median(s) for s in zip(*samples[1:], strict=True))
        ratios.append(here / there)
        print(f"{name:45s} {there * 1e3:10.3f} ms {here * 1e3:10.3f} ms {ratios[-1]:6.3f}")
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    print(f"{len(ratios)} cases, geometric mean {mean:.3f}, largest {max(ratios):.3f}")


if __name__ == "__main__":
    main()
