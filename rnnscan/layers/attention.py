"""Causal self-attention: every output looks at the inputs themselves, not at a state they left.

    q_t, k_t, v_t = W_q x_t, W_k x_t, W_v x_t,  split into heads;  q and k turned by their positions
    y_t = W_o [sum_{s in window(t)} softmax_s(q_t . k_s / sqrt(d)) v_s]_heads
    window(t) = t - context + 1 ... t

No step waits for another, and no distance inside of the window dims a gradient. The price: T times
the window in time, and a cache of the window in place of a state.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from rnnscan.layers.affine import affine
from rnnscan.layers.arguments import described, floating, one_step, positive, sequence, working
from rnnscan.layers.draws import uniform
from rnnscan.layers.lengths import checked_lengths, masked, valid_steps

ROTARY_BASE = 10_000.0
_BLOCK = 256  # queries at a time: beyond, memory grows with T * context no more


class KeyValueCache(NamedTuple):
    """The keys and values of the last `context` steps.

    Attributes:
      keys, values: (..., context, heads, head size); step p is in slot p % context, its key turned
        by its position already. Slots not yet filled are zero.
      position: int32 (...), how many steps came before.

    >>> import jax, jax.numpy as jnp
    >>> layer = CausalSelfAttention.init(jax.random.key(0), 8, num_heads=2, context=4)
    >>> _, cache = layer(jnp.ones((6, 8)))
    >>> cache.keys.shape, cache.values.shape, int(cache.position)
    ((4, 2, 4), (4, 2, 4), 6)
    """

    keys: jax.Array
    values: jax.Array
    position: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class CausalSelfAttention:
    """Multi-head attention of every step to itself and the `context` - 1 before it.

    Shapes: x (..., time, input_size); y (..., time, output_size); state: a `KeyValueCache`, whose
    keys and values are (..., context, num_heads, head_size). Any number of batch axes, none too.

    Cost: 2 * T * B * hidden * (3 * input_size + output_size) operations for the maps and
    4 * T * B * hidden * min(T, context) for the attention, all steps at once; memory B * heads *
    256 * min(T, context) at a time, 256 queries after another, which the backward pass computes
    again. A step reads the whole cache: unlike
    a recurrence's its state is as large as the window, 2 * context * hidden numbers a sequence.
    float16 and bfloat16 are computed in float32; y and the cache are rounded.

    A step whose key or value is not finite makes every output that sees it nan, and no other.

    Source: Vaswani et al., "Attention is all you need" (2017), section 3.2; positions by rotation:
    Su et al., "RoFormer" (2021), equation 34; the window: Beltagy et al., "Longformer" (2020).

    >>> import jax, jax.numpy as jnp
    >>> layer = CausalSelfAttention.init(jax.random.key(0), input_size=16, context=8)
    >>> y, cache = layer(jnp.ones((2, 5, 16)))
    >>> y.shape, cache.keys.shape, cache.position.tolist()
    ((2, 5, 16), (2, 8, 4, 4), [5, 5])
    """

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
    ) -> "CausalSelfAttention":
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
        positive(
            input_size=input_size,
            hidden_size=hidden_size,
            output_size=output_size,
            num_heads=num_heads,
            context=context,
        )
        if hidden_size % num_heads:
            raise ValueError(
                f"num_heads: expected a divisor of hidden_size = {hidden_size}, got {num_heads}"
            )
        if rotary and hidden_size // num_heads % 2:
            raise ValueError(
                "rotary: expected an even head size (pairs of numbers are turned), got "
                f"hidden_size / num_heads = {hidden_size // num_heads}"
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

    def __call__(
        self,
        x: ArrayLike,
        state: KeyValueCache | None = None,
        lengths: ArrayLike | None = None,
    ) -> tuple[jax.Array, KeyValueCache]:
        """Every step of the sequences x, after those in `state` (none when None): (y, cache).

        x: (..., time, input_size). lengths: integers of shape (...), how many steps of each
        sequence count. In the padding y is zero and x is never looked at, nan included; the
        returned cache is the one at each length. time = 0 returns the cache as it came.

        Raises ValueError for shapes that do not fit and for concrete lengths outside 0..time
        (traced ones are clipped), TypeError for dtypes that are not real floating.

        >>> import jax, jax.numpy as jnp
        >>> layer = CausalSelfAttention.init(jax.random.key(0), 8, context=4)
        >>> x = jax.random.normal(jax.random.key(1), (9, 8))
        >>> y_1, cache = layer(x[:3])
        >>> y_2, cache = layer(x[3:], cache)
        >>> bool(jnp.allclose(jnp.concatenate([y_1, y_2]), layer(x)[0], atol=1e-6))
        True
        """
        x = sequence(x, self.input_size)
        fresh = state is None
        cache = self._cache(state, x.shape[:-2], x)
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[:-2], x.shape[-2])
        return _evaluate(self, x, cache, lengths, fresh)

    def step(
        self, x_t: ArrayLike, state: KeyValueCache | None = None
    ) -> tuple[jax.Array, KeyValueCache]:
        """One step, for generation: x_t (..., input_size) to (y_t (..., output_size), cache).

        The cache keeps its shape, so that a compiled step serves for all. Stepping through a
        sequence equals calling the layer on it. Raises ValueError for shapes that do not fit.

        >>> import jax, jax.numpy as jnp
        >>> layer = CausalSelfAttention.init(jax.random.key(0), 8, context=4)
        >>> y_0, cache = layer.step(jnp.ones(8))
        >>> y_1, cache = layer.step(jnp.ones(8), cache)
        >>> bool(jnp.allclose(jnp.stack([y_0, y_1]), layer(jnp.ones((2, 8)))[0], atol=1e-6))
        True
        """
        x_t = one_step(x_t, self.input_size)
        return _step(self, x_t, self._cache(state, x_t.shape[:-1], x_t))

    def _cache(
        self, state: KeyValueCache | None, batch: tuple[int, ...], x: jax.Array
    ) -> KeyValueCache:
        dtype = jnp.result_type(x, *jax.tree.leaves(self))
        shape = (*batch, self.context, self.num_heads, self.head_size)
        if state is None:
            zeros = jnp.zeros(shape, dtype)
            return KeyValueCache(zeros, zeros, jnp.zeros(batch, jnp.int32))
        if not isinstance(state, tuple) or len(state) != 3 or any(s is None for s in state):
            raise ValueError(
                f"state: expected a KeyValueCache (keys, values, position), got {described(state)}"
            )
        keys, values, position = map(jnp.asarray, state)
        given = {"keys": (keys, shape), "values": (values, shape), "position": (position, batch)}
        for name, (array, expected) in given.items():
            if array.shape != expected:
                raise ValueError(f"state.{name}: expected shape {expected}, got {array.shape}")
        floating("state.keys", keys.dtype)
        floating("state.values", values.dtype)
        if not jnp.issubdtype(position.dtype, jnp.integer):
            raise TypeError(f"state.position: expected integers, got {position.dtype}")
        dtype = jnp.result_type(dtype, keys, values)
        return KeyValueCache(keys.astype(dtype), values.astype(dtype), position.astype(jnp.int32))


@partial(jax.jit, static_argnames="fresh")
def _evaluate(
    layer: CausalSelfAttention,
    x: jax.Array,
    cache: KeyValueCache,
    lengths: jax.Array | None,
    fresh: bool,
) -> tuple[jax.Array, KeyValueCache]:
    dtype, batch, steps = cache.keys.dtype, x.shape[:-2], x.shape[-2]
    layer, x, keys, values = working(dtype, layer, x, cache.keys, cache.values)
    position, count = cache.position[..., None], math.prod(batch)
    valid = None if lengths is None else valid_steps(lengths, steps)
    q, k, v = _projections(layer, masked(x, valid), position + _along(steps, position))

    def flat(z: jax.Array) -> jax.Array:
        return z.reshape((count, *z.shape[-3:]))

    if count * steps == 0:
        y = jnp.zeros(q.shape, x.dtype)
    elif fresh:
        y = _attend(flat(q), flat(k), flat(v), layer.context, jnp.zeros(count, jnp.int32))
    else:
        # The part of the window that the cache holds, in its order.
        past = layer.context - 1
        slots = (position + _along(past, position) - past) % layer.context
        past_k, past_v = flat(_take(keys, slots)), flat(_take(values, slots))
        seen_k = jnp.concatenate([past_k, flat(k)], 1)
        seen_v = jnp.concatenate([past_v, flat(v)], 1)
        known = jnp.minimum(cache.position, past).reshape(count)
        y = _attend(flat(q), seen_k, seen_v, layer.context, known)
    y = y.reshape((*batch, steps, layer.hidden_size))
    y = masked(affine(y, layer.w_o, layer.b_o), valid)

    end = cache.position + (steps if lengths is None else lengths)
    # The last step before the end that is in each slot.
    slot = _along(layer.context, position)
    newest = end[..., None] - 1 - (end[..., None] - 1 - slot) % layer.context
    is_new = (newest >= position)[..., None, None]

    def kept(old: jax.Array, new: jax.Array) -> jax.Array:
        if steps == 0:
            return old
        return jnp.where(is_new, _take(new, newest - position), old).astype(dtype)

    return y.astype(dtype), KeyValueCache(kept(keys, k), kept(values, v), end)


@jax.jit
def _step(
    layer: CausalSelfAttention, x_t: jax.Array, cache: KeyValueCache
) -> tuple[jax.Array, KeyValueCache]:
    dtype, batch = cache.keys.dtype, x_t.shape[:-1]
    layer, x, keys, values = working(dtype, layer, x_t[..., None, :], cache.keys, cache.values)
    position = cache.position[..., None]
    q, k, v = _projections(layer, x, position)
    slot = _along(layer.context, position)
    here = (slot == position % layer.context)[..., None, None]
    keys, values = jnp.where(here, k, keys), jnp.where(here, v, values)
    filled = slot <= position
    count = math.prod(batch)
    y = _attention(
        *(z.reshape((count, *z.shape[-3:])) for z in (q, keys, values)),
        mask=filled.reshape((count, 1, 1, layer.context)),
    )
    y = affine(y.reshape((*batch, layer.hidden_size)), layer.w_o, layer.b_o)
    cache = KeyValueCache(keys.astype(dtype), values.astype(dtype), cache.position + 1)
    return y.astype(dtype), cache


def _along(n: int, like: jax.Array) -> jax.Array:
    """0 ... n - 1 on the last axis, of the rank of `like`."""
    return jnp.arange(n, dtype=jnp.int32).reshape((1,) * (like.ndim - 1) + (n,))


def _take(x: jax.Array, index: jax.Array) -> jax.Array:
    """Steps of x (..., time, heads, size) by an index (..., n); outside, some step."""
    return jnp.take_along_axis(x, index[..., None, None], axis=-3, mode="clip")


def _projections(
    layer: CausalSelfAttention, x: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """q, k and v by head, (..., time, heads, head size), the first two turned."""

    def heads(w: jax.Array, b: jax.Array | None) -> jax.Array:
        y = affine(x, w, b)
        return y.reshape((*y.shape[:-1], layer.num_heads, layer.head_size))

    q, k, v = heads(layer.w_q, layer.b_q), heads(layer.w_k, layer.b_k), heads(layer.w_v, layer.b_v)
    return (_turned(q, positions), _turned(k, positions), v) if layer.rotary else (q, k, v)


def _turned(x: jax.Array, positions: jax.Array) -> jax.Array:
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


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, context: int, known: jax.Array) -> jax.Array:
    """Attention of queries (B, T, heads, size) to keys (B, past + T, heads, size).

    Query t is key past + t. known: (B,), how many of the `past` keys there are, the last ones.
    """
    count, steps = q.shape[:2]
    past = k.shape[1] - steps
    # A product with a weight of 0 would carry a nan to outputs that do not see it.
    finite = jnp.isfinite(k).all((-2, -1)) & jnp.isfinite(v).all((-2, -1))
    k, v = (jnp.where(finite[..., None, None], z, 0) for z in (k, v))
    bad = jnp.cumsum(~finite, axis=1, dtype=jnp.int32)
    gone = jnp.pad(bad, ((0, 0), (context, 0)))[:, : bad.shape[1]]  # the bad ones out of sight
    poisoned = (bad - gone)[:, past:] > 0

    block = min(_BLOCK, steps)
    blocks = -(-steps // block)
    spare = blocks * block - steps
    reach = min(context - 1, past + steps - 1)  # keys that a query can see before its own
    k, v = (_padded(z, reach - past, spare) for z in (k, v))  # those of a block are one slice
    q = _padded(q, 0, spare)
    first = reach - jnp.minimum(known, reach)

    @jax.checkpoint  # keeps q, k and v once, and no weights
    def one_block(q, k, v, first, i):
        start = i * block
        q = lax.dynamic_slice_in_dim(q, start, block, 1)
        k, v = (lax.dynamic_slice_in_dim(z, start, reach + block, 1) for z in (k, v))
        index = jnp.arange(reach + block, dtype=jnp.int32)[None, :]
        distance = jnp.arange(block, dtype=jnp.int32)[:, None] + reach - index
        seen = (distance >= 0) & (distance < context)
        there = start + index >= first[:, None]
        return _attention(q, k, v, seen[None, None] & there[:, None, None])

    def at(i):
        return one_block(q, k, v, first, i)

    if blocks == 1:
        y = at(0)
    else:
        y = jnp.moveaxis(lax.map(at, jnp.arange(blocks, dtype=jnp.int32)), 0, 1)
        y = y.reshape((count, blocks * block, *y.shape[3:]))[:, :steps]
    return jnp.where(poisoned[..., None, None], jnp.nan, y)


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
    chosen = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    with jax.default_matmul_precision(chosen or "highest"):
        q, k, v = (jnp.moveaxis(z, 2, 1) for z in (q * q.shape[-1] ** -0.5, k, v))
        logits = jnp.where(mask, jnp.matmul(q, jnp.swapaxes(k, -1, -2)), -jnp.inf)
        largest = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
        weights = jnp.exp(logits - largest)
        y = jnp.matmul(weights, v) / jnp.sum(weights, axis=-1, keepdims=True)
        return jnp.moveaxis(y, 1, 2)
