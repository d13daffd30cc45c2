"""All random weights of a layer from one draw, and matrices from an initialiser that a user gave.

A draw compiles for about half a second, once for each shape, and the next layer has other shapes.

float16 and bfloat16 are drawn in float32 and rounded: JAX draws no more bits than a number has, so
that a bfloat16 has 128 values in all, and decompositions (`orthogonal`) know no halves.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rnnscan.layer_parts.arguments import accepts, named
from rnnscan.scan import carry_dtype

Shapes = tuple[tuple[int, ...], ...]


@partial(jax.jit, static_argnames=("shapes", "dtype"))
def uniform(
    key: jax.Array, shapes: Shapes, low: float, high: float, dtype: jnp.dtype
) -> list[jax.Array]:
    """Arrays of these shapes, uniform in [low, high)."""
    size = sum(map(math.prod, shapes))
    wide = carry_dtype(dtype)
    limits = jnp.asarray(low, wide), jnp.asarray(high, wide)
    return _cut(jax.random.uniform(key, (size,), wide, *limits).astype(dtype), shapes)


@partial(jax.jit, static_argnames=("shapes", "dtype"))
def normal(key: jax.Array, shapes: Shapes, dtype: jnp.dtype) -> list[jax.Array]:
    """Arrays of these shapes, Gaussian with variance 1."""
    size = sum(map(math.prod, shapes))
    return _cut(jax.random.normal(key, (size,), carry_dtype(dtype)).astype(dtype), shapes)


def recurrent_matrix(
    initialiser: Callable[..., Any], key: jax.Array, size: int, dtype: jnp.dtype
) -> jax.Array:
    """A square matrix as the `recurrent_init` of a layer draws it.

    Raises TypeError for what is no initialiser, `orthogonal` instead of `orthogonal()` say, and
    ValueError for a matrix of another shape.
    """
    shape = size, size
    expected = (
        "recurrent_init: expected a function (key, shape, dtype) that draws a floating array, such "
        "as jax.nn.initializers.orthogonal() with its parentheses"
    )
    accepts(expected, initialiser, key, shape, dtype)
    drawn = initialiser(key, shape, carry_dtype(dtype))
    dtype_drawn = getattr(drawn, "dtype", None)
    if dtype_drawn is None or not jnp.issubdtype(dtype_drawn, jnp.floating):
        raise TypeError(f"{expected}, got one that returns {named(drawn)}")
    if drawn.shape != shape:
        raise ValueError(f"recurrent_init: expected an array of shape {shape}, got {drawn.shape}")
    return jnp.asarray(drawn, dtype)


def _cut(flat: jax.Array, shapes: Shapes) -> list[jax.Array]:
    arrays, start = [], 0
    for shape in shapes:
        stop = start + math.prod(shape)
        arrays.append(flat[start:stop].reshape(shape))
        start = stop
    return arrays
