"""`blocked`: reduce, then scan, over chunks side by side.

In scan order the T steps are K chunks of C steps; the last one may be shorter.

    1. reduce   the first K-1 chunks side by side, C steps one after another, each to one pair:
                    (A, B) <- (a_t A, a_t B + b_t)
    2. tree     over these pairs (`associative`, with its flags): the state that enters each chunk
    3. rescan   the K chunks side by side, from those states:
                    h <- a_t h + b_t,  written as it is made

Work about 2 T products, span 2 C + 2 log2 K. This is reduce-then-scan (Blelloch 1990, section 1.2,
for T elements on K processors; Merrill & Garland 2016, who set it against the chained scan, which
reads once and which a program of array operations cannot express). Memory traffic 5 words an
element: a and b are read twice, h is written once. No array of b's size is made besides the result,
and a decay that broadcasts is never spelled out: temporaries are the pairs, about 10 / C of b.

The tangent map forms its drive, `db_t + da_t h_{t-1}`, inside both loops: 9 words an element. The
backward pass carries what a step sends to the one before it,

    s_t = a_t' (g_t + s_{t+1}),   db_t = g_t + s_{t+1}

which has its decay at its own step, so chunks reduce as above, with drive `a_t' g_t`. The rescan
writes db and da, sums the gradient of a constant decay as it goes, and ends with dh0: 7 words.

The program grows with T by the levels of its tree alone, log2 K. For accelerators without a
kernel; on a CPU `sequential` is faster.

Shortcoming: products of decays are formed, over a chunk and over chunks, so where |a| > 1 they may
overflow and give nan where `sequential` does not, as in `associative`. A reset stops that.

Any product, at n^3 work a step of the reduction for matrices: `matrix_scan` uses it where A varies
in time.
"""

import dataclasses
import math

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
from rnnscan.scan.linear_methods import associative
from rnnscan.scan.precision import is_long
from rnnscan.scan.product import sum_to
from rnnscan.scan.time_axis import TimeAxis, keep, where

# Estimates, not measurements. A step costs a launch or two however little it does, so chunks are
# short; but the pairs, their copies in the tree among them, take 10 / C of b's memory.
_LONGEST = 64
# Numbers in K states side by side: enough to keep an accelerator busy, and few enough to stay in
# its cache between two steps. Where the batch is wide, chunks are longer instead.
_WIDEST = 2**22


def chunk_length(length: int, width: int) -> int:
    """C for T steps of `width` numbers.

    About sqrt(T), at most 64, but longer where K states would have more than 2^22 numbers. A
    divisor of T within a factor of two of that is preferred: the time axis is then viewed as
    (K, C), and read and written by slices instead of indices. A width that is a symbol
    (`jax.export`) counts as narrow.
    """
    longer = -(-length * width // _WIDEST) if isinstance(width, int) else 1
    want = max(2, min(math.isqrt(length), _LONGEST), longer)
    if want >= length:
        return length
    near = [c for c in range(want // 2 + 1, 2 * want + 1) if length % c == 0]
    return min(near, key=lambda c: max(c / want, want / c), default=want)


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """The steps k C + c of all chunks k at one c: rows, along the time axis of an operand.

    Rows lie in the order of memory; with `time.reverse` that is from the last chunk to the first.
    """

    time: TimeAxis
    length: int

    @property
    def count(self) -> int:
        return -(-self.time.length // self.length)

    @property
    def last_length(self) -> int:
        return self.time.length - (self.count - 1) * self.length

    @property
    def even(self) -> bool:
        return self.last_length == self.length

    def across(self, n: int) -> TimeAxis:
        """The first n chunks, as steps."""
        return TimeAxis(self.time.axis, n, self.time.reverse)

    def shape(self, shape: tuple[int, ...], n: int) -> tuple[int, ...]:
        """The shape of n rows."""
        axis = self.time.axis
        return (*shape[:axis], n, *shape[axis + 1 :])

    def view(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in which a result is carried: time as (K, C) where that is even."""
        axis = self.time.axis
        return (*shape[:axis], self.count, self.length, *shape[axis + 1 :]) if self.even else shape

    def _steps(self, c, n: int) -> jax.Array:
        dtype = jnp.int64 if is_long([self.time.length]) else jnp.int32
        k = lax.iota(dtype, n)
        k = n - 1 - k if self.time.reverse else k
        return k * self.length + lax.convert_element_type(c, dtype)

    def _positions(self, steps: jax.Array) -> jax.Array:
        return self.time.length - 1 - steps if self.time.reverse else steps

    def _take(self, x: jax.Array, steps: jax.Array) -> jax.Array:
        return jnp.take(x, self._positions(steps), axis=self.time.axis, mode="clip")

    def rows(self, x, c, n: int) -> jax.Array:
        """Step c of the first n chunks; x itself where it is constant in time."""
        axis = self.time.axis
        if x.shape[axis] == 1:
            return x
        if not self.even:
            return self._take(x, self._steps(c, n))
        x = x.reshape(self.view(x.shape))
        c, start = (self.length - 1 - c, self.count - n) if self.time.reverse else (c, 0)
        x = lax.dynamic_slice_in_dim(x, c, 1, axis + 1)
        return lax.squeeze(lax.slice_in_dim(x, start, start + n, axis=axis), (axis + 1,))

    def beside(self, x, edge, c, n: int, offset: int) -> jax.Array:
        """What stands `offset` steps on from step c, which may be in another chunk, or the edge."""
        steps = self._steps(c, n) + offset
        outside = (steps < 0) | (steps >= self.time.length)
        others = tuple(i for i in range(x.ndim) if i != self.time.axis)
        return where(lax.expand_dims(outside, others), edge, self._take(x, steps))

    def put(self, out: jax.Array, x: jax.Array, c, n: int) -> jax.Array:
        """`out`, in the shape of `view`, with step c of the first n chunks replaced."""
        axis, x = self.time.axis, x.astype(out.dtype)
        if not self.even:
            places = (*(slice(None) for _ in range(axis)), self._positions(self._steps(c, n)))
            return out.at[places].set(
                x, mode="promise_in_bounds", indices_are_sorted=True, unique_indices=True
            )
        c = self.length - 1 - c if self.time.reverse else c
        return lax.dynamic_update_slice_in_dim(out, lax.expand_dims(x, (axis + 1,)), c, axis + 1)

    def part(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """All rows but the last chunk's, and that."""
        axis, n = self.time.axis, self.count
        cut = 1 if self.time.reverse else n - 1
        before = lax.slice_in_dim(x, 0, cut, axis=axis)
        after = lax.slice_in_dim(x, cut, n, axis=axis)
        return (after, before) if self.time.reverse else (before, after)

    def join(self, first: jax.Array, rest: jax.Array) -> jax.Array:
        """The first chunk's row and those of the others."""
        pair = [rest, first] if self.time.reverse else [first, rest]
        return lax.concatenate(pair, self.time.axis)

    def run(self, body, rows, out):
        """`rows, out = body(c, n, rows, out)` for every step c of every chunk.

        Returns the rows that all chunks but the last end with, those of the last, and `out`.
        """

        def loop(start, stop, n, rows, out):
            return lax.fori_loop(start, stop, lambda c, carry: body(c, n, *carry), (rows, out))

        rows, out = loop(0, self.last_length, self.count, rows, out)
        leaves, tree = jax.tree.flatten(rows)
        pairs = [self.part(x) for x in leaves]
        rows, last = (tree.unflatten([pair[i] for pair in pairs]) for i in range(2))
        if not self.even:
            rows, out = loop(self.last_length, self.length, self.count - 1, rows, out)
        return rows, last, out


def _chunks(time: TimeAxis, shape: tuple[int, ...]) -> _Chunks:
    return _Chunks(time, chunk_length(time.length, math.prod(shape) // time.length))


def _flags(chunks, reset, c, n):
    return None if reset is None else chunks.rows(reset, c, n)


def _entering(product, chunks, decay, drive, reset, h0, *, none=False):
    """The state before the first step of every chunk, as rows; h0 is full-size.

    `none`: h0 is zero and stays out of the products, where an infinite decay would make it nan.
    """
    n = chunks.count - 1
    if n == 0:
        return h0

    def step(c, pair):
        f, A, B = pair
        a, b, flags = decay(c, n), drive(c, n), _flags(chunks, reset, c, n)
        f = None if flags is None else f | flags
        return f, product.compose(a, A), where(flags, b, product.apply(a, B) + b)

    # h0 enters here and not in the tree, where it would meet the product of a whole chunk.
    across, f, A = chunks.across(n), _flags(chunks, reset, 0, n), decay(0, n)
    B = jnp.broadcast_to(drive(0, n), chunks.shape(h0.shape, n))
    B = B if none else associative.enter(product, across, A, B, h0, f)
    f, A, B = lax.fori_loop(1, chunks.length, step, (f, A, B))
    return chunks.join(h0, associative.prefixes(product, across, A, B, f))


def _scan(problem, chunks, a, drive, h0, reset):
    """h for drives that are made when they are read."""
    product, shape, wide = problem.product, problem.shape, problem.wide

    def decay(c, n):
        return chunks.rows(a, c, n).astype(wide)

    def body(c, n, h, out):
        b = drive(c, n)
        h = where(_flags(chunks, reset, c, n), b, product.apply(decay(c, n), h) + b)
        return h, chunks.put(out, h, c, n)

    h0 = jnp.broadcast_to(h0.astype(wide), chunks.shape(shape, 1))
    h = _entering(product, chunks, decay, drive, reset, h0)
    out = lax.full_like(h0, 0, shape=chunks.view(shape), dtype=problem.dtype)
    return chunks.run(body, h, out)[2].reshape(shape)


def _forward(problem: Problem, operands: ScanOperands) -> jax.Array:
    a, b, h0, reset = operands
    chunks = _chunks(problem.time, problem.shape)

    def drive(c, n):
        return chunks.rows(b, c, n).astype(problem.wide)

    return _scan(problem, chunks, a, drive, h0, reset)


def _tangent(problem: Problem, operands: TangentOperands) -> jax.Array:
    a, (h, h0), da, db, dh0, reset = operands
    product, wide = problem.product, problem.wide
    chunks = _chunks(problem.time, problem.shape)

    def drive(c, n):
        before = chunks.beside(h, h0, c, n, -1).astype(wide)
        moved = product.apply(chunks.rows(da, c, n).astype(wide), before)
        return keep(_flags(chunks, reset, c, n), moved) + chunks.rows(db, c, n).astype(wide)

    return _scan(problem, chunks, a, drive, dh0, reset)


def _transpose(problem: Problem, operands: TransposeOperands) -> Gradients:
    g, a, past, reset, later = operands
    product, time, shape = problem.product, problem.time, problem.shape
    wide, dtype, (decay_shape, state_shape) = problem.wide, problem.dtype, problem.gradients
    chunks = _chunks(time.backwards, shape)
    constant = decay_shape[time.axis] == 1
    in_loop = past if product.outer_per_step or not constant else None

    def decay(c, n):
        return product.transpose(chunks.rows(a, c, n).astype(wide))

    def send(c, n, adjoint):
        return keep(_flags(chunks, reset, c, n), product.apply(decay(c, n), adjoint))

    def drive(c, n):
        return send(c, n, chunks.rows(g, c, n).astype(wide))

    def body(c, n, rows, out):
        (later, total), (db, da) = rows, out
        adjoint = chunks.rows(g, c, n).astype(wide) + later
        if in_loop:
            flags = _flags(chunks, reset, c, n)
            before = keep(flags, chunks.beside(*in_loop, c, n, 1).astype(wide))
            through = keep(flags, jnp.broadcast_to(adjoint, later.shape))
            part = product.outer(through, before, chunks.shape(decay_shape, n))
            if constant:
                total += part
            else:
                da = chunks.put(da, part, c, n)
        return (send(c, n, adjoint), total), (chunks.put(db, adjoint, c, n), da)

    none = later is None
    if later is None:
        later = lax.full_like(g, 0, shape=time.one(shape), dtype=wide)
    later = jnp.broadcast_to(later.astype(wide), time.one(shape))
    later = _entering(product, chunks, decay, drive, reset, later, none=none)
    db = lax.full_like(g, 0, shape=chunks.view(shape), dtype=dtype)
    da = total = None
    if in_loop and constant:
        total = lax.full_like(g, 0, shape=chunks.shape(decay_shape, chunks.count), dtype=wide)
    elif in_loop:
        da = lax.full_like(g, 0, shape=chunks.view(decay_shape), dtype=dtype)
    (_, total), (later, last_total), (db, da) = chunks.run(body, (later, total), (db, da))
    db = db.reshape(shape)
    if total is not None:
        da = sum_to(total, decay_shape) + last_total
    elif past and not in_loop:
        before = keep(reset, time.before(jnp.broadcast_to(past.h, shape), past.h0))
        da = product.outer(keep(reset, db).astype(wide), before.astype(wide), decay_shape)
    dh0 = sum_to(later, state_shape).astype(dtype)
    return Gradients(None if da is None else da.reshape(decay_shape).astype(dtype), db, dh0)


_LINE = 64  # bytes


def cost(case: LinearCase, backward: bool) -> Cost:
    """2 C turns and a tree over chunks; 5 words an element, 7 backward, from rows far apart."""
    passes = 2 if backward else 1
    chunk, array = chunk_length(case.length, case.width), case.states * case.dtype.itemsize
    levels = 2 * math.log2(max(2, case.length / chunk))
    decays = 0 if case.constant else case.size  # arrays, read twice and, backward, three times
    words = 3 + 2 * decays + (4 + 3 * decays if backward else 0)
    rows = array / max(case.inner * case.dtype.itemsize, _LINE)
    # About half of the lines are still in a cache.
    total = Cost(launches=3 * passes * levels, steps=passes * 2 * chunk, lines=words * rows / 2)
    total += Cost(bytes=words * array, fresh=case.traffic(False).fresh, elements=case.reals / 2)
    if backward:
        total += Cost(fresh=case.traffic(True).fresh)
    if case.size > 1:
        total += Cost(flops=passes * 2 * case.length * case.size**3)
    return total


method = LinearMethod(
    name="blocked",
    summary="chunks side by side, a tree over chunks: few steps, 5 words an element",
    forward=_forward,
    tangent=_tangent,
    transpose=_transpose,
    why_not=associative.why_not,
    cost=cost,
)
