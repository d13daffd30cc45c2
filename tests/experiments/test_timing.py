"""Compiling and running apart, the whole output awaited, in turns, wrong results not counted."""

import itertools
import math
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from experiments.harness.timing import Check, Contender, carried, compare, repeated
from rnnscan import linear_scan


def right(output):
    return Check(0.0, 1.0, "nothing")


def ticking():
    """A clock on which every look takes a second."""
    seconds = itertools.count()
    return lambda: float(next(seconds))


def logging(name, log):
    """A program that notes when it really runs."""

    def note(x):
        log.append(name)
        return x

    return lambda x: jax.pure_callback(note, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def test_each_phase_has_its_own_seconds():
    (timing,) = compare(
        [Contender("one", lambda x: x + 1, (jnp.ones(3),), right)], clock=ticking(), rounds=5
    )
    assert (timing.lower_seconds, timing.compile_seconds) == (1.0, 1.0)
    assert timing.samples == (1.0, 1.0, 1.0)  # 2 s of budget, but three samples at least
    assert timing.repeats == 1


@pytest.mark.parametrize(("budget", "samples"), [(0.0, 3), (4.0, 4), (100.0, 7)])
def test_the_budget_bounds_the_samples(budget, samples):
    contender = Contender("one", lambda x: x + 1, (jnp.ones(3),), right)
    (timing,) = compare([contender], clock=ticking(), rounds=7, budget_seconds=budget)
    assert len(timing.samples) == samples


def test_the_clock_stops_when_the_result_is_there():
    def slow(x):
        def wait(value):
            time.sleep(0.05)
            return value

        return x, jax.pure_callback(wait, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    (timing,) = compare([Contender("slow", slow, (jnp.ones(3),), right)], rounds=3)
    assert min(timing.samples) >= 0.05


def test_every_leaf_of_the_output_is_awaited(monkeypatch):
    awaited = []
    block = jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda x: awaited.append(x) or block(x))
    pair = Contender("pair", lambda x: {"a": x, "b": (x + 1, x + 2)}, (jnp.ones(3),), right)
    compare([pair], rounds=3, sample_seconds=1e-9)
    outputs = [jax.tree.structure(x) for x in awaited[1:]]  # the first are the arguments
    assert len(outputs) >= 4
    assert set(outputs) == {jax.tree.structure({"a": 0, "b": (0, 0)})}


def test_contenders_take_turns():
    log = []
    names = ("a", "b", "c")
    compare(
        [Contender(name, logging(name, log), (jnp.ones(1),), right) for name in names],
        rounds=4,
        sample_seconds=1e-9,
        budget_seconds=100.0,
    )
    rounds = np.reshape(log[-12:], (4, 3)).tolist()
    assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_a_wrong_or_undefined_result_does_not_count():
    def check(error):
        return lambda output: Check(error, 1e-6, "a reference")

    timings = compare(
        [
            Contender(str(error), lambda x: x + 1, (jnp.ones(3),), check(error))
            for error in (1e-7, 1e-5, float("nan"))
        ],
        rounds=3,
        sample_seconds=1e-9,
    )
    assert [timing.counts for timing in timings] == [True, False, False]
    assert all(len(timing.samples) == 3 for timing in timings)


def test_the_check_sees_the_output_of_the_timed_program():
    seen = []
    contender = Contender("one", lambda x: 2 * x, (jnp.arange(3.0),), _noting(seen))
    compare([contender], rounds=3, sample_seconds=1e-9)
    np.testing.assert_array_equal(seen[0], [0.0, 2.0, 4.0])


def _noting(seen):
    def check(output):
        seen.append(np.asarray(output))
        return Check(0.0, 0.0, "nothing")

    return check


def test_short_programs_repeat_inside_one_loop():
    contender = Contender("short", lambda x: x + 1, (jnp.ones(8),), right)
    (timing,) = compare([contender], rounds=3, sample_seconds=5e-3)
    assert timing.repeats > 50
    assert max(timing.samples) < 5e-3  # of one evaluation, not of the loop


@pytest.mark.parametrize("count", [1, 5])
def test_repeating_changes_no_result(count):
    def function(x, z, k):
        return {"x": x * 2, "z": z * 1j}, k + 1

    arguments = (jnp.arange(3.0), jnp.ones((2, 1), jnp.complex64), jnp.arange(4))
    expected = function(*arguments)
    jax.tree.map(
        np.testing.assert_array_equal, jax.jit(repeated(function))(count, *arguments), expected
    )


def test_no_turn_is_moved_out_of_the_loop():
    """What does not change from turn to turn would be computed once, and 64 turns take as one."""
    a = jnp.ones((192, 192))
    loop = jax.jit(repeated(jnp.matmul)).lower(1, a, a).compile()

    def seconds(count):
        taken = []
        for _ in range(4):
            start = time.perf_counter()
            jax.block_until_ready(loop(count, a, a))
            taken.append(time.perf_counter() - start)
        return min(taken)

    assert seconds(256) > 8 * seconds(2)


def opaque(a, b):
    """What no compiler can fuse anything into, as a custom call is."""
    return jax.pure_callback(lambda a, b: b, jax.ShapeDtypeStruct(b.shape, b.dtype), a, b)


def scan_with_gradients(a, b, g):
    h, pullback = jax.vjp(lambda a, b: linear_scan(a, b, axis=1, method="sequential"), a, b)
    return h, *pullback(g)


def transposing(a, b):
    """Transposes all that it reads and writes."""

    def step(h, now):
        h = now[0] * h + now[1]
        return h, h

    a, b = jnp.swapaxes(a, 0, 1), jnp.swapaxes(b, 0, 1)
    return jnp.swapaxes(lax.scan(step, jnp.zeros_like(b[0]), (a, b))[1], 0, 1)


@pytest.mark.parametrize(
    "function",
    [jnp.add, opaque, scan_with_gradients, transposing],
    ids=lambda function: function.__name__,
)
def test_a_turn_copies_no_whole_array(function):
    """Neither to change an argument nor to keep the output."""
    shape = (2, 32, 64)
    arguments = (jnp.ones(shape),) * (3 if function is scan_with_gradients else 2)
    output = jax.tree.map(jnp.zeros_like, jax.eval_shape(function, *arguments))
    loop = jax.jit(carried(function), donate_argnums=1).lower(1, (arguments, output)).compile()
    once = jax.jit(function).lower(*arguments).compile()

    def whole_copies(program):
        return len(re.findall(r"= f32\[2,32,64\]\S* copy\(", program.as_text()))

    def temporary_bytes(program):
        return program.memory_analysis().temp_size_in_bytes

    assert whole_copies(loop) == whole_copies(once)
    assert temporary_bytes(loop) < temporary_bytes(once) + arguments[0].nbytes


def test_a_turn_passes_over_no_whole_argument():
    """A function that reads four numbers of a large array stays as fast as that."""
    a = jnp.ones((1024, 4096))
    state = jax.block_until_ready(((a + 0,), jnp.zeros(4)))
    loop = jax.jit(carried(lambda a: a[0, :4]), donate_argnums=1).lower(1, state).compile()
    whole = jax.jit(lambda a: a + 1).lower(a).compile()

    passes, turns = [], []
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(whole(a))
        middle = time.perf_counter()
        state = jax.block_until_ready(loop(100, state))
        passes.append(middle - start)
        turns.append(time.perf_counter() - middle)
    assert min(turns) < 20 * min(passes)


def test_empty_and_single_numbers_repeat_too():
    def function(x, empty, number):
        return x + number, empty, jnp.zeros((0, 3))

    arguments = (jnp.arange(3.0), jnp.zeros((2, 0)), jnp.float32(2))
    contender = Contender("odd", function, arguments, right)
    (timing,) = compare([contender], rounds=3, in_loop=True)
    assert timing.repeats > 1
    x, *empty = jax.jit(repeated(function))(3, *arguments)
    np.testing.assert_array_equal(x, [2.0, 3.0, 4.0])
    assert [leaf.shape for leaf in empty] == [(2, 0), (0, 3)]


@pytest.mark.parametrize(("in_loop", "looped"), [(None, True), (True, True), (False, False)])
def test_a_loop_for_all_or_for_none(in_loop, looped):
    contender = Contender("short", lambda x: x + 1, (jnp.ones(8),), right)
    (timing,) = compare([contender], rounds=3, in_loop=in_loop)
    assert (timing.repeats > 1) == looped


def test_arguments_can_be_used_again_after_the_loop():
    x = jnp.ones(8)
    compare([Contender(name, jnp.sin, (x,), right) for name in "ab"], rounds=3, in_loop=True)
    np.testing.assert_array_equal(x, np.ones(8))


def test_another_library_is_called_as_it_is():
    seen = []

    def function(x):
        assert type(x) is np.ndarray
        return x + 1

    def check(output):
        seen.append(output)
        return Check(0.0, 0.0, "nothing")

    eager = Contender("eager", function, (np.arange(3.0),), check, eager=True)
    jitted = Contender("jitted", lambda x: x + 1, (jnp.ones(3),), right)
    timing, _ = compare([eager, jitted], rounds=3, in_loop=True)
    np.testing.assert_array_equal(seen, [[1.0, 2.0, 3.0]])
    assert len(timing.samples) == 3
    assert timing.repeats > 10
    assert 0 < min(timing.samples) < 2e-3  # of one call
    assert math.isnan(timing.compile_seconds)


def test_temporary_memory_is_that_of_the_compiled_program():
    a = jnp.ones((64, 64))
    chain = Contender("chain", lambda a: jnp.tanh(a @ a) @ a, (a,), right)
    plain = Contender("plain", lambda a: a @ a, (a,), right)
    one, other = compare([chain, plain], rounds=3, sample_seconds=1e-9)
    assert one.temporary_bytes >= other.temporary_bytes + a.nbytes
