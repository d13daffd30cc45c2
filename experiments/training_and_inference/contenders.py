"""The three programs of a layer: a training step, a classified sequence, generated tokens.

A bare layer with a linear map of its last output, nothing between: the time is the layer's.

    classify   logits = W y_T                            one sequence
    train      dL/d(layer, W), L the cross-entropy       a batch
    generate   x_{t+1} = V y_t, `tokens` times           from the state after T steps, by `step`

Each is checked against the same thing in float64, one step after another by `step`: an evaluation
that shares the layer's formulas, but neither its scans nor its kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from experiments.harness.kinds import KINDS
from experiments.harness.layer_configs import LayerConfig, build
from experiments.harness.reach import zero_state
from experiments.harness.timing import Check, Contender

TRAIN, CLASSIFY, GENERATE = "train", "classify", "generate"
PROGRAMS = (TRAIN, CLASSIFY, GENERATE)
CLASSES = 10
# The largest relative error, in the 2-norm, in float32: some hundred times what is seen, and far
# below what a wrong formula gives.
TOLERANCE = 1e-3


def contender(
    config: LayerConfig,
    program: str,
    *,
    length: int,
    batch: int,
    tokens: int,
    features: int,
    hidden: int,
    seed: int,
) -> tuple[Contender, dict[str, Any]]:
    """The contender, and the facts of its layer: parameters, and bytes of its state."""
    sizes = {"input_size": features, "hidden": hidden}
    grows = program == GENERATE and not KINDS[config.kind].one_output
    made_for = length + (tokens if grows else 0)
    layer = build(config, jax.random.key(seed), length=made_for, **sizes)
    rng = np.random.default_rng((seed, length))
    scale = layer.output_size**-0.5
    w = np.float32(scale * rng.standard_normal((CLASSES, layer.output_size)))
    v = np.float32(scale * rng.standard_normal((features, layer.output_size)))
    count = batch if program == TRAIN else 1
    x = rng.standard_normal((count, length, features), np.float32)
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    arguments: tuple[Any, ...]
    if program == TRAIN:
        function, arguments = _train, (layer, w, x, labels)
        expected = _wide(lambda layer, w: _loss(w, _stepped(layer, x)[0], labels), layer, w)
    elif program == CLASSIFY:
        function, arguments = _classify, (layer, w, x)
        expected = _wide(lambda layer, w: _logits(w, _stepped(layer, x)[0]), layer, w)
    else:
        y, state = jax.jit(lambda layer, x: layer(x))(layer, x)
        function = functools.partial(_generate, tokens)
        arguments = (layer, v, y[:, -1], state)

        def reference(layer: Any, v: jax.Array) -> jax.Array:
            last, state = _stepped(layer, x)
            return _generate(tokens, layer, v, last, state)

        expected = _wide(reference, layer, v)
    state = zero_state(layer, (1,))
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(layer)),
        "state_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
    }
    check = functools.partial(_check, expected=np.asarray(expected))
    return Contender(config.name, function, arguments, check), facts


def _logits(w: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(y, w.T, precision=lax.Precision.HIGHEST)


def _loss(w: jax.Array, y: jax.Array, labels: ArrayLike) -> jax.Array:
    logits = jax.nn.log_softmax(_logits(w, y))
    return -jnp.mean(jnp.take_along_axis(logits, jnp.asarray(labels)[:, None], axis=1))


def _classify(layer: Any, w: jax.Array, x: jax.Array) -> jax.Array:
    return _logits(w, layer(x)[0][:, -1])


def _train(layer: Any, w: jax.Array, x: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
    def loss(layer: Any, w: jax.Array) -> jax.Array:
        return _loss(w, layer(x)[0][:, -1], labels)

    return jax.value_and_grad(loss, (0, 1))(layer, w)


def _generate(tokens: int, layer: Any, v: jax.Array, y: jax.Array, state: Any) -> jax.Array:
    def step(carry: Any, _: None) -> Any:
        y, state = carry
        y, state = layer.step(jnp.tanh(_logits(v, y)), state)
        return (y, state), y

    return lax.scan(step, (y, state), length=tokens)[1]


def _stepped(layer: Any, x: Any) -> tuple[jax.Array, Any]:
    """The last output and the state, by `step` alone."""
    x = jnp.asarray(x, jax.tree.leaves(layer)[0].dtype)

    def step(state: Any, x_t: jax.Array) -> Any:
        y, state = layer.step(x_t, state)
        return state, y

    state, ys = lax.scan(step, zero_state(layer, x.shape[:1], x.dtype), jnp.swapaxes(x, 0, 1))
    return ys[-1], state


def _wide(function: Callable[..., Any], *operands: Any) -> np.ndarray:
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), operands)
        return np.asarray(jax.jit(function)(*wide))


def _check(output: Any, expected: np.ndarray) -> Check:
    """A loss, logits or outputs; a gradient has to be finite besides."""
    if isinstance(output, tuple):
        output, gradient = output
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)):
            return Check(float("nan"), TOLERANCE, "a gradient is not finite")
    error = np.linalg.norm(np.asarray(output, np.float64) - expected) / np.linalg.norm(expected)
    return Check(float(error), TOLERANCE, "float64, step by step")
