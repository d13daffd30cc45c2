"""Primitives whose operands have names: what JAX asks of a primitive, once for every scan.

JAX binds a primitive to arrays one after another. An `Operation` is bound to a NamedTuple of them,
in which an operand may be absent (`None`) or a tuple itself; its structure is part of the program.
Its rules are given that tuple back, so that they read as equations. Tangents, cotangents and mapped
axes come in tuples of the same structure.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from rnnscan.scan import checks, sharding_rule, sharding_types
from rnnscan.scan import target as targets
from rnnscan.scan.precision import is_double, is_long
from rnnscan.scan.sharding import Layout
from rnnscan.scan.target import PLATFORMS, Target


class Operation:
    """A map of a scan, as a primitive of JAX.

    Its rules, where `static` are the keywords that it is called with:

    `results(operands, **static)`: pytree of avals, from operands that are avals.
    `run(operands, *, target, **static)`: the same of arrays, once it is known what to run on.
    `jvp(primals, tangents, **static) -> (results, tangents)`: a tangent may be `ad.Zero`.
    `batch(operands, dims, **static) -> (results, axis)`: the axis over which all are mapped.
    `linear`: the operands, by name, in which the map is linear, and for these
    `transpose(cotangents, operands, **static) -> {name: cotangent}`: no cotangent is zero by its
    type there; a linear operand is `ad.UndefinedPrimal` where its cotangent is asked for.
    `layout`: which of the axes may be divided among devices; none where it is not said.
    """

    def __init__(
        self,
        name: str,
        *,
        results: Callable[..., Any],
        run: Callable[..., Any],
        jvp: Callable[..., tuple[Any, Any]],
        batch: Callable[..., tuple[Any, int]],
        layout: Layout | None = None,
        linear: tuple[str, ...] = (),
        transpose: Callable[..., dict[str, Any]] | None = None,
    ):
        self.primitive = Primitive(f"rnnscan_{name}")
        self.primitive.multiple_results = True
        self.results, self.linear, self.layout = results, linear, layout
        self._define(run)
        ad.primitive_jvps[self.primitive] = functools.partial(_jvp, jvp)
        batching.primitive_batchers[self.primitive] = functools.partial(_batch, batch)
        checks.tells_nans(self.primitive, self._told)
        if transpose is not None:
            rule = functools.partial(_transpose, self, transpose)
            ad.primitive_transposes[self.primitive] = rule

    def __call__(self, operands: Any, **static: Any) -> Any:
        leaves, structure = jax.tree.flatten(operands)
        mesh = sharding_types.explicit_mesh(leaves)
        if mesh is not None and self.layout is None:
            raise ValueError(
                f"{self.primitive}: got operands that are sharded over explicit axes of a mesh, "
                f"{', '.join(map(str, mesh.explicit_axes))}, where it is not known which of theirs "
                "are independent; call it inside jax.shard_map over these, or within "
                "jax.sharding.auto_axes"
            )
        if self.layout is None or mesh is None:
            results = self.results(structure.unflatten(map(jax.typeof, leaves)), **static)
            outputs = self._bind(*leaves, structure=structure, **static)
        else:
            shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
            results = self.results(structure.unflatten(shapes), **static)
            static = {"structure": structure, **static}
            shapes = jax.tree.leaves(results)
            outputs = sharding_types.by_types(self._bind, self.layout, mesh, leaves, shapes, static)
        return jax.tree.structure(results).unflatten(outputs)

    def _bind(self, *leaves: jax.Array, **static: Any) -> list[jax.Array]:
        return self.primitive.bind(*leaves, devices=sharding_rule.needs_devices(), **static)

    def _told(self, outputs: list[jax.Array], operands, *, structure, devices, **static):
        """The results, without what is kept for a backward pass, of which steps may not count."""
        del devices
        avals = structure.unflatten(map(jax.typeof, operands))
        results = jax.tree.structure(self.results(avals, **static)).unflatten(outputs)
        return jax.tree.leaves(results._replace(kept=None) if hasattr(results, "kept") else results)

    def _define(self, run: Callable[..., Any]) -> None:
        """Shapes, evaluation and lowering."""

        def abstract(*leaves, structure, devices, **static):
            del devices
            return jax.tree.leaves(self.results(structure.unflatten(leaves), **static))

        def program(*leaves, structure, devices, target, **static):
            del devices
            with _wide(leaves):
                return jax.tree.leaves(run(structure.unflatten(leaves), target=target, **static))

        def part(*leaves, devices, **static):
            del devices
            return self.primitive.bind(*leaves, devices=sharding_rule.WITHIN, **static)

        def divided(*leaves, target, partly=False, **static):
            del target
            assert self.layout is not None
            results = abstract(*map(jax.typeof, leaves), **static)
            return sharding_rule.by_rule(part, self.layout, leaves, results, static, partly)

        # Not a jit of the primitive itself: with jit disabled, that would call itself for ever.
        @functools.partial(jax.jit, static_argnames=("static", "target", "several"))
        def evaluate(*leaves, static, target, several):
            return (divided if several else program)(*leaves, target=target, **dict(static))

        def impl(*leaves, **static):
            target, several = (
                targets.of_operand(leaves[0]),
                any(map(sharding_rule.is_spread, leaves)),
            )
            several &= self.layout is not None and not self.layout.composed(static)
            keywords = tuple(sorted(static.items()))
            return evaluate(*leaves, static=keywords, target=target, several=several)

        def lower(context, *leaves, platform, **static):
            module = context.module_context
            exported = module.lowering_parameters.for_export
            several = self.layout is not None and not exported and not self.layout.composed(static)
            several = several and sharding_rule.is_divided(module.axis_context)
            partly = sharding_rule.is_partly_manual(module.axis_context)
            evaluated = functools.partial(divided, partly=partly) if several else program
            rule = functools.partial(evaluated, target=Target(platform, exported), **static)
            if self.layout is not None:
                rule = sharding_types.alike(rule, module.axis_context)
            if static["devices"] == sharding_rule.WITHIN:
                context = sharding_rule.without_locations(context)
            with _wide(context.avals_in):  # loops count when they are lowered
                return mlir.lower_fun(rule, multiple_results=True)(context, *leaves)

        self.primitive.def_abstract_eval(abstract)
        self.primitive.def_impl(impl)
        for platform in (*PLATFORMS, None):
            rule = functools.partial(lower, platform=platform or "other")
            mlir.register_lowering(self.primitive, rule, platform=platform)


def _wide(leaves: Sequence[Any]) -> contextlib.AbstractContextManager[Any]:
    """Where these are computed with. The compiler asks for the part of one device outside of the
    caller's context, and no caller knows of integers that count more than 2^31 steps."""
    wide = any(is_double(x.dtype) or is_long(x.shape) for x in leaves)
    return jax.enable_x64(True) if wide else contextlib.nullcontext()


def _jvp(rule, primals, tangents, *, structure, devices, **static):
    del devices
    both = structure.unflatten(primals), structure.unflatten(tangents)
    return tuple(jax.tree.leaves(found, is_leaf=is_zero) for found in rule(*both, **static))


def _batch(rule, leaves, dims, *, structure, devices, **static):
    del devices
    both = structure.unflatten(leaves), structure.unflatten(dims)
    outputs, axis = rule(*both, **static)
    outputs = jax.tree.leaves(outputs)
    return outputs, [axis] * len(outputs)


def _transpose(operation, rule, cotangents, *leaves, structure, devices, **static):
    del devices
    operands = structure.unflatten(leaves)
    fixed = [getattr(operands, name) for name in operands._fields if name not in operation.linear]
    if any(map(ad.is_undefined_primal, jax.tree.leaves(fixed, is_leaf=ad.is_undefined_primal))):
        raise NotImplementedError(
            f"{operation.primitive} is linear in {', '.join(operation.linear)} alone: it cannot be "
            "transposed with respect to its other operands"
        )
    if all(map(is_zero, cotangents)):
        return [ad.Zero(x.aval) if ad.is_undefined_primal(x) else None for x in leaves]
    avals = [x.aval if ad.is_undefined_primal(x) else jax.typeof(x) for x in leaves]
    avals = structure.unflatten(avals)
    results = jax.tree.structure(operation.results(avals, **static))
    found = rule(results.unflatten(instantiated(cotangents)), operands, **static)
    nothing = structure.unflatten([None] * len(leaves))
    given = structure.flatten_up_to(nothing._replace(**found))
    return [ct if ad.is_undefined_primal(x) else None for ct, x in zip(given, leaves, strict=True)]


def is_zero(tangent: Any) -> bool:
    """Whether a tangent or cotangent is zero by its type."""
    return isinstance(tangent, ad.Zero)


def no_tangent(x: jax.Array) -> ad.Zero:
    """Of a result that has no derivative."""
    return ad.Zero(jax.typeof(x).to_tangent_aval())


def instantiated(tangents: Any) -> Any:
    """The tangents, those that are zero by their type spelled out."""

    def spelled_out(t):
        return ad.instantiate_zeros(t) if is_zero(t) else t

    return jax.tree.map(spelled_out, tangents, is_leaf=is_zero)


def shape_of(operand: Any) -> tuple[int, ...]:
    """Of an operand that may be asked for its cotangent."""
    return (operand.aval if ad.is_undefined_primal(operand) else operand).shape


def mapped(operands: Any, dims: Any) -> list[tuple[jax.Array, int]]:
    """The operands that have a mapped axis, and where."""
    leaves, structure = jax.tree.flatten(operands)
    pairs = zip(leaves, structure.flatten_up_to(dims), strict=True)
    return [(x, dim) for x, dim in pairs if dim is not None]


def with_axis(operands: Any, dims: Any, axis: int) -> Any:
    """The operands with the mapped axis at one place, of size 1 where they are not mapped."""
    leaves, structure = jax.tree.flatten(operands)
    places = structure.flatten_up_to(dims)
    moved = [
        lax.expand_dims(x, (axis,)) if dim is None else jnp.moveaxis(x, dim, axis)
        for x, dim in zip(leaves, places, strict=True)
    ]
    return structure.unflatten(moved)
