"""A recurrent layer and a readout of its last step: a sequence goes in, ten logits come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from experiments.harness.layer_configs import Dense, Diagonal, Layer, build
from experiments.harness.training import classification_loss, parameter_count
from rnnscan import LRU, RNN
from rnnscan.tasks.digits import CLASSES

Head = Literal["linear", "mlp"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Affine:
    """x W^T + b."""

    w: jax.Array  # (outputs, inputs)
    b: jax.Array  # (outputs,)

    @classmethod
    def init(cls, key: jax.Array, inputs: int, outputs: int) -> Affine:
        w = jax.random.normal(key, (outputs, inputs)) * inputs**-0.5
        return cls(w, jnp.zeros(outputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.matmul(x, self.w.T, precision=lax.Precision.HIGHEST)
        return y + self.b.reshape((1,) * (y.ndim - 1) + self.b.shape)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Classifier:
    """logits = head(y_T): the layer's last output into one affine map, or two with gelu between."""

    layer: Layer
    head: tuple[Affine, ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., T, features) to (..., 10)."""
        y, _ = self.layer(x)
        return self.read(y[..., -1, :])

    def read(self, y: jax.Array) -> jax.Array:
        for affine in self.head[:-1]:
            y = jax.nn.gelu(affine(y))
        return self.head[-1](y)

    def read_state(self, state: jax.Array, x_last: jax.Array) -> jax.Array:
        """The logits from the last state of one sequence, the rest of the way only."""
        layer = self.layer
        if isinstance(layer, LRU):
            c = lax.complex(layer.c_re, layer.c_im)
            skip = layer.d * x_last if layer.d.ndim == 1 else layer.d @ x_last
            return self.read((c @ state).real + skip)
        return self.read(state[-1] if isinstance(layer, RNN) else state)


def init(
    config: Dense | Diagonal,
    key: jax.Array,
    *,
    features: int,
    hidden: int,
    outputs: int,
    head: Head,
) -> Classifier:
    """`outputs` is the width of an LRU's output and of the hidden layer of an mlp head."""
    keys = jax.random.split(key, 3)
    layer = build(config, keys[0], input_size=features, hidden=hidden, output_size=outputs)
    width = outputs if isinstance(config, Diagonal) else hidden
    if head == "linear":
        return Classifier(layer, (Affine.init(keys[1], width, CLASSES),))
    inner = Affine.init(keys[1], width, outputs)
    return Classifier(layer, (inner, Affine.init(keys[2], outputs, CLASSES)))


def loss(model: Classifier, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and accuracy of a batch."""
    return classification_loss(model(x), y)


def widest(
    config: Dense | Diagonal, parameters: int, *, features: int, outputs: int, head: Head
) -> int:
    """The largest hidden size with which the classifier has no more than so many parameters."""

    def count(hidden: int) -> int:
        sizes = {"features": features, "hidden": hidden, "outputs": outputs, "head": head}
        return parameter_count(
            jax.eval_shape(lambda key: init(config, key, **sizes), jax.random.key(0))
        )

    if count(1) > parameters:
        raise ValueError(
            f"parameters = {parameters}: should be at least {count(1)} for {config.name} "
            f"with outputs = {outputs} and {features} features"
        )
    low, high = 1, 2
    while count(high) <= parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= parameters else (low, middle)
    return low
