"""Operations whose operands' types say how they lie: on explicit axes of a mesh.

An operation is bound inside of a `jax.shard_map` over all explicit axes, to the part of each device
(`Layout`, in `sharding.py`); its derivatives are taken in there, and what broadcasts over a mesh
axis gets one sum over it.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rnnscan.scan.sharding import (
    Layout,
    Static,
    axes_left,
    mesh_of,
    parts_of,
    placed,
    spec_of,
    summed_over,
)


def explicit_mesh(leaves: Sequence[Any]) -> Any:
    """The mesh of the operands' types, where any of them is sharded over an explicit axis.

    None within a `jax.vmap` over an axis that is sharded too: what it is made of is bound by the
    batching rule again, where all types are whole.
    """
    for leaf in leaves:
        sharding = jax.typeof(leaf).sharding
        if any(parts_of(sharding.spec, len(leaf.shape))):
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
    summed = [
        summed_over(x.shape, names, places) for x, names in zip(results, returned, strict=True)
    ]
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


def _sum(y: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Over those mesh axes that it varies over; along the others it is whole already."""
    axes = tuple(axis for axis in axes if axis in jax.typeof(y).manual_axis_type.varying)
    return lax.psum(y, axes) if axes else y


def alike(run: Callable[..., list[jax.Array]], axis_context: Any) -> Callable[..., Any]:
    """`run`, where it is lowered for a mesh with explicit axes over which nothing is sharded: each
    device does the same, and no type within speaks of the mesh."""
    left = axes_left(axis_context, AxisType.Explicit)
    if not left:
        return run
    mesh = jax.sharding.get_abstract_mesh()
    mesh = mesh_of(axis_context) if mesh.empty else mesh

    def on_each(*leaves: jax.Array) -> list[jax.Array]:
        mapped = jax.shard_map(
            run, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), axis_names={*left}
        )
        return mapped(*leaves)

    return on_each
