"""Checks of what a layer is made with and called on.

Every error names the argument, what would be right and what came. Only shapes and dtypes are read,
never values, so all of it holds under `jit`, `grad` and `vmap`.
"""

import contextlib

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
    """The dtype itself; raise unless it is real and floating, and one that JAX has at present.

    Python's `float` is the widest of these.
    """
    found = None
    if dtype is not None:  # which is float64 to NumPy
        with contextlib.suppress(TypeError):
            found = jnp.dtype(jnp.result_type(float) if dtype is float else dtype)
    if found is None or not jnp.issubdtype(found, jnp.floating):
        got = repr(dtype) if found is None else found
        raise TypeError(f"{name}: expected a real floating dtype, got {got}")
    if jax.dtypes.canonicalize_dtype(found) != found:
        raise TypeError(
            f'{name}: got {found}, which needs jax.config.update("jax_enable_x64", True)'
        )
    return found


def sequence(x: ArrayLike, features: int) -> jax.Array:
    """`x` as an array of shape (..., time, features)."""
    x = jnp.asarray(x)
    floating("x", x.dtype)
    if x.ndim < 2 or x.shape[-1] != features:
        raise ValueError(f"x: expected shape (..., time, {features}), got {x.shape}")
    return x


def one_step(x_t: ArrayLike, features: int) -> jax.Array:
    """`x_t` as an array of shape (..., features)."""
    x_t = jnp.asarray(x_t)
    floating("x_t", x_t.dtype)
    if x_t.ndim < 1 or x_t.shape[-1] != features:
        raise ValueError(f"x_t: expected shape (..., {features}), got {x_t.shape}")
    return x_t
