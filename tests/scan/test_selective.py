"""Laws 1 to 3 of `selective_scan`, over every method, dtype and option that claims them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from rnnscan import selective_scan
from tests.scan.selective_cases import (
    ALL_COMPLEX,
    CALLS,
    METHODS,
    Call,
    assert_gradients,
    assert_outputs,
    by_every_method,
    every_method,
    methods_of,
    steps_of,
    vjp,
)


def assert_equals_the_loop(call, method, seed=0):
    """Law 1, for y, the last state and every gradient."""
    given, reset, cotangents = call.arrays(seed)
    reference = call.reference(given, reset)
    with call.types():
        out, found = vjp(call.scan(method, reset), given, cotangents)
        assert_outputs(call, out, reference)
        assert_gradients(call, found, reference, cotangents)


@by_every_method(CALLS)
def test_values_and_gradients_equal_a_loop(call, method):
    assert_equals_the_loop(call, method)


@pytest.mark.parametrize("stretch", [1, 5, 100])
def test_however_long_a_stretch_is(stretch):
    """Shorter than what is kept, no power of two, longer: law 1 all the same."""
    call = Call(T=150, batch=(2,), channels=2, reset=(2, 150), reverse=stretch == 5)
    given, reset, cotangents = call.arrays()
    reference = call.reference(given, reset)
    out, found = vjp(call.scan("stretches", reset, stretch=stretch), given, cotangents)
    assert_outputs(call, out, reference)
    assert_gradients(call, found, reference, cotangents)


DECAYS = {"near one": (1e-6, 1e-3), "held": (0.0, 0.0), "wide": (1e-4, 100.0)}
LONG = Call(batch=(), T=20_001, channels=3, N=1)


@functools.cache  # for every method
def long_scan(decay):
    given, _, _ = LONG.arrays(1)
    low, high = DECAYS[decay]
    draw = np.random.default_rng(2).uniform
    given["delta"] = draw(0.1, 1, given["delta"].shape).astype(np.float32)
    given["A"] = -draw(low, high, given["A"].shape).astype(np.float32)
    return given, LONG.reference(given, None)


@every_method
@pytest.mark.parametrize("decay", DECAYS)
def test_long_scans_stay_within_the_bound(method, decay):
    """Law 1 at T = 20,001, where errors have time to grow."""
    given, reference = long_scan(decay)
    assert_outputs(LONG, jax.jit(LONG.scan(method))(given), reference)


CUT = [
    Call(batch=(2,), T=7, h0=(1,), reset=(2, 7), B=()),
    Call(batch=(), T=7, reverse=True, reset=(7,), dtype="float64", discretisation="zoh"),
    Call(batch=(), T=130, channels=2, N=1, signed=True, without=("D",)),
]


@by_every_method(CUT, blocked=slice(0), associative=slice(1))
def test_split(call, method):
    """Law 2: carrying the state over any cut changes nothing."""
    given, reset, _ = call.arrays()

    def part(given, where):
        flags = None if reset is None else reset[..., where]
        return call.scan(method, flags)(steps_of(given, where))

    def joined(given, cut):
        state, ys = given["h0"], []
        halves = slice(0, cut), slice(cut, call.T)
        for where in halves[::-1] if call.reverse else halves:
            y, state = part(given | {"h0": state}, where)
            ys.append(y)
        return jnp.concatenate(ys[::-1] if call.reverse else ys, axis=-2), state

    cuts = (0, 1, call.T // 2, call.T - 1, call.T)
    h0 = np.broadcast_to(given["h0"], (*call.batch, call.channels, call.N))
    reference = call.reference(given, reset)
    with call.types():
        found = jax.jit(lambda given: [joined(given, cut) for cut in cuts])(given | {"h0": h0})
        for out in found:
            assert_outputs(call, out, reference)


FLIPPED = [
    Call(T=9, reset=(2, 9), h0=()),
    Call(T=6, B=(), C=(1,), complex=ALL_COMPLEX, reset=(6,)),
    Call(T=7, signed=True, discretisation="zoh", delta=(1,)),
    Call(T=131, batch=(), channels=2),
]


@by_every_method(FLIPPED, blocked=slice(0), associative=slice(0), sequential=slice(0, None, 2))
def test_reverse_is_flip_scan_flip(call, method):
    """Law 3."""
    given, reset, _ = call.arrays()
    back = slice(None, None, -1)
    reference = call.reference(given, reset)
    with call.types():

        def flipped(given):
            flags = None if reset is None else reset[..., back]
            f = functools.partial(selective_scan, reset=flags, reverse=True, method=method)
            options = call.options | {"reverse": True}
            del options["reverse"]
            y, last = f(**steps_of(given, back), **options)
            return y[..., back, :], last

        out = jax.jit(flipped)(given)
        same = jax.jit(call.scan(method, reset))(given)
        assert_outputs(call, out, reference)
        for a, b in zip(out, same, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@st.composite
def calls(draw):
    batch = tuple(draw(st.lists(st.integers(0, 3), max_size=2)))

    def lead():
        start = draw(st.integers(0, len(batch)))
        return tuple(draw(st.sampled_from([1, n])) for n in batch[start:])

    T = draw(st.sampled_from([0, 1, 5, 64, 65]))
    flags = [None, (T,), (*batch, T), (*(1 for _ in batch), T)]
    complex_ones = draw(st.sampled_from(["", "", "A", "B C", ALL_COMPLEX]))
    absent = [(), ("D",), ("h0",), ("D", "h0")]
    return Call(
        batch=batch,
        T=T,
        channels=draw(st.sampled_from([1, 3, 17])),
        N=draw(st.sampled_from([1, 2, 5])),
        delta=lead(),
        B=lead(),
        C=lead(),
        h0=lead(),
        column=draw(st.booleans()),
        without=draw(st.sampled_from(absent)),
        complex=complex_ones,
        reset=draw(st.sampled_from(flags)),
        reverse=draw(st.booleans()),
        discretisation=draw(st.sampled_from(["euler", "euler", "zoh"])),
        signed=not complex_ones and draw(st.booleans()),
        dtype="float32" if complex_ones else draw(st.sampled_from(["float32", "bfloat16"])),
    )


@pytest.mark.parametrize("method", [m for m in METHODS if m in ("native", "stretches")])
@settings(max_examples=8)
@drawn(call=calls(), seed=st.integers(0, 2**16))
def test_any_call_equals_a_loop(call, method, seed):
    if method in methods_of(call):
        assert_equals_the_loop(call, method, seed)
