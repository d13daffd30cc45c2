"""The residual h_t - f(h_{t-1}, x_t) of every step, in units of rounding.

A unit is what no evaluation in this precision can do better than: half an ulp of the largest number
that a leaf had in the last four steps, and half of what f(h_{t-1}) moves if the numbers of h_{t-1}
move by an ulp or so, up or down. The latter is the noise that f makes of roundings: where weights
are large it is hundreds of ulps, and a bound that does not know of it would never be met. The
former looks back for steps that cancel, such as a gate between two large numbers, and since a scan
carries a rounding of a large state on to a small one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnscan.scan.nonlinear_method import NonlinearOperands, NonlinearProblem


class Residual(NamedTuple):
    """Of a trajectory: f of the state before every step, (T, B, D), the unit of each number, and
    the residual of each step (T, B) in units, inf where it is none."""

    f: jax.Array
    unit: jax.Array
    of_step: jax.Array


def _ulps(size: int) -> np.ndarray:
    """Two ways to move the numbers of a state, in ulps: what cancels in one seldom does in both."""
    draw = np.random.default_rng(0)
    signs = draw.choice([-1.0, 1.0], (2, size))
    return signs * np.stack([np.ones(size), draw.permutation(np.resize([0.5, 1.0, 2.0], size))])


def _lately(problem, operands, h, before) -> jax.Array:
    """|h| of a step and of three before it, as far as nothing was forgotten since; h0 for one."""
    none = jnp.zeros_like(operands.h0)
    size, earlier = jnp.maximum(jnp.abs(h), jnp.abs(before)), jnp.abs(h)
    for _ in range(3):
        earlier = problem.before(earlier, none, operands.reset)
        size = jnp.maximum(size, earlier)
    return size


def residual(problem: NonlinearProblem, operands: NonlinearOperands, h: jax.Array) -> Residual:
    """Three evaluations of f at every step, side by side."""
    layout = problem.step.layout
    before = problem.before(h, operands.h0, operands.reset)
    evaluate = problem.everywhere(problem.step)
    # Computed once: where its users compute it each anew, they may round it differently.
    f = lax.optimization_barrier(evaluate(operands.params, before, operands.xs))
    roundoff = np.repeat(layout.roundoff, layout.sizes).astype(h.dtype)
    size = layout.largest(_lately(problem, operands, h, before))
    noise = lax.full_like(h, 0)
    for ulps in _ulps(layout.size).astype(h.dtype):
        moved = before * (1 + 2 * roundoff * ulps)[None, None]
        change = jnp.abs(evaluate(operands.params, moved, operands.xs) - f)
        noise = jnp.maximum(noise, layout.largest(change))
    unit = size * roundoff[None, None] + noise / 2
    gap = jnp.abs(h - f)
    ratio = gap / (unit + jnp.finfo(h.dtype).tiny)
    ratio = jnp.where(jnp.isfinite(ratio) & jnp.isfinite(unit), ratio, jnp.inf)
    ratio = jnp.where(h == f, jnp.zeros((), h.dtype), ratio)
    return Residual(f, unit, jnp.max(ratio, axis=-1, initial=0.0))


def settled(tol: float, h: jax.Array, found: Residual) -> jax.Array:
    """(T, B): whether a step's residual is within the tolerance, or h_t and f(h_{t-1}) are alike
    nan, which no iteration will change."""
    alike = (h == found.f) | (jnp.isnan(h) & jnp.isnan(found.f))
    return (found.of_step <= tol) | jnp.all(alike, axis=-1)
