"""Whether scans on this machine's GPU are right: a few small calls against a loop in NumPy.

    python -m tests.gpu.smoke [--allow-cpu]

Needs jax and numpy alone. A line for each check: its name, ok or wrong, and the largest error as a
share of the most that rounding explains. First what a launcher of the CUDA kernel may get wrong,
one buffer for two operands and two results; then each mode of the kernel. `chained`, whose blocks
wait for each other, is the last: wrong, it might never end. RNNSCAN_CUDA_LAUNCHER names the
launcher; where the kernel does not serve, `auto` is checked instead.

Exit status: 0 if all is right, 1 if not, 2 where there is no GPU (`--allow-cpu`: `auto` on a CPU).
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan import explain_linear_scan, linear_scan
from rnnscan.scan.cuda_kernel import launch
from rnnscan.scan.cuda_kernel.plan import plan
from rnnscan.scan.cuda_kernel.problem import Mode
from rnnscan.scan.linear_methods import cuda
from tests.scan.reference import Reference, unit_roundoff


class Check(NamedTuple):
    """One call; `one_buffer`: a is b, and neither h0 nor resets are given."""

    name: str
    shape: tuple[int, ...]
    axis: int = 0
    reverse: bool = False
    one_buffer: bool = False
    mode: Mode | None = None

    @property
    def options(self):
        return {"axis": self.axis, "reverse": self.reverse}


CHECKS = (
    Check("one buffer, two results", (96, 40), one_buffer=True),
    Check("mode walk", (2, 131, 37), axis=1, reverse=True, mode="walk"),
    Check("mode apply", (3, 5001), axis=1, mode="apply"),
    Check("mode chained", (1037, 33), mode="chained"),
)


def error_over_bound(check: Check, method: str) -> float:
    """Of h and of all gradients, the largest."""
    rng = np.random.default_rng(0)

    def drawn(shape):
        return rng.uniform(-1, 1, shape).astype(np.float32)

    a, b, g = (drawn(check.shape) for _ in range(3))
    h0 = drawn((check.shape[0] if check.axis else check.shape[-1], 1)[: len(check.shape) - 1])
    reset = rng.random(check.shape[check.axis]) < 0.01
    given, rest = ((a,), {}) if check.one_buffer else ((a, b, h0), {"reset": reset})

    @jax.jit
    def evaluate(given, g):
        scan = functools.partial(linear_scan, method=method, **rest, **check.options)
        h, pull = jax.vjp(scan, *(given * 2 if check.one_buffer else given))
        return h, pull(g)

    with mock.patch.object(cuda, "plan", functools.partial(plan, mode=check.mode)):
        jax.clear_caches()  # programs of another mode
        h, gradients = jax.device_get(evaluate(*jax.tree.map(jnp.asarray, (given, g))))
    reference = Reference(*(given * 2 if check.one_buffer else given), **rest, **check.options)
    u = unit_roundoff("float32")
    wanted = [(reference.states(), reference.states_bound(u))]
    wanted += zip(reference.gradients(g), reference.gradient_bounds(g, u), strict=True)
    shares = []
    for got, (want, bound) in zip([h, *gradients], wanted, strict=False):  # h0 may be none
        assert got.shape == want.shape
        shares.append(np.max(np.abs(got - want) / (bound + np.finfo(np.float32).tiny)))
    return float(np.max(shares))  # nan, if one is


def is_right(check: Check, method: str) -> bool:
    print(f"{check.name:28}", end="", flush=True)
    try:
        share = error_over_bound(check, method)
    except Exception as fault:
        print("wrong", f"{type(fault).__name__}: {fault}".splitlines()[0], flush=True)
        return False
    right = share <= 1  # nan is not
    print("ok   " if right else "wrong", f"{share:.2g}", flush=True)
    return right


def chosen_method(platform: str) -> tuple[str, str]:
    """What is checked on a platform, and why."""
    if platform != "gpu":
        return "auto", f"on {platform}"
    spec = jax.ShapeDtypeStruct(CHECKS[0].shape, jnp.float32)
    rows = explain_linear_scan(spec, spec, platform="cuda")
    row = next(row for row in rows if row.method == "cuda")
    return ("cuda" if row.available else "auto"), row.reason


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.smoke")
    parser.add_argument("--allow-cpu", action="store_true", help="check `auto` without a GPU")
    allow_cpu, platform = parser.parse_args(arguments).allow_cpu, jax.default_backend()
    if platform != "gpu" and not allow_cpu:
        print(f"no GPU here: JAX is on {platform}", flush=True)
        return 2
    launcher = launch.chosen()
    method, why = chosen_method(platform)
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, launcher {launcher}: ", end="")
    print(f"method {method!r} ({why})", flush=True)
    if launcher != "none" and (reason := launch.why_not()):
        print(f"{'launcher ' + launcher:28}wrong {reason}", flush=True)
        return 1
    return 0 if all([is_right(check, method) for check in CHECKS]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
