"""The matrix products of the layers, in one precision."""

import jax
import jax.numpy as jnp
from jax import lax


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """x W^T over the last axis: (..., features) with w (outputs, features) to (..., outputs).

    `precision=HIGHEST` unless the caller chose one by `jax.default_matmul_precision`: on a GPU the
    default (TF32) keeps 10 bits, an error that a recurrence then carries from step to step.
    """
    chosen = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return jnp.matmul(x, w.T, precision=None if chosen else lax.Precision.HIGHEST)


def affine(x: jax.Array, w: jax.Array, *biases: jax.Array | None) -> jax.Array:
    """x W^T plus every bias that is not None."""
    y = product(x, w)
    for b in biases:
        if b is not None:
            y = y + b.reshape((1,) * (y.ndim - 1) + b.shape)
    return y
