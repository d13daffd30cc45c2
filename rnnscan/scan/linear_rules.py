"""One linear recurrence and its derivatives, as three operations above every method.

Over a product `*` (see `product.py`), in scan order, with `h_{-1} = h0`:

    scan       h_t  = a_t * h_{t-1} + b_t                                           (1)
    tangent    dh_t = a_t * dh_{t-1} + db_t + da_t * h_{t-1},      dh_{-1} = dh0     (2)
    transpose  l_t  = g_t + a_{t+1}' * l_{t+1}                                      (3)
               db_t = l_t,  da_t = l_t (x) h_{t-1},  dh0 = a_0' * l_0

(2) is the derivative of (1): the same recurrence with another drive. It is linear in (da, db, dh0)
and (3) is its transpose. The derivatives of (2) and (3) are again (2) and (3) with elementwise
drives, so the three are closed: every mode and order of differentiation, batching and partial
evaluation follow from the rules below, whatever method computes them, and the backward pass keeps
a and h and nothing else. Without da, (2) is (1) itself and (3) needs no h.

Where a step resets, `h_t = b_t`: the past and a_t are replaced by zeros *before* they enter a
product, here and in the methods, so that inf and nan do not pass.

Operands: b, h, g and the state have the same rank; leading axes line up and broadcast where they
have size 1 (a constant decay has size 1 on the time axis). `linear_lowering.py` turns an operation
into a method's program once the platform is known.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad

from rnnscan.scan.linear_lowering import Spec, full_shape, run_scan, run_tangent, run_transpose
from rnnscan.scan.linear_method import (
    Gradients,
    Past,
    ScanOperands,
    TangentOperands,
    TransposeOperands,
)
from rnnscan.scan.primitive import Operation, instantiated, is_zero, mapped, shape_of, with_axis
from rnnscan.scan.product import sum_to
from rnnscan.scan.time_axis import TimeAxis, keep


def recurrence(spec: Spec, operands: ScanOperands) -> jax.Array:
    """Equation (1) for operands that are already in line; differentiable in a, b and h0."""
    return scan(operands, spec=spec)


# Shapes.


def _like(aval, shape):
    return aval.update(shape=shape, weak_type=False)


def _scan_results(operands, *, spec):
    return _like(operands.b, full_shape(spec, operands.b, operands))


def _tangent_results(operands, *, spec):
    return _like(operands.db, full_shape(spec, operands.db, operands))


def _transpose_results(operands, *, spec, decay_shape, state_shape):
    g = operands.g
    da = None if decay_shape is None else _like(g, decay_shape)
    return Gradients(da, _like(g, full_shape(spec, g, operands)), _like(g, state_shape))


# Differentiation.


def _before(spec, h, h0, reset):
    """h_{t-1}, zero where the step resets."""
    time = TimeAxis(spec.axis, h.shape[spec.axis], spec.reverse)
    return keep(reset, time.before(h, h0)) if time.length else h


def _keep_decay(spec, reset, da):
    return da if reset is None else keep(spec.product.over_decay(reset), da)


def _full(x, like):
    return jnp.broadcast_to(x, like.shape)


def _scan_jvp(primals, tangents, *, spec):
    a, _, h0, reset = primals
    da, db, dh0, _ = tangents
    h = scan(primals, spec=spec)
    if is_zero(da):
        db, dh0 = instantiated((db, dh0))
        return h, scan(ScanOperands(a, db, dh0, reset), spec=spec)
    da, db, dh0 = instantiated((da, db, dh0))
    operands = TangentOperands(a, Past(h, h0), da, db, dh0, reset)
    return h, tangent(operands, spec=spec)


def _tangent_jvp(primals, tangents, *, spec):
    a, past, da, _, dh0, reset = primals
    a_dot, (h_dot, h0_dot), da_dot, db_dot, dh0_dot, _ = instantiated(tangents._replace(reset=None))
    product = spec.product
    dh = tangent(primals, spec=spec)
    # d(dh_t) = a_t * d(dh_{t-1}) + drive_t + da_dot_t * h_{t-1}, and a_dot_t * dh_{t-1} + da_t *
    # h_dot_{t-1} joins the drive.
    h_dot_before = _before(spec, _full(h_dot, dh), h0_dot, reset)
    drive = (
        db_dot
        + product.apply(_keep_decay(spec, reset, a_dot), _before(spec, dh, dh0, reset))
        + product.apply(_keep_decay(spec, reset, da), h_dot_before)
    )
    operands = TangentOperands(a, past, da_dot, drive, dh0_dot, reset)
    return dh, tangent(operands, spec=spec)


def _transpose_jvp(primals, tangents, *, spec, decay_shape, state_shape):
    _, a, past, reset = primals
    g_dot, a_dot = instantiated(tangents[:2])
    product, static = spec.product, {"decay_shape": decay_shape, "state_shape": state_shape}
    gradients = transpose(primals, spec=spec, **static)
    adjoint = gradients.db
    time = TimeAxis(spec.axis, adjoint.shape[spec.axis], spec.reverse)

    # What a_dot sends one step back: a_dot_t' * l_t, into g at t-1 and, from step 0, into h0.
    kept = _keep_decay(spec, reset, product.transpose(a_dot))
    sent = _full(product.apply(kept, keep(reset, adjoint)), adjoint)
    if time.length:
        back = time.backwards
        g_dot = g_dot + back.before(sent, lax.full_like(sent, 0, shape=time.one(sent.shape)))
    dots = transpose(TransposeOperands(g_dot, a, past, reset), spec=spec, **static)
    if time.length:
        dots = dots._replace(dh0=dots.dh0 + sum_to(time.slice(sent, 0), state_shape))
    if past is not None:
        h_dot, h0_dot = instantiated(tangents.past)
        before_dot = _before(spec, _full(h_dot, adjoint), h0_dot, reset)
        of_h = product.outer(keep(reset, adjoint), before_dot, decay_shape)
        dots = dots._replace(da=dots.da + of_h)
    return gradients, dots


# Transposition: (1) is linear in b and h0, (2) in da, db and dh0, (3) in g.


def _scan_transpose(g, operands, *, spec):
    a, b, h0, reset = operands
    known = TransposeOperands(g, a, None, reset)
    _, db, dh0 = transpose(known, spec=spec, decay_shape=None, state_shape=shape_of(h0))
    return {"b": sum_to(db, shape_of(b)), "h0": dh0}


def _tangent_transpose(g, operands, *, spec):
    a, past, da, db, dh0, reset = operands
    asked = ad.is_undefined_primal(da)
    known = TransposeOperands(g, a, past if asked else None, reset)
    decay_shape, state_shape = shape_of(da) if asked else None, shape_of(dh0)
    of_da, of_db, of_dh0 = transpose(
        known, spec=spec, decay_shape=decay_shape, state_shape=state_shape
    )
    return {"da": of_da, "db": sum_to(of_db, shape_of(db)), "dh0": of_dh0}


def _transpose_transpose(cotangents, operands, *, spec, decay_shape, state_shape):
    del decay_shape, state_shape
    g, a, past, reset = operands
    da, db, dh0 = cotangents
    if past is None:
        ct = scan(ScanOperands(a, db, dh0, reset), spec=spec)
    else:
        ct = tangent(TangentOperands(a, past, da, db, dh0, reset), spec=spec)
    return {"g": sum_to(ct, shape_of(g))}


# Batching: the mapped axis stays where it is; operands without it get size 1 there.


def _batched(operands, dims, spec):
    """Operands in line, the spec with its axis moved, the mapped axis and its size."""
    pairs = mapped(operands, dims)
    largest, dim = max(pairs, key=lambda pair: math.prod(pair[0].shape))
    if dim > largest.ndim - 1 - spec.product.decay_axes:
        dim = 0  # inside (or right behind) a vector or a matrix: no place for a batch axis
    x, place = pairs[0]
    spec = spec._replace(axis=spec.axis + (dim <= spec.axis))
    return with_axis(operands, dims, dim), spec, dim, x.shape[place]


def _scan_batch(operands, dims, *, spec):
    operands, spec, dim, _ = _batched(operands, dims, spec)
    return scan(operands, spec=spec), dim


def _tangent_batch(operands, dims, *, spec):
    operands, spec, dim, _ = _batched(operands, dims, spec)
    return tangent(operands, spec=spec), dim


def _transpose_batch(operands, dims, *, spec, decay_shape, state_shape):
    operands, spec, dim, size = _batched(operands, dims, spec)

    def batched(shape):
        return shape and (*shape[:dim], size, *shape[dim:])

    shapes = {"decay_shape": batched(decay_shape), "state_shape": batched(state_shape)}
    return transpose(operands, spec=spec, **shapes), dim


scan = Operation(
    "scan",
    results=_scan_results,
    run=run_scan,
    jvp=_scan_jvp,
    batch=_scan_batch,
    linear=("b", "h0"),
    transpose=_scan_transpose,
)
tangent = Operation(
    "scan_tangent",
    results=_tangent_results,
    run=run_tangent,
    jvp=_tangent_jvp,
    batch=_tangent_batch,
    linear=("da", "db", "dh0"),
    transpose=_tangent_transpose,
)
transpose = Operation(
    "scan_transpose",
    results=_transpose_results,
    run=run_transpose,
    jvp=_transpose_jvp,
    batch=_transpose_batch,
    linear=("g",),
    transpose=_transpose_transpose,
)
