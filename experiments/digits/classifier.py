"""A sequence goes in, ten logits come out: by a bare layer and a readout of its last output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from experiments.harness.kinds import KINDS
from experiments.harness.layer_configs import Layer, LayerConfig, build
from experiments.harness.training import classification_loss
from rnnscan import SequenceModel
from rnnscan.tasks.digits import CLASSES

Head = Literal["linear", "mlp"]


def stands_alone(kind: str) -> bool:
    """Its last output, of any width, holds what it knows of a sequence with nothing around."""
    return KINDS[kind].recurrent and not KINDS[kind].as_wide_as_input


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

    def __call__(self, x: jax.Array) -> tuple[jax.Array, Any]:
        """(..., T, features) to logits (..., 10) and the layer's state."""
        y, state = self.layer(x)
        y = y[..., -1, :]
        for affine in self.head[:-1]:
            y = jax.nn.gelu(affine(y))
        return self.head[-1](y), state


def init(
    config: LayerConfig,
    key: jax.Array,
    *,
    features: int,
    hidden: int,
    outputs: int,
    head: Head,
) -> Classifier:
    """The bare layer; `outputs` is the width of an LRU's output and of the hidden layer of an mlp
    head.
    """
    keys = jax.random.split(key, 3)
    layer = build(config, keys[0], input_size=features, hidden=hidden, output_size=outputs)
    width = layer.output_size
    if head == "linear":
        return Classifier(layer, (Affine.init(keys[1], width, CLASSES),))
    inner = Affine.init(keys[1], width, outputs)
    return Classifier(layer, (inner, Affine.init(keys[2], outputs, CLASSES)))


def loss(
    model: Classifier | SequenceModel, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and accuracy of a batch."""
    return classification_loss(model(x)[0], y)
