"""Operations that the compiler divides: on automatic axes of a mesh.

Lowered as `custom_partitioning`: a Shardy rule says which axes go together, and at the end the
compiler asks what one device computes of the parts that it has.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule, custom_partitioning
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rnnscan.scan.sharding import (
    Layout,
    Names,
    Places,
    Static,
    axes_left,
    mesh_of,
    parts_of,
    spec_of,
    summed_over,
)


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
    mesh = mesh_of(axis_context)
    if mesh is None:
        several = getattr(axis_context, "num_devices", 1) > 1
        explicit = jax.sharding.get_abstract_mesh().explicit_axes  # of a mesh that no operand is on
        return several and not explicit and axis_context.device_assignment is not None
    left = axes_left(axis_context, AxisType.Auto)
    several = math.prod(mesh.shape[name] for name in left) > 1
    told = isinstance(mesh, Mesh) or not is_partly_manual(axis_context)
    return several and told and AxisType.Explicit not in mesh.axis_types


def is_partly_manual(axis_context: Any) -> bool:
    """Whether the program that is lowered stands within a `jax.shard_map`."""
    return bool(getattr(axis_context, "manual_axes", ()))


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
        summed = [summed_over(r.shape, n, places) for r, n in zip(results, returned, strict=True)]
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
        parts = parts_of(x.sharding.spec, len(x.shape))
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
    summed = any(summed_over(y.shape, own, parts) for y, own in zip(outputs, names[1], strict=True))
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
