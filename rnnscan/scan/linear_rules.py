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

from rnnscan.scan import linear_lowering as on_one
from rnnscan.scan import linear_over_devices as over_devices
from rnnscan.scan.arguments import varying_axes
from rnnscan.scan.linear_layout import layout, vary
from rnnscan.scan.linear_lowering import Over, Spec, full_shape
from rnnscan.scan.linear_method import (
    Gradients,
    Past,
    ScanOperands,
    States,
    TangentOperands,
    TransposeOperands,
)
from rnnscan.scan.primitive import Operation, instantiated, is_zero, mapped, shape_of, with_axis
from rnnscan.scan.product import sum_to
from rnnscan.scan.sharding import like
from rnnscan.scan.split_time import AxisName, before, from_first, names_of
from rnnscan.scan.time_axis import TimeAxis, keep


def recurrence(spec: Spec, operands: ScanOperands) -> jax.Array:
    """Equation (1) for operands that are already in line; differentiable in a, b and h0."""
    return scan(vary(operands, spec), spec=spec).h


def over(axis_name: AxisName | None, operands: ScanOperands) -> Over | None:
    """How time is split over the mesh axes of this name; ValueError where they are not here."""
    if axis_name is None:
        return None
    axes = names_of(axis_name)
    # Without types (`check_vma=False`) a gradient is summed over the devices.
    return Over(axes, shared=varying_axes(*operands) >= {*axes})


# Shapes.


def _states(spec, drive, operands):
    h = like(drive, full_shape(spec, drive, operands))
    returned = spec.over is not None and spec.over.returned
    return States(h, like(h, _time(spec, h).one(h.shape)) if returned else None)


def _scan_results(operands, *, spec):
    return _states(spec, operands.b, operands)


def _tangent_results(operands, *, spec):
    return _states(spec, operands.db, operands)


def _transpose_results(operands, *, spec, decay_shape, state_shape):
    g = operands.g
    da = None if decay_shape is None else like(g, decay_shape)
    dh0 = like(g, state_shape)
    if spec.over is not None and spec.over.shared and g.manual_axis_type is not None:
        varying = g.manual_axis_type.varying - {*spec.over.axes}
        dh0 = dh0.update(manual_axis_type=g.manual_axis_type.update(varying=varying))
    return Gradients(da, like(g, full_shape(spec, g, operands)), dh0)


# Differentiation.


def _time(spec, x):
    return TimeAxis(spec.axis, x.shape[spec.axis], spec.reverse)


def _over(spec, **options):
    """The spec, where time is split over devices with these options."""
    return spec if spec.over is None else spec._replace(over=spec.over._replace(**options))


def _before(spec, h, h0, reset):
    """h_{t-1}, zero where the step resets."""
    time = _time(spec, h)
    if not time.length:
        return h
    if spec.over is not None and not spec.over.known:
        last = time.slice(h, time.length - 1)
        h0 = before(last, h0, spec.over.axes, reverse=spec.reverse)
    return keep(reset, time.before(h, h0))


def _of_first(spec, x):
    """What the first device has of the gradient of h0."""
    return from_first(x, spec.over.axes, reverse=spec.reverse, shared=spec.over.shared)


def _keep_decay(spec, reset, da):
    return da if reset is None else keep(spec.product.over_decay(reset), da)


def _full(x, like):
    return jnp.broadcast_to(x, like.shape)


def _scan_jvp(primals, tangents, *, spec):
    a, _, h0, reset = primals
    da, db, dh0, _ = tangents
    whole = scan(primals, spec=spec if is_zero(da) else _over(spec, returned=True))
    results = _returned(spec, whole)
    if is_zero(da):
        db, dh0 = instantiated((db, dh0))
        return results, scan(ScanOperands(a, db, dh0, reset), spec=spec)
    da, db, dh0 = instantiated((da, db, dh0))
    past = Past(whole.h, h0 if whole.entering is None else whole.entering)
    operands = TangentOperands(a, past, da, db, dh0, reset)
    return results, tangent(operands, spec=_over(spec, known=True))


def _returned(spec, whole):
    """Of states that were kept, those that were asked for."""
    asked = spec.over is not None and spec.over.returned
    return whole if asked else whole._replace(entering=None)


def _tangent_jvp(primals, tangents, *, spec):
    a, past, da, _, dh0, reset = primals
    a_dot, (h_dot, h0_dot), da_dot, db_dot, dh0_dot, _ = instantiated(tangents._replace(reset=None))
    product = spec.product
    whole = tangent(primals, spec=_over(spec, returned=True))
    dh, first = whole.h, dh0 if whole.entering is None else whole.entering
    # d(dh_t) = a_t * d(dh_{t-1}) + drive_t + da_dot_t * h_{t-1}, and a_dot_t * dh_{t-1} + da_t *
    # h_dot_{t-1} joins the drive.
    dh_before = _before(_over(spec, known=True), dh, first, reset)
    h_dot_before = _before(spec, _full(h_dot, dh), h0_dot, reset)
    drive = (
        db_dot
        + product.apply(_keep_decay(spec, reset, a_dot), dh_before)
        + product.apply(_keep_decay(spec, reset, da), h_dot_before)
    )
    operands = TangentOperands(a, past, da_dot, drive, dh0_dot, reset)
    return _returned(spec, whole), tangent(operands, spec=spec)


def _transpose_jvp(primals, tangents, *, spec, decay_shape, state_shape):
    _, a, past, reset, _ = primals
    g_dot, a_dot = instantiated(tangents[:2])
    product, static = spec.product, {"decay_shape": decay_shape, "state_shape": state_shape}
    gradients = transpose(primals, spec=spec, **static)
    adjoint = gradients.db
    time = _time(spec, adjoint)

    # What a_dot sends one step back: a_dot_t' * l_t, into g at t-1 and, from step 0, into h0.
    kept = _keep_decay(spec, reset, product.transpose(a_dot))
    sent = _full(product.apply(kept, keep(reset, adjoint)), adjoint)
    into_h0 = None
    if time.length:
        back, into_h0 = time.backwards, time.slice(sent, 0)
        later = lax.full_like(into_h0, 0)
        if spec.over is not None:
            later = before(into_h0, later, spec.over.axes, reverse=not spec.reverse)
            into_h0 = _of_first(spec, into_h0)
        g_dot = g_dot + back.before(sent, later)
    dots = transpose(TransposeOperands(g_dot, a, past, reset), spec=spec, **static)
    dots = dots._replace(dh0=_plus(dots.dh0, into_h0))
    if past is not None:
        h_dot, h0_dot = instantiated(tangents.past)
        before_dot = _before(spec, _full(h_dot, adjoint), h0_dot, reset)
        of_h = product.outer(keep(reset, adjoint), before_dot, decay_shape)
        dots = dots._replace(da=dots.da + of_h)
    return gradients, dots


# Transposition: (1) is linear in b and h0, (2) in da, db and dh0, (3) in g.


def _scan_transpose(cotangents, operands, *, spec):
    a, b, h0, reset = operands
    g, of_h0 = _sent_back(spec, cotangents)
    known = TransposeOperands(g, a, None, reset)
    _, db, dh0 = transpose(known, spec=spec, decay_shape=None, state_shape=shape_of(h0))
    return {"b": sum_to(db, shape_of(b)), "h0": _plus(dh0, of_h0)}


def _tangent_transpose(cotangents, operands, *, spec):
    a, past, da, db, dh0, reset = operands
    asked = ad.is_undefined_primal(da)
    g, more_dh0 = _sent_back(spec, cotangents)
    known = TransposeOperands(g, a, past if asked else None, reset)
    decay_shape, state_shape = shape_of(da) if asked else None, shape_of(dh0)
    of_da, of_db, of_dh0 = transpose(
        known, spec=spec, decay_shape=decay_shape, state_shape=state_shape
    )
    return {"da": of_da, "db": sum_to(of_db, shape_of(db)), "dh0": _plus(of_dh0, more_dh0)}


def _sent_back(spec, cotangents):
    """That of h, to whose last step the device after this one adds that of the state which entered
    there; and what the first device adds to that of h0, if any."""
    g, entering = cotangents
    if entering is None:
        return g, None
    axes, time = spec.over.axes, _time(spec, g)
    last = time.length - 1
    later = before(entering, lax.full_like(entering, 0), axes, reverse=not spec.reverse)
    return time.put(g, time.slice(g, last) + later, last), _of_first(spec, entering)


def _plus(dh0, more):
    return dh0 if more is None else dh0 + sum_to(more, dh0.shape)


def _transpose_transpose(cotangents, operands, *, spec, decay_shape, state_shape):
    del decay_shape, state_shape
    g, a, past, reset, _ = operands
    da, db, dh0 = cotangents
    spec = _over(spec, returned=False)
    if past is None:
        ct = scan(ScanOperands(a, db, dh0, reset), spec=spec)
    else:
        ct = tangent(TangentOperands(a, past, da, db, dh0, reset), spec=spec)
    return {"g": sum_to(ct.h, shape_of(g))}


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


# Evaluation: on one device, or on several, each of which does the same for its own steps.


def _run_scan(operands, *, spec, target):
    if spec.over is not None:
        return over_devices.scan(scan, operands, spec)
    return States(on_one.run_scan(operands, spec=spec, target=target), None)


def _run_tangent(operands, *, spec, target):
    if spec.over is not None:
        return over_devices.tangent(tangent, operands, spec)
    return States(on_one.run_tangent(operands, spec=spec, target=target), None)


def _run_transpose(operands, *, spec, target, **shapes):
    if spec.over is not None:
        return over_devices.transpose(transpose, operands, spec, **shapes)
    return on_one.run_transpose(operands, spec=spec, target=target, **shapes)


scan = Operation(
    "scan",
    results=_scan_results,
    run=_run_scan,
    jvp=_scan_jvp,
    batch=_scan_batch,
    layout=layout,
    linear=("b", "h0"),
    transpose=_scan_transpose,
)
tangent = Operation(
    "scan_tangent",
    results=_tangent_results,
    run=_run_tangent,
    jvp=_tangent_jvp,
    batch=_tangent_batch,
    layout=layout,
    linear=("da", "db", "dh0"),
    transpose=_tangent_transpose,
)
transpose = Operation(
    "scan_transpose",
    results=_transpose_results,
    run=_run_transpose,
    jvp=_transpose_jvp,
    batch=_transpose_batch,
    layout=layout,
    linear=("g",),
    transpose=_transpose_transpose,
)
