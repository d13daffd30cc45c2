"""What a caller may pass to a scan, checked once, with messages that name the argument."""

import operator
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from rnnscan.scan.precision import is_double

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
EXPECTED = f"an array or a number of {', '.join(dtype.name for dtype in DTYPES)}"


def promote(*, mixed: bool = False, **operands) -> list[Any]:
    """The operands as arrays of one dtype, by JAX's promotion; an h0 of `None` stays `None`.

    mixed: real operands beside complex ones are fine where promotion is strict, too.
    """
    given = {}
    for name, x in operands.items():
        if name == "h0" and x is None:
            continue
        if isinstance(x, (list, tuple)):  # JAX's own functions refuse these too
            what = f"a {type(x).__name__}"
            raise TypeError(f"{name}: got {what}, expected {EXPECTED}; use jnp.asarray({name})")
        number = type(x) in (float, complex)  # of Python: it leaves the dtype to the others
        given[name] = x if number else _array(name, x, EXPECTED)
        if not number and given[name].dtype not in DTYPES:
            cure = f"; write jnp.asarray({name}, float)" if _is_numeric(given[name].dtype) else ""
            cure = "; write 1.0 for the number 1" if isinstance(x, (bool, int)) else cure
            raise TypeError(f"{name}: got {_described(x)}, expected {EXPECTED}{cure}")
    dtype = _mixed_dtype(given.values()) if mixed else jnp.result_type(*given.values())
    return [jnp.asarray(given[name], dtype) if name in given else None for name in operands]


def _mixed_dtype(operands: Iterable[Any]) -> np.dtype:
    """What they promote to, by the dtypes of real parts alone, and complex if any of them is."""
    parts = [x.real if isinstance(x, complex) else _real_dtype(x) for x in operands]
    real, any_complex = jnp.result_type(*parts), any(map(jnp.iscomplexobj, operands))
    return np.dtype(jnp.complex128 if is_double(real) else jnp.complex64) if any_complex else real


def _real_dtype(x: Any) -> Any:
    return x if isinstance(x, float) else jnp.finfo(x.dtype).dtype


def flags(**given) -> Any:
    """The one that is given, by name, as an array of booleans; an empty list is one of these."""
    ((name, x),) = given.items()
    if x is None:
        return None
    if isinstance(x, (list, tuple)) and not x:
        return np.asarray(x, bool)
    array = _array(name, x, "bool")
    if array.dtype != np.bool_:
        of_numbers, has_dtype = _is_numeric(array.dtype), hasattr(x, "dtype")
        cure = f"; write {name if has_dtype else f'jnp.asarray({name})'} != 0" if of_numbers else ""
        what = _described(x if has_dtype else array)
        raise TypeError(f"{name}: got {what}, expected bool{cure}")
    return array


def _array(name: str, x, expected: str) -> Any:
    """x as `jnp.asarray` takes it: from NumPy, torch, pandas, whatever has `__array__`."""
    if isinstance(x, jax.Array):
        return x
    try:
        if isinstance(x, (str, jax.ShapeDtypeStruct)):  # NumPy would take either as true
            raise TypeError
        return jnp.asarray(x)
    except Exception as fault:  # whatever a foreign `__array__` raises
        foreign = hasattr(x, "__array__") and type(x) is not np.ndarray
        why = f" ({' '.join(str(fault).split())})" if foreign else ""
        cure = f"; try jnp.from_dlpack({name})" if hasattr(x, "__dlpack__") and foreign else ""
        raise TypeError(f"{name}: got {_described(x)}, expected {expected}{why}{cure}") from fault


def _described(x: Any) -> str:
    """What came, for a message."""
    if x is None or type(x) in (bool, int, float, complex, str):
        return repr(x)
    if isinstance(x, type):
        return f"the class {x.__name__}"
    what = f"a {type(x).__name__}"
    if not (hasattr(x, "dtype") and hasattr(x, "shape")):
        return what
    own = isinstance(x, (jax.Array, np.ndarray, np.generic))
    return f"{'' if own else f'{what} of '}dtype {x.dtype} and shape {tuple(x.shape)}"


def _is_numeric(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_


def nearest(given, known: Iterable[str]) -> str:
    """The name of these that was probably meant, for the end of a message."""
    found = get_close_matches(given.lower(), known, 1) if isinstance(given, str) else []
    return f"; did you mean {found[0]!r}?" if found else ""


def _static(x) -> str:
    """What to do about a traced option, for the end of a message."""
    return ", known when tracing: name it in `static_argnames`" if isinstance(x, Tracer) else ""


def direction(reverse) -> bool:
    """`reverse` as a bool."""
    return boolean("reverse", reverse)


def boolean(name: str, x) -> bool:
    """x as a bool; it is part of the program, so it cannot be traced."""
    if not isinstance(x, (bool, np.bool_)):
        raise TypeError(f"{name}: got {x!r}, expected True or False{_static(x)}")
    return bool(x)


def integer(name: str, x) -> int:
    """x as an integer that is known when tracing."""
    try:
        if isinstance(x, bool):
            raise TypeError
        return operator.index(x)
    except TypeError as fault:
        raise TypeError(f"{name}: got {x!r}, expected an integer{_static(x)}") from fault


def time_axis(axis, b_shape, *, trailing: int) -> int:
    """`axis` as a non-negative position among the axes of b that may be time."""
    axis = integer("axis", axis)
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


def lined_up(name: str, shape, target) -> str:
    """How x could be written so that it broadcasts to `target`, for the end of a message.

    By its sizes: those that are found, in their order, with axes of size 1 between them.
    """
    if broadcasts(shape[::-1], target):
        return f"; {name}.T would broadcast"
    index, left = [], list(shape)
    for m in target:
        index.append(":" if left and left[0] in (1, m) else "None")
        left = left[1:] if index[-1] == ":" else left
    return "" if left else f"; {name}[{', '.join(index)}] would broadcast"


def in_line(x: jax.Array, rank: int) -> jax.Array:
    """x with axes of size 1 in front, up to `rank`."""
    return x if x.ndim == rank else x.reshape((1,) * (rank - x.ndim) + x.shape)


def initial_state(h0, b: jax.Array, axis: int) -> jax.Array:
    """h0 with time as an axis of size 1, in line with b; zeros for `None`."""
    if h0 is None:
        return jnp.zeros((1,) * b.ndim, b.dtype)  # alike on all devices, wherever b lies
    expected = (*b.shape[:axis], *b.shape[axis + 1 :])
    if not broadcasts(h0.shape, expected):
        raise ValueError(
            f"h0: shape {h0.shape} does not broadcast to {expected}, the shape of b "
            f"{b.shape} without its time axis {axis}{lined_up('h0', h0.shape, expected)}"
        )
    return lax.expand_dims(in_line(h0, b.ndim - 1), (axis,))


def reset_flags(reset, b: jax.Array, axis: int, *, trailing: int):
    """Boolean flags in line with b; 1-D flags are always over time."""
    reset = flags(reset=reset)
    if reset is None:
        return None
    target = (*b.shape[: b.ndim - trailing], *(1 for _ in range(trailing)))
    if reset.ndim == 1:
        if reset.shape[0] != b.shape[axis]:
            raise ValueError(
                f"reset: a 1-D reset is over time and needs length {b.shape[axis]}, axis {axis} "
                f"of b {b.shape}; got shape {reset.shape}{lined_up('reset', reset.shape, target)}"
            )
        others = tuple(i for i in range(b.ndim) if i != axis)
        return lax.expand_dims(jnp.asarray(reset), others)
    if not broadcasts(reset.shape, target):
        last = " with a last axis of size 1 (a state is reset as a whole)" if trailing else ""
        raise ValueError(
            f"reset: shape {reset.shape} does not broadcast to {target}, b {b.shape}{last}"
            f"{lined_up('reset', reset.shape, target)}"
        )
    return in_line(jnp.asarray(reset), b.ndim)


def by_shapes(function: Callable[..., Any], *arguments) -> Any:
    """What `function` returns, as shapes and dtypes, where a `jax.ShapeDtypeStruct` is an array.

    All else comes to `function` as it is, to be checked there.
    """
    leaves, structure = jax.tree.flatten(arguments)

    def of_arrays(*arrays):
        given = iter(arrays)
        mixed = [next(given) if _is_abstract(leaf) else leaf for leaf in leaves]
        return function(*structure.unflatten(mixed))

    return jax.eval_shape(of_arrays, *filter(_is_abstract, leaves))


def _is_abstract(x) -> bool:
    """Whether only the shape and dtype of x are read."""
    array = isinstance(x, np.ndarray) and x.dtype in DTYPES
    return array or isinstance(x, jax.ShapeDtypeStruct)


def vary_alike(*operands) -> list[Any]:
    """Inside `shard_map`, operands that vary over different mesh axes made to vary over all.

    A scan is one operation on all of them; the transpose of this step sums the gradient of what
    was the same on every device.
    """
    union = varying_axes(*operands)
    return [x if x is None else vary_over(x, union) for x in operands]


def varying_axes(*operands) -> frozenset[str]:
    """The mesh axes over which any of them varies."""
    given = (x for x in operands if x is not None)
    return frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in given))


def vary_over(x: jax.Array, axes: frozenset[str]) -> jax.Array:
    """x made to vary over these too."""
    missing = axes - varying_axes(x)
    return lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x
