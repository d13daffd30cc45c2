"""The model around each mixer, its loss on the steps that ask, and the gradient of an answer."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.harness.layer_configs import Kind, build
from experiments.harness.training import parameter_count
from rnnscan import SequenceModel
from rnnscan.tasks.recall import NOT_ASKED, Recall


def make(config: Kind, key: jax.Array, *, width: int, depth: int, data: Recall) -> SequenceModel:
    """Tokens in, logits of every step out; mixers as wide as the stream between them."""
    length = data.x.shape[-1]

    def mixer(key: jax.Array, width: int):
        return build(config, key, input_size=width, hidden=width, length=length)

    return SequenceModel.init(
        key, mixer, width=width, depth=depth, outputs=data.vocabulary, tokens=data.vocabulary
    )


def widest(config: Kind, parameters: int, *, depth: int, data: Recall) -> int:
    """The largest width, a multiple of 4, with no more than so many parameters."""

    def count(width: int) -> int:
        key = jax.random.key(0)
        sizes = {"width": width, "depth": depth, "data": data}
        return parameter_count(jax.eval_shape(lambda: make(config, key, **sizes)))

    if count(4) > parameters:
        raise ValueError(
            f"parameters = {parameters}: should be at least {count(4)} for {config.name}"
        )
    low, high = 4, 8
    while count(high) <= parameters:
        low, high = high, 2 * high
    while high - low > 4:
        middle = (low + high) // 8 * 4
        low, high = (middle, high) if count(middle) <= parameters else (low, middle)
    return low


def loss(model: SequenceModel, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and accuracy over the steps that ask for something."""
    logits, _ = model(x)
    asked = y != NOT_ASKED
    of_step = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(asked, y, 0))
    count = jnp.sum(asked).astype(logits.dtype)
    right = asked & (jnp.argmax(logits, axis=-1) == y)
    return (
        jnp.sum(jnp.where(asked, of_step, 0)) / count,
        jnp.sum(right).astype(logits.dtype) / count,
    )


@jax.jit
def answers(model: SequenceModel, x: jax.Array) -> jax.Array:
    """The most likely token at every step."""
    return jnp.argmax(model(x)[0], axis=-1)


@jax.jit
def reach(model: SequenceModel, x: jax.Array, y: jax.Array) -> jax.Array:
    """ln of the norm of d(logit of the answer at t) / d(input at s), (count, T asking, T inputs).

    The inputs are the embeddings of the tokens: the same model with a linear encoder on one-hot
    vectors has them as arguments. -inf where it is zero, and where nothing is asked.
    """
    features = replace(
        model,
        encoder=jnp.eye(model.width),
        encoder_bias=jnp.zeros(model.width),
    )
    embedded = jnp.take(model.encoder, x, axis=0)

    def one(embedded: jax.Array, y: jax.Array) -> jax.Array:
        def answer(embedded: jax.Array) -> jax.Array:
            logits, _ = features(embedded)
            chosen = jnp.maximum(y, 0)[:, None]
            return jnp.take_along_axis(logits, chosen, axis=1)[:, 0]

        slopes = jax.jacrev(answer)(embedded)
        norms = jnp.linalg.norm(slopes, axis=-1)
        return jnp.where((y != NOT_ASKED)[:, None], jnp.log(norms), -jnp.inf)

    return jax.lax.map(lambda pair: one(*pair), (embedded, y))


def by_distance(values: np.ndarray, distance: np.ndarray, edges: tuple[int, ...]) -> np.ndarray:
    """Mean of values in each bin [edges[i], edges[i+1]) of distances; nan in empty ones."""
    means = []
    for low, high in itertools.pairwise(edges):
        chosen = values[(distance >= low) & (distance < high)]
        chosen = chosen[np.isfinite(chosen)]
        means.append(float(chosen.mean()) if chosen.size else float("nan"))
    return np.array(means)
