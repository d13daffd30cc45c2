"""Checks of what a layer is made with and called on.

Every error names the argument, what would be right and what came. Only shapes and dtypes are read,
never values, so all of it holds under `jit`, `grad` and `vmap`.
"""

import contextlib
import inspect
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike


class MadeByInit:
    """Base of the dataclasses that `init` makes, whose own constructor takes arrays and no sizes.

    Only what is no field is refused. Pytrees and `dataclasses.replace` name every field, and copies
    and pickles come without any: they may put into the fields what they like.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if "__dataclass_params__" in vars(cls):  # not a subclass with a constructor of its own
            fields = cls.__dataclass_fields__  # pyright: ignore[reportAttributeAccessIssue]
            if any(map(_is_size_or_key, args[:2])) or not kwargs.keys() <= fields.keys():
                raise TypeError(
                    f"{cls.__name__}: the constructor takes the arrays themselves; to draw them, "
                    f"{cls.__name__}.init(jax.random.key(0), ...)"
                )
        return super().__new__(cls)


def _is_size_or_key(given: Any) -> bool:
    return isinstance(given, (int, float, np.integer)) or _is_key(given)


def _is_key(given: Any) -> bool:
    return isinstance(given, jax.Array) and jnp.issubdtype(given.dtype, jax.dtypes.prng_key)


def random_key(key: Any) -> jax.Array:
    """`key` itself; raise unless it is one key, of `jax.random.key` or `jax.random.PRNGKey`."""
    raw = getattr(key, "dtype", None) == np.uint32 and getattr(key, "ndim", 0) > 0
    if not (raw or _is_key(key)):
        raise TypeError(f"key: expected a key, as jax.random.key(0) makes it, got {named(key)}")
    if batch := key.shape[:-1] if raw else key.shape:
        raise ValueError(f"key: expected one key, got {batch} of them; take key[0], or jax.vmap")
    return key


def named(given: Any) -> str:
    """What came, in a few words."""
    if given is None or isinstance(given, (int, float, str)):
        return repr(given)
    if isinstance(given, type):
        return f"the class {given.__name__}"
    dtype = getattr(given, "dtype", None)
    return f"a {type(given).__name__}" if dtype is None else f"an array of {dtype}"


def accepts(expected: str, function: Any, *arguments: Any) -> None:
    """Raise a TypeError that begins with `expected` unless these are arguments of the function."""
    if not callable(function):
        raise TypeError(f"{expected}, got {named(function)}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some functions in C
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(f"{expected}, got one of other arguments: {error}") from None


def positive(**sizes: int | None) -> None:
    """Raise unless every named size is an integer of 1 or more."""
    for name, value in sizes.items():
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if value is None or not whole or value < 1:
            raise ValueError(f"{name}: expected an integer >= 1, got {value!r}")


def flag(**flags: bool) -> None:
    """Raise unless every named option is True or False; they are part of the program."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name}: expected True or False, got {named(value)}")


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


def array(name: str, given: Any) -> jax.Array:
    """`given` as an array of JAX; of numbers that make none a TypeError."""
    try:
        return jnp.asarray(known_to_numpy(given))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array, got {named(given)}: {error}") from None


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
    x = array("x", x)
    floating("x", x.dtype)
    if x.ndim < 2 or x.shape[-1] != features:
        raise ValueError(f"x: expected shape (..., time, {features}), got {x.shape}")
    return x


def one_step(x_t: ArrayLike, features: int) -> jax.Array:
    """`x_t` as an array of shape (..., features)."""
    x_t = array("x_t", x_t)
    floating("x_t", x_t.dtype)
    if x_t.ndim < 1 or x_t.shape[-1] != features:
        raise ValueError(f"x_t: expected shape (..., {features}), got {x_t.shape}")
    return x_t
