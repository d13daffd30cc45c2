"""Several sequences one behind the other: the first step of each forgets all that was before it.

`reset` (..., time) is true at that step: the state before it, the given one included, is zeros, and
then x_t is read. An environment's `done_t`, which says that step t was the last of an episode, is
therefore `reset_{t+1}`.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from rnnscan.layer_parts.state import Slots, State
from rnnscan.scan import flags, lined_up


def checked_reset(reset: ArrayLike | None, batch: tuple[int, ...], *time: int) -> jax.Array | None:
    """`reset` as booleans of shape (*batch, *time), or of shape `time`: for all sequences alike."""
    given = flags(reset=reset)
    if given is None:
        return None
    if given.shape not in ((*batch, *time), time):
        each = "step, time last" if time else "sequence"
        of_all = f", or {time} for all sequences alike" if batch else ""
        raise ValueError(
            f"reset: expected shape {(*batch, *time)}, a flag for each {each}{of_all}, got "
            f"{given.shape}{lined_up('reset', given.shape, (*batch, *time))}"
        )
    return jnp.asarray(given)


def forgotten(state: State, slots: Slots, reset: jax.Array) -> State:
    """The state, zeros where a sequence (*batch) begins, whatever was there."""

    def forget(slot, leaf):
        rest = leaf.ndim - slot.leading - reset.ndim
        begins = reset.reshape((1,) * slot.leading + reset.shape + (1,) * rest)
        return jnp.where(begins, jnp.zeros((), leaf.dtype), leaf)

    return jax.tree.map(forget, slots, state)


def positions(
    reset: jax.Array | None, before: jax.Array, steps: int, lengths: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """How many steps of its own sequence came before each step, and how many there are at the end.

    int32 (*batch, time) and (*batch). before: int32 (*batch), how many came before the first step.
    reset: (*batch, time), and nowhere in the padding.

    >>> import jax.numpy as jnp
    >>> reset = jnp.array([False, False, True, False])
    >>> position, end = positions(reset, jnp.array(5), 4, None)
    >>> position.tolist(), int(end)
    ([5, 6, 0, 1], 2)
    """
    end = steps if lengths is None else lengths
    t = lax.broadcasted_iota(jnp.int32, (*before.shape, steps), before.ndim)
    if reset is None or steps == 0:
        return t + before[..., None], before + end
    start = lax.cummax(jnp.where(reset, t, -before[..., None]), axis=before.ndim)
    return t - start, end - start[..., -1]
