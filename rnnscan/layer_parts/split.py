"""Padded sequences whose time is split over devices: where in their chunks they end."""

import jax
import jax.numpy as jnp

from rnnscan.scan import AxisName, at_the_end, from_one, index_and_size


def lengths_here(lengths: jax.Array, steps: int, axis_name: AxisName | None) -> jax.Array:
    """How many of the `steps` of this device's chunk count, by lengths over all chunks."""
    if axis_name is None:
        return lengths
    index, _ = index_and_size(axis_name)
    return jnp.clip(lengths - index * steps, 0, steps)


def where_it_ends(
    x: jax.Array, lengths: jax.Array | None, steps: int, axis_name: AxisName | None
) -> jax.Array:
    """x (*batch, ...) of the device whose chunk has the last step that counts, alike on all.

    Of a sequence of no steps that is the first device. `lengths`, (*batch), count over all chunks,
    of `steps` each. x itself where time is not split, or has no steps.
    """
    if axis_name is None or steps == 0:
        return x
    if lengths is None:
        return at_the_end(x, axis_name)
    index, _ = index_and_size(axis_name)
    here = index == jnp.maximum(lengths - 1, 0) // steps
    return from_one(x, here.reshape(here.shape + (1,) * (x.ndim - here.ndim)), axis_name)
