"""What the machine can do at best, measured in the same run: bytes and operations a second.

A task that must move `bytes` and do `flops` operations cannot end before
`max(bytes / bandwidth, flops / rate)`. A time says something only beside this limit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.harness import environment
from experiments.harness.timing import Check, Contender, Timing, compare

# Nothing passes a limit, but two medians of one run differ by some percent on a quiet machine too.
NOISE = 1.05
_PRODUCT = "limit: product of matrices"
_STREAM = "limit: stream "
# Three arrays pass through memory: two are read, one is written.
_STREAMS = {
    "a + b": (lambda a, b: a + b, np.add),
    "a * b + b": (lambda a, b: a * b + b, lambda a, b: a * b + b),
    "maximum(a, b)": (jnp.maximum, np.maximum),
}


def contradicts(share: float, noise: float = NOISE) -> bool:
    """Whether a share of a limit says that the limit was mismeasured: it is above 1, or no number.

    Other work on the machine can slow the limit's kernels more than what is held against them.

    >>> contradicts(0.4), contradicts(1.01), contradicts(1.3), contradicts(float("nan"))
    (False, False, True, True)
    """
    return not share <= noise


@dataclass(frozen=True)
class Work:
    """The least that a task needs: words that must come from and go to memory, and operations."""

    bytes: float
    flops: float

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.flops + other.flops)


@dataclass(frozen=True)
class Limits:
    """Measured rates: bytes a second streamed, floating point operations a second multiplied."""

    bandwidth: float
    flop_rate: float

    def seconds(self, work: Work) -> float:
        """The time below which this machine cannot do the work."""
        return max(work.bytes / self.bandwidth, work.flops / self.flop_rate)

    def bound(self, work: Work) -> str:
        """Which of the two limits it."""
        streaming = work.bytes / self.bandwidth >= work.flops / self.flop_rate
        return "bandwidth" if streaming else "arithmetic"

    def as_record(self, work: Work) -> dict[str, Any]:
        """What a record of something that does the work keeps of the limits."""
        return {
            "bandwidth": self.bandwidth,
            "flop_rate": self.flop_rate,
            "limit_seconds": self.seconds(work),
            "limited_by": self.bound(work),
        }


def contenders(total_bytes: float, product_size: int) -> list[Contender]:
    """What measures the limits, to be timed among the others, so that a slow moment hits both.

    The `streams` that move `total_bytes` in all, and a product of matrices of `product_size`.
    """
    return [*streams((_stream_size(total_bytes),)), product(product_size)]


def streams(shape: tuple[int, ...]) -> list[Contender]:
    """Three plain elementwise kernels on float32 arrays of that shape.

    Each moves three arrays; one kernel alone can fall into an odd case of threads or page faults.
    """
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.5, 1.5, shape).astype(np.float32) for _ in range(2))

    def stream(name: str) -> Contender:
        function, expected = _STREAMS[name]
        # Both are correctly rounded but for a fused multiply-add: one rounding of a number below 4.
        check = functools.partial(_check, expected=expected(a, b), tolerance=4 * 2.0**-24)
        return Contender(f"{_STREAM}{name}", function, (a, b), check)

    return [stream(name) for name in _STREAMS]


def measured(timings: Sequence[Timing], total_bytes: float, product_size: int) -> Limits:
    """The limits, from the medians of `contenders` among whatever else was timed."""
    products = [timing for timing in timings if timing.counts and timing.name == _PRODUCT]
    if not products:
        raise ArithmeticError(f"plain kernels computed wrong results here: {timings}")
    return Limits(
        bandwidth=float(3 * 4 * _stream_size(total_bytes) / stream_seconds(timings)),
        flop_rate=float(2 * product_size**3 / products[0].median),
    )


def stream_seconds(timings: Sequence[Timing]) -> float:
    """The best median of `streams` among whatever else was timed: the time of three arrays."""
    medians = [timing.median for timing in timings if timing.counts and is_stream(timing)]
    if not medians:
        raise ArithmeticError(f"plain kernels computed wrong results here: {timings}")
    return min(medians)


def is_stream(timing: Timing) -> bool:
    return timing.name.startswith(_STREAM)


@functools.cache
def flop_rate(size: int, count: int = 1) -> float:
    """Operations a second of `count` float32 products of size x size matrices, measured once."""
    return 2 * count * size**3 / _median(product(size, count))


@functools.cache
def step_seconds() -> float:
    """The time of one step of a `lax.scan` with next to nothing in it, measured once."""
    x = np.ones(4096, np.float32)

    def steps(x: jax.Array) -> jax.Array:
        return lax.scan(lambda h, x_t: (0.5 * h + x_t, None), jnp.float32(0), x)[0]

    # 1 + 1/2 + 1/4 + ...: no step rounds before the sum is as near to 2 as float32 can be.
    check = functools.partial(_check, expected=np.array(2.0), tolerance=2.0**-22)
    return _median(Contender("steps", steps, (x,), check)) / len(x)


def memory_bytes() -> int:
    """The memory of the device, or of the machine where the device has none of its own."""
    facts = jax.devices()[0].memory_stats() or {}
    return facts.get("bytes_limit") or environment.memory_bytes() or 8 * 2**30


@functools.cache
def product(size: int, count: int = 1) -> Contender:
    """The product of `count` float32 matrices size x size."""
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-1, 1, (count, size, size)).astype(np.float32) for _ in range(2))
    # Sums of `size` products below 1: an error of at most `size` units of 2^-24 of their sum.
    check = functools.partial(_check, expected=a @ b, tolerance=2 * size * size * 2.0**-24)
    function = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    return Contender(_PRODUCT, function, (a, b), check)


def _stream_size(total_bytes: float) -> int:
    return max(1, round(total_bytes / (3 * 4)))


def _median(contender: Contender) -> float:
    (timing,) = compare([contender], budget_seconds=0.5)
    if not timing.counts:
        raise ArithmeticError(f"{contender.name}, a limit of the machine, is wrong: {timing.check}")
    return timing.median


def _check(output: jax.Array, expected: np.ndarray, tolerance: float) -> Check:
    error = float(np.max(np.abs(np.asarray(output, np.float64) - expected)))
    return Check(error, tolerance, "numpy")
