"""One linear recurrence and its derivatives, as three primitives above every method.

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
have size 1 (a constant decay has size 1 on the time axis). `evaluate.py` turns a primitive into a
method's program once the platform is known.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from rnnscan.scan.evaluate import Spec, Target, full_shape, run_scan, run_tangent, run_transpose
from rnnscan.scan.product import sum_to
from rnnscan.scan.table import PLATFORMS
from rnnscan.scan.time_axis import TimeAxis, keep


def recurrence(table, a, b, h0, reset, *, axis, reverse, method):
    """Equation (1) for operands that are already in line; differentiable in a, b and h0."""
    spec = Spec(table, method, axis, reverse)
    return scan_p.bind(a, b, h0, *_optional(reset), spec=spec)


def _optional(*operands):
    return tuple(operand for operand in operands if operand is not None)


def _tangent(spec, a, h, h0, reset, da, db, dh0):
    return tangent_p.bind(a, h, h0, da, db, dh0, *_optional(reset), spec=spec)


def _transpose(spec, a, h, h0, reset, g, decay_shape, state_shape):
    """(da, db, dh0); da is `None` where h is."""
    residuals = (a,) if h is None else (a, h, h0)
    outputs = transpose_p.bind(
        g,
        *residuals,
        *_optional(reset),
        spec=spec,
        with_decay=h is not None,
        decay_shape=decay_shape,
        state_shape=state_shape,
    )
    return outputs if h is not None else (None, *outputs)


# Shapes.


def _like(aval, shape):
    return aval.update(shape=shape, weak_type=False)


def _scan_aval(a, b, h0, *reset, spec):
    return _like(b, full_shape(spec, b, a, h0, *reset))


def _tangent_aval(a, h, h0, da, db, dh0, *reset, spec):
    return _like(db, full_shape(spec, db, a, h, h0, da, dh0, *reset))


def _transpose_aval(g, a, *rest, spec, with_decay, decay_shape, state_shape):
    shapes = [full_shape(spec, g, a, *rest), state_shape]
    return [_like(g, shape) for shape in ([decay_shape] if with_decay else []) + shapes]


# Differentiation.


def _before(spec, h, h0, reset):
    """h_{t-1}, zero where the step resets."""
    time = TimeAxis(spec.axis, h.shape[spec.axis], spec.reverse)
    return keep(reset, time.before(h, h0)) if time.length else h


def _keep_decay(spec, reset, da):
    return da if reset is None else keep(spec.product.over_decay(reset), da)


def _instantiate(tangents):
    return [ad.instantiate_zeros(t) if isinstance(t, ad.Zero) else t for t in tangents]


def _full(x, like):
    return jnp.broadcast_to(x, like.shape)


def _scan_jvp(primals, tangents, *, spec):
    a, _, h0, *rest = primals
    reset = rest[0] if rest else None
    h = scan_p.bind(*primals, spec=spec)
    da, db, dh0 = tangents[:3]
    if isinstance(da, ad.Zero):
        db, dh0 = _instantiate([db, dh0])
        return h, scan_p.bind(a, db, dh0, *rest, spec=spec)
    da, db, dh0 = _instantiate([da, db, dh0])
    return h, _tangent(spec, a, h, h0, reset, da, db, dh0)


def _tangent_jvp(primals, tangents, *, spec):
    a, h, h0, da, _, dh0, *rest = primals
    reset = rest[0] if rest else None
    product = spec.product
    dh = tangent_p.bind(*primals, spec=spec)
    a_dot, h_dot, h0_dot, da_dot, db_dot, dh0_dot = _instantiate(tangents[:6])
    # d(dh_t) = a_t * d(dh_{t-1}) + drive_t + da_dot_t * h_{t-1}, and a_dot_t * dh_{t-1} + da_t *
    # h_dot_{t-1} joins the drive.
    drive = (
        db_dot
        + product.apply(_keep_decay(spec, reset, a_dot), _before(spec, dh, dh0, reset))
        + product.apply(
            _keep_decay(spec, reset, da), _before(spec, _full(h_dot, dh), h0_dot, reset)
        )
    )
    return dh, _tangent(spec, a, h, h0, reset, da_dot, drive, dh0_dot)


def _transpose_jvp(primals, tangents, *, spec, with_decay, decay_shape, state_shape):
    g, a, *rest = primals
    g_dot, a_dot, *rest_dot = tangents
    h, h0, *reset = rest if with_decay else (None, None, *rest)
    reset = reset[0] if reset else None
    product = spec.product
    shapes = {"decay_shape": decay_shape, "state_shape": state_shape}
    da, adjoint, dh0 = _transpose(spec, a, h, h0, reset, g, **shapes)
    g_dot, a_dot = _instantiate([g_dot, a_dot])
    time = TimeAxis(spec.axis, adjoint.shape[spec.axis], spec.reverse)

    # What a_dot sends one step back: a_dot_t' * l_t, into g at t-1 and, from step 0, into h0.
    kept = _keep_decay(spec, reset, product.transpose(a_dot))
    sent = _full(product.apply(kept, keep(reset, adjoint)), adjoint)
    if time.length:
        back = time.backwards
        g_dot = g_dot + back.before(sent, lax.full_like(sent, 0, shape=time.one(sent.shape)))
    da_dot, adjoint_dot, dh0_dot = _transpose(spec, a, h, h0, reset, g_dot, **shapes)
    if time.length:
        dh0_dot = dh0_dot + sum_to(time.slice(sent, 0), state_shape)
    if not with_decay:
        return [adjoint, dh0], [adjoint_dot, dh0_dot]
    h_dot, h0_dot = _instantiate(rest_dot[:2])
    before_dot = _before(spec, _full(h_dot, adjoint), h0_dot, reset)
    da_dot = da_dot + product.outer(keep(reset, adjoint), before_dot, decay_shape)
    return [da, adjoint, dh0], [da_dot, adjoint_dot, dh0_dot]


# Transposition: (1) is linear in b and h0, (2) in da, db and dh0, (3) in g.


def _require_linear(name, linear, others):
    if any(map(ad.is_undefined_primal, others)):
        raise NotImplementedError(
            f"{name} is not linear in its decay and its residuals: it cannot be transposed with "
            "respect to them"
        )
    return [x.aval if ad.is_undefined_primal(x) else None for x in linear]


def _only(avals, cotangents):
    return [ct if aval is not None else None for aval, ct in zip(avals, cotangents, strict=True)]


def _scan_transpose(g, a, b, h0, *reset, spec):
    avals = _require_linear("scan", (b, h0), (a, *reset))
    if isinstance(g, ad.Zero):
        cotangents = [None if aval is None else ad.Zero(aval) for aval in avals]
    else:
        b_shape, h0_shape = ((x.aval if ad.is_undefined_primal(x) else x).shape for x in (b, h0))
        flags = reset[0] if reset else None
        _, db, dh0 = _transpose(spec, a, None, None, flags, g, None, h0_shape)
        cotangents = _only(avals, [sum_to(db, b_shape), dh0])
    return [None, *cotangents, *(None for _ in reset)]


def _tangent_transpose(g, a, h, h0, da, db, dh0, *reset, spec):
    linear = (da, db, dh0)
    avals = _require_linear("the tangent map of a scan", linear, (a, h, h0, *reset))
    if isinstance(g, ad.Zero):
        cotangents = [None if aval is None else ad.Zero(aval) for aval in avals]
    else:
        shapes = [(x.aval if ad.is_undefined_primal(x) else x).shape for x in linear]
        flags = reset[0] if reset else None
        if avals[0] is None:
            _, db_ct, dh0_ct = _transpose(spec, a, None, None, flags, g, None, shapes[2])
            cotangents = _only(avals, [None, sum_to(db_ct, shapes[1]), dh0_ct])
        else:
            da_ct, db_ct, dh0_ct = _transpose(spec, a, h, h0, flags, g, shapes[0], shapes[2])
            cotangents = _only(avals, [da_ct, sum_to(db_ct, shapes[1]), dh0_ct])
    return [None, None, None, *cotangents, *(None for _ in reset)]


def _transpose_transpose(cts, g, a, *rest, spec, with_decay, decay_shape, state_shape):
    _require_linear("the transposed scan", (g,), (a, *rest))
    if all(isinstance(ct, ad.Zero) for ct in cts):
        return [ad.Zero(g.aval), *(None for _ in (a, *rest))]
    cts = _instantiate(cts)
    if with_decay:
        h, h0, *reset = rest
        flags = reset[0] if reset else None
        ct = _tangent(spec, a, h, h0, flags, *cts)
    else:
        ct = scan_p.bind(a, *cts, *rest, spec=spec)
    return [sum_to(ct, g.aval.shape), *(None for _ in (a, *rest))]


# Batching: the mapped axis stays where it is; operands without it get size 1 there.


def _batch(operands, dims, spec):
    """Operands in line, the spec with its axis moved, and where the mapped axis is."""
    mapped = [(x, d) for x, d in zip(operands, dims, strict=True) if d is not None]
    largest, dim = max(mapped, key=lambda pair: math.prod(pair[0].shape))
    if dim > largest.ndim - 1 - spec.product.decay_axes:
        dim = 0  # inside (or right behind) a vector or a matrix: no place for a batch axis
    operands = [
        lax.expand_dims(x, (dim,)) if d is None else jnp.moveaxis(x, d, dim)
        for x, d in zip(operands, dims, strict=True)
    ]
    size = next(x.shape[dim] for x, d in zip(operands, dims, strict=True) if d is not None)
    spec = spec._replace(axis=spec.axis + (dim <= spec.axis))
    return operands, spec, dim, size


def _scan_batch(operands, dims, *, spec):
    operands, spec, dim, _ = _batch(operands, dims, spec)
    return scan_p.bind(*operands, spec=spec), dim


def _tangent_batch(operands, dims, *, spec):
    operands, spec, dim, _ = _batch(operands, dims, spec)
    return tangent_p.bind(*operands, spec=spec), dim


def _transpose_batch(operands, dims, *, spec, with_decay, decay_shape, state_shape):
    operands, spec, dim, size = _batch(operands, dims, spec)

    def batched(shape):
        return shape and (*shape[:dim], size, *shape[dim:])

    outputs = transpose_p.bind(
        *operands,
        spec=spec,
        with_decay=with_decay,
        decay_shape=batched(decay_shape),
        state_shape=batched(state_shape),
    )
    return outputs, [dim] * len(outputs)


def _platform_of(operand) -> str:
    """Where an operand lies when a primitive is evaluated outside of any program."""
    devices = operand.devices() if isinstance(operand, jax.Array) else ()
    platform = next(iter(devices)).platform if devices else jax.default_backend()
    return "cuda" if platform == "gpu" else platform


def _primitive(name, aval, run, jvp, transpose, batch, *, multiple_results=False):
    primitive = Primitive(f"rnnscan_{name}")
    primitive.multiple_results = multiple_results
    primitive.def_abstract_eval(aval)

    # Not a jit of the primitive itself: with jit disabled, that would call itself for ever.
    @functools.partial(jax.jit, static_argnames=("params", "target"))
    def evaluate(*operands, params, target):
        return run(*operands, target=target, **dict(params))

    def impl(*operands, **params):
        target = Target(_platform_of(operands[0]))
        return evaluate(*operands, params=tuple(sorted(params.items())), target=target)

    def lower(context, *operands, platform, **params):
        exported = context.module_context.lowering_parameters.for_export
        rule = functools.partial(run, target=Target(platform, exported))
        return mlir.lower_fun(rule, multiple_results=multiple_results)(context, *operands, **params)

    primitive.def_impl(impl)
    for platform in (*PLATFORMS, None):
        rule = functools.partial(lower, platform=platform or "other")
        mlir.register_lowering(primitive, rule, platform=platform)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    return primitive


scan_p = _primitive("scan", _scan_aval, run_scan, _scan_jvp, _scan_transpose, _scan_batch)
tangent_p = _primitive(
    "scan_tangent", _tangent_aval, run_tangent, _tangent_jvp, _tangent_transpose, _tangent_batch
)
transpose_p = _primitive(
    "scan_transpose",
    _transpose_aval,
    run_transpose,
    _transpose_jvp,
    _transpose_transpose,
    _transpose_batch,
    multiple_results=True,
)
