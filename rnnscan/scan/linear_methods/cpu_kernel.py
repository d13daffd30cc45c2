"""`native`: a C++ loop over time, vectorised over everything else, on XLA's own threads.

The equations are those of `linear_rules.py`; `../cpu_kernel/linear/` says how they are computed.
The forward, tangent and backward pass are one sweep over memory each: 3, 5 and 5 words an element,
less what broadcasts. No operand is transposed or spelled out. Work T, or 2 T where time is split
between threads or into the lanes of a vector; span T over what it is split into.

Exactness: where time is split, products of decays are formed. One that overflows, or underflows and
would have counted, makes the kernel begin again step by step, so it is right wherever `sequential`
is, with one exception: decays whose product underflows within a segment and grows again, by
|a| > 1, lose what came before the segment.

Shortcoming: XLA sees one opaque operation. It is not fused with its neighbours, and an exported
program cannot hold it (`auto` then takes `sequential`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rnnscan.scan.cost import Cost
from rnnscan.scan.cpu_kernel import library
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

library.why_not()  # registers the kernel: a stored executable needs it before any scan is traced


def _call(
    target: str, problem: Problem, shapes: list[Shape], *operands: Any, starts: bool = True
) -> Sequence[jax.Array]:
    """`starts`: whether there is a state to start from among the operands."""
    results = [jax.ShapeDtypeStruct(shape, problem.dtype) for shape in shapes]
    call = jax.ffi.ffi_call(target, results, vmap_method=None)
    time = {"axis": np.int64(problem.time.axis), "reverse": problem.time.reverse}
    return call(*jax.tree.leaves(operands), **time, starts=starts)


def _forward(problem: Problem, operands: ScanOperands) -> jax.Array:
    (h,) = _call("rnnscan_forward", problem, [problem.shape], *operands)
    return h


def _tangent(problem: Problem, operands: TangentOperands) -> jax.Array:
    (dh,) = _call("rnnscan_tangent", problem, [problem.shape], *operands)
    return dh


def _transpose(problem: Problem, operands: TransposeOperands) -> Gradients:
    g, a, past, reset, later = operands
    decay_shape, state_shape = problem.gradients
    shapes = [problem.shape, state_shape]
    starts = later is not None
    if past is None:
        found = _call("rnnscan_transpose_drive", problem, shapes, a, g, later, reset, starts=starts)
        return Gradients(None, *found)
    shapes = [decay_shape, *shapes]
    found = _call("rnnscan_transpose", problem, shapes, a, past, g, later, reset, starts=starts)
    return Gradients(*found)


# A call takes as long as so many operations of XLA's own. Huge pages are asked for, which take
# less time to find.
_CALL, _FRESH = 8, 0.3


def cost(case: LinearCase, backward: bool) -> Cost:
    """One pass over memory. Where time is innermost, tiles are turned; a lone chain waits."""
    total = case.traffic(False) + case.traffic(True) if backward else case.traffic(False)
    total = dataclasses.replace(total, fresh=_FRESH * total.fresh)
    total += Cost(launches=_CALL + (2 if backward else 0))
    if case.inner == 1:
        total += Cost(elements=(0.6 if backward else 0.17) * case.states)
    return total


method = LinearMethod(
    name="native",
    summary="a C++ kernel: one sweep over memory, vectorised and threaded",
    forward=_forward,
    tangent=_tangent,
    transpose=_transpose,
    why_not=library.why_not_for,
    cost=cost,
)
