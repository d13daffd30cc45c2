"""What a caller may pass to a scan, checked once, with messages that name the argument."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

DTYPES = tuple(
    np.dtype(dtype)
    for dtype in (
        jnp.float16,
        jnp.bfloat16,
        jnp.float32,
        jnp.float64,
        jnp.complex64,
        jnp.complex128,
    )
)


def promote(**operands) -> list[Any]:
    """The operands as arrays of one dtype, by JAX's promotion; an h0 of `None` stays `None`."""
    given = {name: x for name, x in operands.items() if name != "h0" or x is not None}
    for name, x in given.items():
        if not (isinstance(x, (bool, int, float, complex)) or hasattr(x, "dtype")):
            what = f"a {type(x).__name__}"
            raise TypeError(f"{name}: got {what}, expected an array or a number; use jnp.asarray")
        dtype = np.dtype(type(x)) if isinstance(x, (bool, int)) else jnp.result_type(x)
        if dtype not in DTYPES:
            known = ", ".join(dtype.name for dtype in DTYPES)
            hint = f"; write {float(x)} for a number" if isinstance(x, int) else ""
            raise TypeError(
                f"{name}: got dtype {dtype.name} and shape {jnp.shape(x)}, expected one of "
                f"{known}{hint}"
            )
    dtype = jnp.result_type(*given.values())
    return [None if x is None else jnp.asarray(x, dtype) for x in operands.values()]


def direction(reverse) -> bool:
    """`reverse` as a bool; it is part of the program, so it cannot be traced."""
    if not isinstance(reverse, (bool, np.bool_)):
        raise TypeError(f"reverse: got {reverse!r}, expected True or False")
    return bool(reverse)


def time_axis(axis, b_shape, *, trailing: int) -> int:
    """`axis` as a non-negative position among the axes of b that may be time."""
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"axis: got {axis!r}, expected an integer")
    try:
        axis = operator.index(axis)
    except jax.errors.TracerIntegerConversionError as fault:
        message = "axis: got a traced value, expected an integer known when tracing"
        raise TypeError(message) from fault
    rank = len(b_shape)
    position = axis + rank if axis < 0 else axis
    if not 0 <= position < rank - trailing:
        why = "; the last axis holds the state vector and cannot be time" if trailing else ""
        raise ValueError(
            f"axis: got {axis} for b of shape {b_shape}, expected an axis of b from "
            f"0 to {rank - trailing - 1}{why}"
        )
    return position


def broadcasts(shape, target) -> bool:
    """Whether `shape` broadcasts to exactly `target`."""
    if len(shape) > len(target):
        return False
    tail = target[len(target) - len(shape) :]
    return all(n in (1, m) for n, m in zip(shape, tail, strict=True))


def in_line(x: jax.Array, rank: int) -> jax.Array:
    """x with axes of size 1 in front, up to `rank`."""
    return x if x.ndim == rank else x.reshape((1,) * (rank - x.ndim) + x.shape)


def initial_state(h0, b: jax.Array, axis: int) -> jax.Array:
    """h0 with time as an axis of size 1, in line with b; zeros for `None`."""
    if h0 is None:
        return lax.full_like(b, 0, shape=(1,) * b.ndim)
    expected = (*b.shape[:axis], *b.shape[axis + 1 :])
    if not broadcasts(h0.shape, expected):
        raise ValueError(
            f"h0: shape {h0.shape} does not broadcast to {expected}, the shape of b "
            f"{b.shape} without its time axis {axis}"
        )
    return lax.expand_dims(in_line(h0, b.ndim - 1), (axis,))


def flags(**given) -> Any:
    """The one that is given, by name, as an array of booleans; an empty list is one of these."""
    ((name, x),) = given.items()
    if x is None:
        return None
    if not hasattr(x, "dtype"):
        x = np.asarray(x, bool if isinstance(x, (list, tuple)) and not x else None)
    if x.dtype != np.bool_:
        raise TypeError(f"{name}: got dtype {x.dtype} and shape {x.shape}, expected bool")
    return x


def reset_flags(reset, b: jax.Array, axis: int, *, trailing: int):
    """Boolean flags in line with b; 1-D flags are always over time."""
    if reset is None:
        return None
    reset = jnp.asarray(reset)
    if reset.ndim == 1:
        if reset.shape[0] != b.shape[axis]:
            raise ValueError(
                f"reset: a 1-D reset is over time and needs length {b.shape[axis]}, axis {axis} "
                f"of b {b.shape}; got shape {reset.shape}"
            )
        others = tuple(i for i in range(b.ndim) if i != axis)
        return lax.expand_dims(reset, others)
    target = (*b.shape[: b.ndim - trailing], *(1 for _ in range(trailing)))
    if not broadcasts(reset.shape, target):
        last = " with a last axis of size 1 (a state is reset as a whole)" if trailing else ""
        raise ValueError(
            f"reset: shape {reset.shape} does not broadcast to {target}, b {b.shape}{last}"
        )
    return in_line(reset, b.ndim)


def by_shapes(in_line: Callable[..., tuple[Any, int]], *arguments) -> tuple[Any, int]:
    """What `in_line` returns, operands and the axis of time, from shapes and dtypes alone."""
    axes = []

    def operands_of(*arguments):
        operands, axis = in_line(*arguments)
        axes.append(axis)
        return operands

    return jax.eval_shape(operands_of, *arguments), axes[0]


def vary_alike(*operands) -> list[Any]:
    """Inside `shard_map`, operands that vary over different mesh axes made to vary over all.

    A scan is one operation on all of them; the transpose of this step sums the gradient of what
    was the same on every device.
    """
    given = [x for x in operands if x is not None]
    varying = [_varying(x) for x in given]
    union = frozenset().union(*varying)
    missing = {id(x): tuple(sorted(union - axes)) for x, axes in zip(given, varying, strict=True)}
    return [
        x if x is None or not missing[id(x)] else lax.pcast(x, missing[id(x)], to="varying")
        for x in operands
    ]


def _varying(x) -> frozenset:
    return jax.typeof(x).manual_axis_type.varying
