"""`associative`: a tree of pairs over the whole length.

Two steps `h -> a1 * h + b1` and then `h -> a2 * h + b2` are one step of the same kind,

    (a1, b1) then (a2, b2)  =  (a2 a1, a2 b1 + b2)

and this composition is associative (Blelloch 1990, section 1.4.1), so all prefixes come from
`jax.lax.associative_scan`: work about 2 T compositions, span 2 log2 T, and compile time that grows
with log T. A step that resets carries a flag, `(f1 | f2, a2 a1, b2 if f2 else a2 b1 + b2)`, because
folding a = 0 would let an inf from before the reset become nan.

Shortcoming: products of decays alone are formed, so where |a| > 1 they may overflow and give nan
where `sequential` does not. A constant decay is spelled out over time.

Any product; `matrix_scan` uses this file too, at n^3 work a composition.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan.cost import Cost
from rnnscan.scan.derived_maps import derived_maps
from rnnscan.scan.linear_method import LinearCase, LinearMethod
from rnnscan.scan.product import Product
from rnnscan.scan.time_axis import TimeAxis, where


def enter(
    product: Product,
    time: TimeAxis,
    a: jax.Array,
    b: jax.Array,
    h0: jax.Array,
    reset: jax.Array | None,
) -> jax.Array:
    """b, which is full-size, with a_0 h0 in its first step: from there on, no state comes in."""
    first = time.at(b, 0)
    entered = product.apply(time.at(a, 0), jnp.broadcast_to(h0, first.shape)) + first
    flags = None if reset is None else time.at(reset, 0)
    return time.put(b, where(flags, first, entered), 0)


def prefixes(
    product: Product, time: TimeAxis, a: jax.Array, b: jax.Array, reset: jax.Array | None
) -> jax.Array:
    """h in the dtype and shape of b, where no state comes in, not even a zero."""
    a = jnp.broadcast_to(a, (*a.shape[: time.axis], time.length, *a.shape[time.axis + 1 :]))
    if reset is None:

        def compose(earlier, later):
            (a1, b1), (a2, b2) = earlier, later
            return product.compose(a2, a1), product.apply(a2, b1) + b2

        return lax.associative_scan(compose, (a, b), reverse=time.reverse, axis=time.axis)[1]

    def compose_flagged(earlier, later):
        (f1, a1, b1), (f2, a2, b2) = earlier, later
        return f1 | f2, product.compose(a2, a1), where(f2, b2, product.apply(a2, b1) + b2)

    wide_flags = (*reset.shape[: time.axis], time.length, *reset.shape[time.axis + 1 :])
    flags = jnp.broadcast_to(reset, wide_flags)
    elements = (flags, a, b)
    return lax.associative_scan(compose_flagged, elements, reverse=time.reverse, axis=time.axis)[2]


def evaluate(
    product: Product,
    time: TimeAxis,
    a: jax.Array,
    b: jax.Array,
    h0: jax.Array | None,
    reset: jax.Array | None,
) -> jax.Array:
    """h, as `derived_maps` wants it."""
    if h0 is not None:
        b = enter(product, time, a, b, h0, reset)
    return prefixes(product, time, a, b, reset)


def why_not(case: LinearCase) -> str | None:
    """A tree needs to know its length."""
    if case.symbolic:
        return "the length is a symbol, and a tree needs the number when the program is made"
    return None


# At a level of n pairs, 3 n words to reduce neighbours, 3 n for the results between, 4 n to put
# both in order; with all levels below, twice that, of which a sixth stays in a cache. The backward
# pass is a tree too, one step late.
_WORDS = {False: 17, True: 38}
_FUSED = 8  # steps, of which XLA makes one operation


def cost(case: LinearCase, backward: bool) -> Cost:
    """2 log2 T levels of three operations each, and some 17 words an element."""
    trees = 2 if backward else 1
    if case.length <= _FUSED:
        total = case.traffic(False) + case.traffic(True) if backward else case.traffic(False)
        total += Cost(launches=2 * trees, elements=0.3 * trees * case.reals)
        return total + _products(case, trees, case.states)
    levels = 2 * math.log2(case.length / _FUSED)
    decays = case.length * case.inner if case.constant else case.states
    numbers = 0.7 * case.states + 0.3 * decays * case.size
    array = numbers * case.dtype.itemsize
    each = (1.8 if backward else 0.6) if case.narrow else (0.5 if backward else 0.15)
    total = Cost(launches=3 * trees * (levels + 1), bytes=_WORDS[backward] * array)
    total += Cost(fresh=_WORDS[backward] / 3 * array)
    total += Cost(elements=each * numbers * case.parts)
    return total + _products(case, trees, decays)


def _products(case: LinearCase, trees: int, decays: int) -> Cost:
    """Compositions of matrices."""
    return Cost(flops=trees * 2 * decays * 2 * case.size**2) if case.size > 1 else Cost()


_maps = derived_maps(evaluate)
method = LinearMethod(
    name="associative",
    summary="a tree over time: span 2 log2(T), several times the memory traffic",
    forward=_maps.forward,
    tangent=_maps.tangent,
    transpose=_maps.transpose,
    why_not=why_not,
    cost=cost,
)
