"""Causal self-attention: every output looks at the inputs themselves, not at a state they left.

    q_t, k_t, v_t = W_q x_t, W_k x_t, W_v x_t,  split into heads;  q and k turned by their positions
    y_t = W_o [sum_{s in window(t)} softmax_s(q_t . k_s / sqrt(d)) v_s]_heads
    window(t) = t - context + 1 ... t

No step waits for another, and no distance inside of the window dims a gradient. The price: T times
the window in time, and a cache of the window in place of a state.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from rnnscan.layer_parts.affine import affine
from rnnscan.layer_parts.arguments import floating, positive, random_key
from rnnscan.layer_parts.draws import uniform
from rnnscan.layer_parts.layer import Given, Layer
from rnnscan.layer_parts.padding import countable
from rnnscan.layer_parts.resets import forgotten, positions
from rnnscan.layer_parts.shown import shown
from rnnscan.layer_parts.state import Slot, Slots, State
from rnnscan.scan import matmul_precision

ROTARY_BASE = 10_000.0
BLOCK = 256  # queries at a time: beyond, memory grows with T * context no more


class KeyValueCache(NamedTuple):
    """The keys and values of the last `context` steps.

    Attributes:
      keys, values: (..., context, heads, head size); step p is in slot p % context, its key turned
        by its position already. Slots not yet filled are zero.
      position: int32 (...), how many steps came before: a sequence ends at 2^31 - 1 of them.

    >>> import jax, jax.numpy as jnp
    >>> layer = CausalSelfAttention.init(jax.random.key(0), 8, num_heads=2, context=4)
    >>> _, cache = layer(jnp.ones((6, 8)))
    >>> cache.keys.shape, cache.values.shape, int(cache.position)
    ((4, 2, 4), (4, 2, 4), 6)
    """

    keys: jax.Array
    values: jax.Array
    position: jax.Array

    __repr__ = shown


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class CausalSelfAttention(Layer):
    """Multi-head attention of every step to itself and the `context` - 1 before it.

    Shapes: x (..., time, input_size); y (..., time, output_size); state: a `KeyValueCache`, whose
    keys and values are (..., context, num_heads, head_size).

    Cost: 2 * T * B * hidden * (3 * input_size + output_size) operations for the maps and
    4 * T * B * hidden * min(T, context) for the attention, all steps at once; memory B * heads *
    256 * min(T, context) at a time, 256 queries after another, which the backward pass computes
    again; where time is a symbol (`jax.export`) 256 * (context + 255), however short it turns out.
    A step reads the whole cache: unlike a recurrence's its state is as large as the window, 2 *
    context * hidden numbers a sequence.

    A step whose key or value is not finite makes every output that sees it nan, and no other.

    Source: Vaswani et al., "Attention is all you need" (2017), section 3.2; positions by rotation:
    Su et al., "RoFormer" (2021), equation 34; the window: Beltagy et al., "Longformer" (2020).

    >>> import jax, jax.numpy as jnp
    >>> layer = CausalSelfAttention.init(jax.random.key(0), input_size=16, context=8)
    >>> y, cache = layer(jnp.ones((2, 5, 16)))
    >>> y.shape, cache.keys.shape, cache.position.tolist()
    ((2, 5, 16), (2, 8, 4, 4), [5, 5])
    """

    no_split = (
        "a step reads the keys of `context` - 1 steps before it; split the batch, or gather x, by "
        "jax.lax.all_gather(x, axis_name, axis=x.ndim - 2, tiled=True)"
    )
    w_q: jax.Array  # (hidden, inputs)
    w_k: jax.Array
    w_v: jax.Array
    w_o: jax.Array  # (outputs, hidden)
    b_q: jax.Array | None  # (hidden,); None without biases
    b_k: jax.Array | None
    b_v: jax.Array | None
    b_o: jax.Array | None  # (outputs,)
    num_heads: int = field(metadata={"static": True})
    context: int = field(metadata={"static": True})
    rotary: bool = field(default=True, metadata={"static": True})

    @classmethod
    def init(
        cls,
        key: jax.Array,
        input_size: int,
        hidden_size: int | None = None,
        *,
        num_heads: int = 4,
        context: int = 1024,
        rotary: bool = True,
        bias: bool = False,
        output_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """Every weight uniform in +-1/sqrt(inputs of its map), as in `torch.nn.Linear`.

        hidden_size: of all heads together, and output_size: both input_size by default. rotary:
        whether keys and queries are turned by their positions; without, only the window says what
        came first. Raises ValueError for sizes below 1, a hidden_size that num_heads does not
        divide, and an odd head size with rotary positions.

        >>> import jax
        >>> layer = CausalSelfAttention.init(jax.random.key(0), 8, 32, num_heads=2, context=64)
        >>> layer.head_size, layer.output_size
        (16, 8)
        """
        hidden_size = input_size if hidden_size is None else hidden_size
        output_size = input_size if output_size is None else output_size
        key = random_key(key)
        positive(
            input_size=input_size,
            hidden_size=hidden_size,
            output_size=output_size,
            num_heads=num_heads,
            context=context,
        )
        if hidden_size % num_heads:
            raise ValueError(
                f"num_heads: expected a divisor of hidden_size = {hidden_size}, got {num_heads}; "
                "it is 4 by default"
            )
        if rotary and hidden_size // num_heads % 2:
            raise ValueError(
                "rotary: expected an even head size (pairs of numbers are turned), got "
                f"hidden_size / num_heads = {hidden_size // num_heads}; take fewer heads, or "
                "rotary=False"
            )
        dtype = floating("dtype", dtype)
        into_key, out_key = jax.random.split(key)
        into, out = (hidden_size, input_size), (output_size, hidden_size)
        b = input_size**-0.5, hidden_size**-0.5
        into_shapes = (into,) * 3 + ((hidden_size,),) * (3 * bias)
        w_q, w_k, w_v, *b_in = uniform(into_key, into_shapes, -b[0], b[0], dtype)
        w_o, *b_out = uniform(out_key, (out,) + ((output_size,),) * bias, -b[1], b[1], dtype)
        b_q, b_k, b_v, b_o = (*b_in, *b_out) if bias else (None,) * 4
        return cls(w_q, w_k, w_v, w_o, b_q, b_k, b_v, b_o, num_heads, context, rotary)

    @property
    def input_size(self) -> int:
        """Features of x."""
        return self.w_q.shape[-1]

    @property
    def hidden_size(self) -> int:
        """Width of all heads together."""
        return self.w_q.shape[-2]

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_heads

    @property
    def output_size(self) -> int:
        """Features of y."""
        return self.w_o.shape[-2]

    def _slots(self, batch: tuple[int, ...]) -> Slots:
        window = Slot((*batch, self.context, self.num_heads, self.head_size))
        return KeyValueCache(window, window, Slot(batch, jnp.integer))  # pyright: ignore

    def _check(self, x: jax.Array, state: State | None) -> None:
        countable("x", x.shape[-2], self.context + BLOCK)

    def _evaluate(self, given: Given) -> tuple[jax.Array, KeyValueCache]:
        x, (keys, values, before) = given.x, given.state
        batch, steps = x.shape[:-2], x.shape[-2]
        reset = None if given.reset is None else given.reset[..., 0]
        position, end = positions(reset, before, steps, given.lengths)
        before, count = before[..., None], math.prod(batch)
        q, k, v = self._projections(x, position)
        sees = jnp.minimum(position + 1, self.context).reshape((count, steps))

        def flat(z: jax.Array) -> jax.Array:
            return z.reshape((count, *z.shape[-3:]))

        if count * steps == 0:
            y = jnp.zeros(q.shape, x.dtype)
        elif given.fresh:
            y = attend(flat(q), flat(k), flat(v), self.context, sees)
        else:
            # The part of the window that the cache holds, in its order.
            past = self.context - 1
            slots = (before + _along(past, before) - past) % self.context
            past_k, past_v = flat(_take(keys, slots)), flat(_take(values, slots))
            seen_k = jnp.concatenate([past_k, flat(k)], 1)
            seen_v = jnp.concatenate([past_v, flat(v)], 1)
            y = attend(flat(q), seen_k, seen_v, self.context, sees)
        y = affine(y.reshape((*batch, steps, self.hidden_size)), self.w_o, self.b_o)

        if steps == 0:
            return y, given.state
        # How far before the last step of the sequence, and where in x, the one in each slot is.
        last = end[..., None] - 1
        back = (last - _along(self.context, before)) % self.context
        here = (steps if given.lengths is None else given.lengths[..., None]) - 1 - back
        is_new = (here >= 0) & (back <= last)
        if reset is not None:
            keys, values, _ = forgotten(given.state, self._slots(batch), jnp.any(reset, -1))

        def kept(old: jax.Array, new: jax.Array) -> jax.Array:
            return jnp.where(is_new[..., None, None], _take(new, here), old)

        return y, KeyValueCache(kept(keys, k), kept(values, v), end)

    def _step(self, x_t: jax.Array, state: KeyValueCache) -> tuple[jax.Array, KeyValueCache]:
        batch, position = x_t.shape[:-1], state.position[..., None]
        q, k, v = self._projections(x_t[..., None, :], position)
        slot = _along(self.context, position)
        here = (slot == position % self.context)[..., None, None]
        keys, values = jnp.where(here, k, state.keys), jnp.where(here, v, state.values)
        filled = slot <= position
        count = math.prod(batch)
        y = _attention(
            *(z.reshape((count, *z.shape[-3:])) for z in (q, keys, values)),
            mask=filled.reshape((count, 1, 1, self.context)),
        )
        y = affine(y.reshape((*batch, self.hidden_size)), self.w_o, self.b_o)
        return y, KeyValueCache(keys, values, state.position + 1)

    def _projections(
        self, x: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """q, k and v by head, (..., time, heads, head size), the first two turned."""

        def heads(w: jax.Array, b: jax.Array | None) -> jax.Array:
            y = affine(x, w, b)
            return y.reshape((*y.shape[:-1], self.num_heads, self.head_size))

        q, k, v = heads(self.w_q, self.b_q), heads(self.w_k, self.b_k), heads(self.w_v, self.b_v)
        return (turned(q, positions), turned(k, positions), v) if self.rotary else (q, k, v)


def _along(n: int, like: jax.Array) -> jax.Array:
    """0 ... n - 1 on the last axis, of the rank of `like`."""
    return jnp.arange(n, dtype=jnp.int32).reshape((1,) * (like.ndim - 1) + (n,))


def _take(x: jax.Array, index: jax.Array) -> jax.Array:
    """Steps of x (..., time, heads, size) by an index (..., n); outside, some step."""
    return jnp.take_along_axis(x, index[..., None, None], axis=-3, mode="clip")


def turned(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Pairs of numbers i and i + d/2, turned by the angle position * base^(-2 i / d).

    A position * rate in float32 is off by up to 0.03 at step one million. So turns are counted in
    integers, in units of 2^-32, where whole turns overflow by themselves; by what a rate misses
    the next integer is a small correction.
    """
    half = x.shape[-1] // 2
    rates = ROTARY_BASE ** (-np.arange(half) / half) * 2**32 / (2 * np.pi)
    whole = np.rint(rates)

    def along(z):
        return jnp.asarray(z).reshape((1,) * (x.ndim - 1) + (half,))

    positions = positions[..., None, None]
    turns = positions.astype(jnp.uint32) * along(whole.astype(np.uint32))
    turns = lax.bitcast_convert_type(turns, jnp.int32).astype(x.dtype)
    turns = turns + positions.astype(x.dtype) * along((rates - whole).astype(x.dtype))
    angles = turns * (2 * np.pi / 2**32)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, context: int, sees: jax.Array) -> jax.Array:
    """Attention of queries (B, T, heads, size) to keys (B, past + T, heads, size).

    Query t is key past + t. sees: (B, T), to how many keys each attends, itself the last of them;
    `context` at most.
    """
    count, steps = q.shape[:2]
    past = k.shape[1] - steps
    # A product with a weight of 0 would carry a nan to outputs that do not see it, and back.
    q, finite_q = _finite(q)
    k, finite_k = _finite(k)
    v, finite_v = _finite(v)
    bad = jnp.cumsum(~(finite_k & finite_v), axis=1, dtype=jnp.int32)
    gone = jnp.pad(bad, ((0, 0), (1, 0)))  # before each key
    first = past + 1 + lax.broadcasted_iota(jnp.int32, sees.shape, 1) - sees
    gone = jnp.take_along_axis(gone, first, axis=1, mode="clip")
    poisoned = (bad[:, past:] > gone) | ~finite_q

    # No block is the only one where time is a symbol (`jax.export`).
    known = isinstance(steps, int)
    block = min(BLOCK, steps) if known else BLOCK
    blocks = -(-steps // block)
    spare = blocks * block - steps
    # Keys that a query can see before its own.
    reach = min(context - 1, past + steps - 1) if known else context - 1
    k, v = (_padded(z, reach - past, spare) for z in (k, v))  # those of a block are one slice
    q = _padded(q, 0, spare)
    sees = jnp.maximum(_padded(sees, 0, spare), 1)  # of no key at all a softmax is nan

    @jax.checkpoint  # keeps q, k and v once, and no weights
    def one_block(q, k, v, sees, i):
        start = i * block
        q, sees = (lax.dynamic_slice_in_dim(z, start, block, 1) for z in (q, sees))
        k, v = (lax.dynamic_slice_in_dim(z, start, reach + block, 1) for z in (k, v))
        index = jnp.arange(reach + block, dtype=jnp.int32)[None, None, :]
        distance = jnp.arange(block, dtype=jnp.int32)[None, :, None] + reach - index
        seen = (distance >= 0) & (distance < sees[..., None])
        return _attention(q, k, v, seen[:, None])

    def at(i):
        return one_block(q, k, v, sees, i)

    if blocks == 1:
        y = at(0)
    else:
        y = jnp.moveaxis(lax.map(at, jnp.arange(blocks, dtype=jnp.int32)), 0, 1)
        y = y.reshape((count, blocks * block, *y.shape[3:]))[:, :steps]
    return jnp.where(poisoned[..., None, None], jnp.nan, y)


def _finite(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x (B, T, heads, size) with zeros at the steps that are not finite, and which of them are."""
    finite = jnp.isfinite(x).all((-2, -1))
    return jnp.where(finite[..., None, None], x, jnp.zeros((), x.dtype)), finite


def _padded(x: jax.Array, left: int, right: int) -> jax.Array:
    """Zeros in front of and behind time; a negative number takes away."""
    edges = [(0, 0, 0), (left, right, 0)] + [(0, 0, 0)] * (x.ndim - 2)
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def _attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(size)) v, for each head; mask: (B, 1, queries, keys), true where seen.

    The same as `jax.nn.dot_product_attention`, whose gradient takes three times as long on CPUs
    (the weights are divided there, here the sums of values) and which rounds the weights of
    float64 to float32.
    """
    precision = matmul_precision()
    q, k, v = (jnp.moveaxis(z, 2, 1) for z in (q * q.shape[-1] ** -0.5, k, v))
    logits = jnp.matmul(q, jnp.swapaxes(k, -1, -2), precision=precision)
    logits = jnp.where(mask, logits, -jnp.inf)
    largest = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - largest)
    y = jnp.matmul(weights, v, precision=precision) / jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.moveaxis(y, 1, 2)
