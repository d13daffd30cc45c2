"""The methods of `nonlinear_scan`, for cells: a trajectory from iterations on all of its steps.

    h_t  = step(u_t, W_hh h_{t-1}, h_{t-1})         by `nonlinear_scan`, u = W_ih x + b ahead of it
    ds_t = J_t ds_{t-1} + D step . (du_t, dq_t)     by `matrix_scan`, J_t = d s_t / d s_{t-1}

Each sequence has its own count of iterations. The derivative is that of the recurrence at the
states that were found, whoever found them: in parallel over time, forward and backward, also where
the states came step by step (`sequential`). J_t (D, D), of D = H numbers a state, of an lstm 2 H,
are made from W_hh and what the cell keeps, in stretches of time that fit; on a CPU, where they are
wider than 16, the maps are those of `scan`.

A named method returns what it ends with; whether that is the trajectory says its `Convergence`
(`cell_scan_with_convergence`). Gated cells that remember for long (an lstm with a forget bias of 3
and more) may need `damped_newton`, or not converge. Where they do not, derivatives of higher order,
which are those of the plain scan, see other states. The error bound charges every step of the
padding with a rounding, and knows nothing of the rounding of results to halves.

Source: see `nonlinear_scan`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan import nonlinear, stretches
from rnnscan.scan.cell_kinds.cell import States
from rnnscan.scan.cell_method import (
    CellCase,
    CellMethod,
    CellProblem,
    Evolution,
    ForwardOperands,
    Residuals,
    TangentOperands,
    Trajectory,
)
from rnnscan.scan.cell_methods import scan
from rnnscan.scan.linear import linear_scan
from rnnscan.scan.matrix import matrix_scan
from rnnscan.scan.nonlinear_method import Convergence, NonlinearMethod
from rnnscan.scan.nonlinear_methods import iteration, nonlinear_table, sequential

# The trajectory.


def _drive(problem: CellProblem, operands: ForwardOperands) -> jax.Array:
    """u of all steps, (B, T, G H)."""
    x, (w_ih, bias, _, _), _, valid, _ = operands
    u = scan.dot(scan.looked_at(x, valid), w_ih, problem.precision)
    return u + scan.in_row(bias, u)


def _over_sequences(
    problem: CellProblem, operands: ForwardOperands, solve: Callable[..., Any], u: jax.Array, *more
) -> Any:
    """`solve(f, state, xs, reset, *more)` for each sequence, h_t = f(h_{t-1}, (u_t, valid_t))."""
    cell, precision = problem.cell, problem.precision
    _, (_, _, w_hh, bias_hn), state, valid, reset = operands

    def f(state: States, over_time) -> States:
        u_t, valid_t = over_time
        y = jnp.matmul(w_hh, state[0], precision=precision)
        new, _ = cell.step(*scan.gates_of(cell, u_t, y, bias_hn), state)
        if valid_t is None:
            return new
        return tuple(jnp.where(valid_t, n, o) for n, o in zip(new, state, strict=True))

    def one(state, u, valid, reset, *more):
        return solve(f, state, (u, valid), reset, *more)

    with jax.default_matmul_precision(precision):
        return jax.vmap(one)(state, u, valid, reset, *more)


def _forward(name: str, problem: CellProblem, operands: ForwardOperands) -> Trajectory:
    """nan stays up to the next reset, as it does step by step; an iteration would mend it."""
    u = _drive(problem, operands)
    spoilt = _spoilt(problem, operands, u)

    def mended(x, places):
        return jnp.where(places[..., None], jnp.zeros((), x.dtype), x)

    def solve(f, state, xs, reset):
        options = {"reverse": problem.reverse, "reset": reset, "method": name}
        return nonlinear.nonlinear_scan(f, state, xs, **options)

    first = tuple(mended(s, jnp.any(jnp.isnan(s), axis=-1)) for s in operands.state)
    clean = operands._replace(state=first)
    states, found = _over_sequences(problem, clean, solve, mended(u, spoilt))
    states = tuple(jnp.where(spoilt[..., None], jnp.full((), jnp.nan, s.dtype), s) for s in states)
    found = found._replace(converged=found.converged & ~jnp.any(spoilt, axis=1))
    last = tuple(s[:, 0 if problem.reverse else -1] for s in states)
    if not problem.keep:
        return Trajectory(states[:1], last, None, found)
    return Trajectory(states, last, _kept(problem, operands, states, u), found)


def _spoilt(problem: CellProblem, operands: ForwardOperands, u: jax.Array) -> jax.Array:
    """(B, T): where a state is nan since x, the first state or a weight is."""
    _, (_, _, w_hh, bias_hn), state, _, reset = operands
    weights = jnp.any(jnp.isnan(w_hh))
    if bias_hn is not None:
        weights |= jnp.any(jnp.isnan(bias_hn))
    here = jnp.any(jnp.isnan(u), axis=-1) | weights
    before = jnp.any(jnp.isnan(jnp.concatenate(state, -1)), axis=-1)
    here, before = here.astype(u.dtype), before.astype(u.dtype)
    return linear_scan(1.0, here, before, axis=1, reverse=problem.reverse, reset=reset) > 0


def _kept(
    problem: CellProblem, operands: ForwardOperands, states: States, u: jax.Array
) -> jax.Array | None:
    """What the cell keeps of every step, from the states before them."""
    cell = problem.cell
    if not cell.kept:
        return None
    _, (_, _, w_hh, bias_hn), first, _, reset = operands
    before = scan.before(problem, Residuals(first, states, None), reset)
    y = scan.dot(before[0], w_hh, problem.precision)
    _, kept = cell.step(*scan.gates_of(cell, u, y, bias_hn), before)
    return jnp.concatenate(kept, -1)


def certificate(problem: CellProblem, operands: ForwardOperands, states: States) -> Convergence:
    """Of states that were computed step by step, by whatever method: (B,)."""

    def solve(f, state, xs, reset, states):
        return nonlinear.certificate(f, state, xs, states, reverse=problem.reverse, reset=reset)

    return _over_sequences(problem, operands, solve, _drive(problem, operands), states)


# The tangent map.


def _tangent(problem: CellProblem, operands: TangentOperands) -> Evolution:
    batch, steps, hidden = operands.residuals.states[0].shape
    columns = hidden * len(problem.cell.states)
    if not isinstance(batch * steps, int):  # a symbol (`jax.export`)
        return scan.method.tangent(problem, operands)
    return stretches.by_platform(
        partial(_in_stretches, problem), partial(scan.method.tangent, problem), columns, operands
    )


def _in_stretches(problem: CellProblem, most: int, operands: TangentOperands) -> Evolution:
    cell = problem.cell
    w_hh, residuals, drives, valid, reset = operands
    hidden, columns = w_hh.shape[-1], w_hh.shape[-1] * len(cell.states)
    before = scan.before(problem, residuals, reset)

    def moved(of_steps, dz, dq, dstate):
        """ds_t side by side."""
        kept, before, after = of_steps
        kept = () if kept is None else scan.parts_of(kept, cell.kept)
        return jnp.concatenate(cell.tangent(kept, before, after, dz, dq, dstate), -1)

    # A row for each number of a state: itself, and what W_hh makes of it.
    basis = jnp.eye(columns, dtype=w_hh.dtype)[None, None]
    y = jnp.concatenate([w_hh.T, jnp.zeros((columns - hidden, len(w_hh)), w_hh.dtype)])[None, None]
    of_basis = *scan.gates_of(cell, jnp.zeros_like(y), y), jnp.split(basis, len(cell.states), -1)

    def stretch(first, over_time):
        (du, dq), of_steps, valid, reset = over_time
        dz, _ = scan.gates_of(cell, du, lax.full_like(du, 0))
        drive = moved(of_steps, dz, dq, tuple(map(jnp.zeros_like, of_steps[1])))
        transposed = moved(jax.tree.map(lambda x: x[..., None, :], of_steps), *of_basis)
        if valid is not None:  # else the state passes as it is
            drive = jnp.where(valid[..., None], drive, jnp.zeros((), drive.dtype))
            transposed = jnp.where(valid[..., None, None], transposed, basis)
        reset = None if reset is None else reset[..., None]
        d = matrix_scan(jnp.swapaxes(transposed, -1, -2), drive, first, reset=reset)
        return d[-1], d

    of_steps = residuals.kept, before, residuals.states
    over_time = scan.time_first(((drives.u, drives.q), of_steps, valid, reset))
    if problem.reverse:
        over_time = jax.tree.map(lambda x: lax.rev(x, (0,)), over_time)
    first = jnp.concatenate(drives.state, -1)
    bytes_a_step = first.size * columns * first.dtype.itemsize
    d = stretches.in_stretches(stretch, first, over_time, bytes_a_step, most)
    last = tuple(jnp.split(d[-1], len(cell.states), axis=-1))
    d = lax.rev(d, (0,)) if problem.reverse else d
    return Evolution(jnp.swapaxes(d[..., :hidden], 0, 1), last)


def _why_not(of: NonlinearMethod, case: CellCase) -> str | None:
    if not isinstance(case.hidden, int):
        return "the hidden size is a symbol (`jax.export`)"
    return None if of is sequential.method else iteration.why_not(case)


def _row(of: NonlinearMethod) -> CellMethod:
    return CellMethod(
        name=of.name,
        summary=of.summary,
        forward=partial(_forward, of.name),
        tangent=_tangent,
        transpose=partial(scan.transposed, _tangent),
        why_not=partial(_why_not, of),
        any_weights=True,
        in_turns=False,
    )


methods = tuple(map(_row, nonlinear_table.methods))
