"""A linear recurrence with Jacobians, in stretches of time whose Jacobians fit in memory.

On a CPU Jacobians pay as long as they are narrow and in its caches; wider ones are not formed there
at all, and the recurrence goes step by step (docs/log.md).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Bytes of Jacobians that are held at once, unless a method needs them all; on a CPU what its caches
# hold, and the columns of the widest that are formed there.
LARGEST = 2**30
LARGEST_ON_CPU = 2**20
WIDEST_ON_CPU = 16


def by_platform(
    parallel: Callable[..., Any], by_steps: Callable[..., Any], columns: int, *given: Any
) -> Any:
    """`parallel(most, *given)` with the bytes that Jacobians may take there, or
    `by_steps(*given)`."""

    def within(most: int) -> Callable[..., Any]:
        return lambda *given: parallel(most, *given)

    on_cpu = within(LARGEST_ON_CPU) if columns <= WIDEST_ON_CPU else by_steps
    return lax.platform_dependent(*given, cpu=on_cpu, default=within(LARGEST))


def in_stretches(
    stretch: Callable[[Any, Any], tuple[Any, Any]],
    first: Any,
    over_time: Any,
    bytes_a_step: int,
    most: int,
) -> Any:
    """The results of all steps, of `stretch(carry, over_time) -> (carry, results)`, time first."""
    length = jax.tree.leaves(over_time)[0].shape[0]
    steps = min(length, max(1, most // max(1, bytes_a_step)))
    if steps == length:
        return stretch(first, over_time)[1]
    whole = length // steps * steps

    def cut(x):
        return x[:whole].reshape((whole // steps, steps, *x.shape[1:]))

    last, results = lax.scan(stretch, first, jax.tree.map(cut, over_time))
    results = jax.tree.map(lambda x: x.reshape((whole, *x.shape[2:])), results)
    if whole == length:
        return results
    rest = stretch(last, jax.tree.map(lambda x: x[whole:], over_time))[1]
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), results, rest)
