"""`cuda`: a CUDA kernel for NVIDIA's GPUs, compiled when a program is lowered.

The equations are those of `linear_rules.py`; `../cuda_kernel/` says how they are computed. Nothing
is transposed or spelled out: 3, 5 and 5 words an element for the forward, tangent and backward
pass, less what broadcasts or is constant in time. Where chains are few, time is split: into chunks
that wait for each other, or into chunks that are read twice. Work T, or 2 T where time is split;
span T over what it is split into.

The gradient of a decay that varies in time but broadcasts over other axes is summed by XLA, which
reads db and h once more.

Exactness: as `blocked` where time is split; else as `sequential`. The same numbers at every run.

Shortcomings: as `native`, one opaque operation to XLA. The kernel has been compiled for cards and
tested on hosts; it has not run on one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rnnscan.scan.cost import Cost
from rnnscan.scan.cuda_kernel import card, nvrtc
from rnnscan.scan.cuda_kernel import launch as launcher
from rnnscan.scan.cuda_kernel.nvrtc import WAY_OUT
from rnnscan.scan.cuda_kernel.plan import WARPS_TO_WALK, plan
from rnnscan.scan.cuda_kernel.problem import WARP, Kind, Launch
from rnnscan.scan.linear_method import (
    Gradients,
    LinearCase,
    LinearMethod,
    Problem,
    ScanOperands,
    Shape,
    TangentOperands,
    TransposeOperands,
)
from rnnscan.scan.product import sum_to
from rnnscan.scan.time_axis import keep

launcher.why_not()  # registers it, as in cpu_kernel.py; a name that is none is refused at once


def _evaluate(
    kind: Kind, problem: Problem, arrays: dict[str, Any], d_decay: Shape | None = None
) -> dict[str, jax.Array]:
    """The results of a map, by slot; those that are summed over time with an axis of chunks."""
    arrays = {name: x for name, x in arrays.items() if x is not None}
    shapes = {name: x.shape for name, x in arrays.items()} | {"out": problem.shape}
    shapes |= {} if d_decay is None else {"d_decay": d_decay}
    for launch in plan(kind, problem, shapes):
        arrays |= launcher.launch(launch, arrays, _results(launch, problem))
    return arrays


def _results(launch: Launch, problem: Problem) -> dict[str, jax.ShapeDtypeStruct]:
    full = jax.ShapeDtypeStruct(problem.shape, problem.dtype)
    state = problem.time.one(problem.shape)
    by_chunk = jax.ShapeDtypeStruct((launch.chunks, *state), launch.wide)
    return {
        "out": full,
        "d_decay": by_chunk if launch.sums else full,
        "d_state": jax.ShapeDtypeStruct(state, launch.wide),
        "products": by_chunk,
        "drives": by_chunk,
        "tags": jax.ShapeDtypeStruct(by_chunk.shape, jnp.int32),
    }


def _forward(problem: Problem, operands: ScanOperands) -> jax.Array:
    a, b, h0, reset = operands
    arrays = {"decay": a, "drive": b, "state": h0, "reset": reset}
    return _evaluate("forward", problem, arrays)["out"]


def _tangent(problem: Problem, operands: TangentOperands) -> jax.Array:
    a, past, da, db, dh0, reset = operands
    arrays = {"decay": a, "drive": db, "decay_tangent": da, "state": dh0, "reset": reset}
    arrays |= {"before": _full_in_time(problem, past.h), "first": past.h0}
    return _evaluate("tangent", problem, arrays)["out"]


def _transpose(problem: Problem, operands: TransposeOperands) -> Gradients:
    g, a, past, reset, later = operands
    time, shape = problem.time, problem.shape
    decay_shape, state_shape = problem.gradients
    arrays = {"decay": a, "drive": g, "state": later, "reset": reset}
    d_decay = None  # of the kernel, which sums over time; XLA sums over other axes
    if past is not None and (decay_shape == shape or decay_shape[time.axis] == 1):
        arrays |= {"before": _full_in_time(problem, past.h), "first": past.h0}
        d_decay = shape if decay_shape == shape else time.one(shape)
    found = _evaluate("transpose", problem, arrays, d_decay)
    da, db, dtype = None, found["out"], problem.dtype
    if d_decay is not None:
        da = found["d_decay"]
        da = jnp.sum(da, axis=0) if da.ndim > len(shape) else da  # the sums of chunks
        da = sum_to(da, decay_shape).astype(dtype)
    elif past is not None:
        before = keep(reset, time.before(jnp.broadcast_to(past.h, shape), past.h0))
        through = keep(reset, db).astype(problem.wide)
        da = problem.product.outer(through, before.astype(problem.wide), decay_shape).astype(dtype)
    return Gradients(da, db, sum_to(found["d_state"], state_shape).astype(dtype))


def _full_in_time(problem: Problem, h: jax.Array) -> jax.Array:
    time = problem.time
    shape = (*h.shape[: time.axis], time.length, *h.shape[time.axis + 1 :])
    return jnp.broadcast_to(h, shape)


def why_not(case: LinearCase) -> str | None:
    """Why the kernel does not serve a case, and what to do about it."""
    if case.platform != "cuda":
        return "it is a kernel for NVIDIA's GPUs"
    if case.unsized:
        return "a size is a symbol (`jax.export`), and the kernel wants numbers"
    if case.exported:
        return f"an exported program must run on machines that are not known; {WAY_OUT}"
    reason = launcher.why_not() or card.why_not() or nvrtc.why_not()
    return reason and f"{reason}; {WAY_OUT}"


def cost(case: LinearCase, backward: bool) -> Cost:
    """One pass over memory; where chains are few, chunks are read twice or wait for each other."""
    again = 2 if case.width < 2 * WARP * WARPS_TO_WALK else 0
    again = again and (1 if case.constant else 2) * case.states * case.dtype.itemsize
    total = Cost(launches=2 if again else 1, bytes=case.traffic(False).bytes + again)
    if backward:
        total += Cost(launches=total.launches, bytes=case.traffic(True).bytes + again)
    return total


method = LinearMethod(
    name="cuda",
    summary="a CUDA kernel: one sweep over memory",
    forward=_forward,
    tangent=_tangent,
    transpose=_transpose,
    why_not=why_not,
    cost=cost,
)
