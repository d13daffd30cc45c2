"""Operations on arrays that lie on a mesh of devices: each device computes its own part.

What JAX cannot know of an operation is which of its axes are independent. A `Layout` names them;
an axis that must be whole on a device has no name. From the names follow

    types       where a mesh axis is explicit, the operands' types say how they lie: the operation
                is bound inside of a `jax.shard_map` over all of them
    a rule      where it is automatic, the compiler is told by a Shardy rule which axes go together,
                and asks at the end what one device computes (`custom_partitioning`)

In both, an axis of size 1 broadcasts: it lies whole on every device, and where a result has size 1
on an axis that is sharded it is a sum over the devices. Time is an axis like any other, of a name
that the layout knows; the operation is told (`on_device`) over which mesh axes it is split.

On a mesh with axes of both kinds nothing is told to the compiler: it divides the operations that a
method is made of, and gathers the operands of a kernel over the automatic axes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule, custom_partitioning
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

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
        for size, name, part in zip(shape, own, _parts(spec, len(shape)), strict=True):
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


def _summed(shape: tuple[int, ...], names: Names, places: Places) -> tuple[str, ...]:
    """The mesh axes over which a result is a sum: those of the axes that it names and lacks."""
    lacking = (name or "" for size, name in zip(shape, names, strict=True) if size == 1)
    return tuple(axis for name in lacking for axis in places.get(name, ()))


def _parts(spec: PartitionSpec, rank: int) -> list[tuple[str, ...]]:
    """The mesh axes of each axis of an array."""
    parts = [*spec, *[None] * (rank - len(spec))]
    return [() if p is None else (p,) if isinstance(p, str) else tuple(p) for p in parts]


# Explicit axes.


def explicit_mesh(leaves: Sequence[Any]) -> Any:
    """The mesh of the operands' types, where any of them is sharded over an explicit axis.

    None within a `jax.vmap` over an axis that is sharded too: what it is made of is bound by the
    batching rule again, where all types are whole.
    """
    for leaf in leaves:
        sharding = jax.typeof(leaf).sharding
        if any(_parts(sharding.spec, len(leaf.shape))):
            return None if _is_mapped_away(sharding.mesh) else sharding.mesh
    return None


def _is_mapped_away(mesh: Any) -> bool:
    """Whether a `jax.vmap` stands for one of the explicit axes, so that no `jax.shard_map` may."""
    axes = frozenset(mesh.explicit_axes)
    nothing = jax.shard_map(
        lambda: (), mesh=mesh, in_specs=(), out_specs=PartitionSpec(), axis_names=axes
    )
    try:
        jax.eval_shape(nothing)
    except ValueError:
        return True
    return False


def like(aval: Any, shape: tuple[int, ...]) -> Any:
    """The type of an array of this shape that lies as another does, along axes of the same size."""
    sharding = getattr(aval, "sharding", None)
    if sharding is None or sharding.mesh.empty:
        return aval.update(shape=shape, weak_type=False)
    parts = _parts(sharding.spec, len(aval.shape)) + [()] * len(shape)
    sizes = (*aval.shape, *[0] * len(shape))
    kept = (part or None if n == m else None for n, m, part in zip(shape, sizes, parts))  # noqa: B905
    own = NamedSharding(sharding.mesh, PartitionSpec(*kept))
    return aval.update(shape=shape, weak_type=False, sharding=own)


def whole(aval: Any, shape: tuple[int, ...], **other: Any) -> Any:
    """The type of an array of this shape that lies whole on each device of the mesh of another."""
    if not aval.sharding.mesh.empty:
        other["sharding"] = NamedSharding(aval.sharding.mesh, PartitionSpec(*[None] * len(shape)))
    return aval.update(shape=shape, **other)


def by_types(
    bind: Callable[..., list[jax.Array]],
    layout: Layout,
    mesh: Any,
    leaves: Sequence[Any],
    results: Sequence[Any],
    static: Static,
) -> list[jax.Array]:
    """`bind(*leaves, **static)`, on each device for its part; `results`: shapes of the whole."""
    given, returned = layout.names(leaves, results, **static)
    specs = [jax.typeof(leaf).sharding.spec for leaf in leaves]
    places = placed([leaf.shape for leaf in leaves], given, specs)
    local = layout.on_device(static, places, mesh.shape)
    into = [spec_of(x.shape, names, places) for x, names in zip(leaves, given, strict=True)]
    out = [spec_of(x.shape, names, places) for x, names in zip(results, returned, strict=True)]
    summed = [_summed(x.shape, names, places) for x, names in zip(results, returned, strict=True)]
    keywords = tuple(sorted(local.items()))
    specs = tuple(into), tuple(out), tuple(summed)
    return _on_mesh(bind, layout, mesh, *specs, keywords)(*leaves)


@functools.cache
def _on_mesh(
    bind: Callable[..., list[jax.Array]],
    layout: Layout,
    mesh: Any,
    into: tuple[PartitionSpec, ...],
    out: tuple[PartitionSpec, ...],
    summed: tuple[tuple[str, ...], ...],
    static: tuple[tuple[str, Hashable], ...],
) -> Callable[..., list[jax.Array]]:
    """One program, compiled once, for calls outside of any other too."""

    def on_device(*leaves: jax.Array) -> list[jax.Array]:
        keywords = dict(static)
        outputs = bind(*layout.vary(leaves, **keywords), **keywords)
        return [_sum(y, axes) for y, axes in zip(outputs, summed, strict=True)]

    axes = frozenset(mesh.explicit_axes)
    mapped = jax.shard_map(on_device, mesh=mesh, in_specs=into, out_specs=[*out], axis_names=axes)

    def on_all(*leaves: jax.Array) -> list[jax.Array]:
        # In here, where an array that lies on no mesh is taken to lie whole on this one.
        pairs = zip(leaves, into, strict=True)
        return mapped(*(jax.sharding.reshard(x, NamedSharding(mesh, spec)) for x, spec in pairs))

    return jax.jit(on_all)


def alike(run: Callable[..., list[jax.Array]], axis_context: Any) -> Callable[..., Any]:
    """`run`, where it is lowered for a mesh with explicit axes over which nothing is sharded: each
    device does the same, and no type within speaks of the mesh."""
    left = _left(axis_context, AxisType.Explicit)
    if not left:
        return run
    mesh = jax.sharding.get_abstract_mesh()
    mesh = _mesh_of(axis_context) if mesh.empty else mesh

    def on_each(*leaves: jax.Array) -> list[jax.Array]:
        mapped = jax.shard_map(
            run, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), axis_names={*left}
        )
        return mapped(*leaves)

    return on_each


def _sum(y: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Over those mesh axes that it varies over; along the others it is whole already."""
    axes = tuple(axis for axis in axes if axis in jax.typeof(y).manual_axis_type.varying)
    return lax.psum(y, axes) if axes else y


# Automatic axes.


@functools.cache
def needs_devices() -> Any:
    """A program that, found among an operation's keywords, makes JAX say what devices there are
    when that is lowered; nothing where there is one only."""
    if jax.device_count() == 1:
        return None
    nothing = custom_partitioning(lambda x: x)
    nothing.def_partition(lambda mesh, given, out: None, sharding_rule="... -> ...")
    return jax.make_jaxpr(nothing)(0.0)


# Among an operation's keywords: it is the part of one device, as the compiler asks for it.
WITHIN = "within"


def without_locations(context: Any) -> Any:
    """A lowering context in which operations do not say what lines they come from.

    XLA 0.10.2 puts the part of a device into the whole program with the numbers of its lines as
    they are, which there stand for others; a pass that follows them may then never end.
    """
    name = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        caches = type(context.module_context.traceback_caches)()  # reads the limit
    finally:
        jax.config.update(name, limit)
    return context.replace(module_context=context.module_context.replace(traceback_caches=caches))


def is_spread(x: Any) -> bool:
    """Whether an array lies on several devices."""
    return isinstance(x, jax.Array) and len(x.sharding.device_set) > 1


def is_divided(axis_context: Any) -> bool:
    """Whether the compiler divides the program that is lowered among devices, and can be told how:
    it cannot where some axes are explicit, nor within a `jax.shard_map` of unknown devices."""
    mesh = _mesh_of(axis_context)
    if mesh is None:
        several = getattr(axis_context, "num_devices", 1) > 1
        explicit = jax.sharding.get_abstract_mesh().explicit_axes  # of a mesh that no operand is on
        return several and not explicit and axis_context.device_assignment is not None
    left = _left(axis_context, AxisType.Auto)
    several = math.prod(mesh.shape[name] for name in left) > 1
    told = isinstance(mesh, Mesh) or not is_partly_manual(axis_context)
    return several and told and AxisType.Explicit not in mesh.axis_types


def is_partly_manual(axis_context: Any) -> bool:
    """Whether the program that is lowered stands within a `jax.shard_map`."""
    return bool(getattr(axis_context, "manual_axes", ()))


def _mesh_of(axis_context: Any) -> Any:
    """The mesh that a program is lowered for, where there is one."""
    mesh = getattr(axis_context, "mesh", None)  # within a `jax.shard_map`
    mesh = getattr(axis_context, "abstract_mesh", None) if mesh is None else mesh
    return None if mesh is None or mesh.empty else mesh


def _left(axis_context: Any, kind: AxisType) -> list[str]:
    """The axes of this mesh that are of this kind, and not those of a `jax.shard_map` around."""
    mesh = _mesh_of(axis_context)
    if mesh is None:
        return []
    manual = getattr(axis_context, "manual_axes", ())
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return [name for name, of in kinds if of == kind and name not in manual]


def by_rule(
    run: Callable[..., list[jax.Array]],
    layout: Layout,
    leaves: Sequence[jax.Array],
    results: Sequence[Any],
    static: Static,
    partly: bool = False,
) -> list[jax.Array]:
    """`run(*leaves, **static)`, which the compiler divides among devices as the names allow;
    `partly`: within a `jax.shard_map` over other axes of the mesh."""
    given, returned = layout.names(leaves, results, **static)

    def partition(mesh, arguments, outputs):
        if partly or mesh.empty:
            local, *ways = _nameless(layout, arguments, outputs, (given, returned), static)
            return mesh, lambda *leaves: run(*leaves, **local), *ways
        places, sizes = _divisible(mesh, arguments, given), mesh.shape
        summed = [_summed(r.shape, n, places) for r, n in zip(results, returned, strict=True)]
        local = layout.on_device(static, places, sizes)

        def on_device(*leaves: jax.Array) -> list[jax.Array]:
            outputs = run(*leaves, **local)
            return [
                lax.psum(y, axes) if axes else y for y, axes in zip(outputs, summed, strict=True)
            ]

        def shardings(shapes, names):
            specs = [spec_of(x.shape, n, places) for x, n in zip(shapes, names, strict=True)]
            return [NamedSharding(mesh, spec) for spec in specs]

        return mesh, on_device, shardings(results, returned), tuple(shardings(leaves, given))

    divided = custom_partitioning(lambda *leaves: run(*leaves, **static))
    # Partly, the shardings are those of fewer devices than a mesh around (`with mesh:`) has.
    rule = _rule(leaves, given, results, returned)
    divided.def_partition(partition, sharding_rule=rule, decode_shardings=not partly)
    return divided(*leaves)


def _divisible(mesh: Mesh, arguments: Sequence[Any], names: list[Names]) -> Places:
    """Where the axes lie; one that does not divide evenly is whole on each device.

    Operands that lie differently are moved to where the largest of them lies.
    """
    places: dict[str, tuple[str, ...]] = {}
    used: set[str] = set()
    pairs = zip(arguments, names, strict=True)
    for x, own in sorted(pairs, key=lambda pair: -math.prod(pair[0].shape)):
        parts = _parts(x.sharding.spec, len(x.shape))
        for size, name, part in zip(x.shape, own, parts, strict=True):
            if name is None or name in places or not used.isdisjoint(part):
                continue
            if part and size != 1 and size % math.prod(mesh.shape[axis] for axis in part) == 0:
                places[name] = part
                used.update(part)
    return places


def _nameless(
    layout: Layout,
    arguments: Sequence[Any],
    outputs: Sequence[Any],
    names: tuple[list[Names], list[Names]],
    static: Static,
) -> tuple[Static, list[Any], tuple[Any, ...]]:
    """The keywords of a part, and how results and operands lie, within a `jax.shard_map` over other
    axes of the mesh: there the compiler says into how many parts an axis is divided, and not over
    which mesh axes. So where a part needs another device, all are whole."""
    counts, even = {}, True
    for x, own in zip((*arguments, *outputs), (*names[0], *names[1]), strict=True):
        local = _part_of(x)
        for size, part, name in zip(x.shape, local, own, strict=True):
            count = size // part if part else 1
            even &= size == part * count and (count == 1 or name is not None)
            if size != 1 and name is not None:
                even &= counts.setdefault(name, count) == count
    parts = {name: (name,) for name, count in counts.items() if count > 1}
    summed = any(_summed(y.shape, own, parts) for y, own in zip(outputs, names[1], strict=True))
    if even and not summed and layout.chained(static) not in parts:
        local = layout.on_device(static, parts, counts)
        return local, [y.sharding for y in outputs], tuple(x.sharding for x in arguments)
    whole = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("one",)), PartitionSpec())
    return static, [whole for _ in outputs], tuple(whole for _ in arguments)


def _part_of(x: Any) -> tuple[int, ...]:
    """The shape of one device's part; of none where it does not divide evenly."""
    try:
        return x.sharding.shard_shape(x.shape)
    except ValueError:
        return (0,) * len(x.shape)


def _rule(
    leaves: Sequence[Any], given: list[Names], results: Sequence[Any], returned: list[Names]
) -> SdyShardingRule:
    """Axes of one name go together; one without a name is whole, one of size 1 as well."""
    whole = []

    def mapping(shape: tuple[int, ...], names: Names) -> ArrayMapping:
        factors = []
        for size, name in zip(shape, names, strict=True):
            if name is None or size == 1:
                whole.append(f"whole{len(whole)}")
                factors.append(whole[-1])
            else:
                factors.append(f"axis{name}")
        return ArrayMapping(*factors)

    operands = tuple(mapping(x.shape, n) for x, n in zip(leaves, given, strict=True))
    outputs = tuple(mapping(x.shape, n) for x, n in zip(results, returned, strict=True))
    return SdyShardingRule(operands, outputs, need_replication_factors=tuple(whole))
