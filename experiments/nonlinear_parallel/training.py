"""Training with the layer evaluated step by step and by Newton's iteration, loss by loss."""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from pydantic import Field

from experiments.harness.config import Config
from experiments.harness.experiment import Record
from rnnscan import RNN
from rnnscan.scan.nonlinear_method import Convergence
from rnnscan.tasks import digits

Model = Any  # (RNN, readout)
WAYS = ("sequential in float64", "sequential", "newton")


class Training(Config):
    """The digits as 64 pixels, read by a tanh RNN; Adam."""

    steps: int = Field(default=100, gt=1)
    seeds: int = Field(default=2, gt=0)
    hidden: int = Field(default=16, gt=0)
    batch_size: int = Field(default=16, gt=0)
    learning_rate: float = Field(default=2e-3, gt=0)


def states(layer: RNN, x: jax.Array, method: Any) -> tuple[jax.Array, Convergence]:
    """The layer's states for a batch x (B, T, inputs), and how far each can be trusted."""
    y, _, found = layer.with_convergence(x, method=method)
    return y, found


def train(way: str, config: Training, seed: int) -> Record:
    """The loss of every step, on the same batches from the same weights whatever the way."""
    wide = way == WAYS[0]
    with jax.enable_x64(wide):
        dtype = jnp.float64 if wide else jnp.float32
        model, batches = _given(config, seed)
        model = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), model)
        x, y = jnp.asarray(batches[0], dtype), jnp.asarray(batches[1])
        method = "newton" if way == WAYS[2] else "scan"
        program, compile_seconds = _program(method, config.model_dump_json(), wide)
        begun = time.perf_counter()
        found = jax.block_until_ready(program(model, x, y))
        seconds = time.perf_counter() - begun
    losses, converged, iterations = map(np.asarray, found)
    return {
        "way": way,
        "losses": losses,
        "converged": converged.astype(float),
        "iterations": iterations,
        "length": x.shape[2],
        "hidden": config.hidden,
        "batch_size": config.batch_size,
        "compile_seconds": compile_seconds,
        "step_seconds": seconds / config.steps,
    }


def _given(config: Training, seed: int) -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    """Weights in float32 as NumPy arrays, and every batch (steps, B, ...), in order."""
    keys = jax.random.split(jax.random.key(seed))
    layer = RNN.init(keys[0], 1, config.hidden, recurrent_init=jax.nn.initializers.orthogonal(0.9))
    bound = config.hidden**-0.5
    readout = jax.random.uniform(keys[1], (10, config.hidden), jnp.float32, -bound, bound)
    data = digits("pixels").train
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(data.y), size=(config.steps, config.batch_size))
    model = jax.tree.map(np.asarray, (layer, readout))
    return model, (np.asarray(data.x)[chosen], np.asarray(data.y)[chosen].astype(np.int32))


@functools.cache
def _program(method: str, options: str, wide: bool) -> tuple[Any, float]:
    """All steps in one loop: (model, x, y) -> losses, converged, iterations. Compiled once."""
    config = Training.model_validate_json(options)
    optimiser = optax.adam(config.learning_rate)

    def loss(model: Model, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
        layer, readout = model
        h, found = states(layer, x, method)
        of_each = optax.softmax_cross_entropy_with_integer_labels(h[:, -1] @ readout.T, y)
        return jnp.mean(of_each), (jnp.all(found.converged), jnp.max(found.iterations))

    def step(carry: Any, batch: Any) -> Any:
        model, memory = carry
        (value, found), slope = jax.value_and_grad(loss, has_aux=True)(model, *batch)
        with jax.numpy_dtype_promotion("standard"):  # optax counts on it
            change, memory = optimiser.update(slope, memory)
        return (optax.apply_updates(model, change), memory), (value, *found)

    def run(model: Model, x: jax.Array, y: jax.Array) -> Any:
        return lax.scan(step, (model, optimiser.init(model)), (x, y))[1]

    model, (x, y) = _given(config, 0)
    dtype = jnp.float64 if wide else jnp.float32
    shaped = functools.partial(jax.tree.map, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype))
    begun = time.perf_counter()
    labels = jax.ShapeDtypeStruct(y.shape, jnp.int32)
    program = jax.jit(run).lower(shaped(model), shaped(x), labels).compile()
    return program, time.perf_counter() - begun
