"""What the other layers compute, in float64, by neither scan nor kernel: the judge of results.

Recurrences and convolutions go one `step` after another; the gradient is JAX's of that loop.
Attention is written out here, one query after another:

    y_t = W_o [sum_s softmax_s(q_t . k_s / sqrt(d)) v_s],    t - context < s <= t

with q and k turned by their positions: numbers i and i + d/2 of a head, as a complex number, by
the angle t * 10000^(-2 i / d). A fully connected net is one product and evaluated as it is.

`reference.py` shares nothing with its layers; this shares their equations for one step. What it
can find wrong is what is timed: scans, methods, kernels, blocks and their backward passes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.harness.kinds import kind_of
from experiments.harness.reach import zero_state
from experiments.wallclock.reference import Arrays, parameters
from rnnscan import CausalSelfAttention

QUERIES = 64  # at a time


def evaluate(layer: Any, x: np.ndarray, g: np.ndarray | None) -> Arrays:
    """y, and the gradients of sum(g * y) with respect to x and every parameter, by name.

    Loops run on the host: a step costs less there than its launch on an accelerator.

    Args:
      layer: one of `rnnscan`, of one direction; attention without biases.
      x: (batch, time, features).
      g: the cotangent of y, of y's shape; None for y alone.
    """
    forward = definition(layer)
    host = jax.default_device(jax.local_devices(backend="cpu")[0])

    def named(layer: Any, x: jax.Array, g: jax.Array | None) -> dict[str, jax.Array]:
        if g is None:
            return {"y": forward(layer, x)}
        y, pullback = jax.vjp(forward, layer, x)
        dlayer, dx = pullback(g)
        return {"y": y, "x": dx, **parameters(dlayer)}

    with jax.enable_x64(True), contextlib.nullcontext() if on_device(layer) else host:
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), (layer, x, g))
        return {name: np.asarray(leaf) for name, leaf in jax.jit(named)(*wide).items()}


def definition(layer: Any) -> Callable[[Any, jax.Array], jax.Array]:
    """(layer, x) -> y: what is called correct."""
    whole = _called if kind_of(layer).one_output else _stepped
    return WRITTEN_OUT.get(type(layer), whole)


def on_device(layer: Any) -> bool:
    """All steps at once: no loop, whose steps would cost more there."""
    return definition(layer) is not _stepped


def _called(layer: Any, x: jax.Array) -> jax.Array:
    return layer(x)[0]


def _stepped(layer: Any, x: jax.Array) -> jax.Array:
    """By `step`. The backward pass keeps the states at every sqrt(T) steps, and makes the others
    again."""

    def step(state: Any, x_t: jax.Array) -> Any:
        y, state = layer.step(x_t, state)
        return state, y

    @jax.checkpoint
    def steps(state: Any, x: jax.Array) -> Any:
        return lax.scan(step, state, x)

    batch, length, features = x.shape
    stretch = next(n for n in range(math.isqrt(length), 0, -1) if length % n == 0)
    x = jnp.swapaxes(x, 0, 1).reshape(-1, stretch, batch, features)
    _, y = lax.scan(steps, zero_state(layer, (batch,), x.dtype), x)
    return jnp.swapaxes(y.reshape(length, batch, -1), 0, 1)


def _attention(layer: CausalSelfAttention, x: jax.Array) -> jax.Array:
    batch, length, features = x.shape
    positions = jnp.arange(length)

    def heads(w: jax.Array) -> jax.Array:
        shape = (batch, length, layer.num_heads, layer.head_size)
        return (x.reshape(-1, features) @ w.T).reshape(shape)

    def turned(z: jax.Array) -> jax.Array:
        if not layer.rotary:
            return z
        half = layer.head_size // 2
        turns = np.exp(1j * np.outer(np.arange(length), 10_000.0 ** (-np.arange(half) / half)))
        pairs = lax.complex(z[..., :half], z[..., half:]) * turns[None, :, None]
        return jnp.concatenate([pairs.real, pairs.imag], -1)

    q, k, v = turned(heads(layer.w_q)), turned(heads(layer.w_k)), heads(layer.w_v)

    @jax.checkpoint
    def query(t: jax.Array) -> jax.Array:
        scores = jnp.einsum("bhd,bshd->bhs", q[:, t], k) * layer.head_size**-0.5
        seen = (positions <= t) & (positions > t - layer.context)
        shares = jax.nn.softmax(jnp.where(seen[None, None], scores, -jnp.inf))
        return jnp.einsum("bhs,bshd->bhd", shares, v)

    y = jnp.swapaxes(lax.map(query, positions, batch_size=QUERIES), 0, 1)
    return y.reshape(batch, length, -1) @ layer.w_o.T


WRITTEN_OUT = {CausalSelfAttention: _attention}
