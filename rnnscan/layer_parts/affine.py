"""Maps of the features, the same at every step, and their products in one precision."""

import jax
import jax.numpy as jnp

from rnnscan.scan import matmul_precision


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """x W^T over the last axis: (..., features) with w (outputs, features) to (..., outputs)."""
    return jnp.matmul(x, w.T, precision=matmul_precision())


def einsum(equation: str, *operands: jax.Array) -> jax.Array:
    """`jnp.einsum` in the precision of `product`."""
    return jnp.einsum(equation, *operands, precision=matmul_precision())


def affine(x: jax.Array, w: jax.Array, *biases: jax.Array | None) -> jax.Array:
    """x W^T plus every bias that is not None."""
    y = product(x, w)
    for b in biases:
        if b is not None:
            y = y + in_line(b, y.ndim)
    return y


def in_line(parameter: jax.Array, rank: int) -> jax.Array:
    """The parameter with axes of size 1 in front, for the batch and time of an array of `rank`."""
    return parameter.reshape((1,) * (rank - parameter.ndim) + parameter.shape)
