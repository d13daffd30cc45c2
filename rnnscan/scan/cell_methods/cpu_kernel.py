"""`native`: C++ for float32 on CPUs, whose weights are packed once for all steps.

`../cpu_kernel/cells/` says how. The trajectory and the transposed map are one call each; the
tangent map, and so derivatives of higher order, are those of `scan`.
"""

import jax
import numpy as np

from rnnscan.scan.cell_method import (
    CellCase,
    CellMethod,
    CellProblem,
    Drives,
    ForwardOperands,
    Trajectory,
    TransposeOperands,
)
from rnnscan.scan.cell_methods import scan
from rnnscan.scan.cpu_kernel import library

KINDS = ("tanh", "relu", "lstm", "gru")  # in the order of `Cell` in the C++


def _call(target, problem, shapes, operands):
    results = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    attributes = {
        "kind": np.int64(KINDS.index(problem.cell.name)),
        "reverse": problem.reverse,
        "keep": problem.keep,
        "padded": operands.valid is not None,
        "resets": operands.reset is not None,
    }
    call = jax.ffi.ffi_call(target, results, vmap_method=None)
    return iter(call(*jax.tree.leaves(operands), **attributes))


def _forward(problem: CellProblem, operands: ForwardOperands) -> Trajectory:
    cell, (batch, steps, _) = problem.cell, operands.x.shape
    hidden = operands.weights.w_hh.shape[-1]
    every, one = (batch, steps, hidden), (batch, hidden)
    # Without `keep`, of an lstm's c there is the last alone.
    shapes: list[tuple[int, ...]] = [every]
    shapes += [every if problem.keep else one] * len(cell.states[1:])
    if problem.keep and cell.kept:
        shapes.append((batch, steps, cell.kept * hidden))
    results = _call("rnnscan_cell_forward", problem, shapes, operands)
    states = tuple(next(results) for _ in cell.states)
    end = 0 if problem.reverse else -1
    if not problem.keep:
        return Trajectory(states[:1], (states[0][:, end], *states[1:]), None)
    return Trajectory(states, tuple(s[:, end] for s in states), next(results, None))


def _transpose(problem: CellProblem, operands: TransposeOperands) -> Drives:
    cell, (batch, steps, hidden) = problem.cell, operands.residuals.states[0].shape
    shapes = [(batch, steps, cell.gates * hidden), *[(batch, steps, hidden)] * cell.apart]
    shapes += [(batch, hidden)] * len(cell.states)
    results = _call("rnnscan_cell_backward", problem, shapes, operands)
    return Drives(next(results), next(results) if cell.apart else None, tuple(results))


def why_not(case: CellCase) -> str | None:
    """It knows some cells, in one dtype."""
    if case.kind not in KINDS:
        return f"it knows {', '.join(KINDS)}, not {case.kind}"
    if case.dtype != np.float32:
        return f"it computes in float32, not in {case.dtype.name}"
    if case.inputs == 0:
        return "x has no features"
    return library.why_not_for(case)


method = CellMethod(
    name="native",
    summary="a C++ kernel: weights packed once, gates in registers, threads share the batch",
    forward=_forward,
    tangent=scan.method.tangent,
    transpose=_transpose,
    why_not=why_not,
)
