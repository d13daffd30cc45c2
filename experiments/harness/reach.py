"""How far back the gradient of a layer reaches: `rnnscan.gradients`, applied to layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.harness.layer_configs import Layer
from rnnscan.gradients import LogNorms, log_gradient_norms


def zero_state(layer: Layer, batch: tuple[int, ...] = (), dtype: Any = jnp.float32) -> Any:
    """The state in which sequences of this dtype begin, of whatever structure."""
    x_t = jax.ShapeDtypeStruct((*batch, layer.input_size), dtype)
    _, state = jax.eval_shape(layer.step, x_t)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)


def log_norms(layer: Layer, x: jax.Array, cotangents: jax.Array | None = None) -> LogNorms:
    """Logarithms of gradient norms by lag, for one sequence x (T, features) from the zero state."""

    def step(h, x_t):
        return layer.step(x_t, h)[1]

    h0 = zero_state(layer, dtype=x.dtype)
    return log_gradient_norms(step, h0, x, cotangents=cotangents)


def output_log_norms(layer: Layer, x: jax.Array, readouts: jax.Array) -> jax.Array:
    """(T,) ln of the norm of d(readouts @ y_T)/dx_{T-k} by lag k, for one sequence (T, features).

    For layers that carry no state from step to step: a plain VJP through the call. -inf where the
    gradient is exactly zero, as beyond the window of a convolution. readouts: (p, output_size).
    """
    _, pull_back = jax.vjp(lambda x: layer(x)[0][-1], x)
    (gradients,) = lax.map(pull_back, readouts)
    return 0.5 * jnp.log(jnp.sum(jnp.square(gradients), axis=(0, 2)))[::-1]


def thinned_lags(length: int, per_doubling: int = 12) -> np.ndarray:
    """Lags 0 ... length: every one at first, then so many in each doubling; the last included.

    >>> thinned_lags(30, per_doubling=4)
    array([ 0,  1,  2,  3,  4,  5,  6,  7,  8, 10, 11, 13, 16, 19, 23, 27, 30])
    """
    spaced = 2.0 ** np.arange(0, np.log2(max(length, 1)), 1 / per_doubling)
    first = np.arange(min(length, per_doubling) + 1)
    return np.unique(np.concatenate([first, np.round(spaced), [length]]).astype(int))
