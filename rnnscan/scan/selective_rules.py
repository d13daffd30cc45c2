"""The selective scan and its derivatives, as three operations above every method.

    forward    h_t = a_t * h_{t-1} + drive_t,  y_t = h_t C_t + D x_t                        (1)
    tangent    of y and of the last state, along tangents of all inputs                     (2)
    transpose  of (2): from cotangents of y and of the last state to those of the inputs    (3)

where a_t and drive_t are functions of delta_t, A, B_t and x_t. (2) is linear in the tangents. The
backward pass keeps the inputs and the state before every `EVERY`-th step, from which (3) makes the
others again.

Derivatives of higher order are those of the plain stretches, whatever method computes the first.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan.scan.primitive import Operation, instantiated, mapped, no_tangent, with_axis
from rnnscan.scan.selective_method import (
    ForwardOperands,
    Inputs,
    Results,
    SelectiveCase,
    SelectiveMethod,
    SelectiveProblem,
    TangentOperands,
    TransposeOperands,
    kept_states,
)
from rnnscan.scan.selective_methods import selective_table
from rnnscan.scan.sharding import Layout, Names, like, merged, parted
from rnnscan.scan.target import Target


@dataclasses.dataclass(frozen=True)
class Spec(SelectiveProblem):
    """What is static about a call."""

    method: str = "auto"


# Shapes, and the method.


def _forward_results(operands, *, spec):
    x, h0 = operands.inputs.x, operands.inputs.h0
    kept = None
    if spec.keep:
        batch, *state = h0.shape
        kept = like(h0, (batch, kept_states(x.shape[1]), *state))
    return Results(like(x, x.shape), like(h0, h0.shape), kept)


def _tangent_results(operands, *, spec):
    return _forward_results(operands, spec=dataclasses.replace(spec, keep=False))


def _transpose_results(operands, *, spec):
    del spec
    return jax.tree.map(lambda x: like(x, x.shape), operands.inputs)


def case_of(spec: Spec, target: Target, inputs: Inputs) -> SelectiveCase:
    """The case of a call, by its inputs or their shapes."""
    batch, channels, size = inputs.h0.shape
    return SelectiveCase(
        platform=target.platform,
        exported=target.exported,
        device=target.device,
        dtype=np.dtype(inputs.x.dtype),
        length=inputs.x.shape[1],
        width=batch * channels * size,
        inner=channels * size,
        discretisation=spec.discretisation,
    )


def _run(name: str, operands, *, spec: Spec, target: Target):
    shapes = [x.shape for x in jax.tree.leaves(operands.inputs)]
    if 0 in map(math.prod, shapes):
        method = selective_table.named("sequential")
    else:
        method = selective_table.resolve(spec.method, case_of(spec, target, operands.inputs))
    return getattr(method, name)(dataclasses.replace(spec, platform=target.platform), operands)


# Differentiation.


def _plain(spec: Spec) -> SelectiveMethod:
    """The method whose programs JAX differentiates: the one that is named, if it is made of JAX."""
    native = spec.method in ("auto", "native")
    return selective_table.named("stretches" if native else spec.method)


def _plain_forward(spec: Spec, reset, inputs: Inputs) -> Results:
    plain = dataclasses.replace(spec, keep=False)
    return _plain(spec).forward(plain, ForwardOperands(inputs, reset))


def _forward_jvp(primals, tangents, *, spec):
    whole = forward(primals, spec=dataclasses.replace(spec, keep=True))
    moving = instantiated(tangents.inputs)
    operands = TangentOperands(primals.inputs, whole.kept, moving, primals.reset)
    moved = tangent(operands, spec=dataclasses.replace(spec, keep=False))
    if not spec.keep:
        return whole._replace(kept=None), moved
    # Whatever is computed of the kept states is differentiated as a function of the inputs.
    return whole, moved._replace(kept=no_tangent(whole.kept))


def _tangent_jvp(primals, tangents, *, spec):
    def moved(inputs: Inputs, along: Inputs) -> Results:
        of_inputs = functools.partial(_plain_forward, spec, primals.reset)
        return jax.jvp(of_inputs, (inputs,), (along,))[1]

    given = primals.inputs, primals.tangents
    return jax.jvp(moved, given, instantiated((tangents.inputs, tangents.tangents)))


def _transpose_jvp(primals, tangents, *, spec):
    def sent_back(inputs: Inputs, cotangents: Results) -> Inputs:
        of_inputs = functools.partial(_plain_forward, spec, primals.reset)
        return jax.vjp(of_inputs, inputs)[1](cotangents)[0]

    given = primals.inputs, primals.cotangents
    return jax.jvp(sent_back, given, instantiated((tangents.inputs, tangents.cotangents)))


# Transposition: (2) is linear in the tangents, (3) in the cotangents of (2).


def _tangent_transpose(cotangents, operands, *, spec):
    inputs, kept, _, reset = operands
    known = TransposeOperands(inputs, kept, cotangents, reset)
    return {"tangents": transpose(known, spec=spec)}


def _transpose_transpose(cotangents, operands, *, spec):
    inputs, kept, _, reset = operands
    known = TangentOperands(inputs, kept, cotangents, reset)
    return {"cotangents": tangent(known, spec=spec)}


# Batching: the mapped axis joins the batch.

_SHARED = ("a", "d", "bias")  # those of `Inputs` that may be one for all sequences


def _is_one(x: jax.Array | None) -> bool:
    return x is None or x.shape[:2] == (1, 1)


def _batch(name: str, operands: Any, dims: Any, *, spec: Spec):
    x, place = mapped(operands, dims)[0]
    size = x.shape[place]
    operands = with_axis(operands, dims, 0)
    batch = operands.inputs.x.shape[1]
    # The gradient of what all share is one for each of the mapped axis.
    apart = name == "transpose"

    # A tangent has the shape of what it belongs to.
    pair = [operands.inputs, operands.tangents] if name == "tangent" else [operands.inputs]
    ones = {f: all(_is_one(getattr(inputs, f)) for inputs in pair) for f in _SHARED}

    def joined(path, x: jax.Array) -> jax.Array:
        if ones.get(path[-1].name) and not apart:
            return x[0]
        return merged(jnp.broadcast_to(x, (size, batch, *x.shape[2:])))

    outputs = _OPERATIONS[name](jax.tree.map_with_path(joined, operands), spec=spec)
    outputs = jax.tree.map(lambda y: parted(y, (size, batch)), outputs)
    if not apart:
        return outputs, 0

    def summed(found, given):
        return jnp.sum(found, 1, keepdims=True) if given.shape[1] == 1 else found

    return jax.tree.map(summed, outputs, operands.inputs), 0


# On a mesh: sequences and channels may be divided; time and the N numbers are whole on each device.

_OVER_TIME = ("batch", None, "channels")
_OF_ALL = ("batch", None, "channels", None)  # the size of the third axis is 1
_STATE = ("batch", "channels", None)
_NAMES: dict[str, Names] = {  # of the fields of operands and results
    "x": _OVER_TIME,
    "delta": _OVER_TIME,
    "a": _STATE,
    "b": _OF_ALL,
    "c": _OF_ALL,
    "d": ("batch", "channels"),
    "bias": ("batch", "channels"),
    "h0": _STATE,
    "reset": ("batch", None),
    "y": _OVER_TIME,
    "last": _STATE,
    "kept": _OF_ALL,
}


def _names_of(tree: Any) -> list[Names]:
    """Of the leaves of named tuples within each other."""
    named = zip(tree._fields, tree, strict=True)
    return [
        name
        for field, part in named
        if part is not None
        for name in ([_NAMES[field]] if field in _NAMES else _names_of(part))
    ]


def _names(operands, results, *, structure, **_):
    given = structure.unflatten(operands)
    transposed = isinstance(given, TransposeOperands)
    returned = given.inputs if transposed else Results(*results)
    return _names_of(given), _names_of(returned)


_layout = Layout(_names, on_device=lambda static, places, sizes: static)

forward = Operation(
    "selective_forward",
    results=_forward_results,
    run=functools.partial(_run, "forward"),
    jvp=_forward_jvp,
    batch=functools.partial(_batch, "forward"),
    layout=_layout,
)
tangent = Operation(
    "selective_tangent",
    results=_tangent_results,
    run=functools.partial(_run, "tangent"),
    jvp=_tangent_jvp,
    batch=functools.partial(_batch, "tangent"),
    layout=_layout,
    linear=("tangents",),
    transpose=_tangent_transpose,
)
transpose = Operation(
    "selective_transpose",
    results=_transpose_results,
    run=functools.partial(_run, "transpose"),
    jvp=_transpose_jvp,
    batch=functools.partial(_batch, "transpose"),
    layout=_layout,
    linear=("cotangents",),
    transpose=_transpose_transpose,
)
_OPERATIONS = {"forward": forward, "tangent": tangent, "transpose": transpose}
