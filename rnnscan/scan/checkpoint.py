"""What `jax.checkpoint` may keep of a scan."""

from typing import Any

from rnnscan.scan.linear_rules import scan


def scans_saveable(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy of `jax.checkpoint`: the states that a linear scan returns are kept, not made again.

    >>> import jax, jax.numpy as jnp
    >>> from rnnscan import linear_scan
    >>> @lambda f: jax.checkpoint(f, policy=scans_saveable)
    ... def f(x):
    ...     return jnp.sum(linear_scan(jax.nn.sigmoid(x), x))
    >>> jax.grad(f)(jnp.zeros(2)).tolist()
    [1.5, 1.0]
    """
    return primitive is scan.primitive
