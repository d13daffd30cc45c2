"""A language model's loss, its bits per character on a stream, and what it writes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from rnnscan import SequenceModel
from rnnscan.tasks.characters import windows


def loss(model: SequenceModel, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy in nats, and how often the likeliest character is the next one."""
    logits, _ = model(x)
    right = jnp.argmax(logits, axis=-1) == y
    return _nats(logits, y).mean(), right.astype(logits.dtype).mean()


def streamed_bits(model: SequenceModel, tokens: np.ndarray, length: int) -> float:
    """Bits per token after the first, read as one stream: each window begins in the state in which
    the one before ended. What does not fill a window at the end is left out."""
    x, y = windows(tokens, length)
    return _bits(_stream(model, x, y))


def windowed_bits(model: SequenceModel, tokens: np.ndarray, length: int) -> float:
    """The same, but each window begins with nothing before it."""
    x, y = windows(tokens, length)
    return _bits(_apart(model, x, y))


def go_on(
    model: SequenceModel,
    logits: jax.Array,
    state: Any,
    key: jax.Array,
    temperature: float,
    *,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    """`count` tokens after the logits and state of a prompt, and the logits behind each of them.

    Drawn from softmax(logits / temperature); one `step` a token, which waits for the one before.
    Shapes (count,) and (count, tokens of the model).
    """

    def one(carry: Any, key: jax.Array) -> Any:
        logits, state = carry
        token = jax.random.categorical(key, logits / temperature)
        return model.step(token, state), (token, logits)

    return lax.scan(one, (logits, state), jax.random.split(key, count))[1]


def step_error(
    model: SequenceModel, prompt: jax.Array, tokens: jax.Array, logits: jax.Array
) -> float:
    """How far the logits of `go_on` are from one call on the prompt and the tokens, relative to the
    largest of that."""
    called, _ = model(jnp.concatenate([prompt, tokens[:-1]]))
    called = np.asarray(called, np.float64)[len(prompt) - 1 :]
    return float(np.abs(called - np.asarray(logits)).max() / np.abs(called).max())


def _nats(logits: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def _bits(nats: jax.Array) -> float:
    return float(np.asarray(nats, np.float64).mean() / np.log(2))


@jax.jit
def _stream(model: SequenceModel, x: jax.Array, y: jax.Array) -> jax.Array:
    def window(state: Any, pair: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        logits, state = model(pair[0], state)
        return state, _nats(logits, pair[1])

    return lax.scan(window, model.initial_state(), (x, y))[1]


@jax.jit
def _apart(model: SequenceModel, x: jax.Array, y: jax.Array) -> jax.Array:
    return _nats(model(x)[0], y)
