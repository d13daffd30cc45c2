"""`cuda`: a CUDA kernel for tanh and relu, whose blocks keep all weights for all steps.

    forward    h_t = phi(u_t + W h_{t-1}),   u = W_ih x + b by one product ahead of it
    backward   l_t = g_t + W^T d_{t+1},      d_t = phi'(h_t) l_t

One launch for all steps, where `scan` has some for each. `../cuda_kernel/cells.py` says how it is
laid out and what it should cost; nothing of that is measured. float32 products, summed in float32
whatever the precision asked for. The gradients of weights are products over all steps behind it.
The tangent map, and so derivatives of higher order, are those of `scan`.

Source: Diamos et al. 2016, "Persistent RNNs", section 3: weights stay in registers over all steps.
There they are spread over all cores, which meet at every step; here each core has all of them, and
sequences of its own, so that H is at most 256 and no core waits for another.

Shortcomings: one opaque operation to XLA. Few sequences leave cores idle. It has been compiled for
cards and tested on hosts; it has not run on one.
"""

from typing import cast

import jax
import jax.numpy as jnp
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
from rnnscan.scan.cuda_kernel import card, cells, launch, nvrtc
from rnnscan.scan.cuda_kernel.cells import ACTIVATIONS, WAY_OUT, WIDEST, Activation, CellLaunch


def _call(what: CellLaunch, arrays: dict[str, jax.Array | None]) -> tuple[jax.Array, ...]:
    """The results of a launch."""
    shapes = {"out": (what.batch, what.steps, what.hidden), "last": (what.batch, what.hidden)}
    results = [jax.ShapeDtypeStruct(shapes[name], jnp.float32) for name in what.results]
    sizes = what.grid, what.block, what.shared_bytes
    operands = [arrays[name] for name in what.operands]
    given = cast(list[jax.Array], operands)  # those that are named are there
    return tuple(launch.call(what.source, what.entry, *sizes, given, results, way_out=WAY_OUT))


def _launch(problem: CellProblem, backward: bool, arrays: dict[str, jax.Array | None], shape):
    what = cells.plan(
        cast(Activation, problem.cell.name),
        shape,
        backward=backward,
        reverse=problem.reverse,
        padded=arrays["valid"] is not None,
        resets=arrays["reset"] is not None,
    )
    return _call(what, arrays)


def _forward(problem: CellProblem, operands: ForwardOperands) -> Trajectory:
    x, (w_ih, bias, w_hh, _), (first,), valid, reset = operands
    u = scan.dot(scan.looked_at(x, valid), w_ih, problem.precision)
    u = u + scan.in_row(bias, u)
    arrays = {"drive": u, "weights": w_hh, "first": first, "valid": valid, "reset": reset}
    (h,) = _launch(problem, False, arrays, u.shape)
    return Trajectory((h,), (h[:, 0 if problem.reverse else -1],), None)


def _transpose(problem: CellProblem, operands: TransposeOperands) -> Drives:
    w_hh, residuals, (g, (last,)), valid, reset = operands
    (h,) = residuals.states
    arrays = {"drive": g, "states": h, "weights": w_hh, "first": last}
    arrays |= {"valid": valid, "reset": reset}
    d_drive, d_first = _launch(problem, True, arrays, h.shape)
    return Drives(d_drive, None, (d_first,))


def why_not(case: CellCase) -> str | None:
    """Why the kernel does not serve a case, and what to do about it."""
    if case.platform != "cuda":
        return "it is a kernel for NVIDIA's GPUs"
    if case.kind not in ACTIVATIONS:
        return f"it knows {', '.join(ACTIVATIONS)}, not {case.kind} yet; {WAY_OUT}"
    if case.dtype != np.float32:
        return f"it computes in float32, not in {case.dtype.name}; {WAY_OUT}"
    if case.unsized:
        return "a size is a symbol (`jax.export`), and the kernel wants numbers"
    if case.hidden > WIDEST:
        return f"a core holds the weights of {WIDEST} units, not of {case.hidden}; {WAY_OUT}"
    if case.exported:
        return f"an exported program must run on machines that are not known; {WAY_OUT}"
    shared = cells.shared_bytes(case.batch, case.hidden)
    reason = launch.why_not() or card.why_not_shared(shared) or nvrtc.why_not() or card.why_not()
    return reason and f"{reason}; {WAY_OUT}"


method = CellMethod(
    name="cuda",
    summary="a CUDA kernel, one launch for all steps: not taken by `auto` until it is measured",
    forward=_forward,
    tangent=scan.method.tangent,
    transpose=_transpose,
    why_not=why_not,
)
