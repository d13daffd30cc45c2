"""The loss of a model on the steps that ask, and the gradient of an answer."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnscan import SequenceModel
from rnnscan.tasks.recall import NOT_ASKED


def loss(model: SequenceModel, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and accuracy over the steps that ask for something."""
    logits, _ = model(x)
    asked = y != NOT_ASKED
    of_step = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(asked, y, 0))
    count = jnp.sum(asked).astype(logits.dtype)
    right = asked & (jnp.argmax(logits, axis=-1) == y)
    found = jnp.sum(jnp.where(asked, of_step, 0))
    return found / count, jnp.sum(right).astype(logits.dtype) / count


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
    plain = {"encoder": jnp.eye(model.width), "encoder_bias": jnp.zeros(model.width)}
    features = replace(model, **plain)
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
    bins = itertools.pairwise(edges)
    known = np.isfinite(values)
    chosen = [values[(distance >= low) & (distance < high) & known] for low, high in bins]
    return np.array([some.mean() if some.size else np.nan for some in chosen])
