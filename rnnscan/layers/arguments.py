"""What every layer does with its arguments before it computes.

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


def floating(name: str, dtype: DTypeLike) -> jnp.dtype:
    """The dtype itself; raise unless it is real and floating."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name}: expected a real floating dtype, got {jnp.dtype(dtype)}")
    return jnp.dtype(dtype)


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


def initial_state(
    state: ArrayLike | None, shape: tuple[int, ...], layer: Any, x: jax.Array
) -> jax.Array:
    """The given state, checked, or zeros: in the dtype that state, layer and x promote to."""
    dtype = jnp.result_type(x, *jax.tree.leaves(layer))
    if state is None:
        return jnp.zeros(shape, dtype)
    if not jax.tree_util.all_leaves([state]):  # an LSTM's pair, say
        raise ValueError(f"state: expected one array of shape {shape}, got {described(state)}")
    if isinstance(state, str):
        raise TypeError(f"state: expected one array of shape {shape}, got {state!r}")
    state = jnp.asarray(state)
    floating("state", state.dtype)
    state_shape(state, shape)
    return state.astype(jnp.result_type(dtype, state))


def described(state: Any) -> str:
    """The structure of a state, for a message."""
    if isinstance(state, (tuple, list)):
        return f"a {type(state).__name__} of {len(state)}"
    shape = getattr(state, "shape", None)
    return f"a {type(state).__name__}" if shape is None else f"one array of shape {shape}"


def state_shape(state: jax.Array, expected: tuple[int, ...]) -> None:
    """Raise unless `state` has exactly the expected shape."""
    if state.shape != expected:
        raise ValueError(f"state: expected shape {expected}, got {state.shape}")


def working_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of the arithmetic: float32 for float16 and bfloat16, else `dtype` itself."""
    return jnp.dtype(jnp.float32) if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)


def working(dtype: DTypeLike, *trees: Any) -> Any:
    """The trees with every array in the working dtype of `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(working_dtype(dtype)), trees)
