"""`matrix_scan` with a constant A, beyond the laws: blocks of powers, and eigenvectors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rnnscan import explain_matrix_scan, matrix_scan
from rnnscan.scan.matrix_methods import diagonal
from tests.scan.cases import Call, every_matrix_method
from tests.scan.reference import DiagonalReference, Reference, unit_roundoff
from tests.scan.test_laws import (
    assert_gradients_within,
    assert_within,
    differentiable,
    primals,
    vjp,
)

JORDAN = np.array([[0.5, 1.0], [0.0, 0.5]], np.float32)


def contraction(n, seed=0):
    """A random matrix whose |A| has row sums of 1: errors are carried on, and do not grow."""
    A = np.random.default_rng(seed).normal(size=(n, n))
    return (A / np.abs(A).sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("method", "reverse", "lengths"),
    [
        ("blocked", False, (1, 2, 7, 8, 9, 16, 17, 64, 65, 71, 73)),
        ("blocked", True, (7, 8, 9, 65)),
        ("diagonal", False, (1, 2, 17)),  # which has no blocks
        ("diagonal", True, (1, 17)),
    ],
)
def test_lengths_around_whole_blocks(method, reverse, lengths):
    A, b = contraction(3), np.random.default_rng(1).normal(size=(80, 3)).astype(np.float32)
    h0 = np.ones(3, np.float32)
    options = {"reverse": reverse}

    @jax.jit
    def every(A, b, h0):
        return [matrix_scan(A, b[:T], h0, method=method, **options) for T in lengths]

    kind = DiagonalReference if method == "diagonal" else Reference
    for T, h in zip(lengths, every(A, b, h0), strict=True):
        reference = kind(A, b[:T], h0, matrix=True, **options)
        assert_within(h, reference.states(), reference.states_bound(2.0**-24))


@functools.cache  # for every method
def long_scan(kind):
    """(operands, states, bound) at T = 20,001."""
    A, rng = contraction(3), np.random.default_rng(1)
    b = rng.normal(size=(20_001, 3)).astype(np.float32)
    reference = kind(A, b, matrix=True)
    return (A, b), reference.states(), reference.states_bound(2.0**-24)


@every_matrix_method
def test_long_scans_stay_within_the_bound(method):
    """Law 1 at T = 20,001, where errors have time to grow."""
    operands, *wanted = long_scan(DiagonalReference if method == "diagonal" else Reference)
    h = jax.jit(lambda A, b: matrix_scan(A, b, method=method))(*operands)
    assert_within(h, *wanted)


@every_matrix_method
def test_packed_segments_of_a_constant_matrix_equal_separate_calls(method):
    """Law 4, values and gradients, where every segment adds to the gradient of one A."""
    ends = [9, 10]
    marks = np.isin(np.arange(29), [0, *ends])
    b = np.random.default_rng(3).normal(size=(29, 3))
    A, g = contraction(3).astype(np.float64), np.cos(b)

    def packed(A, b):
        return matrix_scan(A, b, reset=marks, method=method)

    h, dA, db = [], 0.0, []
    for part, g_part in zip(np.split(b, ends), np.split(g, ends), strict=True):
        reference = Reference(A, part, matrix=True)
        of_A, of_b, _ = reference.gradients(g_part)
        h, dA, db = [*h, reference.states()], dA + of_A, [*db, of_b]
    with jax.enable_x64(True):
        got = vjp(packed, (jnp.asarray(A), jnp.asarray(b)), jnp.asarray(g))
    want = np.concatenate(h), (dA, np.concatenate(db))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12), got, want)


@every_matrix_method
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_leaks_across_a_reset_of_a_constant_matrix(method, reverse):
    """Law 4 with inf and nan behind the reset, forward, backward and in the tangent."""
    T, t = 21, 12
    rng = np.random.default_rng(4)
    A = contraction(2)
    drive, h0 = (rng.normal(size=shape).astype(np.float32) for shape in ((T, 2), 2))
    marks = np.arange(T) == t
    past = np.arange(T) > t if reverse else np.arange(T) < t
    future = ~past

    def f(A, b, h0):
        return matrix_scan(A, b, h0, reset=marks, reverse=reverse, method=method)

    @jax.jit
    def everything(A, b, h0, inner, outer):
        h, pull = jax.vjp(f, A, b, h0)
        _, dh = jax.jvp(f, (A, b, h0), (jnp.ones_like(A), jnp.ones_like(b), h0))
        part = matrix_scan(A, b[future], reset=marks[future], reverse=reverse, method="sequential")
        return h, part, dh, pull(inner)[1], pull(outer)[1]

    inside = np.repeat(future[:, None], 2, 1)
    for bad in (np.float32(np.inf), np.float32(np.nan)):
        b = np.where(inside, drive, bad)
        # Cotangents: of the clean part alone; nan where the past is.
        inner = np.where(inside, np.float32(1), np.float32(0))
        outer = np.where(inside, np.float32(0), bad)
        results = everything(A, b, np.full_like(h0, bad), inner, outer)
        h, want, dh, db, db_outer = map(np.asarray, results)
        np.testing.assert_allclose(h[future], want, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(h[marks], b[marks])
        assert np.isfinite(dh[future]).all()
        assert np.isfinite(db[future]).all()
        np.testing.assert_array_equal(db[t + 1 if reverse else t - 1], 0)
        np.testing.assert_array_equal(db_outer[future], 0)


@every_matrix_method
def test_a_reset_step_is_its_drive_whatever_the_matrix(method):
    b = np.random.default_rng(5).normal(size=(19, 2)).astype(np.float32)
    marks = np.arange(19) % 3 == 0

    @jax.jit
    def run(A, b):
        h, pull = jax.vjp(lambda A, b: matrix_scan(A, b, reset=marks, method=method), A, b)
        return h, pull(jnp.ones_like(h))[1]

    for bad in (np.inf, np.nan):
        h, db = map(np.asarray, run(np.full((2, 2), bad, np.float32), b))
        np.testing.assert_array_equal(h[marks], b[marks])
        assert not np.isfinite(h[~marks]).any()
        np.testing.assert_array_equal(db[2::3], 1)  # the last step before each reset


@every_matrix_method
def test_the_gradient_of_a_constant_matrix_does_not_see_what_was_reset(method):
    A, b = contraction(2), np.random.default_rng(9).normal(size=(11, 2)).astype(np.float32)
    marks = np.arange(11) == 0

    def f(A, h0):
        return jnp.sum(jnp.sin(matrix_scan(A, b, h0, reset=marks, method=method)))

    gradient = jax.jit(jax.grad(f, (0, 1)))
    dA, dh0 = gradient(A, np.full(2, np.nan, np.float32))
    want, _ = gradient(A, np.zeros(2, np.float32))
    np.testing.assert_allclose(dA, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(dh0, 0)


@every_matrix_method
def test_shard_map_over_a_batch_axis(method):
    """With varying-axes checks on; the one A of all devices gets a summed gradient."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices("cpu")[:2])
    b = jnp.asarray(np.random.default_rng(10).normal(size=(11, 4, 2)), "float32")
    A = jnp.asarray(contraction(2))

    def scan(A, b):
        return matrix_scan(A, b, reset=jnp.arange(11) == 5, method=method)

    over = PartitionSpec(None, "x")
    sharded = jax.shard_map(scan, mesh=mesh, in_specs=(PartitionSpec(), over), out_specs=over)

    def both(f):
        h, pull = jax.vjp(f, A, b)
        return h, *pull(jnp.cos(h))

    got, want = jax.jit(lambda: (both(sharded), both(scan)))()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), got, want)


@pytest.mark.parametrize("method", ["sequential", "associative", "blocked"])
def test_no_step_sees_a_later_one(method):
    """Law 9, to nan and inf: in a product that sums over steps, zeros would let them pass."""
    A, b = contraction(3), np.random.default_rng(6).normal(size=(26, 3)).astype(np.float32)
    late = b.copy()
    late[13:] = [[np.nan, 1.0, np.inf]]
    f = jax.jit(lambda b: matrix_scan(A, b, method=method))
    np.testing.assert_array_equal(f(late)[:13], f(b)[:13])
    # Where a step is its drive and a product, only the components of the drive are inf.
    assert np.isfinite(np.asarray(f(late))[13, 1])


@pytest.mark.parametrize("method", ["sequential", "blocked", "diagonal"])
def test_a_constant_matrix_is_never_spelled_out(method):
    """Forward and backward: temporaries are some arrays of b's size, where A over T has 32."""
    A, b = jnp.eye(32), jnp.ones((4096, 32))

    def both(A, b):
        h, pull = jax.vjp(lambda A, b: matrix_scan(A, b, method=method), A, b)
        return h, pull(b)

    memory = jax.jit(both).lower(A, b).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 12 * b.nbytes  # complex modes are two of them


def test_programs_hardly_grow_with_the_length():
    def size(T, method):
        gradient = jax.grad(lambda A, b: jnp.sum(matrix_scan(A, b, method=method)), (0, 1))
        A, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 2), (T, 2)))
        return jax.jit(gradient).lower(A, b).as_text().count("\n")

    assert size(4096, "diagonal") == size(2**20, "diagonal")
    small, middle, large = (size(8**k, "blocked") for k in (3, 5, 7))
    assert large - middle == middle - small  # by the levels alone, log8 T
    assert large < size(8**7, "associative")


@pytest.mark.parametrize("shape", [(2, 2), (2, 1, 2, 2)], ids=["one", "each"])
def test_derivatives_of_diagonal_need_none_of_the_eigenvectors(shape):
    """Up to second order, for one A and one for each batch entry, against `sequential`."""
    rng = np.random.default_rng(7)
    with jax.enable_x64(True):
        A, b, h0 = (jnp.asarray(rng.normal(size=s)) for s in (shape, (2, 5, 2), (2, 2)))

        def every(method):
            def f(A, b, h0):
                return jnp.sum(jnp.sin(matrix_scan(A / 3, b, h0, axis=1, method=method)))

            return jax.hessian(f, (0, 1, 2))(A, b, h0), jax.grad(f, (0, 1, 2))(A, b, h0)

        got, want = jax.jit(lambda: (every("diagonal"), every("sequential")))()
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-11), got, want)


def test_diagonal_of_a_real_matrix_is_real():
    rotation = np.array([[0.0, -1.0], [1.0, 0.0]], np.float32)  # eigenvalues i and -i
    b = np.zeros((5, 2), np.float32)
    b[0, 0] = 1
    h = matrix_scan(rotation, b, method="diagonal")
    assert h.dtype == jnp.float32
    np.testing.assert_allclose(h[-1], [1, 0], atol=1e-6)


@pytest.mark.parametrize("c", [0.0, 1.0, 30.0])
def test_the_condition_number_is_that_of_the_eigenvectors(c):
    """Of [[1, c], [0, 2]]: (1, 0) and (c, 1) / sqrt(c^2 + 1), with a cosine of s between them."""
    A = np.array([[1.0, c], [0.0, 2.0]])
    s = c / np.hypot(c, 1.0)
    want = np.sqrt((1 + s) / (1 - s))
    for A_like in (A, jnp.asarray(A, jnp.float32), np.stack([np.eye(2), A])):
        np.testing.assert_allclose(diagonal.condition_number(A_like), want, rtol=1e-6)
    row = explain_matrix_scan(A.astype(np.float32), np.ones((9, 2), np.float32))[-1]
    assert (row.method, row.available, row.chosen) == ("diagonal", True, False)
    np.testing.assert_allclose(row.condition, want, rtol=1e-6)
    assert f"{want:.3g}" in row.reason


def test_explanations_of_a_matrix_that_is_not_known():
    b = np.ones((9, 2), np.float32)
    row = explain_matrix_scan(jax.ShapeDtypeStruct((2, 2), jnp.float32), b)[-1]
    assert row.available
    assert row.condition is None
    assert "not known" in row.reason
    for shape, platform, word in (((9, 2, 2), "cpu", "varies"), ((2, 2), "tpu", "CPUs and GPUs")):
        row = explain_matrix_scan(np.ones(shape, np.float32), b, platform=platform)[-1]
        assert not row.available
        assert word in row.reason


@pytest.mark.parametrize("A", [JORDAN, np.full((2, 2), np.nan, np.float32)], ids=["jordan", "nan"])
def test_diagonal_refuses_a_concrete_matrix_without_eigenvectors(A):
    b = np.ones((9, 2), np.float32)
    condition = diagonal.condition_number(A)

    def call(b):
        return matrix_scan(A, b, method="diagonal")

    for f in (call, jax.jit(call)):  # A is concrete in both
        with pytest.raises(ValueError, match="cannot serve this call") as raised:
            f(b)
        assert f"{condition:.3g}" in str(raised.value)
    row = explain_matrix_scan(A, b)[-1]
    assert not row.available
    assert f"{condition:.3g}" in row.reason
    # Traced, it cannot be looked at.
    jax.jit(lambda A: matrix_scan(A, b, method="diagonal"))(A)


def test_diagonal_is_refused_by_the_precision_it_is_computed_in():
    A = np.array([[1.0, 1e5], [0.0, 2.0]])  # condition number 2e5, over 2^14 and below 2^43
    with jax.enable_x64(True):
        assert matrix_scan(A, np.ones((9, 2)), method="diagonal").shape == (9, 2)
    with pytest.raises(ValueError, match=r"condition number 2e\+05.*of float32"):
        matrix_scan(A.astype(np.float32), np.ones((9, 2), np.float32), method="diagonal")


def test_diagonal_refuses_a_matrix_that_varies():
    with pytest.raises(ValueError, match="'diagonal' cannot serve this call: A varies in time"):
        matrix_scan(np.ones((9, 2, 2), np.float32), np.ones((9, 2), np.float32), method="diagonal")


def test_its_error_has_the_condition_number():
    """And that of `blocked` has not: normal and non-normal, with the same eigenvalues."""
    b = np.random.default_rng(8).normal(size=(200, 2)).astype(np.float32)
    errors = {}
    for c in (0.0, 1000.0):
        # Balanced by hand, so that A itself is small: the eigenvalues are 0.5 and 0.5 + 1/c.
        A = np.array([[0.5, 1.0 if c else 0.0], [0.0, 0.5 + (1 / c if c else 0.25)]], np.float32)
        reference = Reference(A, b, matrix=True)
        want = reference.states()
        for method in ("blocked", "diagonal"):
            h = matrix_scan(A, b, method=method)
            errors[c, method] = np.abs(np.asarray(h) - want).max() / np.abs(want).max()
            if method == "blocked":
                assert_within(h, want, reference.states_bound(2.0**-24))
    assert errors[1000.0, "diagonal"] > 30 * errors[0.0, "diagonal"]


@pytest.mark.parametrize(
    "call",
    [
        Call(b=(2, 21, 3), a=(2, 1, 3, 3), axis=1, h0=(2, 3), reset=(2, 21, 1)),
        Call(b=(21, 2, 2, 3), a=(1, 2, 1, 3, 3), h0=(3,), reverse=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["blocked", "diagonal"])
def test_a_matrix_for_each_batch_entry(call, method):
    a, b, h0, reset, g = call.arrays()
    reference, u = call.reference(a, b, h0, reset, method), unit_roundoff(call.dtype)
    h, gradients = vjp(differentiable(call, method, reset), primals(a, b, h0), jnp.asarray(g))
    assert_within(h, reference.states(), reference.states_bound(u))
    assert_gradients_within(gradients, reference, g, call.dtype)
