"""Decay, drive and output of the selective scan, of one step or of many."""

import jax
import jax.numpy as jnp

from rnnscan.scan.hold import hold_gain
from rnnscan.scan.selective_method import SelectiveProblem
from rnnscan.scan.time_axis import keep


def times(problem: SelectiveProblem, delta: jax.Array, bias: jax.Array | None) -> jax.Array:
    """delta, or the softplus of delta + bias, (..., channels)."""
    if not problem.softplus:
        return delta
    return jax.nn.softplus(delta if bias is None else delta + in_line(bias, delta.ndim, 1))


def coefficients(
    problem: SelectiveProblem,
    a: jax.Array,
    x: jax.Array,
    delta: jax.Array,
    b: jax.Array,
    reset: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Decay and drive, (..., channels, N), of x and times (..., channels) and b (..., N).

    reset (..., 1, 1): where the decay is dropped; it is that of no time there, so that no inf in it
    or in delta is in the gradients of A and of delta, which the drive has too.
    """
    a, delta_n = in_line(a, delta.ndim + 1, 2), delta[..., None]
    decay = jnp.exp(keep(reset, delta_n) * a)
    if problem.discretisation == "euler":
        # Products of matrices rather than sums, whose gradients XLA runs at a tenth of the speed
        # on CPUs; so in `read`.
        drive = jnp.einsum("...c,...n->...cn", delta * x, b, precision=problem.precision)
    else:
        gain = hold_gain(delta_n, a)
        if problem.signed:  # (1 - |2 e - 1|) / |A|, where the series of 1 - e is in `hold_gain`
            e = jnp.exp(delta_n * a)
            low = e < 0.5
            gain = 2 * jnp.where(low, -e / jnp.where(low, a, -1), gain)
        drive = gain * x[..., None] * b[..., None, :]
    decay = 2 * decay - 1 if problem.signed else decay
    return jnp.broadcast_to(decay, drive.shape), drive


def read(
    problem: SelectiveProblem, h: jax.Array, c: jax.Array, d: jax.Array | None, x: jax.Array
) -> jax.Array:
    """h_t C_t + D x_t, (..., channels)."""
    y = jnp.einsum("...cn,...n->...c", h, c, precision=problem.precision)
    return y if d is None else y + in_line(d, x.ndim, 1) * x


def in_line(constant: jax.Array, rank: int, last: int) -> jax.Array:
    """With axes of size 1 for time, and for the batch where it has none, before its last axes."""
    lead = constant.ndim - last
    ones = (1,) * (rank - constant.ndim)
    return constant.reshape((*constant.shape[:lead], *ones, *constant.shape[lead:]))
