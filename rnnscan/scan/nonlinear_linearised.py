"""The recurrence linearised about a trajectory: d_t = J_t d_{t-1} + drive_t.

J_t = df/dh at h_{t-1}, as N blocks L x L a step: `linear_scan` where L = 1, else `matrix_scan`. It
is what a Newton iteration solves, what tangents obey, and how far a rounding is carried.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan import precision
from rnnscan.scan.linear import linear_scan
from rnnscan.scan.matrix import matrix_scan
from rnnscan.scan.nonlinear_method import NonlinearOperands, NonlinearProblem, forgotten
from rnnscan.scan.stretches import by_platform, in_stretches


def jacobians(
    problem: NonlinearProblem, operands: NonlinearOperands, before: jax.Array
) -> jax.Array:
    """J_t of every step, (T, B, N, L, L)."""
    jacobian = problem.everywhere(problem.step.jacobian)
    return jacobian(operands.params, before, operands.xs)


def solve(
    J: jax.Array, drive: jax.Array, first: jax.Array | None, reset: jax.Array | None
) -> jax.Array:
    """d (T, B, K, D) of K drives, from the blocks of J and `first` (B, K, D), `None` for zeros."""
    places, parts = J.shape[-3:-1]

    def into(v):
        return jnp.swapaxes(v.reshape((*v.shape[:-1], parts, places)), -1, -2)

    first = None if first is None else into(first)
    J, drive = J[:, :, None], into(drive)
    if reset is not None:
        reset = reset[..., None, None, None]
    if parts == 1:
        J, drive = J[..., 0, 0], drive[..., 0]
        first = None if first is None else first[..., 0]
        reset = None if reset is None else reset[..., 0]
        return linear_scan(J, drive, first, reset=reset)
    d = matrix_scan(J, drive, first, reset=reset)
    return jnp.swapaxes(d, -1, -2).reshape((*d.shape[:-2], places * parts))


def carried(
    problem: NonlinearProblem,
    operands: NonlinearOperands,
    h: jax.Array,
    drive: jax.Array,
    first: jax.Array,
) -> jax.Array:
    """d (T, B, K, D) along a trajectory, from drives and from d before the first step (B, K, D).

    In parallel, by Jacobians; on a CPU, where those are wide, step by step, by tangents of f.
    """
    if not isinstance(problem.length * problem.batch, int):  # a symbol (`jax.export`)
        return carried_by_steps(problem, operands, h, drive, first)

    def by_stretches(most, *given):
        return _carried_in_stretches(problem, most, *given)

    def by_steps(*given):
        return carried_by_steps(problem, *given)

    given = operands, h, drive, first
    return by_platform(by_stretches, by_steps, problem.step.parts, *given)


def _carried_in_stretches(
    problem: NonlinearProblem,
    most: int,
    operands: NonlinearOperands,
    h: jax.Array,
    drive: jax.Array,
    first: jax.Array,
) -> jax.Array:
    """In stretches of time whose Jacobians take at most so many bytes.

    What is differentiated keeps the trajectory; Jacobians are made again.
    """
    step = problem.step
    before = problem.before(h, operands.h0, operands.reset)

    @partial(jax.checkpoint, prevent_cse=False)
    def stretch(first, over_time):
        before, xs, reset, drive = over_time
        J = jacobians(problem, operands._replace(xs=xs), before)
        d = solve(J, drive, first, reset)
        return d[-1], d

    bytes_a_step = problem.batch * step.layout.size * step.parts * step.layout.wide.itemsize
    over_time = before, operands.xs, operands.reset, drive
    return in_stretches(stretch, first, over_time, bytes_a_step, most)


def carried_by_steps(
    problem: NonlinearProblem,
    operands: NonlinearOperands,
    h: jax.Array,
    drive: jax.Array,
    first: jax.Array,
) -> jax.Array:
    """The same one step after another, by tangents of f: no Jacobian is formed."""
    before = problem.before(h, operands.h0, operands.reset)

    @partial(jax.checkpoint, prevent_cse=False)
    def body(d, over_time):
        before, x, reset, drive = over_time
        _, d = problem.side_by_side(problem.step.pushed)(operands.params, (before, d), x)
        d = drive + (d if reset is None else forgotten(reset[:, None], d))
        return d, d

    over_time = before, operands.xs, operands.reset, drive
    if precision.is_long([problem.length]):  # for one loop, where it is no operation of ours
        loop = partial(lax.scan, body)
        return in_stretches(loop, first, over_time, bytes_a_step=1, most=precision.LONG)
    return lax.scan(body, first, over_time)[1]
