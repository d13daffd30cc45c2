"""The seconds of one of each that `rnnscan.scan.cost` counts, measured on this machine in seconds.

Plain programs that have nothing to do with any method:

| of | program |
|---|---|
| a byte | the streams of `limits.py`, at the size in question, in the same run |
| a fresh byte | what such streams take longer by call than in a loop, which uses memory again |
| a step | a turn of a compiled loop over rows of one number |
| an element | a number more in the rows of such a loop |
| a line | a gather of rows of 64 bytes, in no order |
| a launch | a link of a chain of sums, each of which waits for the one before |
| an operation | a product of matrices of the size in question |
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.harness import limits
from experiments.harness.timing import Check, Contender, compare
from rnnscan.scan.cost import Cost

_ROWS, _LANES = 4096, 64
_LINKS = 16
_LINE = 16  # float32 numbers
_KEPT_BYTES = 2**25  # smaller arrays an allocator keeps for the next call
_FRESH = 2**24  # numbers of an array that is made of new memory at every call


def each(
    stream_seconds: float, array_bytes: float, *, by_call: bool, flop_rate: float = 0.0
) -> Cost:
    """Seconds of one of each, where streaming three arrays of so many bytes took so long.

    by_call: every call asks for memory, and so a third of what is streamed is fresh where arrays
      are large.
    flop_rate: of products of matrices, a second; 0 where there are none.
    """
    launch, (step, element) = launch_seconds(), step_and_element_seconds()
    streaming = max(stream_seconds - launch, stream_seconds / 2)
    fresh = fresh_words() if by_call and array_bytes >= _KEPT_BYTES else 0.0
    byte = streaming / ((3 + fresh) * array_bytes)
    return Cost(
        launches=launch,
        steps=step,
        bytes=byte,
        fresh=fresh * byte,
        elements=element,
        lines=line_seconds(),
        flops=1 / flop_rate if flop_rate else 0.0,
    )


@functools.cache
def step_and_element_seconds() -> tuple[float, float]:
    """A turn of a compiled loop over rows, and a number more in them."""
    one, many = _rows_seconds(1), _rows_seconds(_LANES)
    element = max(0.0, many - one) / (_LANES - 1)
    return max(0.0, one - element), element


def _rows_seconds(lanes: int) -> float:
    """A row of a running mean."""
    x = np.ones((_ROWS, lanes), np.float32)

    def rows(x: jax.Array) -> jax.Array:
        def row(t: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            h, out = carry
            h = 0.5 * h + lax.dynamic_slice_in_dim(x, t, 1)
            return h, lax.dynamic_update_slice_in_dim(out, h, t, 0)

        return lax.fori_loop(0, _ROWS, row, (jnp.zeros_like(x[:1]), jnp.zeros_like(x)))[1]

    expected = 2 - 0.5 ** np.arange(_ROWS, dtype=np.float64)[:, None]
    return _seconds("rows", rows, (x,), expected) / _ROWS


@functools.cache
def line_seconds() -> float:
    """A place far from the one before: of 64 bytes, in an array of 16 MB."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2**18, _LINE)).astype(np.float32)
    order = rng.permutation(len(x)).astype(np.int32)[: 2**15]

    def gather(x: jax.Array, order: jax.Array) -> jax.Array:
        return jnp.take(x, order, axis=0, mode="clip")

    return _seconds("lines", gather, (x, order), x[order]) / len(order)


@functools.cache
def launch_seconds() -> float:
    """An operation of a compiled program that has next to nothing to do."""
    x = np.full(64, 2.0**-12, np.float32)

    def chain(x: jax.Array) -> jax.Array:
        for _ in range(_LINKS):
            x = x + jnp.sum(x) * jnp.float32(2.0**-6)
        return x

    return _seconds("chain", chain, (x,), x.astype(np.float64) * 2.0**_LINKS) / _LINKS


@functools.cache
def call_seconds() -> float:
    """A call from Python of a compiled program that has next to nothing to do."""
    x = np.ones(1, np.float32)
    program = Contender("call", lambda x: x + 1, (x,), lambda y: Check(abs(y[0] - 2), 0, "numpy"))
    (timing,) = compare([program], budget_seconds=0.1, in_loop=False)
    return timing.median


@functools.cache
def fresh_words() -> float:
    """How many words could be streamed in the time that the system takes to find one."""
    pairs = [
        compare(limits.streams((_FRESH,)), budget_seconds=0.3, in_loop=in_loop)
        for in_loop in (True, False)
    ]
    again, fresh = map(limits.stream_seconds, pairs)
    return max(0.0, 3 * (fresh / again - 1))


def _seconds(name: str, function, arguments: tuple, expected: np.ndarray) -> float:
    """The median of a checked program."""

    def check(output: jax.Array) -> Check:
        error = np.max(np.abs(np.asarray(output, np.float64) / expected - 1))
        return Check(float(error), 1e-5, "numpy")

    (timing,) = compare([Contender(name, function, arguments, check)], budget_seconds=0.3)
    if not timing.counts:
        raise ArithmeticError(f"{name}, a limit of the machine, is wrong: {timing.check}")
    return timing.median
