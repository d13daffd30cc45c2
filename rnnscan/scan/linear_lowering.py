"""From an operation of `linear_rules.py` to a method's program, once the platform is known.

On a CPU, adjacent axes that every operand broadcasts alike are merged, so that a method usually
sees (outer, T, inner). Elsewhere they are left as they are: an array may be sharded over one of
them, and the compiler would gather it to merge. The method is chosen from the table; empty results
need no method.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnscan.scan.linear_method import (
    Gradients,
    LinearCase,
    LinearMethod,
    LinearTable,
    Problem,
    ScanOperands,
    Shape,
    TangentOperands,
    TransposeOperands,
)
from rnnscan.scan.product import Product
from rnnscan.scan.target import Target
from rnnscan.scan.time_axis import TimeAxis


class Over(NamedTuple):
    """How time is split over devices, each of which has one chunk of it.

    Attributes:
      axes: of the mesh, one after another.
      known: whether the state of `Past` before the first step is that before the device's own
        chunk; else it is that before the whole sequence.
      returned: whether that state is a result too.
      shared: whether every device returns the whole gradient of h0, as their types would have it;
        else the first does, and the others zeros.
    """

    axes: tuple[str, ...]
    known: bool = False
    returned: bool = False
    shared: bool = True


class Spec(NamedTuple):
    """What is static about a recurrence."""

    product: Product
    table: LinearTable
    method: str
    axis: int
    reverse: bool
    over: Over | None = None


def full_shape(spec: Spec, state: Any, operands: Any) -> Any:
    """The state's shape: what the batch and time axes of all operands broadcast to."""
    lead = state.ndim - spec.product.state_axes
    shapes = (x.shape[:lead] for x in jax.tree.leaves(operands))
    return (*jnp.broadcast_shapes(*shapes), *state.shape[lead:])


def case_of(
    product: Product, target: Target, dtype: np.dtype, shape: Shape, axis: int, constant: bool
) -> LinearCase:
    """The case that a method table sees for states of this shape."""
    lead = shape[: len(shape) - product.state_axes]
    size = math.prod(shape[len(lead) :])
    inner = math.prod(lead[axis + 1 :]) * size
    return LinearCase(
        platform=target.platform,
        exported=target.exported,
        device=target.device,
        dtype=dtype,
        length=shape[axis],
        width=math.prod(lead[:axis]) * inner,
        inner=inner,
        size=size,
        constant=constant,
    )


def run_scan(operands: ScanOperands, *, spec: Spec, target: Target) -> jax.Array:
    b, shape = operands.b, full_shape(spec, operands.b, operands)
    if math.prod(shape) == 0:
        return lax.full_like(b, 0, shape=shape)
    method, problem, operands = _prepared(spec, target, shape, b.dtype, operands)
    return method.forward(problem, operands).reshape(shape)


def run_tangent(operands: TangentOperands, *, spec: Spec, target: Target) -> jax.Array:
    db, shape = operands.db, full_shape(spec, operands.db, operands)
    if math.prod(shape) == 0:
        return lax.full_like(db, 0, shape=shape)
    method, problem, operands = _prepared(spec, target, shape, db.dtype, operands)
    return method.tangent(problem, operands).reshape(shape)


def run_transpose(
    operands: TransposeOperands,
    *,
    spec: Spec,
    target: Target,
    decay_shape: Shape | None,
    state_shape: Shape,
) -> Gradients:
    g, shape = operands.g, full_shape(spec, operands.g, operands)
    if math.prod(shape) == 0:
        da = None if decay_shape is None else lax.full_like(g, 0, shape=decay_shape)
        zeros = (lax.full_like(g, 0, shape=s) for s in (shape, state_shape))
        return Gradients(da, *zeros)
    like = operands.a.shape if decay_shape is None else decay_shape, state_shape
    method, problem, operands = _prepared(spec, target, shape, g.dtype, operands, like)
    da, db, dh0 = method.transpose(problem, operands)
    da = None if da is None else da.reshape(decay_shape)
    return Gradients(da, db.reshape(shape), dh0.reshape(state_shape))


def _prepared(
    spec: Spec, target: Target, shape: Shape, dtype: np.dtype, operands: Any, like: tuple = ()
) -> tuple[LinearMethod, Problem, Any]:
    """The method, and what it is given; `like`: shapes of gradients, which merge as operands do."""
    constant = operands.a.shape[spec.axis] == 1
    case = case_of(spec.product, target, dtype, shape, spec.axis, constant)
    method = spec.table.resolve(spec.method, case)
    shapes = [*(x.shape for x in jax.tree.leaves(operands)), *like]
    layout = _layout(spec, target.platform, shape, shapes)
    merged = jax.tree.map(lambda x: x.reshape(layout.merged(x.shape)), operands)
    problem = Problem(spec.product, layout.time, layout.merged(shape), dtype)
    if like:
        decay_shape, state_shape = map(layout.merged, like)
        problem = dataclasses.replace(problem, gradients=(decay_shape, state_shape))
    return method, problem, merged


class _Layout(NamedTuple):
    """Which adjacent axes, before those a product acts on, are treated as one."""

    groups: tuple[tuple[int, int], ...]
    time: TimeAxis

    def merged(self, shape: Shape) -> Shape:
        lead = [math.prod(shape[start:stop]) for start, stop in self.groups]
        return (*lead, *shape[self.groups[-1][1] :])


def _layout(spec: Spec, platform: str, shape: Shape, shapes: list[Shape]) -> _Layout:
    """Axes merge where every operand broadcasts both of them or neither; time stays alone."""
    groups, patterns = [], []
    for i in range(len(shape) - spec.product.state_axes):
        # Which operands broadcast over this axis; an axis of size 1 fits any neighbour.
        pattern = None if shape[i] == 1 else [s[i] == 1 for s in shapes]
        alone = platform != "cpu" or not groups or spec.axis in (i, groups[-1][0])
        if not alone and (None in (pattern, patterns[-1]) or pattern == patterns[-1]):
            groups[-1] = (groups[-1][0], i + 1)
            patterns[-1] = patterns[-1] or pattern
        else:
            groups.append((i, i + 1))
            patterns.append(pattern)
    axis = [start for start, _ in groups].index(spec.axis)
    return _Layout(tuple(groups), TimeAxis(axis, shape[spec.axis], spec.reverse))
