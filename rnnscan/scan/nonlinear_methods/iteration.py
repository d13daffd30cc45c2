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

from rnnscan.scan import nonlinear_linearised as linearised
from rnnscan.scan.nonlinear_method import (
    TOL,
    NonlinearOperands,
    NonlinearProblem,
    Solution,
)
from rnnscan.scan.nonlinear_residual import Residual, residual, settled
from rnnscan.scan.table import Case

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


def why_not(case: Case) -> str | None:
    """Of every method that iterates."""
    return "the length is a symbol (`jax.export`)" if case.symbolic else None


def look(
    problem: NonlinearProblem,
    operands: NonlinearOperands,
    h: jax.Array,
    iterations: jax.Array,
    memory: Any,
) -> Iterate:
    """A trajectory, with its residual."""
    found = residual(problem, operands, h)
    return Iterate(h, found, settled(_SURE * problem.tol, h, found), iterations, memory)


def worst(iterate: Iterate) -> jax.Array:
    """(B,): the largest residual of all steps."""
    return jnp.max(iterate.residual.of_step, axis=0)


def guess(problem: NonlinearProblem, operands: NonlinearOperands) -> jax.Array:
    """Where to begin: what is given, and where that is nothing or not finite, what f makes of
    zeros, or of h0, and the last two inputs: h <- f(h), twice."""
    h0 = jnp.broadcast_to(operands.h0, problem.shape)
    zeros = jnp.zeros_like(h0)

    def swept(h):
        before = problem.before(h, operands.h0, operands.reset)
        return problem.everywhere(problem.step)(operands.params, before, operands.xs)

    h = finite(swept(zeros), finite(h0, zeros))
    h = finite(swept(h), h)
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


def polished(problem: NonlinearProblem, operands: NonlinearOperands, last: Iterate) -> Solution:
    """After a last correction by the true Jacobians, in stretches of time, where it still settles.

    What is left when an iteration ends may be of one sign over many steps: nothing to a residual,
    and where errors live long many times what a loop's roundings come to.
    """
    h, f = last.h, last.residual.f
    drive = f - h
    first = lax.full_like(operands.h0, 0)[:, None]
    d = linearised.carried(problem, operands, h, drive[:, :, None], first)[:, :, 0]
    h = problem.step.layout.rounded(finite(f + (d - drive), h))
    finer = look(problem, operands, h, last.iterations, last.memory)
    use = jnp.all(last.settled & finer.settled, axis=0)
    h, _, stands = select(use, finer[:3], last[:3], axis=1)
    return Solution(h, stands, last.iterations)


def iterated(
    problem: NonlinearProblem,
    operands: NonlinearOperands,
    update: Update,
    h: jax.Array,
    memory: Any = (),
    choice: Choice | None = None,
    fine: float = 4.0,
    near: float = 0.0,
) -> Iterate:
    """Where updates lead to from h, after as many as are allowed.

    What is settled, or has a residual of at most `near` units, goes on while that still falls,
    until it is `fine` units.
    """
    layout = problem.step.layout
    limit = min(problem.max_iterations or _MOST, 2**31 - 1)  # they are counted in int32
    if choice is None:  # each leaves one state more that is right
        limit = min(limit, problem.length)
    enough = _SURE * problem.tol
    fine = min(fine, enough) if problem.tol <= TOL else enough

    def done(iterate, stale):
        at_rest = (worst(iterate) <= fine) | (stale >= _STALE)
        return (jnp.all(iterate.settled, axis=0) | (worst(iterate) <= near)) & at_rest

    def going(carry):
        i, iterate, stale = carry
        return (i < limit) & ~jnp.all(done(iterate, stale))

    def body(carry):
        i, old, stale = carry
        ended = done(old, stale)
        h, memory = update(problem, operands, old)
        h = layout.rounded(finite(h, finite(old.residual.f, old.h)))
        h = select(ended, old.h, h, axis=1)
        memory = select(ended, old.memory, memory)
        new = look(problem, operands, h, old.iterations + (~ended).astype(jnp.int32), memory)
        new = new if choice is None else choice(old, new)
        better = worst(new) < worst(old)
        stale = jnp.where(ended | better, jnp.where(better, 0, stale), stale + 1)
        back = jnp.all(old.settled, axis=0) & ~better  # what is settled only gets better
        h, found, stands = select(back, old[:3], new[:3], axis=1)
        memory = select(back, old.memory, new.memory)
        return i + 1, Iterate(h, found, stands, new.iterations, memory), stale

    none = lax.full_like(h, 0, shape=(problem.batch,), dtype=jnp.int32)
    first = look(problem, operands, layout.rounded(h), none, memory)
    _, last, _ = lax.while_loop(going, body, (0, first, none))
    return last
