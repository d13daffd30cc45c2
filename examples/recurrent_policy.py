"""A recurrent policy: acting step by step, then the same rollout replayed in one call.

`done_t` says that the episode ended with step t; the state must be forgotten before the next step
is read, so reset_{t+1} = done_t. The first reset of a rollout is the last done of the rollout
before it (docs/episodes.md).
"""

import jax
import jax.numpy as jnp
from jax import lax, random

from rnnscan import GRU

ENVIRONMENTS, STEPS, HIDDEN = 16, 20, 8


def rollout(policy, begin, key):
    """A walk to the left or right from 0, which ends at -3 and at 3."""

    def act(carry, key):
        position, state, done = carry
        y, state = policy["layer"].step(position[:, None], state, reset=done)
        logits = y @ policy["head"]
        moved = position + jnp.where(random.categorical(key, logits) == 1, 1.0, -1.0)
        done = jnp.abs(moved) >= 3
        return (jnp.where(done, 0.0, moved), state, done), (position, logits, done)

    return lax.scan(act, begin, random.split(key, STEPS))


def replay(policy, begin, positions, dones):
    _, state, done_before = begin
    reset = jnp.concatenate([done_before[None], dones[:-1]])  # (time, environments)
    y, _ = policy["layer"](positions.T[..., None], state, reset=reset.T)
    return y @ policy["head"]


policy = {
    "layer": GRU.init(random.key(0), input_size=1, hidden_size=HIDDEN),
    "head": random.normal(random.key(1), (HIDDEN, 2)),
}
# Before the first step of all everything is "done": any state of the right shape will do.
fresh = policy["layer"].step(jnp.zeros(1))[0] @ policy["head"]
begin = jnp.zeros(ENVIRONMENTS), jnp.zeros((1, ENVIRONMENTS, HIDDEN)), jnp.ones(ENVIRONMENTS, bool)
for key in random.split(random.key(2), 3):
    end, (positions, logits, dones) = jax.jit(rollout)(policy, begin, key)
    replayed = jax.jit(replay)(policy, begin, positions, dones)
    assert jnp.allclose(logits.swapaxes(0, 1), replayed, atol=1e-5)
    begins = logits[1:][dones[:-1]]  # after an end, inside the rollout
    assert len(begins) > 0
    assert jnp.allclose(begins, fresh[None], atol=1e-5)
    begin = end
print(f"{int(dones.sum())} episodes ended in the last rollout; acting and replaying agree")
