"""`blocked`: blocks of steps, moved on together by powers of A as large matrix products.

For a constant A, in scan order, with blocks of C = 8 steps:

    1. reduce    every block to one step, by halves: pairs of neighbours, all pairs at once,
                     b_{2k+1} <- A b_{2k} + b_{2k+1},   then pairs of those with A^2, then A^4;
                 what is left of a block is sum_c A^(7-c) b_c, its state at the end from zero
    2. recur     these ends obey the recurrence of A^8, with an eighth of the steps: the same again,
                 until one block is left. That gives the state that enters every block
    3. expand    all blocks side by side, from those states: h <- A h + b, eight large products

A product has one row for each block and each state side by side. Work for one state: T n^2 (1/2 +
1/4 + 1/8) to reduce and T n^2 to expand, times 8/7 for all levels, so 2.1 T n^2 multiplications;
and three products of matrices a level for the powers, n^3 log2 T. Span: 11 products a level, 3.7
log2 T. Memory: a seventh of b for the ends, powers of A one at a time; A is never spelled out over
time.

What else was weighed. A block as one triangular Toeplitz matrix of powers is a single product, but
C times the work; it sums over the steps of a block, so that a nan of a later step times a zero
reaches an earlier one; and with resets it is another matrix for each block. Doubling inside of
blocks by shifted products (h += A^(2^j) h, shifted) has log2 C rounds of full work where expanding
has one, and took 1.3 to 3 times as long on two cores. Powers A^0 ... A^7 side by side reduce in one
product, but cost n^3 each: slower from n = 64 on. Blocks of 2 have the span 2 log2 T of a tree and
move twice the memory; blocks of sqrt(T) have span 2 sqrt(T).

A step that resets is its drive, selected after the product, block ends carry a flag. Shortcoming:
powers of A alone are formed, so where they overflow h may be nan where `sequential` is not.

Where A varies in time, neighbours have no power in common: there it is the reduce-then-scan of
`linear_methods/blocked.py`, at n^3 work a step of the reduction.

Source: Blelloch 1990, "Prefix sums and their applications", sections 1.2 (reduce and expand by
blocks) and 1.4.1 (recurrences of matrices).
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan.cost import Cost
from rnnscan.scan.derived_maps import derived_maps
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
from rnnscan.scan.linear_methods import blocked as chunked
from rnnscan.scan.time_axis import TimeAxis, where

# Steps of a block: 4 and 16 took the same time on two cores, and compile longer.
_LOG2_BLOCK = 3
_BLOCK = 2**_LOG2_BLOCK


def evaluate(product, time, a, b, h0, reset):
    """h for a constant A."""
    A, size = a, min(_BLOCK, time.length)
    count = -(-time.length // size)
    if reset is not None:
        reset = jnp.broadcast_to(reset, _steps(time, reset.shape, time.length))

    entering = h0
    if count > 1:
        across = TimeAxis(time.axis, count - 1, time.reverse)
        entering = evaluate(product, across, *_reduced(product, time, A, b, h0, reset))
        if h0 is not None:
            entering = _join(time, jnp.broadcast_to(h0, time.one(b.shape)), entering)

    blocks = _in_blocks(time, b, size)
    flags = None if reset is None else _in_blocks(time, reset, size)
    h, rows = entering, []
    for c in range(size):
        drive = _step_of_blocks(time, blocks, c)
        here = None if flags is None else _step_of_blocks(time, flags, c)
        if c > 0 or h0 is not None:
            h = where(here, drive, product.apply(A, h) + drive)
        elif count == 1:  # no state comes in
            h = drive
        else:
            first, drive = _first(time, drive)
            here = None if here is None else _first(time, here)[1]
            h = _join(time, first, where(here, drive, product.apply(A, h) + drive))
        rows.append(h)
    h = jnp.stack(rows[::-1] if time.reverse else rows, axis=time.axis + 1)
    return _cut(time, h.reshape(_steps(time, b.shape, count * size)), 0, time.length)


def _reduced(product, time, A, b, h0, reset):
    """The operands of the recurrence of the block ends: every block but the last in one step.

    The last one is the only one that may be shorter, and nothing waits for its end.
    """
    whole = (time.length - 1) // _BLOCK * _BLOCK
    ends, power = _cut(time, b, 0, whole), A
    flags = None if reset is None else _cut(time, reset, 0, whole)
    for _ in range(_LOG2_BLOCK):
        first, second = _pairs(time, ends)
        here = None
        if flags is not None:
            before, here = _pairs(time, flags)
            flags = before | here
        ends = where(here, second, product.apply(power, first) + second)
        power = product.compose(power, power)
    return power, ends, h0, flags


def _steps(time, shape, length):
    """A shape with so many steps."""
    return (*shape[: time.axis], length, *shape[time.axis + 1 :])


def _cut(time, x, start, stop):
    """Steps start ... stop-1 of x, in scan order, counted over all that it has."""
    length = x.shape[time.axis]
    if (start, stop) == (0, length):
        return x
    if time.reverse:
        start, stop = length - stop, length - start
    return lax.slice_in_dim(x, start, stop, axis=time.axis)


def _join(time, first, rest):
    """Steps in scan order, in the order of memory."""
    return lax.concatenate([rest, first] if time.reverse else [first, rest], time.axis)


def _first(time, x):
    """The first step in scan order, and the others."""
    return _cut(time, x, 0, 1), _cut(time, x, 1, x.shape[time.axis])


def _in_blocks(time, x, size):
    """x with time as (blocks, steps); what is missing in the last block is zero."""
    length = x.shape[time.axis]
    count = -(-length // size)
    if missing := count * size - length:
        x = _join(time, x, lax.full_like(x, 0, shape=_steps(time, x.shape, missing)))
    return x.reshape((*x.shape[: time.axis], count, size, *x.shape[time.axis + 1 :]))


def _step_of_blocks(time, blocks, c):
    """Step c of every block of `_in_blocks`."""
    axis = time.axis + 1
    c = blocks.shape[axis] - 1 - c if time.reverse else c
    return lax.squeeze(lax.slice_in_dim(blocks, c, c + 1, axis=axis), (axis,))


def _pairs(time, x):
    """Of neighbouring steps the earlier ones and the later ones."""
    pairs = _in_blocks(time, x, 2)
    return _step_of_blocks(time, pairs, 0), _step_of_blocks(time, pairs, 1)


_powers = derived_maps(evaluate)


def _maps(problem: Problem, A: jax.Array):
    """Powers where A is constant, else chunks."""
    return _powers if A.shape[problem.time.axis] == 1 else chunked.method


def _forward(problem: Problem, operands: ScanOperands) -> jax.Array:
    return _maps(problem, operands.a).forward(problem, operands)


def _tangent(problem: Problem, operands: TangentOperands) -> jax.Array:
    return _maps(problem, operands.a).tangent(problem, operands)


def _transpose(problem: Problem, operands: TransposeOperands) -> Gradients:
    return _maps(problem, operands.a).transpose(problem, operands)


def cost(case: LinearCase, backward: bool) -> Cost:
    """11 products a level and 2.1 T n^2 multiplications a state; some 8 words an element."""
    if not case.constant:
        return chunked.cost(case, backward)
    passes = 3 if backward else 1  # what flows back, and the gradient of A
    levels = max(1.0, math.log(max(2, case.length), _BLOCK))
    array = case.states * case.dtype.itemsize
    return Cost(
        launches=11 * levels * passes,
        bytes=8 * passes * array,
        fresh=2 * passes * array,
        flops=passes * 2 * 2.1 * case.size * case.states,
    )


method = LinearMethod(
    name="blocked",
    summary="blocks of steps side by side, moved on by powers of A: large products, few steps",
    forward=_forward,
    tangent=_tangent,
    transpose=_transpose,
    why_not=associative.why_not,
    cost=cost,
)
