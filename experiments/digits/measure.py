"""Trains one classifier and measures how far its gradient reaches, before and after."""

from __future__ import annotations

import jax
import numpy as np

from experiments.digits.classifier import Classifier, loss
from experiments.harness.layer_configs import Layer
from experiments.harness.reach import log_norms, zero_state
from rnnscan.gradients import LogNorms
from rnnscan.tasks import Split


def reach(model: Classifier, probes: Split) -> dict[str, np.ndarray]:
    """Medians over sequences of ln norms by lag, relative to lag 0: dL/dh_{T-k} and dL/dx_{T-k}.

    L is the cross-entropy, by way of the last state. A median, since a saturated tanh can make a
    gradient exactly 0 and its logarithm -inf.
    """
    norms = jax.block_until_ready(_reach(model, probes.x, probes.y))
    state, by_input = (np.asarray(part, np.float64) for part in norms)
    with np.errstate(invalid="ignore"):
        by_input = by_input - by_input[:, :1]
    return {"state": np.median(state, axis=0), "input": np.nanmedian(by_input, axis=0)}


@jax.jit
def _reach(model: Classifier, x: jax.Array, y: jax.Array) -> LogNorms:
    def one(x: jax.Array, y: jax.Array) -> LogNorms:
        of_loss = jax.grad(lambda state: cross_entropy(model, state, x[-1], y))
        cotangent = of_loss(last_state(model.layer, x))
        return log_norms(model.layer, x, cotangent[None])

    return jax.vmap(one)(x, y)


def cross_entropy(
    model: Classifier, state: jax.Array, x_last: jax.Array, y: jax.Array
) -> jax.Array:
    """-ln p(y) as a function of one sequence's last state."""
    return -jax.nn.log_softmax(model.read_state(state, x_last))[y]


def last_state(layer: Layer, x: jax.Array) -> jax.Array:
    """The state at the end of one sequence, shaped as `step` takes it."""
    return layer(x, zero_state(layer))[1]


def accuracy(model: Classifier, test: Split) -> float:
    """The share of sequences classified right."""
    return float(_loss(model, test.x, test.y)[1])


_loss = jax.jit(loss)
