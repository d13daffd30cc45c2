"""Checks of what a layer is made with and called on.

Every error names the argument, what would be right and what came. Only shapes and dtypes are read,
never values, so all of it holds under `jit`, `grad` and `vmap`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike


def positive(**sizes: int | None) -> None:
    """Raise unless every named size is an integer of 1 or more."""
    for name, value in sizes.items():
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if value is None or not whole or value < 1:
            raise ValueError(f"{name}: expected an integer >= 1, got {value!r}")


def one_of(known: tuple[str, ...], **chosen: str) -> None:
    """Raise unless the named choice is a known one."""
    for name, value in chosen.items():
        if value not in known:
            raise ValueError(f"{name}: expected {' or '.join(map(repr, known))}, got {value!r}")


def floating(name: str, dtype: DTypeLike) -> jnp.dtype:
    """The dtype itself; raise unless it is real and floating."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name}: expected a real floating dtype, got {jnp.dtype(dtype)}")
    return jnp.dtype(dtype)


def known_to_numpy(given: Any) -> Any:
    """`given` itself, or an array where it is a bfloat16 tensor of torch, for which NumPy has none.

    One that requires a gradient, which would end here, is refused by torch.
    """
    if isinstance(given, (jax.Array, np.ndarray)) or not hasattr(given, "dtype"):
        return given
    half = str(given.dtype) == "torch.bfloat16"
    return np.asarray(given.float()).astype(jnp.bfloat16) if half else given


def sequence(x: ArrayLike, features: int) -> jax.Array:
    """`x` as an array of shape (..., time, features)."""
    x = jnp.asarray(known_to_numpy(x))
    floating("x", x.dtype)
    if x.ndim < 2 or x.shape[-1] != features:
        raise ValueError(f"x: expected shape (..., time, {features}), got {x.shape}")
    return x


def one_step(x_t: ArrayLike, features: int) -> jax.Array:
    """`x_t` as an array of shape (..., features)."""
    x_t = jnp.asarray(known_to_numpy(x_t))
    floating("x_t", x_t.dtype)
    if x_t.ndim < 1 or x_t.shape[-1] != features:
        raise ValueError(f"x_t: expected shape (..., {features}), got {x_t.shape}")
    return x_t
