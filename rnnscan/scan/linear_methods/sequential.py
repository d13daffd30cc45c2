"""`sequential`: one step after another, in place, on the axis where time already is.

    for t in 0 ... T-1:  h = a_t * h + b_t

Work T, span T. Nothing moves but the operands and the result: no transposition, no copy, a constant
decay stays one slice. The tangent map and the backward pass are single loops as well; the backward
pass reads g, a, h and writes db, da, five words an element, and sums the gradient of a broadcast
decay as it goes, without a full-size temporary.

Any product; `matrix_scan` uses this file too.
"""

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan.cost import Cost
from rnnscan.scan.linear_method import (
    Gradients,
    LinearCase,
    LinearMethod,
    Problem,
    ScanOperands,
    TangentOperands,
    TransposeOperands,
)
from rnnscan.scan.product import sum_to
from rnnscan.scan.time_axis import keep, where


def _loop(length, body, carry):
    # Not unrolled: 2, 4 and 8 steps an iteration run and compile slower on a CPU.
    if length == 0:
        return carry
    return lax.fori_loop(0, length, body, carry)


def _forward(problem: Problem, operands: ScanOperands) -> jax.Array:
    a, b, h0, reset = operands
    product, time, wide = problem.product, problem.time, problem.wide

    def body(t, carry):
        h, out = carry
        drive = time.at(b, t).astype(wide)
        h = product.apply(time.at(a, t).astype(wide), h) + drive
        if reset is not None:
            h = where(time.at(reset, t), drive, h)
        return h, time.put(out, h, t)

    h = jnp.broadcast_to(h0.astype(wide), time.one(problem.shape))
    out = lax.full_like(b, 0, shape=problem.shape, dtype=problem.dtype)
    return _loop(time.length, body, (h, out))[1]


def _tangent(problem: Problem, operands: TangentOperands) -> jax.Array:
    a, (h, h0), da, db, dh0, reset = operands
    product, time, wide = problem.product, problem.time, problem.wide

    def one(t, dh, out, h_before):
        drive = time.at(db, t).astype(wide)
        moved = product.apply(time.at(a, t).astype(wide), dh)
        moved += product.apply(time.at(da, t).astype(wide), h_before.astype(wide))
        if reset is not None:
            moved = keep(time.at(reset, t), moved)
        dh = moved + drive
        return dh, time.put(out, dh, t)

    def body(t, carry):
        dh, out = carry
        return one(t + 1, dh, out, time.slice(h, t))

    dh = jnp.broadcast_to(dh0.astype(wide), time.one(problem.shape))
    out = lax.full_like(db, 0, shape=problem.shape, dtype=problem.dtype)
    carry = one(0, dh, out, h0)
    return _loop(time.length - 1, body, carry)[1]


def _transpose(problem: Problem, operands: TransposeOperands) -> Gradients:
    g, a, past, reset, later = operands
    product, time, shape = problem.product, problem.time, problem.shape
    wide, dtype, (decay_shape, state_shape) = problem.wide, problem.dtype, problem.gradients
    last = time.length - 1
    one_decay = time.one(decay_shape)
    constant = decay_shape[time.axis] == 1 and time.length != 1  # or a symbol
    in_loop = past if product.outer_per_step or not constant else None
    # A matrix turned within the loop would be read across its rows at every step.
    same = a.shape[time.axis] == 1
    turned = product.transpose(a.astype(wide)) if same else a

    def one(t, later, db, da, h_before):
        # `later` is a_{t+1}' * l_{t+1}, what the later steps send back to this one.
        adjoint = time.at(g, t).astype(wide) + later
        flags = None if reset is None else time.at(reset, t)
        if h_before is not None:
            through = keep(flags, jnp.broadcast_to(adjoint, time.one(shape)))
            part = product.outer(through, keep(flags, h_before.astype(wide)), one_decay)
            da = da + part if constant else time.put(da, part, t)
        back = turned if same else product.transpose(time.at(a, t).astype(wide))
        later = product.apply(back, adjoint)
        return keep(flags, later), time.put(db, adjoint, t), da

    def body(i, carry):
        t = last - i
        later, db, da = carry
        return one(t, later, db, da, time.slice(in_loop.h, t - 1) if in_loop else None)

    if later is None:
        later = lax.full_like(g, 0, shape=time.one(shape), dtype=wide)
    later = jnp.broadcast_to(later.astype(wide), time.one(shape))
    db = lax.full_like(g, 0, shape=shape, dtype=dtype)
    da = None
    if in_loop:
        da_dtype = wide if constant else dtype
        da = lax.full_like(g, 0, shape=one_decay if constant else decay_shape, dtype=da_dtype)
    later, db, da = _loop(last, body, (later, db, da))
    later, db, da = one(0, later, db, da, in_loop.h0 if in_loop else None)
    if past and not in_loop:
        before = keep(reset, time.before(jnp.broadcast_to(past.h, shape), past.h0))
        through = keep(reset, db)
        da = product.outer(through.astype(wide), before.astype(wide), decay_shape)
    dh0 = sum_to(later, state_shape).astype(dtype)
    return Gradients(None if da is None else da.astype(dtype), db, dh0)


# Lanes whose lines stay in a first-level cache from one step to the next.
_LANES_AT_HAND = 128


def cost(case: LinearCase, backward: bool) -> Cost:
    """T turns, or 2 T; with them one pass over memory, in the order of time.

    The backward pass does more than twice the work of a step, and the sum over a batch that a
    constant decay wants goes against the order of memory. Where time is innermost, lanes lie far
    apart, and a line serves the steps that follow only if it is still at hand.
    """
    n, total = case.states, case.traffic(False)
    total += Cost(launches=2, steps=case.length * (2 if backward else 1))
    if backward:
        total += case.traffic(True)
        summed = 2.0 if case.constant and case.size == 1 else 0.0
        total += Cost(elements=((1.2 if case.narrow else 0.55) + summed) * case.reals)
    else:
        total += Cost(elements=(0.5 if case.narrow else 0.25) * case.reals)
    if case.inner == 1 and case.width > _LANES_AT_HAND:
        total += Cost(lines=(0.57 if backward else 0.2) * n)
    if case.size > 1:
        passes = 3 if backward else 1
        total += Cost(launches=passes * case.length, flops=passes * 2 * case.size * n)
    return total


method = LinearMethod(
    name="sequential",
    summary="one step after another: least memory traffic, span T",
    forward=_forward,
    tangent=_tangent,
    transpose=_transpose,
    cost=cost,
)
