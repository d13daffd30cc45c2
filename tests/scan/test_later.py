"""`later`, what the steps behind a part of time send back into its transposed map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.scan import linear, linear_table, matrix, matrix_table
from rnnscan.scan.cpu_kernel import library
from rnnscan.scan.linear_lowering import Spec, run_transpose
from rnnscan.scan.linear_method import Past, TransposeOperands
from rnnscan.scan.precision import matmul_precision
from rnnscan.scan.product import elementwise
from rnnscan.scan.product import matrix as matrix_product
from rnnscan.scan.target import Target
from rnnscan.scan.time_axis import TimeAxis
from tests.scan.cases import LINEAR, MATRIX, METHODS, Call, by_every_method, every_method
from tests.scan.reference import unit_roundoff
from tests.scan.test_laws import assert_within
from tests.scan.test_native import LAYOUTS

needs_kernel = pytest.mark.skipif(
    library.why_not() is not None, reason=f"no kernel: {library.why_not()}"
)


def mapped_by(call, method, decay_shape, state_shape):
    """The transposed map as the rules above the methods lower it, compiled."""
    product = matrix_product(matmul_precision()) if call.matrix else elementwise
    table = matrix_table if call.matrix else linear_table
    spec = Spec(product, table, method, call.axis % len(call.b), call.reverse)
    static = {"decay_shape": decay_shape, "state_shape": state_shape}
    return jax.jit(functools.partial(run_transpose, spec=spec, target=Target("cpu"), **static))


def check(call, method, *, decay=True):
    """da (if asked for), db and dh0 are those of a loop where `later` is in the last step of g."""
    a, b, h0, reset, g = call.arrays()
    with call.wide():
        scan = matrix if call.matrix else linear
        line, axis = scan._in_line(a, b, h0, reset, axis=call.axis)
        time = TimeAxis(axis, call.length, call.reverse)
        later = some_state(call, time.one(b.shape))
        h0 = np.squeeze(np.asarray(line.h0), axis)
        reference = call.reference(a, b, h0, reset, method)
        h = reference.states().astype(b.dtype)
        past = Past(jnp.asarray(h), line.h0) if decay else None
        operands = TransposeOperands(jnp.asarray(g), line.a, past, line.reset, jnp.asarray(later))
        decay_shape = line.a.shape if decay else None
        da, db, dh0 = mapped_by(call, method, decay_shape, line.h0.shape)(operands)
    spelled_out = wide(g)
    spelled_out[last_step(call)] += np.squeeze(wide(later), axis)
    u = unit_roundoff(call.dtype)
    found = None if da is None else da.reshape(a.shape), db, jnp.squeeze(dh0, axis)
    wanted = reference.gradients(spelled_out), reference.gradient_bounds(spelled_out, u)
    for name, got, want, bound in zip(("da", "db", "dh0"), found, *wanted, strict=True):
        if got is None:
            assert (name, decay) == ("da", False)
            continue
        assert got.dtype == b.dtype
        assert_within(got, want, bound, name)


def wide(x):
    return np.array(x, np.complex128 if np.iscomplexobj(x) else np.float64)


def last_step(call):
    index: list = [slice(None)] * len(call.b)
    index[call.axis] = 0 if call.reverse else -1
    return tuple(index)


def some_state(call, one):
    """Numbers for a state of this shape, some of whose axes broadcast."""
    rng = np.random.default_rng(len(str(call)))
    lead = len(one) - call.matrix
    shape = tuple(1 if i < lead and rng.random() < 0.4 else size for i, size in enumerate(one))
    x = 3 * rng.normal(size=shape)
    x = x + 1j * rng.normal(size=shape) if "complex" in call.dtype else x
    return x.astype(jnp.dtype(call.dtype))


CALLS = [call for call in LINEAR + MATRIX if 0 not in call.b]


@by_every_method(CALLS)
def test_it_is_as_if_added_to_the_last_step(call, method):
    check(call, method)


@needs_kernel
@pytest.mark.parametrize(
    ("call", "decay"),
    [(call, True) for call in LAYOUTS] + [(call, False) for call in LAYOUTS[1::3]],
    ids=str,
)
def test_every_path_of_the_kernel_begins_with_it(call, decay):
    """Wide and narrow lanes, segments of time among them; with da and without."""
    check(call, "native", decay=decay)


@every_method
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
def test_parts_of_time_equal_the_whole(method, reverse):
    """What the part behind sends is its dh0. Of a reset at its first step nothing passes, and what
    passed ends at a reset of the last step in front, nan too."""
    T, cut, one = 23, 9, (1, 4)
    rng = np.random.default_rng(0)
    a, g, h = (rng.normal(size=(T, 4)).astype(np.float32) / 2 for _ in range(3))
    reset = np.zeros((T, 4), bool)
    behind, front = (slice(0, cut), slice(cut, T)) if reverse else (slice(cut, T), slice(0, cut))
    before, after = (cut, cut - 1) if reverse else (cut - 1, cut)
    reset[after, 0] = reset[before, 1] = reset[before, 2] = True
    g[after, 1:3] = np.nan, np.inf

    def run(where, h0, later=None):
        g_part, a_part, h_part, flags = (jnp.asarray(x[where]) for x in (g, a, h, reset))
        operands = TransposeOperands(g_part, a_part, Past(h_part, h0), flags, later)
        call = Call(b=g_part.shape, a=g_part.shape, reverse=reverse)
        return mapped_by(call, method, a_part.shape, one)(operands)

    h0 = jnp.ones(one)
    whole = run(slice(0, T), h0)
    later = run(behind, jnp.asarray(h[before : before + 1]))
    early = run(front, h0, later.dh0)
    for name in ("da", "db"):
        parts = [getattr(early, name), getattr(later, name)]
        joined = np.concatenate(parts[::-1] if reverse else parts)
        np.testing.assert_allclose(joined, getattr(whole, name), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(early.dh0, whole.dh0, rtol=1e-5, atol=1e-6)
    wrong = ~np.isfinite(np.asarray(whole.db))
    assert wrong[before].tolist() == [False, True, True, False]
    assert wrong.sum() == 4


def lone(a, later):
    """db, from the last step to the first, and dh0 where `later` alone comes in."""
    operands = TransposeOperands(jnp.zeros(a.shape), a, None, None, jnp.full((1, 1), later))
    _, db, dh0 = mapped_by(Call(b=a.shape, a=a.shape), "native", None, (1, 1))(operands)
    return np.asarray(db)[::-1], float(dh0[0, 0])


# Time is split there: into lanes, or into segments that fit a cache.
SPLIT = pytest.mark.parametrize("shape", [(16_384, 1), (131_072, 16)], ids=["narrow", "wide"])


@needs_kernel
@SPLIT
def test_the_kernel_begins_again_from_it(shape):
    """4^T overflows, and what has come in is zero before."""
    a = np.full(shape, 4.0, np.float32)
    a[-50:] = 0.5
    a[-51] = 0.0
    db, dh0 = lone(jnp.asarray(a), 3.0)
    want = np.zeros(shape)
    want[:51] = 3 * 0.5 ** np.arange(51)[:, None]
    np.testing.assert_array_equal(db, want.astype(np.float32))
    assert dh0 == 0


@needs_kernel
@SPLIT
def test_it_outlives_products_that_underflow(shape):
    """0.9^1024 is 0 in float32, and 0.9^1024 1e30 is not."""
    db, dh0 = lone(jnp.full(shape, 0.9), 1e30)
    want = 1e30 * 0.9 ** np.arange(1300.0)
    np.testing.assert_allclose(db[:1300], np.broadcast_to(want[:, None], (1300, shape[1])), 1e-3)
    assert dh0 == 0


@pytest.mark.parametrize("method", ["sequential", "blocked", "native"])
def test_nothing_of_full_size_is_made_for_it(method):
    if method not in METHODS:
        pytest.skip(str(library.why_not()))
    x = jax.ShapeDtypeStruct((4096, 64), jnp.float32)
    one = jax.ShapeDtypeStruct((1, 64), jnp.float32)
    run = mapped_by(Call(b=x.shape, a=x.shape), method, x.shape, one.shape)
    memory = run.lower(TransposeOperands(x, x, Past(x, one), None, one)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4096 * 64 * 4 / 4
