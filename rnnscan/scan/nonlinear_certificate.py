"""What a trajectory is worth, whoever found it: its residual, and how far that and rounding reach.

With L d_t = d_t - J_t d_{t-1}, the trajectory's error is L^-1 of its residual to first order, and
of the roundings in that residual, whose signs nobody knows. So the residual is carried on as it is,
and a unit of rounding at every step with random signs, twice; the largest of these is taken four
times. For random signs it is the root of the sum of squares that a rounding grows to, where a bound
by norms of J would be of no use: |J| > 1 for many recurrences that forget.
"""

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan import nonlinear_linearised as linearised
from rnnscan.scan.nonlinear_method import (
    Convergence,
    NonlinearOperands,
    NonlinearProblem,
    Solution,
)
from rnnscan.scan.nonlinear_residual import residual

_PROBES = 2
_CERTAIN = 4.0


def certified(
    problem: NonlinearProblem, operands: NonlinearOperands, solution: Solution
) -> Convergence:
    """Of a solution; what is not asked for is not computed, once compiled."""
    h = solution.h
    found = residual(problem, operands, h)
    shape = problem.length, 1, _PROBES, h.shape[-1]  # the same for every problem
    signs = 2 * jax.random.bernoulli(jax.random.key(0), shape=shape).astype(h.dtype) - 1
    drive = jnp.concatenate([(h - found.f)[:, :, None], signs * found.unit[:, :, None]], 2)
    d = linearised.carried(problem, operands, h, drive, lax.full_like(drive[0], 0))
    # Not by way of a maximum: on CPUs XLA's may lose a nan.
    distance = jnp.where(jnp.isfinite(d), jnp.abs(d), jnp.inf)
    largest = jnp.max(distance, axis=(0, 3), initial=0.0)  # (B, 1 + probes)
    return Convergence(
        converged=jnp.all(solution.settled, axis=0) & jnp.all(jnp.isfinite(h), axis=(0, 2)),
        iterations=solution.iterations,
        residual=jnp.max(found.of_step, axis=0, initial=0.0),
        error_bound=largest[:, 0] + _CERTAIN * jnp.max(largest[:, 1:], axis=1),
    )
