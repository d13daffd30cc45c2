"""Time split over devices: what one of them has to know of the others.

Each device holds one chunk of time, in the order of a mesh axis, or of a tuple of them as one; all
chunks are equally long. Inside `jax.shard_map` these functions carry across the cuts what a
recurrence needs there, and nothing that is as large as a chunk:

    entering      the state with which a device begins
    before        what the device before has
    steps_before  the last steps of the devices before
    at_the_end    what the last device has, on all of them
    from_one      what one of them has, on all of them

A chunk acts on the state before it as one step does, by a pair (D, L), h -> D * h + L: D is the
product of its decays and L its last state from zero. Every device finds its pair without the
others; h0 through the pairs of devices 0 ... i - 1 is the state that enters device i.

All of it is plain JAX, differentiable in every mode and batched by `vmap`.

Source: Blelloch 1990, "Prefix sums and their applications", section 1.4.1: one chunk a processor.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnscan.scan.arguments import vary_alike, varying_axes
from rnnscan.scan.precision import carry_dtype
from rnnscan.scan.time_axis import keep

AxisName = str | tuple[str, ...]  # of one mesh axis, or of several as one
UNROLLED = 8  # devices up to which no loop goes over them


def names_of(axis_name: AxisName) -> tuple[str, ...]:
    """The mesh axes that are named; raises ValueError unless each is manual here."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    manual = jax.sharding.get_abstract_mesh().manual_axes
    if not names or any(name not in manual for name in names):
        there = ", ".join(map(repr, manual)) or "none"
        raise ValueError(
            f"axis_name: got {axis_name!r}, expected a mesh axis that is manual here (there is "
            f"{there}), or a tuple of them; call it inside jax.shard_map over the axis along which "
            "time is split"
        )
    return names


def index_and_size(axis_name: AxisName) -> tuple[jax.Array, int]:
    """Which chunk of time this device holds (int32, varying), and how many there are.

    Raises ValueError unless traced inside `jax.shard_map` over every axis that is named.

    >>> import jax, jax.numpy as jnp
    >>> mesh = jax.sharding.Mesh(jax.devices()[:1], "time")
    >>> over_time = jax.sharding.PartitionSpec("time")
    >>> def numbered(x):
    ...     index, size = index_and_size("time")
    ...     return x + index + size
    >>> jax.shard_map(numbered, mesh=mesh, in_specs=over_time, out_specs=over_time)(jnp.arange(2))
    Array([1, 2], dtype=int32)
    >>> numbered(jnp.arange(2))
    Traceback (most recent call last):
      ...
    ValueError: axis_name: got 'time', expected a mesh axis that is manual here (there is none), ...
    """
    names = names_of(axis_name)
    return lax.axis_index(names), lax.axis_size(names)


def entering(
    decay: jax.Array,
    last: jax.Array,
    h0: jax.Array,
    axis_name: AxisName,
    *,
    reset: jax.Array | None = None,
    reverse: bool = False,
    apply: Callable[[jax.Array, jax.Array], jax.Array] = jnp.multiply,
) -> jax.Array:
    """The state before the first step of this device's chunk: h0 on the first device.

    Arguments:
      decay: D, the product of the decays of this chunk: in line with `last`, of size 1 where it
        broadcasts, or a matrix, with one axis more at the end. One that does not vary over the axis
        by its type, as that of a constant decay, is not sent.
      last: L, the state after this chunk when it begins from zero.
      h0: the state before the whole sequence; broadcasts to `last`.
      axis_name: of the mesh axis over which time is split, or a tuple of names.
      reset: booleans that broadcast to `last`, whether any step of this chunk resets. There the
        past is dropped, whatever it and D are, inf and nan included. (D itself must be made
        without them, or its own gradient is 0 * inf.)
      reverse: the scan begins at the last device, and h0 is the state after the end.
      apply: `(D, h) -> D * h`; the matrix of a product that is no elementwise one acts on the last
        axis of h.

    Returns: the state, with the shape of `last` and the promoted dtype of all three, float32 for
    halves. It varies over the axis.

    Raises ValueError unless inside `jax.shard_map` over the axis.

    Cost, for N devices: one `all_gather` of D, L and the flags as one array, of which each device
    receives N - 1 times its own, whatever T; a D that broadcasts to L goes by itself. Then N - 1
    products, one after another. The backward pass is as much once more.
    """
    index, size = index_and_size(axis_name)
    dtype = carry_dtype(jnp.result_type(decay, last, h0))
    decay, last, h0 = (x.astype(dtype) for x in (decay, last, h0))
    matrix = decay.ndim - last.ndim == 1
    # Where `shard_map` does not check types, not even the index varies by its own.
    shared = bool(varying_axes(index)) and not varying_axes(index) & varying_axes(decay)
    pairs = _gathered(None if shared else decay, last, reset, axis_name, matrix)
    place = size - 1 - index if reverse else index
    first = jnp.broadcast_to(h0, last.shape)
    leaves, structure = jax.tree.flatten((decay, place, first, pairs))
    decay, place, first, pairs = structure.unflatten(vary_alike(*leaves))

    def through(state, device):
        """The state after one device more, unless it is this one or comes later."""
        n, (its_decay, its_last, resets) = device
        its_decay = decay if its_decay is None else its_decay
        later = n >= place
        drop = later if resets is None else later | resets
        # Dropped before the product, not after it: 0 * inf is nan, in a gradient too.
        over_decay = drop[..., None] if matrix and drop.ndim else drop
        after = apply(keep(over_decay, its_decay), keep(drop, state)) + its_last
        return jnp.where(later, state, after), None

    # In scan order; no device comes after the last one.
    in_order = jax.tree.map(
        lambda x: lax.slice_in_dim(x[::-1] if reverse else x, 0, size - 1), pairs
    )
    devices = jnp.arange(size - 1, dtype=jnp.int32), in_order
    return lax.scan(through, first, devices, unroll=size <= UNROLLED)[0]


def _gathered(
    decay: jax.Array | None,
    last: jax.Array,
    reset: jax.Array | None,
    axis_name: AxisName,
    matrix: bool,
) -> tuple[jax.Array | None, jax.Array, jax.Array | None]:
    """All three of every device, along a new first axis, by one collective.

    They are put side by side on the last axis, that of the columns of a matrix: no axis that may be
    sharded over other devices is merged. A decay that would have to be spelled out goes alone.
    """

    def gather(x: jax.Array) -> jax.Array:
        (x, _) = vary_alike(x, lax.axis_index(names_of(axis_name)))
        # Tiled: else the type of an array on explicit axes is that of an axis too few.
        return lax.all_gather(x[None], names_of(axis_name), tiled=True)

    columns = last[..., None]
    beside = decay is not None and decay.shape[: last.ndim] == last.shape
    parts = [] if decay is None or not beside else [decay if matrix else decay[..., None]]
    width = sum(part.shape[-1] for part in parts)
    parts.append(columns)
    if reset is not None:
        parts.append(jnp.broadcast_to(reset, last.shape)[..., None].astype(last.dtype))
    together = gather(jnp.concatenate(parts, -1))
    if beside:
        decay = together[..., :width] if matrix else together[..., 0]
    elif decay is not None:
        decay = gather(decay)
    return decay, together[..., width], None if reset is None else together[..., -1] != 0


def before(
    x: jax.Array, first: jax.Array, axis_name: AxisName, *, reverse: bool = False
) -> jax.Array:
    """x of the device before this one in scan order; `first`, which broadcasts to x, on the first.

    Raises ValueError unless inside `jax.shard_map` over the axis. Cost: one `ppermute` of x.
    """
    names = names_of(axis_name)
    index, size = index_and_size(names)
    x, first, index = vary_alike(x, first, index)
    # `ppermute` numbers devices in the mesh's order of axes, whatever order they are named in.
    in_mesh = [name for name in jax.sharding.get_abstract_mesh().axis_names if name in names]
    numbers = np.arange(size).reshape([lax.axis_size(name) for name in in_mesh])
    devices = numbers.transpose([in_mesh.index(name) for name in names]).ravel().tolist()
    moves = itertools.pairwise(devices[::-1] if reverse else devices)
    moved = lax.ppermute(x, tuple(in_mesh), list(moves))
    return jnp.where(index == (size - 1 if reverse else 0), first.astype(x.dtype), moved)


def steps_before(x: jax.Array, first: jax.Array, axis_name: AxisName) -> jax.Array:
    """The steps before this chunk, as many as `first` has, which are those before the sequence.

    x: (..., time, n), the chunk, of one step at least; `first` and the result: (..., steps, n),
    the oldest first. They may reach back over several devices.

    Raises ValueError unless inside `jax.shard_map` over the axis. Cost: `steps` of x received, by
    ceil(steps / time) moves to the next device one after another, at most one for each device.
    """
    index, size = index_and_size(axis_name)
    time, axis = x.shape[-2], x.ndim - 2
    seen, found, left = x, [], first.shape[-2]
    for _ in range(size - 1):
        if left == 0:
            break
        # What the device before has seen last; before the first one, the end of what is left.
        count = min(time, left)
        seen = lax.slice_in_dim(seen, seen.shape[axis] - count, None, axis=axis)
        seen = before(seen, lax.slice_in_dim(first, left - count, left, axis=axis), axis_name)
        found, left = [seen, *found], left - count
    if left:  # further back than the first device from any other
        old, start = vary_alike(first, index * time)
        found = [lax.dynamic_slice_in_dim(old, start, left, axis), *found]
    return jnp.concatenate(found, axis) if found else first


def at_the_end(x: jax.Array, axis_name: AxisName, *, reverse: bool = False) -> jax.Array:
    """x of the last device in scan order, the same on every device (by its type too).

    Raises ValueError unless inside `jax.shard_map` over the axis. Cost: one `psum` of x.
    """
    index, size = index_and_size(axis_name)
    return from_one(x, index == (0 if reverse else size - 1), axis_name)


def from_one(x: jax.Array, here: jax.Array, axis_name: AxisName) -> jax.Array:
    """x of the one device where `here`, which broadcasts to x, is true; the same on every device.

    Raises ValueError unless inside `jax.shard_map` over the axis. Cost: one `psum` of x.
    """
    x, here = vary_alike(x, here)
    # Not a product with 0: what the other devices have may be nan.
    return lax.psum(jnp.where(here, x, jnp.zeros((), x.dtype)), names_of(axis_name))


def from_first(
    x: jax.Array, axis_name: AxisName, *, reverse: bool = False, shared: bool = True
) -> jax.Array:
    """x of the first device in scan order, on every device or else with zeros on the others.

    Raises ValueError unless inside `jax.shard_map` over the axis. Cost: one `psum` of x where it is
    shared.
    """
    index, size = index_and_size(axis_name)
    here = index == (size - 1 if reverse else 0)
    return from_one(x, here, axis_name) if shared else jnp.where(here, x, jnp.zeros((), x.dtype))
