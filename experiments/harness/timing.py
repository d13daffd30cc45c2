"""Times contenders so that they can be compared.

- Tracing and lowering, compiling, and running are three times, never one.
- Inputs are on the device before the clock starts, and the clock stops when the whole output is
  there: JAX returns before it has computed.
- Contenders take turns, in a new order each round, so that a slow moment of the machine hits all.
- Every sample is kept; medians and quartiles are for those who draw.
- What is shorter than `sample_seconds` repeats inside one compiled loop, or the dispatch of a call
  (some 20 to 100 µs) would drown it. In the loop memory is used again, where a call asks for new
  pages, which can cost more than filling them: contenders on either side of that border do not
  compare, so `in_loop` can put all of them on one.
- A time counts only if the result of this very program was checked in this process.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint


@dataclass(frozen=True)
class Check:
    """How far a result is from its reference, and how far it may be; nan never passes.

    Args:
      error, tolerance: in the same unit.
      against: what the reference is, in words.
    """

    error: float
    tolerance: float
    against: str

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Contender:
    """One way to compute something.

    Args:
      name: unique among those it competes with.
      function: of arrays, without side effects; it is compiled as it is.
      arguments: what it is called with.
      check: looks at the output (any pytree of arrays).
      eager: the function is of another library: called as it is, with the arguments as they are,
        and done when it returns.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    check: Callable[[Any], Check]
    eager: bool = False


@dataclass(frozen=True)
class Timing:
    """What was measured of a contender: seconds and bytes.

    `samples` are seconds for one evaluation each; `repeats` evaluations made one sample.
    `temporary_bytes` is what the compiled program needs at its peak beside arguments and results;
    nan where the backend does not say. An eager contender compiles nothing: nan.
    """

    name: str
    check: Check
    lower_seconds: float
    compile_seconds: float
    temporary_bytes: float
    repeats: int
    samples: tuple[float, ...]

    @property
    def counts(self) -> bool:
        return self.check.passed

    @property
    def median(self) -> float:
        return float(np.median(self.samples))

    def as_record(self) -> dict[str, Any]:
        """The fields that a record keeps of a timing."""
        return {
            "seconds": list(self.samples),
            "repeats": self.repeats,
            "lower_seconds": self.lower_seconds,
            "compile_seconds": self.compile_seconds,
            "temporary_bytes": self.temporary_bytes,
            "error": self.check.error,
            "tolerance": self.check.tolerance,
            "checked_against": self.check.against,
            "counts": self.counts,
        }


@dataclass(frozen=True)
class Ready:
    """A compiled and checked contender, waiting for its turns."""

    timing: Timing
    sample: Callable[[], Any]
    rounds: int


def compare(
    contenders: Sequence[Contender],
    *,
    clock: Callable[[], float] = time.perf_counter,
    watch: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> list[Timing]:
    """Compiles, checks and times the contenders, side by side: `prepare`, then `sample`."""
    return sample(prepare(contenders, clock=clock, watch=watch, **options), clock, watch)


def prepare(
    contenders: Sequence[Contender],
    *,
    rounds: int = 9,
    sample_seconds: float = 2e-3,
    budget_seconds: float = 2.0,
    in_loop: bool | None = None,
    clock: Callable[[], float] = time.perf_counter,
    watch: Callable[[str], None] = lambda text: None,
) -> list[Ready]:
    """Compiles and checks the contenders.

    Args:
      contenders: what to compare.
      rounds: how many samples to take of each.
      sample_seconds: the least duration of a sample.
      budget_seconds: of a contender with longer samples, as many as fit, but three at least.
      in_loop: True has every contender repeat in a compiled loop, even once (it is this program
        then that is checked), False has none; by default those do that are shorter than
        `sample_seconds`. An eager one never does.
      clock: seconds; another one for tests.
      watch: is told what goes on.
    """
    ready = []
    for contender in contenders:
        watch(f"compiling {contender.name}")
        each = _prepare_eager if contender.eager else partial(_prepare, in_loop=in_loop)
        ready.append(each(contender, rounds, sample_seconds, budget_seconds, clock))
    return ready


def sample(
    ready: Sequence[Ready],
    clock: Callable[[], float] = time.perf_counter,
    watch: Callable[[str], None] = lambda text: None,
) -> list[Timing]:
    """Times what is ready, in turns; it can be timed again.

    Returns:
      a `Timing` for each contender, in the order given; the samples of one that failed its check
      are kept too, but `counts` is False.
    """
    watch("timing")
    samples: list[list[float]] = [[] for _ in ready]
    for turn in range(max((it.rounds for it in ready), default=0)):
        for offset in range(len(ready)):
            index = (turn + offset) % len(ready)
            it = ready[index]
            if turn < it.rounds:
                seconds = _time(it.sample, clock)
                samples[index].append(seconds / it.timing.repeats)
    return [
        dataclasses.replace(it.timing, samples=tuple(taken))
        for it, taken in zip(ready, samples, strict=True)
    ]


def _prepare(
    contender: Contender,
    rounds: int,
    sample_seconds: float,
    budget_seconds: float,
    clock: Callable[[], float],
    in_loop: bool | None,
) -> Ready:
    function = contender.function
    arguments = jax.block_until_ready(jax.device_put(contender.arguments))
    if in_loop:
        program, loop = _loop_in_place(function, arguments, clock)
        once = partial(loop, 1)
    else:
        program, loop = _compile(function, arguments, clock), None
        once = partial(program.call, *arguments)
    check, seconds = _first_looks(contender, once, sample_seconds, budget_seconds, clock)
    if in_loop is None and seconds < sample_seconds:
        _, loop = _loop_in_place(function, arguments, clock)
    sample, repeats = once, 1
    if loop:
        repeats = math.ceil(sample_seconds / max(seconds, 1e-6))
        # Inside the loop no dispatch is left, so that many more may be needed than it seemed.
        seconds = min(_time(partial(loop, repeats), clock) for _ in range(2))
        repeats = math.ceil(repeats * max(1.0, sample_seconds / max(seconds, 1e-9)))
        seconds = max(seconds, sample_seconds)
        sample = partial(loop, repeats)
    memory = program.call.memory_analysis()
    return Ready(
        Timing(
            name=contender.name,
            check=check,
            lower_seconds=program.lower_seconds,
            compile_seconds=program.compile_seconds,
            temporary_bytes=memory.temp_size_in_bytes if memory else math.nan,
            repeats=repeats,
            samples=(),
        ),
        sample,
        _rounds_within(budget_seconds, rounds, seconds),
    )


def _prepare_eager(
    contender: Contender,
    rounds: int,
    sample_seconds: float,
    budget_seconds: float,
    clock: Callable[[], float],
) -> Ready:
    def once() -> Any:
        return contender.function(*contender.arguments)

    check, seconds = _first_looks(contender, once, sample_seconds, budget_seconds, clock)
    repeats = max(1, math.ceil(sample_seconds / max(seconds, 1e-6)))

    def sample() -> Any:
        output = None
        for _ in range(repeats):
            output = once()
        return output

    timing = Timing(contender.name, check, math.nan, math.nan, math.nan, repeats, ())
    return Ready(timing, sample, _rounds_within(budget_seconds, rounds, seconds * repeats))


def _first_looks(
    contender: Contender,
    once: Callable[[], Any],
    sample_seconds: float,
    budget_seconds: float,
    clock: Callable[[], float],
) -> tuple[Check, float]:
    """Checks the first result; says about how long a call takes."""
    first = _time(once, clock, keep := [])
    check = contender.check(keep.pop())
    # The first run also finds its pages, so it says how long the others take only if they are long.
    if first >= budget_seconds:
        return check, first
    return check, min(_time(once, clock) for _ in range(3 if first < 20 * sample_seconds else 1))


def _rounds_within(budget_seconds: float, rounds: int, seconds: float) -> int:
    return max(3, min(rounds, int(budget_seconds / max(seconds, 1e-9))))


def repeated(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a compiled loop: `repeated(f)(count, *arguments)` is `f(*arguments)`.

    >>> import jax, jax.numpy as jnp
    >>> float(repeated(lambda x: x + 1)(5, jnp.float32(2)))
    3.0
    """

    def loop(count: Any, *arguments: Any) -> Any:
        return carried(function)(count, (arguments, _zeros_like_output(function, arguments)))[1]

    return loop


def carried(function: Callable[..., Any]) -> Callable[..., Any]:
    """The loop of `repeated` from state to state: `(count, (arguments, output))` gives the same.

    After each evaluation one element of each argument has zero times the result added to it. No
    compiler can know that this is zero (0 * inf is nan), so none moves work out of the loop or
    drops a turn; an `optimization_barrier` alone is taken away on CPU before loop-invariant code is
    moved, and a thousand turns then take the time of one. The element is changed in place, so that
    a turn moves no memory but what the function itself moves, whether or not the compiler can fuse
    an addition into it.

    Arguments and output keep their layout in memory. Otherwise a transposition can become a layout
    of what the loop carries, to be undone once, after the last turn; and the change may be fused
    with what still reads an argument, which takes a copy of it.
    """

    def loop(count: Any, state: Any) -> Any:
        def turn(_: Any, state: Any) -> Any:
            arguments, _ = state
            output = jax.tree.map(_in_order, function(*arguments))
            leaves = [leaf for leaf in jax.tree.leaves(output) if leaf.size]
            zero = sum(map(_first_as_zero, leaves), start=jnp.float32(0))
            arguments = jax.tree.map(lambda leaf: _add_to_first(leaf, zero), arguments)
            return jax.tree.map(_in_order, arguments), output

        return lax.fori_loop(0, count, turn, state)

    return loop


@dataclass(frozen=True)
class _Program:
    """A compiled function, and how long it took to get there."""

    call: Any
    lower_seconds: float
    compile_seconds: float


def _compile(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    clock: Callable[[], float],
    **options: Any,
) -> _Program:
    start = clock()
    lowered = jax.jit(function, **options).lower(*arguments)
    middle = clock()
    compiled = lowered.compile()
    return _Program(compiled, middle - start, clock() - middle)


def _loop_in_place(
    function: Callable[..., Any], arguments: Any, clock: Callable[[], float]
) -> tuple[_Program, Callable[[int], Any]]:
    """`carried`, compiled: each call goes on in the memory of the one before (it is donated)."""
    state = jax.tree.map(jnp.copy, (arguments, _zeros_like_output(function, arguments)))
    program = _compile(carried(function), (1, state), clock, donate_argnums=1)

    def run(count: int) -> Any:
        nonlocal state
        state = program.call(count, state)
        return state[1]

    return program, run


def _zeros_like_output(function: Callable[..., Any], arguments: Any) -> Any:
    shapes = jax.eval_shape(function, *arguments)
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)


def _in_order(leaf: jax.Array) -> jax.Array:
    """The same, laid out in memory with its last axis innermost, as a call has it."""
    return with_layout_constraint(leaf, Layout(major_to_minor=tuple(range(leaf.ndim))))


def _first_as_zero(leaf: jax.Array) -> jax.Array:
    return (jnp.real(leaf[(0,) * leaf.ndim]) * 0).astype(jnp.float32)


def _add_to_first(leaf: jax.Array, zero: jax.Array) -> jax.Array:
    if leaf.size == 0:
        return leaf
    origin = (0,) * leaf.ndim
    first = lax.slice(leaf, origin, (1,) * leaf.ndim)
    changed = first + lax.broadcast(zero.astype(leaf.dtype), first.shape)
    return lax.dynamic_update_slice(leaf, changed, origin)


def _time(call: Callable[[], Any], clock: Callable[[], float], keep: list | None = None) -> float:
    start = clock()
    output = jax.block_until_ready(call())
    seconds = clock() - start
    if keep is not None:
        keep.append(output)
    return seconds
