"""Generalised advantage estimation with `linear_scan`, where episodes end inside the rollout.

    A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}
    delta_t = r_t + gamma (1 - terminated_t) V(s_{t+1}) - V(s_t)

done = terminated or truncated. A truncated episode was only stopped: delta_t still reads the value
of the state that it would have gone on from, which is not the first one of the next episode. But
the sum ends there as well, since A_{t+1} belongs to the next episode.

Source: Schulman et al., "High-dimensional continuous control using generalized advantage
estimation" (2016), equation 16.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan import linear_scan

GAMMA, LAMBDA = 0.99, 0.95


def deltas(reward, value, next_value, terminated):
    return reward + GAMMA * jnp.where(terminated, 0.0, next_value) - value


@jax.jit
def by_decay(reward, value, next_value, terminated, truncated):
    """The decay is zero where an episode ends."""
    decay = jnp.where(terminated | truncated, 0.0, GAMMA * LAMBDA)
    return linear_scan(decay, deltas(reward, value, next_value, terminated), reverse=True)


@jax.jit
def by_reset(reward, value, next_value, terminated, truncated):
    """One constant decay. `reset` drops what precedes a step in the scan's order, here A_{t+1}:
    it is `done` itself, not shifted."""
    delta = deltas(reward, value, next_value, terminated)
    return linear_scan(GAMMA * LAMBDA, delta, reverse=True, reset=terminated | truncated)


def by_loop(reward, value, next_value, terminated, truncated):
    advantage, after = np.zeros(reward.shape), np.zeros(reward.shape[1:])
    for t in reversed(range(len(reward))):
        delta = reward[t] + GAMMA * (1 - terminated[t]) * next_value[t] - value[t]
        after = delta + GAMMA * LAMBDA * (1 - (terminated | truncated)[t]) * after
        advantage[t] = after
    return advantage


rng = np.random.default_rng(0)
shape = (100, 8)  # time, environments
reward, value, next_value = rng.standard_normal((3, *shape), np.float32)
terminated = rng.random(shape) < 0.05
truncated = ~terminated & (rng.random(shape) < 0.05)
assert terminated[:-1].any()
assert truncated[:-1].any()

rollout = reward, value, next_value, terminated, truncated
expected = by_loop(*rollout)
errors = [np.abs(f(*rollout) - expected).max() for f in (by_decay, by_reset)]
assert max(errors) < 1e-5, errors
print(f"{(terminated | truncated).sum()} episodes ended; both ways equal the loop")
