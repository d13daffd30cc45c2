"""All random weights of a layer from one draw.

A draw compiles for about half a second, once for each shape, and the next layer has other shapes.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

Shapes = tuple[tuple[int, ...], ...]


@partial(jax.jit, static_argnames=("shapes", "dtype"))
def uniform(
    key: jax.Array, shapes: Shapes, low: float, high: float, dtype: jnp.dtype
) -> list[jax.Array]:
    """Arrays of these shapes, uniform in [low, high)."""
    size = sum(map(math.prod, shapes))
    limits = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
    return _cut(jax.random.uniform(key, (size,), dtype, *limits), shapes)


@partial(jax.jit, static_argnames=("shapes", "dtype"))
def normal(key: jax.Array, shapes: Shapes, dtype: jnp.dtype) -> list[jax.Array]:
    """Arrays of these shapes, Gaussian with variance 1."""
    return _cut(jax.random.normal(key, (sum(map(math.prod, shapes)),), dtype), shapes)


def _cut(flat: jax.Array, shapes: Shapes) -> list[jax.Array]:
    arrays, start = [], 0
    for shape in shapes:
        stop = start + math.prod(shape)
        arrays.append(flat[start:stop].reshape(shape))
        start = stop
    return arrays
