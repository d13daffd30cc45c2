"""A method from a single function, one that evaluates `h_t = a_t * h_{t-1} + b_t`.

Equations (2) and (3) of `recurrence.py` are (1) again with another drive, (3) backwards and with
the decay of the step after. So a method that reads whole arrays anyway need only say how it
evaluates (1): the drives of the other two are formed here beforehand, which takes an array of the
size of h, and the gradient of a comes from one outer product of the adjoint and h_{t-1}. No
derivative of whatever the method does with a is ever asked for.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from rnnscan.scan.product import sum_to
from rnnscan.scan.precision import carry_dtype
from rnnscan.scan.time_axis import keep


class Maps(NamedTuple):
    """The three maps of a `Method`."""

    forward: Callable
    tangent: Callable
    transpose: Callable


def maps(evaluate: Callable) -> Maps:
    """The maps of a method that knows `evaluate(product, time, a, b, h0, reset) -> h`.

    Its operands have the dtype to be carried and their axes in line, b is full-size. An h0 of
    `None` is no state at all: not even a zero may meet a decay, which could be infinite.
    """

    def forward(product, time, a, b, h0, reset, *, shape, dtype):
        wide = carry_dtype(dtype)
        b = jnp.broadcast_to(b.astype(wide), shape)
        return evaluate(product, time, a.astype(wide), b, h0.astype(wide), reset).astype(dtype)

    def tangent(product, time, a, h, h0, reset, da, db, dh0, *, shape, dtype):
        wide = carry_dtype(dtype)
        before = time.before(jnp.broadcast_to(h, shape), h0).astype(wide)
        moved = keep(reset, product.apply(da.astype(wide), before))
        drive = jnp.broadcast_to(db.astype(wide) + moved, shape)
        return evaluate(product, time, a.astype(wide), drive, dh0.astype(wide), reset).astype(dtype)

    def transpose(product, time, a, h, h0, reset, g, *, shape, dtype, decay_shape, state_shape):
        wide = carry_dtype(dtype)
        back = time.backwards
        a = product.transpose(a.astype(wide))
        # l_t = g_t + a_{t+1}' l_{t+1}: (1) backwards, decays and flags one step late.
        a_after = a if a.shape[time.axis] == 1 else back.before(a, time.at(a, 0))
        reset_after = reset
        if reset is not None and reset.shape[time.axis] != 1:
            none = lax.full_like(reset, False, shape=time.one(reset.shape))
            reset_after = back.before(reset, none)
        g = jnp.broadcast_to(g.astype(wide), shape)
        adjoint = evaluate(product, back, a_after, g, None, reset_after)

        first_reset = None if reset is None else time.at(reset, 0)
        into_h0 = keep(first_reset, product.apply(time.at(a, 0), time.at(adjoint, 0)))
        dh0 = sum_to(into_h0, state_shape).astype(dtype)
        da = None
        if h is not None:
            before = keep(reset, time.before(jnp.broadcast_to(h, shape), h0).astype(wide))
            da = product.outer(keep(reset, adjoint), before, decay_shape).astype(dtype)
        return da, adjoint.astype(dtype), dh0

    return Maps(forward, tangent, transpose)
