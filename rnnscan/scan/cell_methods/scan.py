"""`scan`: a plain `lax.scan`, one step after another, for every cell, dtype and platform.

W_ih x + b is one large product for all steps, ahead of the loop; a step is the product with W_hh
and the cell's equations. Work 2 T B G H (I + H) operations, span T.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan.cell_kinds.cell import Cell, Parts, States
from rnnscan.scan.cell_method import (
    CellMethod,
    CellProblem,
    Drives,
    Evolution,
    ForwardOperands,
    Residuals,
    Tangent,
    TangentOperands,
    Trajectory,
    TransposeOperands,
)


def dot(x: jax.Array, w: jax.Array, precision: str) -> jax.Array:
    """x W^T over the last axis.

    Of matrices: the gradient of W is then a sum over one axis, which XLA computes twice as fast on
    a CPU as one over batch and time.
    """
    rows = x if x.ndim == 2 else lax.collapse(x, 0, x.ndim - 1)
    y = lax.dot_general(rows, w, (((1,), (1,)), ((), ())), precision=precision)
    return y if x.ndim == 2 else y.reshape((*x.shape[:-1], w.shape[0]))


def in_row(bias: jax.Array, like: jax.Array) -> jax.Array:
    """A vector in line with `like`."""
    return bias.reshape((1,) * (like.ndim - 1) + bias.shape)


def parts_of(x: jax.Array, count: int) -> Parts:
    """Of each gate, or of what is kept."""
    return [x] if count == 1 else jnp.split(x, count, axis=-1)


def gates_of(
    cell: Cell, u: jax.Array, y: jax.Array, bias_hn: jax.Array | None = None
) -> tuple[Parts, jax.Array | None]:
    """z and q of a step, from W_ih x + b and W_hh h."""
    if not cell.apart:
        return parts_of(u + y, cell.gates), None
    (*u_parts, u_last), (*y_parts, q) = parts_of(u, cell.gates), parts_of(y, cell.gates)
    if bias_hn is not None:
        q = q + in_row(bias_hn, q)
    return [*(a + b for a, b in zip(u_parts, y_parts, strict=True)), u_last], q


def looked_at(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    """x, zero where a step is not valid: in the gradient of W_ih 0 * nan would be nan."""
    return x if valid is None else jnp.where(valid[..., None], x, jnp.zeros((), x.dtype))


def before(problem: CellProblem, residuals: Residuals, reset: jax.Array | None) -> States:
    """The states one step earlier in scan order, batch first; zeros at a reset."""

    def earlier(first, states):
        first = first[:, None]
        parts = [states[:, 1:], first] if problem.reverse else [first, states[:, :-1]]
        return jnp.concatenate(parts, 1)

    states = tuple(map(earlier, residuals.first, residuals.states))
    return forgotten(reset, states)


def forgotten(reset: jax.Array | None, states: States) -> States:
    """Zeros where flagged, whatever stood there."""
    if reset is None:
        return states
    return tuple(jnp.where(reset[..., None], jnp.zeros((), s.dtype), s) for s in states)


def time_first(tree):
    """Batch and time change places."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def selected(valid_t: jax.Array | None, new: States, old: States) -> States:
    """The new states (B, H) where they count."""
    if valid_t is None:
        return new
    return tuple(jnp.where(valid_t[:, None], n, o) for n, o in zip(new, old, strict=True))


def _forward(problem: CellProblem, operands: ForwardOperands) -> Trajectory:
    cell, precision = problem.cell, problem.precision
    x, (w_ih, bias, w_hh, bias_hn), first, valid, reset = operands
    u = dot(time_first(looked_at(x, valid)), w_ih, precision)
    u = u + in_row(bias, u)

    def body(state, inputs):
        u_t, valid_t, reset_t = inputs
        state = forgotten(reset_t, state)
        z, q = gates_of(cell, u_t, dot(state[0], w_hh, precision), bias_hn)
        new, kept = cell.step(z, q, state)
        state = selected(valid_t, new, state)
        if not problem.keep:
            return state, (state[:1], None)
        return state, (state, jnp.concatenate(kept, -1) if kept else None)

    inputs = u, time_first(valid), time_first(reset)
    last, (states, kept) = lax.scan(body, first, inputs, reverse=problem.reverse)
    return Trajectory(time_first(states), last, time_first(kept))


def _tangent(problem: CellProblem, operands: TangentOperands) -> Evolution:
    cell = problem.cell
    w_hh, residuals, drives, valid, reset = operands
    earlier = before(problem, residuals, reset)

    def body(dstate, inputs):
        du, dq, old, new, kept, valid_t, reset_t = inputs
        dstate = forgotten(reset_t, dstate)
        dz, moved = gates_of(cell, du, dot(dstate[0], w_hh, problem.precision))
        dq = None if moved is None else dq + moved
        kept = () if kept is None else parts_of(kept, cell.kept)
        moved = cell.tangent(kept, old, new, dz, dq, dstate)
        dstate = selected(valid_t, moved, dstate)
        return dstate, dstate[0]

    inputs = (drives.u, drives.q, earlier, residuals.states, residuals.kept, valid, reset)
    last, h = lax.scan(body, drives.state, time_first(inputs), reverse=problem.reverse)
    return Evolution(time_first(h), last)


def transposed(tangent: Tangent, problem: CellProblem, operands: TransposeOperands) -> Drives:
    """By JAX's own transposition of a tangent map."""
    w_hh, residuals, cotangents, valid, reset = operands

    def linear(drives):
        return tangent(problem, TangentOperands(w_hh, residuals, drives, valid, reset))

    # Zeros of a type that varies over a mesh as the residuals do.
    zero = lax.full_like(residuals.states[0], 0)
    u = jnp.concatenate([zero] * problem.cell.gates, -1)
    q = zero if problem.cell.apart else None
    like = Drives(u, q, (zero[:, 0],) * len(problem.cell.states))
    (drives,) = jax.linear_transpose(linear, like)(cotangents)
    return drives


method = CellMethod(
    name="scan",
    summary="a plain lax.scan, one step after another: every cell, dtype and platform",
    forward=_forward,
    tangent=_tangent,
    transpose=partial(transposed, _tangent),
    any_weights=True,
)
