"""The laws of a linear recurrence, over every method, dtype and layout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import linear_scan, matrix_scan
from tests.scan.cases import (
    LINEAR,
    MATRIX,
    by_every_method,
    every_method,
    every_varying_method_of_both,
)
from tests.scan.reference import Reference, unit_roundoff


def scan_of(call):
    return matrix_scan if call.matrix else linear_scan


def assert_within(got, want, bound, name="h"):
    """|got - want| <= bound, or say where it is not and by how much."""
    got = np.asarray(got)
    assert got.shape == want.shape, f"{name}: shape {got.shape}, expected {want.shape}"
    got = got.astype(np.complex128 if np.iscomplexobj(got) else np.float64)
    error = np.abs(got - want)
    tiny = np.finfo(np.float32).tiny
    wrong = ~(error <= bound + tiny)
    if wrong.any():
        where = np.unravel_index(np.argmax(wrong), wrong.shape)
        raise AssertionError(
            f"{name}: {wrong.sum()} of {wrong.size} differ; at {tuple(map(int, where))} got "
            f"{got[where]}, expected {want[where]}, error {error[where]:.3g} > {bound[where]:.3g}"
        )


def assert_gradients_within(gradients, reference, g, dtype):
    """Those of a, b and, where it was given, h0, of <g, h>."""
    names, u = ("a", "b", "h0"), unit_roundoff(dtype)
    wanted = zip(names, reference.gradients(g), reference.gradient_bounds(g, u), strict=True)
    for got, (name, want, bound) in zip(gradients, wanted, strict=False):
        assert got.dtype == jnp.dtype(dtype)
        assert_within(got, want, bound, f"gradient of {name}")


def differentiable(call, method, reset):
    """The scan as a function of (a, b) or (a, b, h0)."""

    def f(a, b, h0=None):
        return scan_of(call)(a, b, h0, reset=reset, method=method, **call.options)

    return f


def vjp(f, args, g):
    """(f(*args), the gradients of <g, f>), compiled as one."""

    def both(args, g):
        h, pull = jax.vjp(f, *args)
        return h, pull(g)

    return jax.jit(both)(args, g)


def primals(a, b, h0):
    return tuple(jnp.asarray(x) for x in (a, b, h0) if x is not None)


@by_every_method(LINEAR + MATRIX)
def test_values_and_gradients_equal_a_loop(call, method):
    """Law 1, for h and for the gradients of a, b and h0."""
    a, b, h0, reset, g = call.arrays()
    reference, u = call.reference(a, b, h0, reset, method), unit_roundoff(call.dtype)
    with call.wide():
        f = differentiable(call, method, reset)
        h, gradients = vjp(f, primals(a, b, h0), jnp.asarray(g))
        assert h.dtype == jnp.dtype(call.dtype)
        assert_within(h, reference.states(), reference.states_bound(u))
    assert_gradients_within(gradients, reference, g, call.dtype)


DECAYS = ("one", "minus one", "near one", "tiny", "mixed")


@functools.cache  # for every method
def long_scan(decay):
    """(operands, states, bound) at T = 20,001."""
    rng = np.random.default_rng(1)
    shape = (20_001, 3)
    a = {
        "one": np.ones(shape),
        "minus one": -np.ones(shape),
        "near one": 1 - rng.uniform(0, 1e-3, shape),
        "tiny": rng.uniform(0, 1e-20, shape),
        "mixed": np.exp(-np.exp(rng.normal(-3, 3, shape))),
    }[decay].astype(np.float32)
    b = rng.normal(size=shape).astype(np.float32)
    h0 = rng.normal(size=3).astype(np.float32)
    reference = Reference(a, b, h0)
    return (a, b, h0), reference.states(), reference.states_bound(unit_roundoff(np.float32))


@every_method
@pytest.mark.parametrize("decay", DECAYS)
def test_long_scans_stay_within_the_bound(method, decay):
    """Law 1 at T = 20,001, where errors have time to grow."""
    operands, states, bound = long_scan(decay)
    assert_within(linear_scan(*operands, method=method), states, bound)


@by_every_method([LINEAR[2], LINEAR[4], LINEAR[8], MATRIX[2]], blocked=slice(2))
def test_split(call, method):
    """Law 2: carrying the state over any cut changes nothing."""
    a, b, h0, reset, _ = call.arrays()
    axis, T, rank = call.axis % b.ndim, call.length, b.ndim
    cuts = (0, 1, T // 2, T - 1, T)

    def part(x, where):
        """The steps `where` of an operand, if it has steps."""
        lead = rank - x.ndim + (x.ndim == rank + 1 or (call.matrix and x.ndim == 2))
        place = axis - max(lead, 0)
        if x.ndim == 1 and x.dtype == bool:
            return x[where]
        if place < 0 or x.shape[place] == 1 or (call.matrix and x.ndim == 2):
            return x
        return x[(slice(None),) * place + (where,)]

    def scan(where, a, b, h0):
        flags = None if reset is None else part(reset, where)
        a, b = part(a, where), part(b, where)
        return scan_of(call)(a, b, h0, reset=flags, method=method, **call.options)

    def joined(cut, a, b, h0):
        pieces, state = [], h0
        halves = (slice(0, cut), slice(cut, T))
        for where in halves[::-1] if call.reverse else halves:
            pieces.append(scan(where, a, b, state))
            if pieces[-1].shape[axis]:
                state = jnp.take(pieces[-1], 0 if call.reverse else -1, axis=axis)
        return jnp.concatenate(pieces[::-1] if call.reverse else pieces, axis=axis)

    @jax.jit
    def every(*operands):
        return scan(slice(None), *operands), [joined(cut, *operands) for cut in cuts]

    with call.wide():
        whole, parts = every(a, b, h0)
    bound = call.reference(a, b, h0, reset, method).states_bound(unit_roundoff(call.dtype))
    for cut, got in zip(cuts, parts, strict=True):
        assert_within(got, np.asarray(whole), 2 * bound, f"cut at {cut}")


@by_every_method(LINEAR, blocked=slice(0, None, 2))
def test_reverse_is_flip_scan_flip(call, method):
    """Law 3, exactly: the same operations in the same order."""
    a, b, h0, reset, _ = call.arrays()
    with call.wide():
        axis = call.axis % b.ndim
        rank = b.ndim

        def flipped(x):
            if x is None or ((x.ndim != 1 or x.dtype != bool) and axis - (rank - x.ndim) < 0):
                return x
            place = 0 if x.ndim == 1 and x.dtype == bool else axis - (rank - x.ndim)
            return np.flip(x, place)

        forward = {"axis": axis, "method": method}
        h = linear_scan(a, b, h0, reset=reset, reverse=True, **forward)
        same = linear_scan(flipped(a), flipped(b), h0, reset=flipped(reset), **forward)
        np.testing.assert_array_equal(np.asarray(h), np.flip(np.asarray(same), axis))


@every_varying_method_of_both
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_segments_equal_separate_calls(method, reverse, matrix):
    """Law 4, values and gradients, the calls being loops in NumPy."""
    lengths = (1, 5, 3)
    rng = np.random.default_rng(3)
    b = rng.normal(size=(sum(lengths), 3))
    a = rng.normal(size=(sum(lengths), 3, 3) if matrix else b.shape) / 2
    g = np.cos(b)
    ends = np.cumsum(lengths)
    marks = np.zeros(sum(lengths), bool)
    marks[ends - 1 if reverse else ends - np.array(lengths)] = True
    scan = matrix_scan if matrix else linear_scan

    def packed(a, b):
        return scan(a, b, reset=marks, reverse=reverse, method=method)

    separate = []
    for piece in zip(*(np.split(x, ends[:-1]) for x in (a, b, g)), strict=True):
        reference = Reference(*piece[:2], reverse=reverse, matrix=matrix)
        separate.append((reference.states(), *reference.gradients(piece[2])[:2]))
    with jax.enable_x64(True):
        h, gradients = vjp(packed, (jnp.asarray(a), jnp.asarray(b)), jnp.asarray(g))
    for got, pieces in zip((h, *gradients), zip(*separate, strict=True), strict=True):
        np.testing.assert_allclose(got, np.concatenate(pieces), rtol=1e-13, atol=1e-13)


@every_varying_method_of_both
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_leaks_across_a_reset(method, reverse, matrix):
    """Law 4 with inf and nan behind the reset, forward, backward and in the tangent."""
    T, t = 9, 4
    rng = np.random.default_rng(4)
    scan = matrix_scan if matrix else linear_scan
    shape = (T, 2, 2) if matrix else (T, 2)
    drawn = rng.normal(size=shape) / 2, rng.normal(size=(T, 2)), rng.normal(size=2)
    clean = tuple(x.astype(np.float32) for x in drawn)
    marks = np.arange(T) == t
    past = np.arange(T) > t if reverse else np.arange(T) < t
    future = ~past
    options = {"reverse": reverse, "method": method}

    def f(a, b, h0):
        return scan(a, b, h0, reset=marks, **options)

    @jax.jit
    def forward(args, tangents):
        part = scan(clean[0][future], args[1][future], reset=marks[future], **options)
        return *jax.jvp(f, args, tangents), part

    @jax.jit
    def backward(args, g):
        return jax.vjp(f, *args)[1](g)[:2]

    inside = np.repeat(future[:, None], 2, 1)
    for bad in (np.float32(np.inf), np.float32(np.nan)):
        a, b, h0 = (x.copy() for x in clean)
        a[past | marks], b[past], h0[:] = bad, bad, bad
        args = a, b, h0
        h, dh, want = map(np.asarray, forward(args, tuple(map(np.ones_like, args))))
        np.testing.assert_allclose(h[future], want, rtol=1e-6)
        assert np.isfinite(dh[future]).all()

        # A loss of the clean part: no gradient reaches the past, and none of a at the reset.
        da, db = map(np.asarray, backward(args, np.where(inside, np.float32(1), np.float32(0))))
        assert np.isfinite(db[future]).all()
        assert np.isfinite(da[future]).all()
        np.testing.assert_array_equal(da[marks], 0)
        np.testing.assert_array_equal(db[t + 1 if reverse else t - 1], 0)
        # A loss of the past, nan itself, sends nothing to the future nor to a at the reset.
        da, db = map(np.asarray, backward(args, np.where(inside, np.float32(0), bad)))
        np.testing.assert_array_equal(db[future], 0)
        np.testing.assert_array_equal(da[future], 0)
        # Nor does a loss of everything, nan itself, send anything to a at the reset.
        da = np.asarray(backward(args, np.full((T, 2), bad))[0])
        np.testing.assert_array_equal(da[marks], 0)


@every_method
def test_second_derivatives_do_not_leak_across_a_reset(method):
    marks = jnp.array([False, True, False])
    a = jnp.array([jnp.inf, jnp.nan, 0.5])
    b = jnp.array([jnp.nan, 1.0, 2.0])

    def loss(a, b):
        h = linear_scan(a, b, jnp.inf, reset=marks, method=method)
        return jnp.sum(jnp.sin(h[1:]))

    forward = jax.jacfwd(jax.jacrev(loss, (0, 1)), (0, 1))
    backward = jax.jacrev(jax.jacrev(loss, (0, 1)), (0, 1))
    for block in jax.tree.leaves(jax.jit(lambda *x: (forward(*x), backward(*x)))(a, b)):
        assert np.isfinite(np.asarray(block)[1:, 1:]).all()


@every_method
def test_inf_and_nan_stay_in_their_lane(method):
    a = jnp.full((6, 3), 0.5)
    b = jnp.ones((6, 3)).at[2, 1].set(jnp.nan)
    h = np.asarray(linear_scan(a, b, method=method))
    want = np.zeros((6, 3), bool)
    want[2:, 1] = True
    np.testing.assert_array_equal(np.isnan(h), want)


@by_every_method([c for c in LINEAR + MATRIX if "16" not in c.dtype], blocked=slice(1, None, 2))
def test_linear_in_drive_and_state_and_its_transpose(call, method):
    """Law 5: what `jax.linear_transpose` makes of the scan in (b, h0) is the adjoint of a loop."""
    a, b, h0, reset, g = call.arrays()
    reference, u = call.reference(a, b, h0, reset, method), unit_roundoff(call.dtype)
    with call.wide():

        def f(b, h0=None):
            return scan_of(call)(a, b, h0, reset=reset, method=method, **call.options)

        transpose = jax.linear_transpose(f, *primals(None, b, h0))
        transposed = jax.jit(transpose)(jnp.asarray(g))
    wanted = zip(reference.gradients(g)[1:], reference.gradient_bounds(g, u)[1:], strict=True)
    for got, (want, bound) in zip(transposed, wanted, strict=False):
        assert_within(got, want, bound)
