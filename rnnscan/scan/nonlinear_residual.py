"""The residual h_t - f(h_{t-1}, x_t) of every step, in units of rounding.

A unit is what no evaluation in this precision can do better than: half an ulp of the largest number
in a leaf of h_t, and half of what f(h_{t-1}) moves if every number of h_{t-1} moves by an ulp, up
or down. The second part is the noise of f itself, cancellation within it included: where weights
are large it is hundreds of ulps, and a bound that does not know of it would never be met.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan.scan.nonlinear_method import NonlinearOperands, NonlinearProblem


class Residual(NamedTuple):
    """Of a trajectory: f of the state before every step, (T, B, D), the unit of each number, and
    the residual of each step (T, B) in units, inf where it is none."""

    f: jax.Array
    unit: jax.Array
    of_step: jax.Array


def residual(problem: NonlinearProblem, operands: NonlinearOperands, h: jax.Array) -> Residual:
    """Two evaluations of f at every step, side by side."""
    layout = problem.step.layout
    before = problem.before(h, operands.h0, operands.reset)
    evaluate = problem.everywhere(problem.step)
    f = evaluate(operands.params, before, operands.xs)
    roundoff = np.repeat(layout.roundoff, layout.sizes).astype(h.dtype)
    signs = np.random.default_rng(0).choice([-1, 1], layout.size).astype(h.dtype)
    nearby = evaluate(operands.params, before * (1 + 2 * roundoff * signs), operands.xs)

    size = layout.largest(jnp.abs(h)) * roundoff
    unit = size + layout.largest(jnp.abs(nearby - f)) / 2
    gap = jnp.abs(h - f)
    ratio = gap / (unit + jnp.finfo(h.dtype).tiny)
    ratio = jnp.where(jnp.isfinite(ratio) & jnp.isfinite(unit), ratio, jnp.inf)
    ratio = jnp.where(h == f, jnp.zeros((), h.dtype), ratio)
    return Residual(f, unit, jnp.max(ratio, axis=-1, initial=0.0))


def settled(problem: NonlinearProblem, h: jax.Array, found: Residual) -> jax.Array:
    """(T, B): whether a step's residual is within the tolerance, or h_t and f(h_{t-1}) are alike
    nan, which no iteration will change."""
    alike = (h == found.f) | (jnp.isnan(h) & jnp.isnan(found.f))
    return (found.of_step <= problem.tol) | jnp.all(alike, axis=-1)
