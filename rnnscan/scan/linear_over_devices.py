"""The three maps of `linear_rules.py` where time is split over devices: one collective each.

A device's chunk of time acts on what enters it as one step does, as a pair (P, S): e -> P * e + S,
with the product P of its decays and S its last state from zero, or, where the chunk resets
anywhere, as S alone; the first device starts from h0, so that S is its last state. So

    1. reduce   each device its own chunk to its pair, in stretches of time, of which only the end
                is kept; a constant decay to a power of it, and that without communication
    2. gather   all pairs, in one `all_gather`
    3. fold     those of the devices before: what enters this device's chunk
    4. scan     the chunk from there, as on one device, by the method that was asked for

and the backward pass likewise, against time, where a pair says what a chunk sends to the one before
it. Received are 2 words a channel for each other device (3 with resets), whatever T; work is twice
that of one device divided by their number, and no temporary is larger than a stretch.

Exactness is that of `linear_methods/blocked.py`: products of decays are formed over a chunk, so
that where |a| > 1 they may overflow where h does not.

Source: Blelloch 1990, "Prefix sums and their applications", sections 1.2 and 1.4.1; Martin & Cundy
2018, section 2.2: one chunk a processor.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan.arguments import vary_alike
from rnnscan.scan.linear_lowering import Over, Spec, full_shape
from rnnscan.scan.linear_method import (
    Gradients,
    Past,
    ScanOperands,
    Shape,
    States,
    TangentOperands,
    TransposeOperands,
)
from rnnscan.scan.precision import carry_dtype
from rnnscan.scan.product import Product, sum_to
from rnnscan.scan.time_axis import TimeAxis, where

# What is made of a stretch is thrown away: little beside the chunk, in not too many turns.
_STRETCHES = 64

Cut = Callable[[jax.Array | None], Any]  # an operand, of the steps of one stretch


class OnOne(Protocol):
    """One of the maps for the steps of one device, whatever they are a part of."""

    def __call__(self, operands: Any, *, spec: Spec, **static: Any) -> Any: ...


def scan(on_one: OnOne, operands: ScanOperands, spec: Spec) -> States:
    """Equation (1)."""
    a, b, h0, reset = operands = _apart(operands, spec)
    chunk = _Chunk.of(spec, b, operands)

    def stretch(state: jax.Array, steps: Cut, _) -> jax.Array:
        given = ScanOperands(steps(a), steps(b), state, steps(reset))
        return chunk.last(on_one(given, spec=chunk.spec).h)

    first, *_ = chunk.exchanged(chunk.time, a, reset, h0, stretch)
    h, _ = on_one(operands._replace(h0=first), spec=chunk.spec)
    return States(h, first if chunk.over.returned else None)


def tangent(on_one: OnOne, operands: TangentOperands, spec: Spec) -> States:
    """Equation (2)."""
    a, past, da, db, dh0, reset = operands = _apart(operands, spec)
    chunk = _Chunk.of(spec, db, operands)
    if not chunk.over.known:
        past = past._replace(h0=chunk.entered(past))

    def stretch(state: jax.Array, steps: Cut, step_before: Callable[..., Any]) -> jax.Array:
        own = Past(steps(past.h), step_before(*past))
        given = TangentOperands(steps(a), own, steps(da), steps(db), state, steps(reset))
        return chunk.last(on_one(given, spec=chunk.spec).h)

    first, *_ = chunk.exchanged(chunk.time, a, reset, dh0, stretch)
    dh, _ = on_one(operands._replace(past=past, dh0=first), spec=chunk.spec)
    return States(dh, first if chunk.over.returned else None)


def transpose(
    on_one: OnOne,
    operands: TransposeOperands,
    spec: Spec,
    decay_shape: Shape | None,
    state_shape: Shape,
) -> Gradients:
    """Equation (3), of what is sent one step back: s_t = a_t' * (g_t + s_{t+1}), against time."""
    g, a, past, reset, _ = operands = _apart(operands, spec)
    chunk = _Chunk.of(spec, g, operands)
    one = chunk.time.one(chunk.shape)

    def stretch(state: jax.Array, steps: Cut, _) -> jax.Array:
        given = TransposeOperands(steps(g), steps(a), None, steps(reset), state)
        return on_one(given, spec=chunk.spec, decay_shape=None, state_shape=one).dh0

    nothing = lax.full_like(g, 0, shape=(1,) * g.ndim)
    last = None if past is None or chunk.over.known else chunk.last(past.h)
    later, sent, entered = chunk.exchanged(
        chunk.time.backwards, spec.product.transpose(a), reset, nothing, stretch, beside=last
    )
    is_first = chunk.order(chunk.time) == 0
    if past is not None and entered is not None:
        past = past._replace(h0=jnp.where(is_first, past.h0.astype(entered.dtype), entered))
    operands = TransposeOperands(g, a, past, reset, later)
    shapes = {"decay_shape": decay_shape, "state_shape": state_shape}
    da, db, _ = on_one(operands, spec=chunk.spec, **shapes)
    if not chunk.over.shared:
        sent = jnp.where(is_first, sent, jnp.zeros((), sent.dtype))
    return Gradients(da, db, sum_to(sent, state_shape).astype(g.dtype))


def _apart(operands: Any, spec: Spec) -> Any:
    """The operands, made to vary over the devices as their numbers do; their types do not say so
    where a `jax.shard_map` that does not check types is around one that does."""
    assert spec.over is not None
    leaves, structure = jax.tree.flatten(operands)
    _, *leaves = vary_alike(lax.axis_index(spec.over.axes), *leaves)
    return structure.unflatten(leaves)


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """The steps that this device has.

    Attributes:
      spec: of the chunk by itself.
      over: how time is split.
      shape: of the states of its steps.
    """

    spec: Spec
    over: Over
    shape: Shape

    @classmethod
    def of(cls, spec: Spec, like: jax.Array, operands: Any) -> "_Chunk":
        assert spec.over is not None
        return cls(spec._replace(over=None), spec.over, full_shape(spec, like, operands))

    @property
    def time(self) -> TimeAxis:
        return TimeAxis(self.spec.axis, self.shape[self.spec.axis], self.spec.reverse)

    def order(self, way: TimeAxis) -> jax.Array:
        """How many devices come before this one, the way that is gone."""
        index = lax.axis_index(self.over.axes)
        return lax.axis_size(self.over.axes) - 1 - index if way.reverse else index

    def last(self, x: jax.Array) -> jax.Array:
        """The last step of x in scan order."""
        steps = x.shape[self.spec.axis]
        start = 0 if self.spec.reverse else steps - 1
        return lax.slice_in_dim(x, start, start + 1, axis=self.spec.axis)

    def entered(self, past: Past) -> jax.Array:
        """The state before the first step, given all of them."""
        last, order = self.last(past.h), self.order(self.time)
        (ends,) = _gathered(self.over.axes, (last,))
        size = lax.axis_size(self.over.axes)
        place = jnp.maximum(order - 1, 0)
        place = size - 1 - place if self.spec.reverse else place
        end = lax.dynamic_index_in_dim(ends, place, 0, keepdims=False)
        return jnp.where(order == 0, past.h0.astype(last.dtype), end)

    def exchanged(
        self,
        way: TimeAxis,
        decay: jax.Array,
        reset: jax.Array | None,
        first: jax.Array,
        stretch: Callable[..., jax.Array],
        beside: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """What enters the chunk the way that is gone, where `first` enters that of the first
        device; what leaves that of the last; and `beside` of the device after this one (on the
        last, anything)."""
        dtype, one = first.dtype, way.one(self.shape)
        first = jnp.broadcast_to(first.astype(carry_dtype(dtype)), one)
        if 0 in self.shape:
            return first.astype(dtype), jnp.zeros_like(first), beside
        order, size = self.order(way), lax.axis_size(self.over.axes)
        state = jnp.where(order == 0, first, jnp.zeros((), first.dtype))
        product, constant = self.spec.product, decay.shape[way.axis] == 1 != way.length
        end, composed = self._reduced(way, None if constant else decay, state, stretch)
        power = _power(product, decay.astype(first.dtype), way.length) if constant else composed
        drop = None if reset is None else jnp.any(reset, axis=way.axis, keepdims=True)
        ends, powers, drops, others = _gathered(
            self.over.axes, (end, None if constant else power, drop, beside)
        )

        def through(k: jax.Array, state: jax.Array) -> jax.Array:
            """The state after device k, counted the way that is gone."""
            device = size - 1 - k if way.reverse else k

            def of(x: jax.Array) -> jax.Array:
                return lax.dynamic_index_in_dim(x, device, 0, keepdims=False)

            its_power = power if powers is None else of(powers)
            assert its_power is not None
            moved = product.apply(its_power, state) + of(ends)
            # A chunk that begins from zero ends as it did from zero, even if its product is inf.
            alone = state == 0
            if product.state_axes:
                alone = jnp.all(alone, axis=-1, keepdims=True)
            alone = alone if drops is None else alone | of(drops)
            return where(alone, of(ends), moved)

        start = ends[size - 1 if way.reverse else 0]
        enters = lax.fori_loop(1, order, through, start)
        enters = jnp.where(order == 0, first, enters).astype(dtype)
        leaves = lax.fori_loop(1, size, through, start)
        if others is not None:
            place = jnp.clip(order + 1, 0, size - 1)
            place = size - 1 - place if way.reverse else place
            others = lax.dynamic_index_in_dim(others, place, 0, keepdims=False)
        return enters, leaves, others

    def _reduced(
        self,
        way: TimeAxis,
        decay: jax.Array | None,
        state: jax.Array,
        stretch: Callable[..., jax.Array],
    ) -> tuple[jax.Array, jax.Array | None]:
        """The state after all stretches, and the product of all decays."""
        length, axis, product = way.length, way.axis, self.spec.product
        steps = max(1, length // _STRETCHES)

        def wide(x: jax.Array) -> jax.Array:
            return x if x.dtype == jnp.bool_ else x.astype(carry_dtype(x.dtype))

        def take(x: jax.Array | None, t: Any, count: int) -> Any:
            """`count` steps from t on, the way that is gone."""
            if x is None or x.shape[axis] == 1:
                return x if x is None else wide(x)
            start = length - t - count if way.reverse else t
            return wide(lax.dynamic_slice_in_dim(x, start, count, axis))

        def move(t: Any, count: int, pair: Any) -> Any:
            state, power = pair

            def step_before(h: jax.Array, h0: jax.Array) -> jax.Array:
                earlier = take(h, jnp.maximum(t - 1, 0), 1)
                return jnp.where(t == 0, h0.astype(earlier.dtype), earlier)

            state = stretch(state, lambda x: take(x, t, count), step_before)
            if decay is not None:
                ours = _composed(product, way, take(decay, t, count))
                power = ours if power is None else product.compose(ours, power)
            return state, power

        pair = move(0, steps, (state, None))
        pair = lax.fori_loop(1, length // steps, lambda k, pair: move(k * steps, steps, pair), pair)
        rest = length % steps
        return move(length - rest, rest, pair) if rest else pair


def _composed(product: Product, way: TimeAxis, decay: jax.Array) -> jax.Array:
    """All steps in one, by halves."""
    axis = way.axis

    def pick(start: int, stop: int, stride: int) -> jax.Array:
        return lax.slice_in_dim(decay, start, stop, stride, axis)

    while (n := decay.shape[axis]) > 1:
        low, high, odd = pick(0, n - n % 2, 2), pick(1, n, 2), n % 2
        pairs = product.compose(low, high) if way.reverse else product.compose(high, low)
        decay = lax.concatenate([pairs, pick(n - 1, n, 1)], axis) if odd else pairs
    return decay


def _power(product: Product, decay: jax.Array, exponent: int) -> jax.Array:
    """decay^exponent for a positive exponent, by squaring."""
    power = None
    while exponent:
        if exponent & 1:
            power = decay if power is None else product.compose(decay, power)
        exponent >>= 1
        decay = product.compose(decay, decay) if exponent else decay
    return power if power is not None else decay


def _gathered(axes: tuple[str, ...], parts: tuple[Any, ...]) -> list[Any]:
    """The arrays of every device, along a new first axis, by one collective; the first is there,
    and the others have its dtype or are flags."""
    given = [x for x in parts if x is not None]
    dtype = carry_dtype(given[0].dtype)
    flat = jnp.concatenate([x.astype(dtype).reshape(x.size) for x in given])
    rows, found, start = lax.all_gather(flat, axes), [], 0
    for x in parts:
        if x is None:
            found.append(None)
            continue
        part = lax.slice_in_dim(rows, start, start + x.size, axis=1)
        found.append(part.reshape((rows.shape[0], *x.shape)).astype(x.dtype))
        start += x.size
    return found
