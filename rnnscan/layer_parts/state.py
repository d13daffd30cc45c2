"""What a layer's state is made of, and a given state checked and completed by it.

A layer describes its state by `Slot`s in the state's own structure: one slot, a pair of them, or a
NamedTuple of them. A slot is no pytree, so `jax.tree.map(f, slots, state)` goes through both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnscan.layer_parts.arguments import array as as_array
from rnnscan.scan import carry_dtype

BY_NAME = "; lengths are given by name, as lengths=..., and so is a reset"
DTYPES = {
    jnp.floating: "a real floating dtype",
    jnp.complexfloating: "a complex dtype",
    jnp.integer: "integers",
}
Slots = Any  # a Slot, or a tuple of them
State = Any  # an array where that is a Slot, a tuple of arrays where it is a tuple


@dataclass(frozen=True)
class Slot:
    """One array of a state.

    Attributes:
      shape: batch axes included.
      kind: `jnp.floating`, in the dtype of y; `jnp.complexfloating`, as wide as the arithmetic; or
        `jnp.integer`, int32.
      name: of a part of a pair, for messages.
      leading: axes in front of the batch.
    """

    shape: tuple[int, ...]
    kind: type = jnp.floating
    name: str = ""
    leading: int = 0


def checked_state(state: State | None, slots: Slots) -> State | None:
    """The state in the structure of its slots, with arrays of their shapes; None stays None.

    Parts of a pair may be None as well.
    """
    if state is None:
        return None
    if isinstance(slots, Slot):
        return _array("state", state, slots)
    fields = getattr(slots, "_fields", ())  # of a NamedTuple, which is given as a whole
    fits = isinstance(state, (tuple, list)) and len(state) == len(slots) and not _is_ints(state)
    if not fits or (fields and any(part is None for part in state)):
        raise ValueError(f"state: expected {_expected(slots)}, got {described(state)}")
    names = [f"state.{field}" for field in fields] or ["state"] * len(slots)
    parts = [
        None if part is None else _array(name, part, slot)
        for name, part, slot in zip(names, state, slots, strict=True)
    ]
    return type(slots)(*parts) if fields else tuple(parts)


def state_of_step(
    state: State | None, slots: Callable[[tuple[int, ...]], Slots], shape: tuple[int, ...]
) -> State | None:
    """`checked_state` beside an x_t of this shape; the error says where they differ by an axis."""
    batch = shape[:-1]
    try:
        return checked_state(state, slots(batch))
    except ValueError:
        if not batch or _error(state, slots(batch[:-1])):
            raise
    raise ValueError(
        f"x_t: expected one step, of shape {(*batch[:-1], shape[-1])} as the state says, got "
        f"{shape}: a time axis too many, or the state lacks a batch axis of size {batch[-1]}"
    )


def _error(state: State | None, slots: Slots) -> Exception | None:
    try:
        checked_state(state, slots)
    except (ValueError, TypeError) as error:
        return error
    return None


def described(state: Any) -> str:
    """The structure of a state, for a message."""
    if isinstance(state, (tuple, list)):
        found, no_state = f"a {type(state).__name__} of {len(state)}", _is_ints(state)
    elif isinstance(state, (jax.Array, np.ndarray)):
        found = f"one array of shape {state.shape}"
        no_state = not jnp.issubdtype(state.dtype, jnp.inexact)
    else:
        found, no_state = f"a {type(state).__name__}", False
    return found + (BY_NAME if no_state else "")


def _is_ints(state: Any) -> bool:
    return bool(state) and all(isinstance(part, int) for part in state)  # booleans too


def _expected(slots: tuple[Slot, ...]) -> str:
    if fields := getattr(slots, "_fields", ()):
        return f"a {type(slots).__name__} ({', '.join(fields)})"
    names = ", ".join(slot.name for slot in slots)
    shapes = list(dict.fromkeys(str(slot.shape) for slot in slots))
    of_shape = "of shape" if len(shapes) == 1 else "of shapes"
    return f"a pair ({names}) of arrays {of_shape} {' and '.join(shapes)}"


def _array(name: str, given: Any, slot: Slot) -> jax.Array:
    expected = f"{name}: expected one array of shape {slot.shape}"
    if isinstance(given, str):
        raise TypeError(f"{expected}, got {given!r}")
    if not jax.tree_util.all_leaves([given]):  # an LSTM's pair, say
        raise ValueError(f"{expected}, got {described(given)}")
    array = as_array(name, given)
    allowed = jnp.inexact if slot.kind is jnp.complexfloating else slot.kind
    if not jnp.issubdtype(array.dtype, allowed):
        hint = "" if jnp.issubdtype(array.dtype, jnp.inexact) else BY_NAME
        raise TypeError(f"{name}: expected {DTYPES[slot.kind]}, got {array.dtype}{hint}")
    if array.shape != slot.shape:
        raise ValueError(f"{name}: expected shape {slot.shape}, got {array.shape}")
    if slot.kind is jnp.complexfloating and not jnp.iscomplexobj(array):
        array = array.astype(carry_dtype(array.dtype))
        array = lax.complex(array, jnp.zeros_like(array))
    return array


def completed(state: State | None, slots: Slots, dtype: jnp.dtype) -> State:
    """The state in the dtype of the arithmetic, with zeros for what is None."""
    of_kind = {
        jnp.floating: dtype,
        jnp.complexfloating: np.result_type(dtype, np.complex64),
        jnp.integer: jnp.int32,
    }

    def complete(slot: Slot, given: jax.Array | None) -> jax.Array:
        own = of_kind[slot.kind]
        return jnp.zeros(slot.shape, own) if given is None else given.astype(own)

    given = jax.tree.map(lambda _: None, slots) if state is None else state
    return jax.tree.map(complete, slots, given)
