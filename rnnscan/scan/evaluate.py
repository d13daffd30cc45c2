"""From a primitive of `recurrence.py` to a method's program, once the platform is known.

On a CPU, adjacent axes that every operand broadcasts alike are merged, so that a method usually
sees (outer, T, inner). Elsewhere they are left as they are: an array may be sharded over one of
them, and the compiler would gather it to merge. The method is chosen from the table; empty results
need no method.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from rnnscan.scan.product import Product
from rnnscan.scan.table import Case, MethodTable
from rnnscan.scan.time_axis import TimeAxis


class Target(NamedTuple):
    """What a program is made for: a platform, and maybe to be stored (`jax.export`)."""

    platform: str
    exported: bool = False


class Spec(NamedTuple):
    """What is static about a recurrence."""

    table: MethodTable
    method: str
    axis: int
    reverse: bool

    @property
    def product(self) -> Product:
        return self.table.product


def full_shape(spec: Spec, state, *others):
    """The state's shape: what the batch and time axes of all operands broadcast to."""
    lead = state.ndim - spec.product.state_axes
    return (*jnp.broadcast_shapes(*(x.shape[:lead] for x in (state, *others))), *state.shape[lead:])


def case_of(table: MethodTable, target, dtype, shape, axis, constant) -> Case:
    """The case that a method table sees for a state of this shape."""
    lead = shape[: len(shape) - table.product.state_axes]
    size = math.prod(shape[len(lead) :])
    inner = math.prod(lead[axis + 1 :]) * size
    width = math.prod(lead[:axis]) * inner
    return Case(target.platform, dtype, shape[axis], width, inner, size, constant, target.exported)


def run_scan(a, b, h0, *reset, spec, target):
    shape = full_shape(spec, b, a, h0, *reset)
    if math.prod(shape) == 0:
        return lax.full_like(b, 0, shape=shape)
    layout = _layout(spec, target.platform, shape, a, b, h0, *reset)
    a, b, h0, *reset = layout.merge(a, b, h0, *reset)
    method = _method(spec, target, shape, b.dtype, a, layout)
    operands = (a, b, h0, reset[0] if reset else None)
    options = {"shape": layout.merged(shape), "dtype": b.dtype}
    h = method.forward(spec.product, layout.time, *operands, **options)
    return h.reshape(shape)


def run_tangent(a, h, h0, da, db, dh0, *reset, spec, target):
    shape = full_shape(spec, db, a, h, h0, da, dh0, *reset)
    if math.prod(shape) == 0:
        return lax.full_like(db, 0, shape=shape)
    layout = _layout(spec, target.platform, shape, a, h, h0, da, db, dh0, *reset)
    a, h, h0, da, db, dh0, *reset = layout.merge(a, h, h0, da, db, dh0, *reset)
    method = _method(spec, target, shape, db.dtype, a, layout)
    operands = (a, h, h0, reset[0] if reset else None, da, db, dh0)
    options = {"shape": layout.merged(shape), "dtype": db.dtype}
    return method.tangent(spec.product, layout.time, *operands, **options).reshape(shape)


def run_transpose(g, a, *rest, spec, target, with_decay, decay_shape, state_shape):
    shape = full_shape(spec, g, a, *rest)
    shapes = (decay_shape, shape, state_shape) if with_decay else (shape, state_shape)
    if math.prod(shape) == 0:
        return [lax.full_like(g, 0, shape=s) for s in shapes]
    da_shape = decay_shape if with_decay else a.shape
    layout = _layout(spec, target.platform, shape, g, a, *rest, like=(da_shape, state_shape))
    g, a, *rest = layout.merge(g, a, *rest)
    h, h0, *reset = rest if with_decay else (None, None, *rest)
    method = _method(spec, target, shape, g.dtype, a, layout)
    outputs = method.transpose(
        spec.product,
        layout.time,
        *(a, h, h0, reset[0] if reset else None, g),
        shape=layout.merged(shape),
        dtype=g.dtype,
        decay_shape=layout.merged(da_shape),
        state_shape=layout.merged(state_shape),
    )
    outputs = outputs if with_decay else outputs[1:]
    return [x.reshape(s) for x, s in zip(outputs, shapes, strict=True)]


class _Layout(NamedTuple):
    """Which adjacent axes, before those a product acts on, are treated as one."""

    groups: tuple[tuple[int, int], ...]
    time: TimeAxis

    def merged(self, shape):
        lead = [math.prod(shape[start:stop]) for start, stop in self.groups]
        return (*lead, *shape[self.groups[-1][1] :])

    def merge(self, *operands):
        return [x.reshape(self.merged(x.shape)) for x in operands]


def _layout(spec: Spec, platform, shape, *operands, like=()) -> _Layout:
    """Axes merge where every operand broadcasts both of them or neither; time stays alone."""
    shapes = [*(x.shape for x in operands), *like]
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


def _method(spec: Spec, target: Target, shape, dtype, a, layout):
    constant = a.shape[layout.time.axis] == 1
    case = case_of(spec.table, target, dtype, shape, spec.axis, constant)
    return spec.table.resolve(spec.method, case)
