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
    NonlinearCase,
    NonlinearOperands,
    NonlinearProblem,
    Solution,
)
from rnnscan.scan.nonlinear_residual import Residual, residual, settled

# What auto and named methods allow themselves unless told otherwise.
_MOST = 128


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
) -> Solution:
    """The solution that updates lead to from h, after as many as are allowed."""
    layout = problem.step.layout
    limit = min(problem.length, problem.max_iterations or _MOST)

    def look(h, iterations, memory):
        found = residual(problem, operands, h)
        return Iterate(h, found, settled(problem, h, found), iterations, memory)

    def going(carry):
        i, iterate = carry
        return (i < limit) & ~jnp.all(iterate.settled)

    def body(carry):
        i, old = carry
        done = jnp.all(old.settled, axis=0)
        h, memory = update(problem, operands, old)
        h = layout.rounded(finite(h, old.residual.f))
        h = select(done, old.h, h, axis=1)
        new = look(h, old.iterations + ~done, select(done, old.memory, memory))
        return i + 1, new if choice is None else choice(old, new)

    count = jnp.zeros(problem.batch, jnp.int32)
    _, last = lax.while_loop(going, body, (0, look(layout.rounded(h), count, memory)))
    return Solution(last.h, last.settled, last.iterations)
