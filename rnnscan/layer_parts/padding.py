"""Sequences of different lengths in one padded batch.

Steps at and after a sequence's length are padding. The *input* is masked there before anything is
computed from it, and the output afterwards: one mask alone would let `0 * nan` through in the
backward pass.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jax.typing import ArrayLike

MOST = 2**31 - 1  # that an int32 counts


def countable(name: str, steps: int, more: int = 0) -> None:
    """Raise unless so many steps and some more are counted in int32; a symbol may be any number."""
    if isinstance(steps, int) and steps + more > MOST:
        raise ValueError(
            f"{name}: got x of {steps} steps, expected fewer than {MOST - more} here, which are "
            "counted in int32; cut x into parts, and hand the state on from one to the next"
        )


def checked_lengths(lengths: ArrayLike, batch: tuple[int, ...], steps: int) -> jax.Array:
    """`lengths` as int32 of shape `batch`, each in 0..steps.

    Concrete values outside 0..steps raise ValueError; traced ones cannot be read and are clipped.
    """
    countable("lengths", steps)
    # Nor can those be read that lie on devices of other processes.
    traced = isinstance(lengths, core.Tracer) or not getattr(lengths, "is_fully_addressable", True)
    given = jnp.asarray(lengths) if traced else integers("lengths", lengths)
    if not jnp.issubdtype(given.dtype, jnp.integer):
        hint = "; a reset is given by name: reset=..." if given.dtype == bool else ""
        raise TypeError(f"lengths: expected integers, got {given.dtype}{hint}")
    if given.shape != batch:
        raise ValueError(
            f"lengths: expected shape {batch}, the axes of x before time, one per sequence, got "
            f"{given.shape}"
        )
    if traced:
        # First in their own dtype: what int32 does not hold would wrap.
        given = jnp.clip(given, 0, min(MOST, jnp.iinfo(given.dtype).max)).astype(jnp.int32)
        given = jnp.minimum(given, jnp.asarray(steps, jnp.int32))
    else:
        wrong = given[(given < 0) | (given > steps)]
        if wrong.size:
            raise ValueError(f"lengths: expected values in 0..{steps}, the steps, got {wrong[0]}")
    return jnp.asarray(given, jnp.int32)


def integers(name: str, given: ArrayLike) -> np.ndarray:
    """A NumPy array; an empty list has integers, where NumPy would have it real."""
    try:
        given = np.asarray(given)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name}: expected an array of integers: {error}") from None
    return given if given.size or given.dtype != np.float64 else given.astype(np.int32)


def valid_steps(lengths: jax.Array, steps: int) -> jax.Array:
    """Booleans of shape (*batch, steps, 1): true where a step belongs to its sequence."""
    shape = (*lengths.shape, steps, 1)
    return lax.broadcasted_iota(jnp.int32, shape, lengths.ndim) < lengths[..., None, None]


def masked(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    """`x` with exact zeros in the padding, whatever stood there, nan included."""
    return x if valid is None else _masked(x, valid)


@jax.checkpoint  # keeps one boolean per step, instead of masks and zeros as large as x
def _masked(x: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.where(valid, x, jnp.zeros((), x.dtype))


def state_at(h: jax.Array, lengths: jax.Array | None, h0: jax.Array) -> jax.Array:
    """The state after the last valid step, h0 at length 0: (*batch, time, n) to (*batch, n)."""
    if h.shape[-2] == 0:
        return h0
    if lengths is None:
        return h[..., -1, :]
    index = jnp.maximum(lengths - 1, 0)[..., None, None]
    last = jnp.take_along_axis(h, index, axis=-2, mode="clip")[..., 0, :]
    return jnp.where(lengths[..., None] == 0, h0, last)
