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
have size 1 (a constant decay has size 1 on the time axis). Methods see adjacent axes merged, so
that the usual case is (outer, T, inner).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from rnnscan.scan.product import Product, sum_to
from rnnscan.scan.table import Case, MethodTable
from rnnscan.scan.time_axis import TimeAxis, keep


class Spec(NamedTuple):
    """What is static about a recurrence."""

    table: MethodTable
    method: str
    axis: int
    reverse: bool
    has_reset: bool

    @property
    def product(self) -> Product:
        return self.table.product


def recurrence(table, a, b, h0, reset, *, axis, reverse, method):
    """Equation (1) for operands that are already in line; differentiable in a, b and h0."""
    spec = Spec(table, method, axis, reverse, reset is not None)
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


# Shapes: the state's is what its operands broadcast to.


def _lead(spec, a=(), states=(), flags=()):
    """Shapes of the axes that line up (batch and time)."""
    decays = [x.shape[: x.ndim - spec.product.decay_axes] for x in a]
    others = [x.shape[: x.ndim - spec.product.state_axes] for x in (*states, *flags)]
    return [*decays, *others]


def _state_shape(spec, a, states, flags):
    b = states[0]
    lead = jnp.broadcast_shapes(*_lead(spec, a, states, flags))
    return (*lead, *b.shape[b.ndim - spec.product.state_axes :])


def _like(aval, shape):
    return aval.update(shape=shape, weak_type=False)


def _scan_aval(a, b, h0, *reset, spec):
    return _like(b, _state_shape(spec, [a], [b, h0], reset))


def _tangent_aval(a, h, h0, da, db, dh0, *reset, spec):
    return _like(db, _state_shape(spec, [a, da], [db, h, h0, dh0], reset))


def _transpose_aval(g, a, *rest, spec, with_decay, decay_shape, state_shape):
    states, reset = (rest[:2], rest[2:]) if with_decay else ((), rest)
    shape = _state_shape(spec, [a], [g, *states], reset)
    outputs = [_like(g, shape), _like(g, state_shape)]
    return [_like(g, decay_shape), *outputs] if with_decay else outputs


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
    if all(isinstance(t, ad.Zero) for t in (da, db, dh0)):
        return h, ad.Zero.from_primal_value(h)
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


# Transposition. Every primitive is linear in the operands that `_linear` names.


def _require_linear(name, linear, others):
    if any(map(ad.is_undefined_primal, others)):
        raise NotImplementedError(
            f"{name} is linear in the drive and the initial state only; it cannot be transposed "
            "with respect to its decay"
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
    (aval,) = _require_linear("the transposed scan", (g,), (a, *rest))
    if all(isinstance(ct, ad.Zero) for ct in cts):
        return [ad.Zero(aval), *(None for _ in (a, *rest))]
    cts = _instantiate(cts)
    if with_decay:
        h, h0, *reset = rest
        flags = reset[0] if reset else None
        ct = _tangent(spec, a, h, h0, flags, *cts)
    else:
        ct = scan_p.bind(a, *cts, *rest, spec=spec)
    return [sum_to(ct, aval.shape), *(None for _ in (a, *rest))]


# Batching: the mapped axis stays where it is; operands without it get size 1 there.


def _batch(bind, operands, dims, spec):
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
    operands, spec, dim, _ = _batch(scan_p, operands, dims, spec)
    return scan_p.bind(*operands, spec=spec), dim


def _tangent_batch(operands, dims, *, spec):
    operands, spec, dim, _ = _batch(tangent_p, operands, dims, spec)
    return tangent_p.bind(*operands, spec=spec), dim


def _transpose_batch(operands, dims, *, spec, with_decay, decay_shape, state_shape):
    operands, spec, dim, size = _batch(transpose_p, operands, dims, spec)

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


# Evaluation: merge axes, choose the method for the platform, run it.


class _Layout(NamedTuple):
    """Which adjacent axes (before those a product acts on) can be treated as one."""

    groups: tuple[tuple[int, int], ...]

    def merge(self, shape):
        lead = [math.prod(shape[i:j]) for i, j in self.groups]
        return (*lead, *shape[self.groups[-1][1] :])


def _layout(leads, axis):
    """Axes merge where every operand broadcasts both of them or neither; time stays alone."""
    full = jnp.broadcast_shapes(*leads)
    groups = []
    for i, size in enumerate(full):
        pattern = None if size == 1 else tuple(lead[i] == 1 for lead in leads)
        if i == axis or not groups or groups[-1][0] == axis:
            groups.append([i, i + 1, pattern])
        elif pattern is None or groups[-1][2] is None or pattern == groups[-1][2]:
            groups[-1][1] = i + 1
            groups[-1][2] = groups[-1][2] or pattern
        else:
            groups.append([i, i + 1, pattern])
    merged_axis = next(k for k, group in enumerate(groups) if group[0] == axis)
    return _Layout(tuple((i, j) for i, j, _ in groups)), merged_axis


def case_of(table: MethodTable, platform, dtype, shape, axis, constant) -> Case:
    """The case that a method table sees for a state of this shape."""
    lead = shape[: len(shape) - table.product.state_axes]
    size = math.prod(shape[len(lead) :])
    width = math.prod(lead[:axis]) * math.prod(lead[axis + 1 :]) * size
    return Case(platform, dtype, shape[axis], width, size, constant)


def _prepare(spec, platform, shape, dtype, a, others, shapes=()):
    """The chosen method, the time axis, and how to merge operands and shapes."""
    state_axes = spec.product.state_axes
    lead = len(shape) - state_axes
    leads = [x.shape[:lead] for x in (*a, *others)] + [s[:lead] for s in shapes] + [shape[:lead]]
    layout, axis = _layout(leads, spec.axis)
    constant = a[0].shape[spec.axis] == 1
    case = case_of(spec.table, platform, dtype, shape, spec.axis, constant)
    method = spec.table.resolve(spec.method, case)
    time = TimeAxis(axis, shape[spec.axis], spec.reverse)
    return method, time, layout


def _merge(layout, *operands):
    return [x.reshape(layout.merge(x.shape)) for x in operands]


def _scan_run(a, b, h0, *reset, spec, platform):
    shape, dtype = _state_shape(spec, [a], [b, h0], reset), b.dtype
    if math.prod(shape) == 0:
        return lax.full_like(b, 0, shape=shape)
    method, time, layout = _prepare(spec, platform, shape, dtype, [a], [b, h0, *reset])
    a, b, h0, *reset = _merge(layout, a, b, h0, *reset)
    flags = reset[0] if reset else None
    h = method.forward(spec.product, time, a, b, h0, flags, shape=layout.merge(shape), dtype=dtype)
    return h.reshape(shape)


def _tangent_run(a, h, h0, da, db, dh0, *reset, spec, platform):
    states = [db, h, h0, dh0]
    shape, dtype = _state_shape(spec, [a, da], states, reset), db.dtype
    if math.prod(shape) == 0:
        return lax.full_like(db, 0, shape=shape)
    method, time, layout = _prepare(spec, platform, shape, dtype, [a, da], [*states, *reset])
    a, h, h0, da, db, dh0, *reset = _merge(layout, a, h, h0, da, db, dh0, *reset)
    flags = reset[0] if reset else None
    dh = method.tangent(
        spec.product,
        time,
        a,
        h,
        h0,
        flags,
        da,
        db,
        dh0,
        shape=layout.merge(shape),
        dtype=dtype,
    )
    return dh.reshape(shape)


def _transpose_run(g, a, *rest, spec, with_decay, decay_shape, state_shape, platform):
    states, reset = (rest[:2], rest[2:]) if with_decay else ((), rest)
    shape, dtype = _state_shape(spec, [a], [g, *states], reset), g.dtype
    if math.prod(shape) == 0:
        zeros = [
            lax.full_like(g, 0, shape=s) for s in (decay_shape, shape, state_shape) if s is not None
        ]
        return zeros if with_decay else zeros[-2:]
    like = decay_shape if with_decay else a.shape
    method, time, layout = _prepare(
        spec, platform, shape, dtype, [a], [g, *states, *reset], [like, state_shape]
    )
    g, a, *rest = _merge(layout, g, a, *rest)
    h, h0, *reset = rest if with_decay else (None, None, *rest)
    outputs = method.transpose(
        spec.product,
        time,
        a,
        h,
        h0,
        reset[0] if reset else None,
        g,
        shape=layout.merge(shape),
        dtype=dtype,
        decay_shape=layout.merge(like),
        state_shape=layout.merge(state_shape),
    )
    wanted = zip(outputs, (decay_shape, shape, state_shape), strict=True)
    return [x.reshape(s) for x, s in wanted if x is not None]


def _primitive(name, aval, run, jvp, transpose, batch, *, multiple_results=False):
    primitive = Primitive(f"rnnscan_{name}")
    primitive.multiple_results = multiple_results
    primitive.def_abstract_eval(aval)

    @functools.partial(jax.jit, static_argnames=("params",))
    def evaluate(*operands, params):
        return primitive.bind(*operands, **dict(params))

    primitive.def_impl(lambda *xs, **params: evaluate(*xs, params=tuple(sorted(params.items()))))
    for platform in ("cpu", "cuda", "rocm", "tpu"):
        rule = functools.partial(run, platform=platform)
        lowering = mlir.lower_fun(rule, multiple_results=multiple_results)
        mlir.register_lowering(primitive, lowering, platform=platform)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    return primitive


scan_p = _primitive("scan", _scan_aval, _scan_run, _scan_jvp, _scan_transpose, _scan_batch)
tangent_p = _primitive(
    "scan_tangent", _tangent_aval, _tangent_run, _tangent_jvp, _tangent_transpose, _tangent_batch
)
transpose_p = _primitive(
    "scan_transpose",
    _transpose_aval,
    _transpose_run,
    _transpose_jvp,
    _transpose_transpose,
    _transpose_batch,
    multiple_results=True,
)
