"""What of an operation may be divided among the devices of a mesh: its `Layout`.

What JAX cannot know of an operation is which of its axes are independent. A `Layout` names them;
an axis that must be whole on a device has no name. From the names follow

    types       (`sharding_types.py`) where a mesh axis is explicit, the operands' types say how
                they lie: the operation is bound inside of a `jax.shard_map` over all such axes
    a rule      (`sharding_rule.py`) where it is automatic, the compiler is told by a Shardy rule
                which axes go together, and asks at the end what one device computes

In both, an axis of size 1 broadcasts: it lies whole on every device, and where a result has size 1
on an axis that is sharded it is a sum over the devices. Time is an axis like any other, of a name
that the layout knows; the operation is told (`on_device`) over which mesh axes it is split.

On a mesh with axes of both kinds nothing is told to the compiler: it divides the operations that a
method is made of, and gathers the operands of a kernel over the automatic axes.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rnnscan.scan.arguments import vary_alike

Names = tuple[str | None, ...]  # of the axes of an array; None where one must be whole
Places = Mapping[str, tuple[str, ...]]  # the mesh axes that an axis is sharded over, by name
Static = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which axes of an operation's arrays are independent of each other.

    Attributes:
      names: `(operands, results, **static) -> (names, names)` of the axes of each leaf.
      on_device: `(static, places, sizes) -> static`, the keywords for the part of one device, where
        `sizes` are those of the mesh axes.
      vary: `(leaves, **static) -> leaves`, inside a `jax.shard_map` made to vary over its axes as
        the operation wants it; all over the same, if nothing is said.
      chained: `static -> name` of the axis along which what a device computes depends on others.
      composed: `static -> ` whether it is made of operations that may be divided in turn, and need
        not be itself: it exchanges with other devices by names of mesh axes, which the compiler
        does not know.
    """

    names: Callable[..., tuple[list[Names], list[Names]]]
    on_device: Callable[[Static, Places, Mapping[str, int]], Static]
    vary: Callable[..., Sequence[Any]] = lambda leaves, **static: vary_alike(*leaves)
    chained: Callable[[Static], str | None] = lambda static: None
    composed: Callable[[Static], bool] = lambda static: False


def placed(shapes: Sequence[tuple[int, ...]], names: list[Names], specs: list[Any]) -> Places:
    """Where each named axis lies, by the `PartitionSpec`s of the arrays that have it."""
    places: dict[str, tuple[str, ...]] = {}
    for shape, own, spec in zip(shapes, names, specs, strict=True):
        for size, name, part in zip(shape, own, parts_of(spec, len(shape)), strict=True):
            if name is None or size == 1 or not part:
                continue
            if places.setdefault(name, part) != part:
                raise ValueError(
                    f"operands of a scan are sharded differently: the same axis over {part} of the "
                    f"mesh in one, over {places[name]} in another; use jax.sharding.reshard"
                )
    used = [axis for part in places.values() for axis in part]
    if len(used) != len(set(used)):
        raise ValueError(
            f"operands of a scan are sharded differently: an axis of the mesh stands for two of "
            f"theirs, {' and '.join(map(str, places.values()))}; use jax.sharding.reshard"
        )
    return places


def spec_of(shape: tuple[int, ...], names: Names, places: Places) -> PartitionSpec:
    """How an array lies where the named axes are so placed."""
    pairs = zip(shape, names, strict=True)
    parts = (places.get(name or "", ()) if size != 1 else () for size, name in pairs)
    return PartitionSpec(*(part or None for part in parts))


def summed_over(shape: tuple[int, ...], names: Names, places: Places) -> tuple[str, ...]:
    """The mesh axes over which a result is a sum: those of the axes that it names and lacks."""
    lacking = (name or "" for size, name in zip(shape, names, strict=True) if size == 1)
    return tuple(axis for name in lacking for axis in places.get(name, ()))


def parts_of(spec: PartitionSpec, rank: int) -> list[tuple[str, ...]]:
    """The mesh axes of each axis of an array."""
    parts = [*spec, *[None] * (rank - len(spec))]
    return [() if p is None else (p,) if isinstance(p, str) else tuple(p) for p in parts]


def like(aval: Any, shape: tuple[int, ...]) -> Any:
    """The type of an array of this shape that lies as another does, along axes of the same size."""
    sharding = getattr(aval, "sharding", None)
    if sharding is None or sharding.mesh.empty:
        return aval.update(shape=shape, weak_type=False)
    parts = parts_of(sharding.spec, len(aval.shape)) + [()] * len(shape)
    sizes = (*aval.shape, *[0] * len(shape))
    kept = (part or None if n == m else None for n, m, part in zip(shape, sizes, parts))  # noqa: B905
    own = NamedSharding(sharding.mesh, PartitionSpec(*kept))
    return aval.update(shape=shape, weak_type=False, sharding=own)


def whole(aval: Any, shape: tuple[int, ...], **other: Any) -> Any:
    """The type of an array of this shape that lies whole on each device of the mesh of another."""
    if not aval.sharding.mesh.empty:
        other["sharding"] = NamedSharding(aval.sharding.mesh, PartitionSpec(*[None] * len(shape)))
    return aval.update(shape=shape, **other)


def merged(x: jax.Array, count: int = 2) -> jax.Array:
    """The first `count` axes as one."""
    if count == 1:
        return x
    parts = parts_of(jax.typeof(x).sharding.spec, x.ndim)
    joint = tuple(axis for part in parts[:count] for axis in part)
    shape = (math.prod(x.shape[:count]), *x.shape[count:])
    return _reshaped(x, shape, [joint, *parts[count:]])


def parted(x: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    """The inverse: the first axis as axes of these sizes, sharded as it was along the first."""
    if len(lead) == 1:
        return x
    first, *rest = parts_of(jax.typeof(x).sharding.spec, x.ndim)
    return _reshaped(x, (*lead, *x.shape[1:]), [*[first, *[()] * len(lead)][: len(lead)], *rest])


def _reshaped(x: jax.Array, shape: tuple[int, ...], parts: list[tuple[str, ...]]) -> jax.Array:
    """JAX itself finds how a result lies on explicit axes, but not of an array of no numbers."""
    if 0 not in shape or not any(parts):
        return x.reshape(shape)
    spec = PartitionSpec(*(part or None for part in parts))
    mesh = jax.typeof(x).sharding.mesh
    return lax.reshape(x, shape, out_sharding=NamedSharding(mesh, spec))


def mesh_of(axis_context: Any) -> Any:
    """The mesh that a program is lowered for, where there is one."""
    mesh = getattr(axis_context, "mesh", None)  # within a `jax.shard_map`
    mesh = getattr(axis_context, "abstract_mesh", None) if mesh is None else mesh
    return None if mesh is None or mesh.empty else mesh


def axes_left(axis_context: Any, kind: AxisType) -> list[str]:
    """The axes of this mesh that are of this kind, and not those of a `jax.shard_map` around."""
    mesh = mesh_of(axis_context)
    if mesh is None:
        return []
    manual = getattr(axis_context, "manual_axes", ())
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return [name for name, of in kinds if of == kind and name not in manual]
