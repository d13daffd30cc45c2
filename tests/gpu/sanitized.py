"""Every mode and map of the CUDA kernel of `linear_scan` once, small and ragged, for a sanitizer:

    compute-sanitizer --tool memcheck python -m tests.gpu.sanitized

It needs jax and numpy alone. Each call is one program and one line: how far it is from a loop in
float64, as a share of what rounding explains. Exit code 0: all within; 1: one is not; 2: no GPU.
With --allow-cpu a machine without one runs the same calls by `auto`.
"""

import os

# Before jax is imported: a pool of its own would hide what is read beyond an array.
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
os.environ.setdefault("XLA_PYTHON_CLIENT_ALLOCATOR", "platform")

import argparse
import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan import linear_scan
from rnnscan.scan.cuda_kernel.plan import plan
from rnnscan.scan.linear_methods import cuda
from tests.scan.reference import Reference, unit_roundoff


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of one map, forward, tangent or transpose, in one mode. Every call has an h0."""

    mode: str
    map: str
    b: tuple[int, ...]
    a: tuple[int, ...]
    axis: int = 0
    dtype: str = "float32"
    reverse: bool = False
    reset: bool = False

    def __str__(self) -> str:
        more = [self.dtype, *["reverse"] * self.reverse, *["reset"] * self.reset]
        return f"{self.mode} {self.map} b{list(self.b)} a{list(self.a)} {' '.join(more)}"


CASES = (
    Case("walk", "forward", b=(67, 33), a=(67, 33), reset=True),
    Case("walk", "tangent", b=(2, 37, 130), a=(2, 37, 130), axis=1, dtype="bfloat16"),
    Case("walk", "transpose", b=(3, 5, 129), a=(3, 1, 129), axis=2, dtype="complex64"),
    Case("apply", "forward", b=(1025, 3), a=(1025, 3), dtype="float64", reverse=True),
    Case("apply", "tangent", b=(3, 771), a=(3, 771), axis=1, reset=True),
    Case("apply", "transpose", b=(2, 517, 33), a=(33,), axis=1, dtype="bfloat16"),
    Case("chained", "forward", b=(2500, 34), a=(2500, 34), dtype="complex64"),
    Case("chained", "tangent", b=(2, 2111, 5), a=(1, 2111, 5), axis=1, dtype="float64"),
    Case("chained", "transpose", b=(2053, 70), a=(2053, 70), reset=True, reverse=True),
    Case("chained", "transpose", b=(3, 9001), a=(3, 9001), axis=1),
)


def arrays(case: Case) -> dict[str, np.ndarray]:
    """a, b, h0, their tangents, the cotangent g, and flags, in the dtype of the case."""
    rng = np.random.default_rng(0)
    rest = (*case.b[: case.axis], *case.b[case.axis + 1 :])

    def normal(shape: tuple[int, ...]) -> np.ndarray:
        x = rng.standard_normal(shape)
        wide = x + 1j * rng.standard_normal(shape) if "complex" in case.dtype else x
        return np.asarray(wide).astype(jnp.dtype(case.dtype))

    shapes = {"a": case.a, "b": case.b, "h0": rest}
    shapes |= {"da": case.a, "db": case.b, "dh0": rest, "g": case.b}
    drawn = {name: normal(shape) for name, shape in shapes.items()}
    a = drawn["a"].astype(complex if "complex" in case.dtype else float)
    drawn["a"] = (a / (1 + np.abs(a))).astype(jnp.dtype(case.dtype))  # below 1
    return drawn | {"reset": rng.random(case.b[case.axis]) < 0.1}


def program(case: Case, method: str) -> Any:
    """Of the arrays of a case: its results in a list."""

    def evaluate(given: dict[str, Any]) -> list[jax.Array]:
        primals = [given[name] for name in ("a", "b", "h0")]
        reset = given["reset"] if case.reset else None
        options: Any = {"axis": case.axis, "reverse": case.reverse, "method": method}
        scan = functools.partial(linear_scan, reset=reset, **options)
        if case.map == "forward":
            return [scan(*primals)]
        if case.map == "tangent":
            return list(jax.jvp(scan, primals, [given[name] for name in ("da", "db", "dh0")]))
        h, pull = jax.vjp(scan, *primals)
        return [h, *pull(given["g"])]

    return jax.jit(evaluate)


def expected(case: Case, given: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """What should come out, and how far rounding may move it."""
    options = {"axis": case.axis, "reverse": case.reverse}
    options |= {"reset": given["reset"] if case.reset else None}
    reference = Reference(given["a"], given["b"], given["h0"], **options)
    u = unit_roundoff(case.dtype)
    h, bound = reference.states(), reference.states_bound(u)
    if case.map == "forward":
        return [(h, bound)]
    if case.map == "transpose":
        found = reference.gradients(given["g"]), reference.gradient_bounds(given["g"], u)
        return [(h, bound), *zip(*found, strict=True)]
    return [(h, bound), _tangent(reference, given, bound, u)]


def _tangent(
    reference: Reference, given: dict[str, np.ndarray], bound: np.ndarray, u: float
) -> tuple[np.ndarray, np.ndarray]:
    """dh_t = a_t dh_{t-1} + db_t + da_t h_{t-1}, and the same analysis on absolute values."""
    loop, order = reference.loop, reference.scan_order
    da, db = (np.asarray(given[name]).astype(loop.b.dtype) for name in ("da", "db"))
    dh0 = np.asarray(given["dh0"]).astype(loop.b.dtype)
    da, db = order(np.broadcast_to(da, db.shape)), order(db)
    drive = db + da * loop.before(loop.states())
    dh = dataclasses.replace(loop, h0=dh0).states(drive)
    size = dataclasses.replace(loop, a=np.abs(loop.a), b=np.abs(loop.b), h0=np.abs(loop.h0))
    nothing = dataclasses.replace(size, h0=np.zeros_like(size.h0))
    of_drive = np.abs(db) + np.abs(da) * size.before(size.states())
    of_h = np.abs(da) * nothing.before(order(bound))  # the error of h_{t-1}
    sizes = dataclasses.replace(size, h0=np.abs(dh0)).states(of_drive)
    error = nothing.states(4 * u * (2 * sizes + of_drive) + of_h)
    return reference.given_order(dh), reference.given_order(error)


def share(case: Case, method: str) -> float:
    """The largest error of its results, as a share of the bound."""
    given = arrays(case)
    with jax.enable_x64(case.dtype == "float64"):
        results = jax.device_get(program(case, method)(given))
    worst = 0.0
    for found, (value, bound) in zip(results, expected(case, given), strict=True):
        if found.shape != value.shape:
            return float("inf")
        wide = found.astype(value.dtype)
        error = np.abs(wide - value)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(error == 0, 0.0, error / bound)
        worst = max(worst, float(np.max(np.nan_to_num(shares, nan=np.inf), initial=0.0)))
    return worst


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--allow-cpu", action="store_true", help="by `auto`, where there is no GPU")
    allowed = parser.parse_args(arguments).allow_cpu
    on_gpu = jax.default_backend() == "gpu"
    if not on_gpu and not allowed:
        print("JAX sees no GPU here; --allow-cpu runs the same calls by `auto`.", flush=True)
        return 2
    wrong = 0
    for case in CASES:
        if on_gpu:
            cuda.plan = functools.partial(plan, mode=case.mode)
            jax.clear_caches()  # a program of another mode
        found = share(case, "cuda" if on_gpu else "auto")
        wrong += not found <= 1
        print(f"{'ok' if found <= 1 else 'WRONG'} {case}: {found:.2g} of the bound", flush=True)
    print(f"{len(CASES) - wrong} of {len(CASES)} right, {jax.devices()[0].device_kind}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
