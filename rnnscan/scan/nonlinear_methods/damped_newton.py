"""`damped_newton`: Newton's iteration with shrunk Jacobians, each step accepted or rejected.

    d_t = s J_t d_{t-1} + f(h_{t-1}, x_t) - h_t,    h <- h + d,    0 <= s <= 1

s = 1 is `newton`, s = 0 is h <- f(h), which cannot overshoot. A trajectory is better if fewer of
its digits are wrong (the mean of log(1 + residual), in ulps of its largest number), or if the sum
of squares of its residual is smaller, or if more of its first states are right, and not much else
is worse. Such a step is accepted, and s grows; any other is undone, and s shrinks, until at last
h <- f(h) is taken as it is: one state more is right then. It ends with a last correction, as
`newton` does.

Source: Gonzalez et al. 2024, "Towards scalable and stable parallelization of nonlinear RNNs",
arXiv 2407.19115 (ELK), here with a scale for its trust region, which grows and shrinks as in
Nocedal & Wright 2006, algorithm 4.1.
"""

import jax
import jax.numpy as jnp

from rnnscan.scan.nonlinear_method import (
    NonlinearMethod,
    NonlinearOperands,
    NonlinearProblem,
    Solution,
)
from rnnscan.scan.nonlinear_methods.iteration import (
    Iterate,
    guess,
    iterated,
    polished,
    select,
    why_not,
)
from rnnscan.scan.nonlinear_methods.newton import corrected

_SHRINK, _GROW, _LEAST = 0.7, 1.3, 0.1
_WORSE = 1.0  # a digit in the mean is no price for a few states


def _merit(iterate: Iterate, scale: jax.Array) -> jax.Array:
    """(B,): how many digits of numbers of this scale are wrong, in the mean over steps."""
    gap = jnp.max(jnp.abs(iterate.h - iterate.residual.f), axis=-1) / scale[None]
    most = jnp.finfo(gap.dtype).max
    return jnp.mean(jnp.log1p(jnp.where(gap < most, gap, most)), axis=0)


def _update(problem: NonlinearProblem, operands: NonlinearOperands, iterate: Iterate):
    scale = jnp.where(iterate.memory < _LEAST, 0.0, iterate.memory)
    return corrected(problem, operands, iterate, scale), iterate.memory


def _squares(iterate: Iterate) -> jax.Array:
    """(B,): the sum of squares of the residual."""
    return jnp.sum(jnp.square(iterate.h - iterate.residual.f), axis=(0, 2))


def _right(iterate: Iterate) -> jax.Array:
    """(B,): how many states from the first one on are settled."""
    return jnp.sum(jnp.cumprod(iterate.settled, axis=0, dtype=jnp.int32), axis=0)


def _choice(old: Iterate, new: Iterate) -> Iterate:
    scale = old.memory
    f = jnp.abs(old.residual.f)
    unit = jnp.finfo(f.dtype).eps * jnp.max(jnp.where(jnp.isfinite(f), f, 0.0), axis=(0, 2))
    before, after = (_merit(iterate, unit + jnp.finfo(f.dtype).tiny) for iterate in (old, new))
    further = (_right(new) > _right(old) + 1) & (after < before + _WORSE)
    better = (after < before) | (_squares(new) < _squares(old)) | further | (scale < _LEAST)
    h, residual, settled = select(better, new[:3], old[:3], axis=1)
    grown = jnp.minimum(1.0, jnp.maximum(scale, _LEAST) * _GROW)
    scale = jnp.where(better, grown, scale * _SHRINK)
    return Iterate(h, residual, settled, new.iterations, scale)


def _solve(problem: NonlinearProblem, operands: NonlinearOperands) -> Solution:
    h = guess(problem, operands)
    whole = jnp.ones(problem.batch, h.dtype)
    last = iterated(problem, operands, _update, h, whole, _choice)
    return polished(problem, operands, last)


method = NonlinearMethod(
    name="damped_newton",
    summary="Newton's with shrunk Jacobians, steps accepted or rejected: from far away",
    solve=_solve,
    why_not=why_not,
)
