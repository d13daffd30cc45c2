"""Tokens drawn from a `SequenceModel`, one at a time, in one compiled program.

`model.step` keeps structure, shapes and dtypes of the state, so a `lax.scan` carries it; its first
value is `model.initial_state`. However long the text, the state is of one size.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan import MinGRU, SequenceModel

TOKENS, BATCH, STEPS = 12, 3, 40
START = 0  # the token that every text begins with


@partial(jax.jit, static_argnames="steps")
def generate(model, key, temperature, steps):
    """Tokens (batch, steps), and the logits (batch, steps, tokens) that they were drawn from."""

    def draw(carry, key):
        token, state = carry
        logits, state = model.step(token, state)
        token = jax.random.categorical(key, logits / temperature)
        return (token, state), (token, logits)

    first = jnp.full(BATCH, START), model.initial_state((BATCH,))
    _, (tokens, logits) = lax.scan(draw, first, jax.random.split(key, steps))
    return tokens.T, logits.swapaxes(0, 1)


model = SequenceModel.init(
    jax.random.key(0),
    lambda key, width: MinGRU.init(key, width, 32),
    width=16,
    depth=1,
    outputs=TOKENS,
    tokens=TOKENS,
)
tokens, logits = generate(model, jax.random.key(1), 0.8, STEPS)

# Read in one call, the text gets the logits that it was written with.
read = jnp.concatenate([jnp.full((BATCH, 1), START), tokens[:, :-1]], axis=1)
in_one_call, _ = model(read)
assert tokens.shape == (BATCH, STEPS)
assert len(set(tokens.ravel().tolist())) > 1
assert jnp.allclose(logits, in_one_call, atol=1e-4)
print("\n".join(" ".join(map(str, text)) for text in tokens.tolist()))
