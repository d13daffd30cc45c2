"""The laws of a linear recurrence, over every method, dtype and layout."""

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
    wanted = zip(
        ("a", "b", "h0"), reference.gradients(g), reference.gradient_bounds(g, u), strict=True
    )
    for got, (name, want, bound) in zip(gradients, wanted, strict=False):
        assert got.dtype == jnp.dtype(call.dtype)
        assert_within(got, want, bound, f"gradient of {name}")


@every_method
@pytest.mark.parametrize("decay", ["one", "minus one", "near one", "tiny", "mixed"])
def test_long_scans_stay_within_the_bound(method, decay):
    """Law 1 at T = 20,001, where errors have time to grow."""
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
    h = linear_scan(a, b, h0, method=method)
    assert_within(h, reference.states(), reference.states_bound(unit_roundoff(np.float32)))


@by_every_method([LINEAR[2], LINEAR[4], LINEAR[8], MATRIX[2]], blocked=slice(2))
def test_split(call, method):
    """Law 2: carrying the state over any cut changes nothing."""
    a, b, h0, reset, _ = call.arrays()
    with call.wide():
        scan, axis, T = scan_of(call), call.axis % b.ndim, call.length
        whole = scan(a, b, h0, reset=reset, method=method, **call.options)
        for cut in (0, 1, T // 2, T - 1, T):
            first, second = (slice(0, cut), slice(cut, T))
            if call.reverse:
                first, second = slice(cut, T), slice(0, cut)

            def part(x, where, rank=b.ndim):
                """The steps `where` of an operand, if it has steps."""
                lead = rank - x.ndim + (x.ndim == rank + 1 or (call.matrix and x.ndim == 2))
                place = axis - max(lead, 0)
                if x.ndim == 1 and x.dtype == bool:
                    return x[where]
                if place < 0 or x.shape[place] == 1 or (call.matrix and x.ndim == 2):
                    return x
                return x[(slice(None),) * place + (where,)]

            state = h0
            pieces = []
            for where in (first, second):
                piece = scan(
                    part(a, where),
                    part(b, where),
                    state,
                    reset=None if reset is None else part(reset, where),
                    method=method,
                    **call.options,
                )
                pieces.append(piece)
                if piece.shape[axis]:
                    state = jnp.take(piece, 0 if call.reverse else -1, axis=axis)
            joined = jnp.concatenate(pieces[::-1] if call.reverse else pieces, axis=axis)
            reference = call.reference(a, b, h0, reset, method)
            bound = reference.states_bound(unit_roundoff(call.dtype))
            assert_within(joined, np.asarray(whole), 2 * bound, f"cut at {cut}")


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
    """Law 4, values and gradients."""
    lengths = (1, 5, 3)
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        b = jnp.asarray(rng.normal(size=(sum(lengths), 3)))
        a = jnp.asarray(rng.normal(size=(sum(lengths), 3, 3) if matrix else b.shape) / 2)
        scan = matrix_scan if matrix else linear_scan
        ends = np.cumsum(lengths)
        marks = np.zeros(sum(lengths), bool)
        marks[ends - 1 if reverse else ends - np.array(lengths)] = True

        def packed(a, b):
            return scan(a, b, reset=marks, reverse=reverse, method=method)

        def separate(a, b):
            pieces = zip(jnp.split(a, ends[:-1]), jnp.split(b, ends[:-1]), strict=True)
            return jnp.concatenate([scan(x, y, reverse=reverse, method=method) for x, y in pieces])

        results = []
        for f in (packed, separate):
            h, gradients = vjp(f, (a, b), jnp.cos(b))
            results.append((h, *gradients))
        for got, want in zip(*results, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13)


@every_varying_method_of_both
@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_leaks_across_a_reset(method, bad, reverse, matrix):
    """Law 4 with inf and nan behind the reset, forward, backward and in the tangent."""
    T, t = 9, 4
    rng = np.random.default_rng(4)
    scan = matrix_scan if matrix else linear_scan
    shape = (T, 2, 2) if matrix else (T, 2)
    clean = rng.normal(size=shape) / 2, rng.normal(size=(T, 2)), rng.normal(size=2)
    marks = np.arange(T) == t
    past = np.arange(T) > t if reverse else np.arange(T) < t
    a, b, h0 = (x.astype(np.float32) for x in clean)
    a[past | marks], b[past], h0[:] = bad, bad, bad
    future = ~past

    def f(a, b, h0):
        return scan(a, b, h0, reset=marks, reverse=reverse, method=method)

    args = tuple(map(jnp.asarray, (a, b, h0)))
    h, pull = jax.vjp(f, *args)
    pull = jax.jit(pull)
    want = np.asarray(
        scan(
            clean[0].astype(np.float32)[future],
            b[future],
            reset=marks[future],
            reverse=reverse,
            method=method,
        )
    )
    np.testing.assert_allclose(np.asarray(h)[future], want, rtol=1e-6)

    # A loss of the clean part: no gradient reaches the past, and none of a at the reset.
    g = np.where(future[:, None], 1.0, np.zeros((T, 2))).astype(np.float32)
    da, db, _ = map(np.asarray, pull(jnp.asarray(g)))
    assert np.isfinite(db[future]).all()
    assert np.isfinite(da[future]).all()
    np.testing.assert_array_equal(da[marks], 0)
    np.testing.assert_array_equal(db[t + 1 if reverse else t - 1], 0)
    # A loss of the past, nan itself, sends nothing to the future nor to a at the reset.
    g = np.where(future[:, None], np.zeros((T, 2)), bad).astype(np.float32)
    da, db, _ = map(np.asarray, pull(jnp.asarray(g)))
    np.testing.assert_array_equal(db[future], 0)
    np.testing.assert_array_equal(da[future], 0)
    # Nor does a loss of everything, nan itself, send anything to a at the reset.
    da = np.asarray(pull(jnp.full((T, 2), bad, jnp.float32))[0])
    np.testing.assert_array_equal(da[marks], 0)

    tangents = tuple(jnp.asarray(x) for x in (np.ones_like(a), np.ones_like(b), np.ones_like(h0)))
    _, dh = jax.jvp(f, tuple(map(jnp.asarray, (a, b, h0))), tangents)
    assert np.isfinite(np.asarray(dh)[future]).all()


@every_method
def test_second_derivatives_do_not_leak_across_a_reset(method):
    marks = jnp.array([False, True, False])
    a = jnp.array([jnp.inf, jnp.nan, 0.5])
    b = jnp.array([jnp.nan, 1.0, 2.0])

    def loss(a, b):
        h = linear_scan(a, b, jnp.inf, reset=marks, method=method)
        return jnp.sum(jnp.sin(h[1:]))

    for second in (jax.jacfwd(jax.jacrev(loss, (0, 1)), (0, 1)), jax.hessian(loss, (0, 1))):
        blocks = jax.tree.leaves(second(a, b))
        assert all(np.isfinite(np.asarray(block)[1:, 1:]).all() for block in blocks)


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
    """Law 5: `<g, L (b, h0)> = <L^T g, (b, h0)>`, bilinear, by `jax.linear_transpose`."""
    a, b, h0, reset, g = call.arrays()
    with call.wide():
        g = jnp.asarray(g)
        linear = primals(None, b, h0)

        def f(b, h0=None):
            return scan_of(call)(a, b, h0, reset=reset, method=method, **call.options)

        left = jnp.sum(g * jax.jit(f)(*linear))
        transposed = jax.jit(jax.linear_transpose(f, *linear))(g)
        right = sum(jnp.sum(x * y) for x, y in zip(transposed, linear, strict=True))
        scale = 1 + float(jnp.sum(jnp.abs(g)) * jnp.max(jnp.abs(b), initial=0))
        np.testing.assert_allclose(left, right, atol=50 * unit_roundoff(call.dtype) * scale)
