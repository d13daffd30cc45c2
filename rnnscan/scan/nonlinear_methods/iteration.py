"""Iterate on a whole trajectory until its residual is rounding; what the Newton methods share.

By causality iteration i leaves the first i states exact, whatever the linearisation was, if only
the numbers are finite. A state that overflows therefore starts again from f of the state before it.
A problem whose steps are all settled is frozen, and its count stands.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan.nonlinear_method import (
    TOL,
    NonlinearCase,
    NonlinearOperands,
    NonlinearProblem,
    Solution,
)
from rnnscan.scan.nonlinear_residual import Residual, residual, settled

# Iterations, unless told otherwise.
_MOST = 128
# Part of the tolerance that ends them: in the certificate, another program, f may round otherwise.
_SURE = 0.75
# Iterations without a new best, after which what is settled is at rest.
_STALE = 2


class Iterate(NamedTuple):
    """A trajectory (T, B, D), its residual, and how far each problem is.

    `memory`: what else a method carries from one to the next, with an axis B in front.
    """

    h: jax.Array
    residual: Residual
    settled: jax.Array
    iterations: jax.Array
    memory: Any


# From an iterate to the next trajectory and memory.
Update = Callable[[NonlinearProblem, NonlinearOperands, Iterate], tuple[jax.Array, Any]]
# From an iterate and the next one to that which is kept.
Choice = Callable[[Iterate, Iterate], Iterate]


def why_not(case: NonlinearCase) -> str | None:
    """Of every method that iterates."""
    return "the length is a symbol (`jax.export`)" if case.symbolic else None


def guess(problem: NonlinearProblem, operands: NonlinearOperands) -> jax.Array:
    """Where to begin: what is given, and where that is nothing or not finite f(0, x), else h0."""
    h0 = jnp.broadcast_to(operands.h0, problem.shape)
    zeros = jnp.zeros_like(h0)
    before = problem.before(zeros, operands.h0, operands.reset)
    h = problem.everywhere(problem.step)(operands.params, before, operands.xs)
    h = finite(h, finite(h0, zeros))
    return h if operands.guess is None else finite(operands.guess, h)


def finite(h: jax.Array, instead: jax.Array) -> jax.Array:
    """h where it is finite."""
    return jnp.where(jnp.isfinite(h), h, instead)


def select(problems: jax.Array, this: Any, that: Any, axis: int = 0) -> Any:
    """This for problems (B,) that are flagged, else that; B lies on `axis`."""

    def chosen(x, y):
        flags = problems.reshape((*(1,) * axis, -1, *(1,) * (x.ndim - axis - 1)))
        return jnp.where(flags, x, y)

    return jax.tree.map(chosen, this, that)


def iterated(
    problem: NonlinearProblem,
    operands: NonlinearOperands,
    update: Update,
    h: jax.Array,
    memory: Any = (),
    choice: Choice | None = None,
    fine: float = 4.0,
) -> Solution:
    """The solution that updates lead to from h, after as many as are allowed.

    What is settled goes on while its residual still falls, until that is `fine` units.
    """
    layout = problem.step.layout
    limit = min(problem.length, problem.max_iterations or _MOST)
    enough = _SURE * problem.tol
    fine = min(fine, enough) if problem.tol <= TOL else enough

    def look(h, iterations, memory):
        found = residual(problem, operands, h)
        return Iterate(h, found, settled(enough, h, found), iterations, memory)

    def worst(iterate):
        return jnp.max(iterate.residual.of_step, axis=0)

    def done(iterate, stale):
        at_rest = (worst(iterate) <= fine) | (stale >= _STALE)
        return jnp.all(iterate.settled, axis=0) & at_rest

    def going(carry):
        i, iterate, _, stale = carry
        return (i < limit) & ~jnp.all(done(iterate, stale))

    def body(carry):
        i, old, best, stale = carry
        ended = done(old, stale)
        h, memory = update(problem, operands, old)
        h = layout.rounded(finite(h, finite(old.residual.f, old.h)))
        h = select(ended, old.h, h, axis=1)
        memory = select(ended, old.memory, memory)
        new = look(h, old.iterations + (~ended).astype(jnp.int32), memory)
        new = new if choice is None else choice(old, new)
        stale = jnp.where(ended, stale, jnp.where(worst(new) < best, 0, stale + 1))
        return i + 1, new, jnp.minimum(best, worst(new)), stale

    none = lax.full_like(h, 0, shape=(problem.batch,), dtype=jnp.int32)
    first = look(layout.rounded(h), none, memory)
    _, last, _, _ = lax.while_loop(going, body, (0, first, worst(first), none))
    return Solution(last.h, last.settled, last.iterations)
