"""`chunked_newton`: K chunks of C steps side by side; Newton's iteration for their first states.

    h^k, M^k = all C steps of chunk k from z_k, and the derivative of the last of them    (at once)
    d_{k+1} = M^k d_k + h^k_last - z_{k+1},    z <- z + d                                 (one scan)

Multiple shooting: C = 1 is `newton`, C = T `sequential`. Jacobians are carried along a chunk as D
tangents, so that K D^2 numbers are held instead of T D^2; the work of an iteration stays T (D + 1)
tangents of f, its span is C steps and a scan of K. C is about sqrt(T).

Within a chunk steps are exact, so the residual lies at the chunks' first steps alone; and where a
chunk is longer than errors live, one or two iterations are enough. Where it is not, the roundings
of a chunk gather there; a last pass spreads them over its steps.

Source: Bellen & Zennaro 1989, "Parallel algorithms for initial-value problems for difference and
differential equations"; multiple shooting is Bock & Plitt 1984.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan import nonlinear_linearised as linearised
from rnnscan.scan.nonlinear_method import (
    NonlinearMethod,
    NonlinearOperands,
    NonlinearProblem,
    Solution,
    forgotten,
)
from rnnscan.scan.nonlinear_methods.iteration import (
    Iterate,
    finite,
    guess,
    iterated,
    look,
    select,
    why_not,
    worst,
)

# The first states (B, K, D) that the chunks were run from, and of each chunk but the last the state
# at its end and the columns of its derivative, (B, K - 1, L, D).
Memory = tuple[jax.Array, jax.Array, jax.Array]
# Units of rounding at the chunks' first steps which may be the roundings of all their steps.
_NEAR = 4096.0


def solve(problem: NonlinearProblem, operands: NonlinearOperands, steps: int) -> Solution:
    """By chunks of so many steps."""
    over_time = _in_chunks((operands.xs, operands.reset), steps)

    def update(problem: NonlinearProblem, operands: NonlinearOperands, iterate: Iterate):
        z, ends, _ = iterate.memory
        moved = ends + _moves(problem, iterate.memory)
        z = jnp.concatenate([z[:, :1], finite(moved, ends)], 1)
        return _run(problem, operands, over_time, problem.step.layout.rounded(z))

    before = problem.before(guess(problem, operands), operands.h0, None)
    h, memory = _run(problem, operands, over_time, jnp.moveaxis(before[::steps], 0, 1))
    last = iterated(problem, operands, update, h, memory, near=_NEAR)
    h = problem.step.layout.rounded(_spread(problem, operands, over_time, last, steps))
    spread = look(problem, operands, h, last.iterations, last.memory)
    better = (worst(last) <= _NEAR) & (worst(spread) < worst(last))
    h, _, settled = select(better, spread[:3], last[:3], axis=1)
    return Solution(h, settled, last.iterations)


def _moves(problem: NonlinearProblem, memory: Memory) -> jax.Array:
    """(B, K - 1, D): where each chunk's last state goes, M d."""
    z, ends, columns = memory
    drive = _chunks_first(ends - z[:, 1:])
    M = _chunks_first(problem.step.blocks(columns))
    d = linearised.solve(M, drive[:, :, None], None, None)[:, :, 0]
    return _chunks_first(d - drive)


def _spread(
    problem: NonlinearProblem,
    operands: NonlinearOperands,
    over_time: Any,
    last: Iterate,
    steps: int,
) -> jax.Array:
    """The trajectory after a Newton iteration for all of its states.

    What rounding makes of the many steps of a chunk lies at the first step of the next, where it is
    more than a rounding if errors live longer than chunks. Here each step gets its part.
    """
    h = last.h
    before = problem.before(h, operands.h0, operands.reset)
    along = _in_chunks((before, h), steps)
    moves = _chunks_first(_moves(problem, last.memory))
    d = jnp.concatenate([lax.full_like(operands.h0, 0)[None], moves])

    def body(d, over_time):
        (before, h), (x, reset) = over_time
        at = before, forgotten(reset, d)[:, :, None]
        f, moved = problem.everywhere(problem.step.pushed)(operands.params, at, x)
        new = f + moved[:, :, 0]
        return new - h, new

    _, h = lax.scan(body, d, (along, over_time))
    return _in_line(problem, h)


def _chunks_first(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, 1, 0)


def _in_chunks(over_time: Any, steps: int) -> Any:
    """(T, ...) as (steps, K, ...); what the last chunk lacks repeats, and is not used."""

    def cut(x):
        length, count = x.shape[0], -(-x.shape[0] // steps)
        place = jnp.minimum(jnp.arange(count * steps), length - 1)
        x = x if length == count * steps else x[place]
        return jnp.moveaxis(x.reshape((count, steps, *x.shape[1:])), 1, 0)

    return jax.tree.map(cut, over_time)


def _in_line(problem: NonlinearProblem, h: jax.Array) -> jax.Array:
    """The inverse for states (steps, K, B, D)."""
    h = jnp.moveaxis(h, 0, 1)
    return lax.collapse(h, 0, 2)[: problem.length]


def _run(
    problem: NonlinearProblem, operands: NonlinearOperands, over_time: Any, z: jax.Array
) -> tuple[jax.Array, Memory]:
    """All chunks from their first states z (B, K, D): the trajectory, and what is remembered."""
    step = problem.step

    def body(carry, over_time):
        state, columns = carry
        x, reset = over_time
        state = forgotten(reset, state)
        columns = forgotten(None if reset is None else reset[..., None], columns)
        at = state, columns
        state, columns = problem.everywhere(step.pushed)(operands.params, at, x)
        return (state, columns), state

    first = _chunks_first(z)
    columns = lax.full_like(first, 0, shape=(*first.shape[:2], *step.basis.shape))
    columns = columns + step.basis[None, None]
    (_, columns), h = lax.scan(body, (first, columns), over_time)
    ends = _chunks_first(h[-1, :-1])
    return _in_line(problem, h), (z, ends, _chunks_first(columns[:-1]))


def _solve(problem: NonlinearProblem, operands: NonlinearOperands) -> Solution:
    return solve(problem, operands, max(1, math.isqrt(problem.length)))


method = NonlinearMethod(
    name="chunked_newton",
    summary="chunks side by side, Newton's for their first states: sqrt(T) D^2 memory",
    solve=_solve,
    why_not=why_not,
)
