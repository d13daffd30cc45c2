"""What of a linear recurrence may be divided among devices: every axis but those of a vector or a
matrix, named by its place; time too, by `linear_over_devices.py`.
"""

import math

import jax

from rnnscan.scan.arguments import vary_over, varying_axes
from rnnscan.scan.linear_lowering import Over
from rnnscan.scan.sharding import Layout
from rnnscan.scan.split_time import from_first


def _names(operands, results, *, spec, state_shape=None, **_):
    lead = min(x.ndim for x in operands) - spec.product.state_axes
    names: list[str | None] = [str(i) for i in range(lead)]
    if spec.over is not None:
        names[spec.axis] = None

    def of(leaves):
        return [(*names, *[None] * (x.ndim - lead)) for x in leaves]

    returned = of(results)
    if state_shape is not None:  # that of h0 is whole already where time is split
        returned[-1] = tuple(None if n == str(spec.axis) else n for n in returned[-1])
    return of(operands), returned


def vary(operands, spec):
    """Inside `jax.shard_map`, operands that vary over the same mesh axes; a state before the whole
    sequence does not vary over those along which time is split."""
    leaves, structure = jax.tree.flatten(operands)
    union = varying_axes(*leaves)
    alike = structure.unflatten([vary_over(x, union) for x in leaves])
    if spec.over is None:
        return alike

    def whole(x):
        if varying_axes(x) & {*spec.over.axes}:
            x = from_first(x, spec.over.axes, reverse=spec.reverse)
        return vary_over(x, union - {*spec.over.axes})

    given = {name: getattr(operands, name, None) for name in ("h0", "dh0")}
    alike = alike._replace(**{name: whole(x) for name, x in given.items() if x is not None})
    past = getattr(operands, "past", None)
    if past is not None and not spec.over.known:
        alike = alike._replace(past=alike.past._replace(h0=whole(past.h0)))
    return alike


def _on_device(static, places, sizes):
    def part(shape):
        parts = (math.prod(sizes[n] for n in places.get(str(i), ())) for i in range(len(shape)))
        return tuple(n if n == 1 else n // p for n, p in zip(shape, parts, strict=True))

    shapes = {n: part(static[n]) for n in ("decay_shape", "state_shape") if static.get(n)}
    spec = static["spec"]
    split = places.get(str(spec.axis))
    return {**static, **shapes, "spec": spec._replace(over=Over(split)) if split else spec}


def _vary(leaves, *, structure, spec, **_):
    return jax.tree.leaves(vary(structure.unflatten(leaves), spec))


def _chained(static):
    return None if static["spec"].over else str(static["spec"].axis)


layout = Layout(_names, _on_device, _vary, _chained, lambda static: bool(static["spec"].over))
