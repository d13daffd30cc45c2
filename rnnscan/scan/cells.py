"""Recurrent cells: h_t = cell(W_ih x_t + b, h_{t-1}), the sequential recurrences that layers share.

    tanh, relu   h = phi(u + W h_-)
    lstm         i, f, o = sigmoid, g = tanh of their parts of u + W h_-,
                 c = f * c_- + i * g,   h = o * tanh(c)
    gru          r, z = sigmoid of their parts of u + W h_-,   q = W_n h_- + b_n,
                 n = tanh(u_n + r * q),   h = (1 - z) * n + z * h_-

with u_t = W_ih x_t + b. Gates are stacked in the order of `torch.nn`: i f g o, and r z n.

As in `recurrence.py` there are three primitives: the trajectory, the tangent map of its recurrence
(linear in the tangents of u, of q and of the first state), and the transpose of that map, which is
backpropagation through time. The gradients of all weights are large products over all steps, before
and behind them. The backward pass keeps x, h and, where there are gates, c and the gates.

Each primitive is a plain `lax.scan` in every respect but one: where a program is lowered for a CPU
and in float32, the trajectory and the transpose are computed by a kernel (`cpu_kernel/cells.cc`).
Derivatives of higher order are those of the plain scan.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from rnnscan.scan.arguments import vary_alike
from rnnscan.scan.cpu_kernel import library
from rnnscan.scan.precision import matmul_precision

KINDS = ("tanh", "relu", "lstm", "gru")  # in the order of `Cell` in cpu_kernel/cells.h
GATES = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}


class Weights(NamedTuple):
    """Of one cell: (G H, I), (G H,), (G H, H), and for a gru (H,)."""

    w_ih: jax.Array
    bias: jax.Array
    w_hh: jax.Array
    bias_hn: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is static about a call; `keep`: whether what the backward pass needs is returned."""

    kind: str
    reverse: bool
    padded: bool
    precision: str
    keep: bool = False

    @property
    def lstm(self) -> bool:
        return self.kind == "lstm"

    @property
    def gru(self) -> bool:
        return self.kind == "gru"

    @property
    def gated(self) -> bool:
        return self.lstm or self.gru


def cell_scan(
    kind: str,
    weights: Weights,
    x: jax.Array,
    state: tuple[jax.Array, ...],
    valid: jax.Array | None = None,
    *,
    reverse: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """All states of a cell, and the last in scan order: (B, T, I) to (B, T, H), (B, H) each.

    Arguments:
      kind: one of `KINDS`.
      weights: all of one dtype, float32 or float64, which is that of x and the state.
      state: (h,), or (h, c) of an lstm, (B, H) each.
      valid: booleans (B, T); where false, the state passes as it is.
      reverse: from the last step to the first.

    Cost: 2 T B G H (I + H) operations, span T; the backward pass twice as many. Differentiable in
    every mode.
    """
    if x.shape[1] == 0:
        return lax.full_like(x, 0, shape=(*x.shape[:2], weights.w_hh.shape[-1])), state
    spec = Spec(kind, reverse, valid is not None, matmul_precision())
    operands = vary_alike(*_given(x, *weights, *state, valid))
    h, *last = forward_p.bind(*operands, spec=spec)
    return h, tuple(last)


def cell_step(
    kind: str, weights: Weights, x_t: jax.Array, state: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """The state after one step: x_t (..., I), each state (..., H)."""
    spec = Spec(kind, False, False, matmul_precision())
    u = _dot(spec, x_t, weights.w_ih)
    u = u + _row(weights.bias, u)
    h, c = state if spec.lstm else (*state, None)
    return tuple(_given(*_advance(spec, u, weights.w_hh, weights.bias_hn, h, c)[:2]))


def _given(*operands):
    return [operand for operand in operands if operand is not None]


class Operands(NamedTuple):
    """Of the trajectory."""

    x: jax.Array
    w_ih: jax.Array
    bias: jax.Array
    w_hh: jax.Array
    bias_hn: jax.Array | None
    h0: jax.Array
    c0: jax.Array | None
    valid: jax.Array | None


class Residuals(NamedTuple):
    """What the linear maps read: weights, the first state, the trajectory and its gates.

    `kept`: (B, T, 4 H): i f g o of an lstm, r z n q of a gru.
    """

    w_hh: jax.Array
    h0: jax.Array
    c0: jax.Array | None
    h: jax.Array
    c: jax.Array | None
    kept: jax.Array | None


class Drives(NamedTuple):
    """Tangents that the linear recurrence starts from: of u (B, T, G H), of q, of the state."""

    u: jax.Array
    q: jax.Array | None
    h0: jax.Array
    c0: jax.Array | None


def _operands(spec: Spec, operands) -> Operands:
    rest = iter(operands)
    x, w_ih, bias, w_hh = (next(rest) for _ in range(4))
    bias_hn = next(rest) if spec.gru else None
    h0 = next(rest)
    c0 = next(rest) if spec.lstm else None
    return Operands(x, w_ih, bias, w_hh, bias_hn, h0, c0, next(rest) if spec.padded else None)


def _residuals(spec: Spec, operands) -> tuple[Residuals, list]:
    """The residuals and what follows them."""
    rest = iter(operands)
    w_hh, h0 = next(rest), next(rest)
    c0 = next(rest) if spec.lstm else None
    h = next(rest)
    c = next(rest) if spec.lstm else None
    return Residuals(w_hh, h0, c0, h, c, next(rest) if spec.gated else None), list(rest)


def _drives(spec: Spec, operands) -> Drives:
    rest = iter(operands)
    u = next(rest)
    q = next(rest) if spec.gru else None
    return Drives(u, q, next(rest), next(rest) if spec.lstm else None)


# The plain scans, time first inside.


def _time_first(x):
    return None if x is None else jnp.swapaxes(x, 0, 1)


def _dot(spec, x, w):
    """x W^T over the last axis.

    Of matrices: the gradient of W is then a sum over one axis, which XLA computes twice as fast on
    a CPU as one over batch and time.
    """
    rows = x if x.ndim == 2 else lax.collapse(x, 0, x.ndim - 1)
    y = lax.dot_general(rows, w, (((1,), (1,)), ((), ())), precision=spec.precision)
    return y if x.ndim == 2 else y.reshape((*x.shape[:-1], w.shape[0]))


def _parts(z, count):
    return jnp.split(z, count, axis=-1)


def _row(b, like):
    return b.reshape((1,) * (like.ndim - 1) + b.shape)


def _select(valid_t, new, old):
    return new if valid_t is None else jnp.where(valid_t[:, None], new, old)


def _advance(spec: Spec, u, w_hh, bias_hn, h, c):
    """One step from W_ih x + bias: h, c and the gates, the last two `None` where there are none."""
    y = _dot(spec, h, w_hh)
    if spec.lstm:
        i, f, g, o = _parts(u + y, 4)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        c = f * c + i * g
        return o * jnp.tanh(c), c, jnp.concatenate([i, f, g, o], -1)
    if spec.gru:
        (u_r, u_z, u_n), (y_r, y_z, q) = _parts(u, 3), _parts(y, 3)
        r, z, q = jax.nn.sigmoid(u_r + y_r), jax.nn.sigmoid(u_z + y_z), q + _row(bias_hn, q)
        n = jnp.tanh(u_n + r * q)
        return n + z * (h - n), None, jnp.concatenate([r, z, n, q], -1)
    return jnp.tanh(u + y) if spec.kind == "tanh" else jnp.maximum(u + y, 0), None, None


def plain_forward(*operands, spec: Spec):
    """h and the last state; with `keep` also c and the gates of all steps."""
    x, w_ih, bias, w_hh, bias_hn, h0, c0, valid = _operands(spec, operands)
    u = _dot(spec, _time_first(x), w_ih)
    u = u + _row(bias, u)

    def body(carry, inputs):
        u_t, valid_t = inputs
        h, c, kept = _advance(spec, u_t, w_hh, bias_hn, *carry)
        h = _select(valid_t, h, carry[0])
        c = None if c is None else _select(valid_t, c, carry[1])
        return (h, c), (h, *_given(c, kept)) if spec.keep else (h,)

    inputs = (u, _time_first(valid))
    (h, c), (states, *kept) = lax.scan(body, (h0, c0), inputs, reverse=spec.reverse)
    return [_time_first(states), *_given(h, c), *map(_time_first, kept)]


def _before(spec, first, states):
    """What stood one step earlier in scan order, batch first."""
    first = first[:, None]
    if spec.reverse:
        return jnp.concatenate([states[:, 1:], first], 1)
    return jnp.concatenate([first, states[:, :-1]], 1)


def plain_tangent(*operands, spec: Spec):
    """dh and the last state's tangent, linear in the drives."""
    known, rest = _residuals(spec, operands)
    valid = rest.pop() if spec.padded else None
    drives = _drives(spec, rest)
    h_before = _before(spec, known.h0, known.h)
    c_before = _before(spec, known.c0, known.c) if spec.lstm else None

    def body(carry, inputs):
        dh, dc = carry
        du, dq, h, h_old, c, c_old, kept, valid_t = inputs
        y = _dot(spec, dh, known.w_hh)
        new_c = None
        if spec.lstm:
            (i, f, g, o), (di, df, dg, do) = _parts(kept, 4), _parts(du + y, 4)
            tanh_c = jnp.tanh(c)
            new_c = f * dc + f * (1 - f) * c_old * df + i * (1 - i) * g * di + i * (1 - g * g) * dg
            new_h = o * (1 - tanh_c * tanh_c) * new_c + o * (1 - o) * tanh_c * do
        elif spec.gru:
            (r, z, n, q), (y_r, y_z, y_n) = _parts(kept, 4), _parts(y, 3)
            du_r, du_z, du_n = _parts(du, 3)
            dr, dz = r * (1 - r) * (du_r + y_r), z * (1 - z) * (du_z + y_z)
            dn = (1 - n * n) * (du_n + q * dr + r * (dq + y_n))
            new_h = (1 - z) * dn + z * dh + (h_old - n) * dz
        elif spec.kind == "tanh":
            new_h = (1 - h * h) * (du + y)
        else:
            new_h = (h > 0).astype(h.dtype) * (du + y)
        dh = _select(valid_t, new_h, dh)
        dc = None if dc is None else _select(valid_t, new_c, dc)
        return (dh, dc), dh

    inputs = (drives.u, drives.q, known.h, h_before, known.c, c_before, known.kept, valid)
    inputs = tuple(map(_time_first, inputs))
    (dh, dc), states = lax.scan(body, (drives.h0, drives.c0), inputs, reverse=spec.reverse)
    return [_time_first(states), *_given(dh, dc)]


def plain_transpose(*operands, spec: Spec):
    """The cotangents of the drives from those of what `plain_tangent` returns."""
    known, rest = _residuals(spec, operands)
    valid = rest.pop() if spec.padded else None
    fixed = (*_given(*known), *_given(valid))

    def linear(*drives):
        return plain_tangent(*fixed[: len(fixed) - spec.padded], *drives, *_given(valid), spec=spec)

    return list(jax.linear_transpose(linear, *_drives_like(spec, known))(rest))


def _drives_like(spec: Spec, known: Residuals):
    """Zeros like the drives, of a type that varies over a mesh as the residuals do."""
    zero_h = lax.full_like(known.h, 0)
    u = jnp.concatenate([zero_h] * GATES[spec.kind], -1)
    zero = zero_h[:, 0]
    return _given(u, zero_h if spec.gru else None, zero, zero if spec.lstm else None)


# The kernel, where there is one.


def _kernel(target, results, operands, spec):
    call = jax.ffi.ffi_call(target, results, vmap_method=None)
    attributes = {"reverse": spec.reverse, "keep": spec.keep, "padded": spec.padded}
    return call(*operands, kind=np.int64(KINDS.index(spec.kind)), **attributes)


def _shapes(*shapes):
    return [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]


def native_forward(*operands, spec: Spec):
    x, w_hh = operands[0], operands[3]
    (batch, steps, _), hidden = x.shape, w_hh.shape[-1]
    all_steps, last = (batch, steps, hidden), (batch, hidden)
    shapes: list[tuple[int, ...]] = [all_steps]
    if spec.lstm:
        shapes.append(all_steps if spec.keep else last)
    if spec.gated and spec.keep:
        shapes.append((batch, steps, 4 * hidden))
    h, *rest = _kernel("rnnscan_cell_forward", _shapes(*shapes), operands, spec)
    end = 0 if spec.reverse else -1
    if not (spec.lstm and spec.keep):
        return [h, h[:, end], *rest]
    return [h, h[:, end], rest[0][:, end], *rest]


def native_transpose(*operands, spec: Spec):
    known, _ = _residuals(spec, operands)
    batch, steps, hidden = known.h.shape
    shapes = [(batch, steps, GATES[spec.kind] * hidden)]
    shapes += [(batch, steps, hidden)] * spec.gru
    shapes += [(batch, hidden)] * (1 + spec.lstm)
    return _kernel("rnnscan_cell_backward", _shapes(*shapes), operands, spec)


def _kernel_serves(operands, exported) -> bool:
    """Whether to call the kernel on a CPU: float32, sizes that are numbers, and it was compiled."""
    return (
        not exported
        and operands[0].dtype == np.float32
        and all(isinstance(n, int) and n > 0 for x in operands for n in x.shape)
        and library.why_not() is None
    )


# Rules.


def _primitive(name, plain, native=None):
    """A primitive that is the function `plain` in every respect but how a CPU computes it."""
    primitive = Primitive(f"rnnscan_cell_{name}")
    primitive.multiple_results = True

    def run(*operands, spec, platform, exported=False):
        if native and platform == "cpu" and _kernel_serves(operands, exported):
            return native(*operands, spec=spec)
        return plain(*operands, spec=spec)

    @functools.partial(jax.jit, static_argnames=("spec", "platform"))
    def evaluate(*operands, spec, platform):
        return run(*operands, spec=spec, platform=platform)

    def impl(*operands, spec):
        devices = operands[0].devices() if isinstance(operands[0], jax.Array) else ()
        platform = next(iter(devices)).platform if devices else jax.default_backend()
        return evaluate(*operands, spec=spec, platform=platform)

    def lower(context, *operands, spec, platform):
        exported = context.module_context.lowering_parameters.for_export
        rule = functools.partial(run, spec=spec, platform=platform, exported=exported)
        return mlir.lower_fun(rule, multiple_results=True)(context, *operands)

    def abstract(*operands, spec):
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands]
        outputs = jax.eval_shape(functools.partial(plain, spec=spec), *shapes)
        like = operands[0]
        return [like.update(shape=x.shape, dtype=x.dtype, weak_type=False) for x in outputs]

    def jvp(primals, tangents, *, spec):
        smooth, flags = primals[: len(primals) - spec.padded], primals[len(primals) - spec.padded :]
        tangents = _instantiate(tangents[: len(smooth)])
        return jax.jvp(lambda *x: plain(*x, *flags, spec=spec), tuple(smooth), tuple(tangents))

    def batch(operands, dims, *, spec):
        return _batched(primitive, plain, operands, dims, spec)

    primitive.def_impl(impl)
    primitive.def_abstract_eval(abstract)
    for platform in ("cpu", None):
        rule = functools.partial(lower, platform=platform or "other")
        mlir.register_lowering(primitive, rule, platform=platform)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    return primitive


def _instantiate(tangents):
    return [ad.instantiate_zeros(t) if isinstance(t, ad.Zero) else t for t in tangents]


def _batched(primitive, plain, operands, dims, spec):
    """One weight for all: the mapped axis joins the batch. Else the plain scan is mapped."""
    count = 4 + spec.gru
    weights = range(1, count) if primitive is forward_p else (0,)
    if any(dims[i] is not None for i in weights):
        function = functools.partial(plain, spec=spec)
        outputs = jax.vmap(function, in_axes=tuple(dims))(*operands)
        return outputs, [0] * len(outputs)
    size = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)

    def joined(x, d):
        x = jnp.broadcast_to(x[None], (size, *x.shape)) if d is None else jnp.moveaxis(x, d, 0)
        return x.reshape((size * x.shape[1], *x.shape[2:]))

    operands = [
        x if i in weights else joined(x, d)
        for i, (x, d) in enumerate(zip(operands, dims, strict=True))
    ]
    outputs = primitive.bind(*operands, spec=spec)
    return [x.reshape((size, -1, *x.shape[1:])) for x in outputs], [0] * len(outputs)


forward_p = _primitive("forward", plain_forward, native_forward)
tangent_p = _primitive("tangent", plain_tangent)
transpose_p = _primitive("transpose", plain_transpose, native_transpose)


def _forward_jvp(primals, tangents, *, spec):
    if spec.keep:  # the second derivative
        return _plain_forward_jvp(primals, tangents, spec=spec)
    given = _operands(spec, primals)
    h, h_last, *rest = forward_p.bind(*primals, spec=dataclasses.replace(spec, keep=True))
    outputs = [h, h_last, *(rest[:1] if spec.lstm else [])]
    c, kept = rest[1:] if spec.lstm else (None, *(rest or [None]))
    known = Residuals(given.w_hh, given.h0, given.c0, h, c, kept)
    moving = {
        name: tangent
        for name, tangent in zip(_names(spec), tangents, strict=True)
        if not isinstance(tangent, ad.Zero) and name != "valid"
    }

    @jax.checkpoint  # keeps the trajectory alone, not the same shifted by one step
    def tangent(known, x, w_ih, valid, moving):
        drives = _drives_of(spec, known, x, w_ih, moving)
        return tangent_p.bind(*_given(*known, *drives, valid), spec=spec)

    return outputs, tangent(known, given.x, given.w_ih, given.valid, moving)


def _names(spec):
    absent = {"bias_hn": not spec.gru, "c0": not spec.lstm, "valid": not spec.padded}
    return [name for name in Operands._fields if not absent.get(name)]


def _drives_of(spec, known: Residuals, x, w_ih, moving) -> Drives:
    """The tangents of u, and of what else does not wait for the step before, in large products."""
    zero = lax.full_like(known.h, 0)
    u = jnp.concatenate([zero] * GATES[spec.kind], -1)
    q = zero if spec.gru else None
    if "x" in moving:
        u = u + _dot(spec, moving["x"], w_ih)
    if "w_ih" in moving:
        u = u + _dot(spec, x, moving["w_ih"])
    if "bias" in moving:
        u = u + _row(moving["bias"], u)
    if "w_hh" in moving:
        y = _dot(spec, _before(spec, known.h0, known.h), moving["w_hh"])
        if spec.gru:
            hidden = zero.shape[-1]
            q = y[..., 2 * hidden :]
            y = jnp.concatenate([y[..., : 2 * hidden], zero], -1)
        u = u + y
    if "bias_hn" in moving:
        q = q + _row(moving["bias_hn"], q)
    first = zero[:, 0]
    c0 = moving.get("c0", first) if spec.lstm else None
    return Drives(u, q, moving.get("h0", first), c0)


def _tangent_transpose(cts, *operands, spec):
    known, linear, flags = _divided(spec, operands, 1 + spec.gru + 1 + spec.lstm)
    cotangents = transpose_p.bind(*known, *_instantiate(cts), *flags, spec=spec)
    cotangents = [
        ct if ad.is_undefined_primal(x) else None for ct, x in zip(cotangents, linear, strict=True)
    ]
    return [*(None for _ in known), *cotangents, *(None for _ in flags)]


def _transpose_transpose(cts, *operands, spec):
    known, linear, flags = _divided(spec, operands, 2 + spec.lstm)
    cotangents = tangent_p.bind(*known, *_instantiate(cts), *flags, spec=spec)
    cotangents = [
        ct if ad.is_undefined_primal(x) else None for ct, x in zip(cotangents, linear, strict=True)
    ]
    return [*(None for _ in known), *cotangents, *(None for _ in flags)]


def _divided(spec, operands, linear):
    """Residuals, so many operands in which a map is linear, and flags."""
    stop = len(operands) - spec.padded
    return operands[: stop - linear], operands[stop - linear : stop], operands[stop:]


_plain_forward_jvp = ad.primitive_jvps[forward_p]
ad.primitive_jvps[forward_p] = _forward_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose
ad.primitive_transposes[transpose_p] = _transpose_transpose
