"""`native`: C++ for real float32 on CPUs, where no state is written but every `EVERY`-th.

`../cpu_kernel/selective/` says how. Forward and backward are one call each; the tangent map, and so
derivatives of higher order, are those of `stretches`.
"""

import jax
import numpy as np

from rnnscan.scan.cpu_kernel import library
from rnnscan.scan.selective_method import (
    EVERY,
    ForwardOperands,
    Inputs,
    Results,
    SelectiveCase,
    SelectiveMethod,
    SelectiveProblem,
    TransposeOperands,
    kept_states,
)
from rnnscan.scan.selective_methods import stretches


def _call(target: str, problem: SelectiveProblem, shapes, inputs: Inputs, *more, reset):
    results = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    attributes = {
        "every": np.int64(EVERY),
        "reverse": problem.reverse,
        "signs": problem.signed,
        "skip": inputs.d is not None,
        "biased": inputs.bias is not None,
        "softplus": problem.softplus,
        "resets": reset is not None,
        "keep": problem.keep,
    }
    call = jax.ffi.ffi_call(target, results, vmap_method=None)
    return call(*jax.tree.leaves((inputs, more, reset)), **attributes)


def _forward(problem: SelectiveProblem, operands: ForwardOperands) -> Results:
    inputs, reset = operands
    batch, steps, _ = inputs.x.shape
    shapes = [inputs.x.shape, inputs.h0.shape]
    if problem.keep:
        shapes.append((batch, kept_states(steps), *inputs.h0.shape[1:]))
    return Results(*_call("rnnscan_selective_forward", problem, shapes, inputs, reset=reset))


def _transpose(problem: SelectiveProblem, operands: TransposeOperands) -> Inputs:
    inputs, kept, (g, g_last, _), reset = operands
    # In the place of the first state, whose cotangent comes last, are those that were kept.
    shapes = [x.shape for x in jax.tree.leaves(inputs)]
    given = inputs._replace(h0=kept)
    found = _call("rnnscan_selective_backward", problem, shapes, given, g, g_last, reset=reset)
    return jax.tree.structure(inputs).unflatten(found)


def why_not(case: SelectiveCase) -> str | None:
    """It knows one dtype and one discretisation."""
    if case.dtype != np.float32:
        return f"it computes in float32, not in {case.dtype.name}"
    if case.discretisation != "euler":
        return f"it knows the Euler step, not discretisation={case.discretisation!r}"
    return library.why_not_for(case)


method = SelectiveMethod(
    name="native",
    summary="a C++ kernel: exponentials in vectors, states in registers and cache alone",
    forward=_forward,
    tangent=stretches.by("auto", "").tangent,
    transpose=_transpose,
    why_not=why_not,
)
