"""What a trajectory is worth, whoever found it: its residual, and how far that and rounding reach.

With L d_t = d_t - J_t d_{t-1}, the trajectory's error is L^-1 of its residual to first order, and
of the roundings in that residual, whose signs nobody knows. So the residual is carried on as it is,
and a unit of rounding at every step with random signs, twice; the largest of these is taken four
times. For random signs it is the root of the sum of squares that a rounding grows to, where a bound
by norms of J would be of no use: |J| > 1 for many recurrences that forget.
"""

import jax
import jax.numpy as jnp

from rnnscan.scan import nonlinear_linearised as linearised
from rnnscan.scan.nonlinear_method import Convergence, NonlinearOperands, NonlinearProblem
from rnnscan.scan.nonlinear_residual import residual, settled

_PROBES = 2
_CERTAIN = 4.0


def certified(
    problem: NonlinearProblem,
    operands: NonlinearOperands,
    h: jax.Array,
    iterations: jax.Array,
    by_steps: bool,
) -> Convergence:
    """Of a trajectory (T, B, D); `by_steps`: evaluate along it one step after another.

    What is not asked for is not computed, once compiled.
    """
    found = residual(problem, operands, h)
    stands = settled(problem, h, found) & jnp.all(jnp.isfinite(h), axis=-1)
    shape = problem.length, 1, _PROBES, h.shape[-1]  # the same for every problem
    signs = 2 * jax.random.bernoulli(jax.random.key(0), shape=shape).astype(h.dtype) - 1
    drive = jnp.concatenate([(h - found.f)[:, :, None], signs * found.unit[:, :, None]], 2)
    along = linearised.carried_by_steps if by_steps else linearised.carried
    d = along(problem, operands, h, drive, jnp.zeros_like(drive[0]))
    largest = jnp.max(jnp.abs(d), axis=(0, 3), initial=0.0)  # (B, 1 + probes)
    bound = largest[:, 0] + _CERTAIN * jnp.max(largest[:, 1:], axis=1)
    return Convergence(
        converged=jnp.all(stands, axis=0),
        iterations=iterations,
        residual=jnp.max(found.of_step, axis=0, initial=0.0),
        error_bound=jnp.where(jnp.isfinite(bound), bound, jnp.inf),
    )
