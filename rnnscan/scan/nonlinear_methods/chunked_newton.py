"""`chunked_newton`: K chunks of C steps side by side; Newton's iteration for their first states.

    h^k, M^k = all C steps of chunk k from z_k, and the derivative of the last of them    (at once)
    d_{k+1} = M^k d_k + h^k_last - z_{k+1},    z <- z + d                                 (one scan)

Multiple shooting: C = 1 is `newton`, C = T `sequential`. Jacobians are carried along a chunk as D
tangents, so that K D^2 numbers are held instead of T D^2; the work of an iteration stays T (D + 1)
tangents of f, its span is C steps and a scan of K. C is about sqrt(T).

Within a chunk steps are exact, so the residual lies at the chunks' first steps alone; and where a
chunk is longer than errors live, two iterations are enough.

Source: Bellen & Zennaro 1989, "Parallel algorithms for initial-value problems for difference and
differential equations"; multiple shooting is Bock & Plitt 1984.
"""

import functools
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
from rnnscan.scan.nonlinear_methods.iteration import Iterate, finite, guess, iterated, why_not

# The first states (B, K, D) that the chunks were run from, and of each chunk but the last the state
# at its end and the columns of its derivative, (B, K - 1, L, D).
Memory = tuple[jax.Array, jax.Array, jax.Array]


def solve(problem: NonlinearProblem, operands: NonlinearOperands, steps: int) -> Solution:
    """By chunks of so many steps."""
    run = functools.partial(_run, problem, _in_chunks(operands, steps), steps)

    def update(problem: NonlinearProblem, operands: NonlinearOperands, iterate: Iterate):
        z, ends, columns = iterate.memory
        M = _chunks_first(problem.step.blocks(columns))
        drive = _chunks_first(ends - z[:, 1:])
        d = linearised.solve(M, drive[:, :, None], None, None)
        d = jnp.moveaxis(d[:, :, 0], 0, 1)
        moved = ends + (d - jnp.moveaxis(drive, 0, 1))
        z = jnp.concatenate([z[:, :1], finite(moved, ends)], 1)
        return run(problem.step.layout.rounded(z))

    before = problem.before(guess(problem, operands), operands.h0, None)
    h, memory = run(jnp.moveaxis(before[::steps], 0, 1))
    return iterated(problem, operands, update, h, memory)


def _chunks_first(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, 1, 0)


def _in_chunks(operands: NonlinearOperands, steps: int) -> Any:
    """xs and flags as (steps, K, B, ...); what the last chunk lacks repeats, and is not used."""
    over_time = operands.params, (operands.xs, operands.reset)

    def cut(x):
        length, count = x.shape[0], -(-x.shape[0] // steps)
        place = jnp.minimum(jnp.arange(count * steps), length - 1)
        x = x if length == count * steps else x[place]
        return jnp.moveaxis(x.reshape((count, steps, *x.shape[1:])), 1, 0)

    return over_time[0], jax.tree.map(cut, over_time[1])


def _run(
    problem: NonlinearProblem, given: Any, steps: int, z: jax.Array
) -> tuple[jax.Array, Memory]:
    """All chunks from their first states z (B, K, D): the trajectory, and what is remembered."""
    step = problem.step
    params, over_time = given

    def pushed(params, at, x):
        h, d = at
        return step.pushed(params, h, d, x)

    def body(carry, over_time):
        state, columns = carry
        x, reset = over_time
        state = forgotten(reset, state)
        columns = forgotten(None if reset is None else reset[..., None], columns)
        state, columns = problem.everywhere(pushed)(params, (state, columns), x)
        return (state, columns), state

    first = _chunks_first(z)
    columns = lax.full_like(first, 0, shape=(*first.shape[:2], *step.basis.shape))
    columns = columns + step.basis[None, None]
    (_, columns), h = lax.scan(body, (first, columns), over_time)
    h = jnp.moveaxis(h, 0, 1)  # (K, steps, B, D)
    ends = h[:-1, -1]
    h = h.reshape((-1, *h.shape[2:]))[: problem.length]
    return h, (z, _chunks_first(ends), _chunks_first(columns[:-1]))


def _solve(problem: NonlinearProblem, operands: NonlinearOperands) -> Solution:
    return solve(problem, operands, max(1, math.isqrt(problem.length)))


method = NonlinearMethod(
    name="chunked_newton",
    summary="chunks side by side, Newton's for their first states: sqrt(T) D^2 memory",
    solve=_solve,
    why_not=why_not,
)
