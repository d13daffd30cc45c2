"""All three maps of a method from one function, which evaluates `h_t = a_t * h_{t-1} + b_t`.

Equations (2) and (3) of `linear_rules.py` are (1) again with another drive, (3) backwards and with
the decay of the step after. So a method that reads whole arrays anyway need only say how it
evaluates (1): the drives of the other two are formed here beforehand, which takes an array of the
size of h, and the gradient of a comes from one outer product of the adjoint and h_{t-1}. No
derivative of whatever the method does with a is ever asked for.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan.linear_method import (
    Forward,
    Gradients,
    Problem,
    ScanOperands,
    Tangent,
    TangentOperands,
    Transpose,
    TransposeOperands,
)
from rnnscan.scan.product import Product, sum_to
from rnnscan.scan.time_axis import TimeAxis, keep


class Evaluate(Protocol):
    """h, from operands in the dtype to be carried, with their axes in line and b full-size.

    An h0 of `None` is no state at all: not even a zero may meet a decay, which could be infinite.
    """

    def __call__(
        self,
        product: Product,
        time: TimeAxis,
        a: jax.Array,
        b: jax.Array,
        h0: jax.Array | None,
        reset: jax.Array | None,
    ) -> jax.Array: ...


class Maps(NamedTuple):
    """The three maps of a `LinearMethod`."""

    forward: Forward
    tangent: Tangent
    transpose: Transpose


def derived_maps(evaluate: Evaluate) -> Maps:
    """The maps of a method that knows how to evaluate (1)."""

    def forward(problem: Problem, operands: ScanOperands) -> jax.Array:
        a, b, h0, reset = operands
        wide = problem.wide
        b = jnp.broadcast_to(b.astype(wide), problem.shape)
        h = evaluate(problem.product, problem.time, a.astype(wide), b, h0.astype(wide), reset)
        return h.astype(problem.dtype)

    def tangent(problem: Problem, operands: TangentOperands) -> jax.Array:
        a, (h, h0), da, db, dh0, reset = operands
        product, time, wide = problem.product, problem.time, problem.wide
        before = time.before(jnp.broadcast_to(h, problem.shape), h0).astype(wide)
        moved = keep(reset, product.apply(da.astype(wide), before))
        drive = jnp.broadcast_to(db.astype(wide) + moved, problem.shape)
        dh = evaluate(product, time, a.astype(wide), drive, dh0.astype(wide), reset)
        return dh.astype(problem.dtype)

    def transpose(problem: Problem, operands: TransposeOperands) -> Gradients:
        g, a, past, reset, later = operands
        product, time, wide, dtype = problem.product, problem.time, problem.wide, problem.dtype
        decay_shape, state_shape = problem.gradients
        back = time.backwards
        a = product.transpose(a.astype(wide))
        # l_t = g_t + a_{t+1}' l_{t+1}: (1) backwards, decays and flags one step late.
        a_after = a if a.shape[time.axis] == 1 else back.before(a, time.at(a, 0))
        reset_after = reset
        if reset is not None and reset.shape[time.axis] != 1:
            none = lax.full_like(reset, False, shape=time.one(reset.shape))
            reset_after = back.before(reset, none)
        g = jnp.broadcast_to(g.astype(wide), problem.shape)
        if later is not None:  # not as a state that enters: no decay and no flag is before it
            g = back.put(g, back.slice(g, 0) + later.astype(wide), 0)
        adjoint = evaluate(product, back, a_after, g, None, reset_after)

        first_reset = None if reset is None else time.at(reset, 0)
        into_h0 = keep(first_reset, product.apply(time.at(a, 0), time.at(adjoint, 0)))
        dh0 = sum_to(into_h0, state_shape).astype(dtype)
        da = None
        if past is not None:
            before = time.before(jnp.broadcast_to(past.h, problem.shape), past.h0).astype(wide)
            da = product.outer(keep(reset, adjoint), keep(reset, before), decay_shape)
            da = da.astype(dtype)
        return Gradients(da, adjoint.astype(dtype), dh0)

    return Maps(forward, tangent, transpose)
