"""What the front doors accept, refuse and say."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import (
    cell_scan,
    explain_cell_scan,
    explain_linear_scan,
    explain_matrix_scan,
    linear_scan,
    matrix_scan,
)
from rnnscan.scan.linear_lowering import Spec, run_scan
from rnnscan.scan.linear_method import ScanOperands
from rnnscan.scan.linear_methods import linear_table
from rnnscan.scan.product import elementwise
from rnnscan.scan.target import Target
from tests.scan.cases import MATRIX_METHODS, every_method

b = np.ones((4, 3), np.float32)
A = np.eye(3, dtype=np.float32)
SPEC = jax.ShapeDtypeStruct((4,), bool)  # of a reset without its numbers


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((np.ones((4, 2), np.float32), b), ValueError, ["a:", "(4, 2)", "(4, 3)"]),
        ((np.ones((4,), np.float32), b), ValueError, ["a:", "(4,)", "(4, 3)", "a[:, None]"]),
        ((np.ones((3, 4), np.float32), b), ValueError, ["a:", "(3, 4)", "(4, 3)", "a.T"]),
        ((np.ones((2, 4, 3), np.float32), b), ValueError, ["a:", "(2, 4, 3)", "(4, 3)"]),
        ((1.0, b, np.ones((2,), np.float32)), ValueError, ["h0:", "(2,)", "(4, 3)"]),
        ((1.0, b, np.ones((4, 3), np.float32)), ValueError, ["h0:", "(4, 3)", "(3,)"]),
        ((None, b), TypeError, ["a: got None, expected an array"]),
        (({"a": 0.5}, b), TypeError, ["a: got a dict, expected an array"]),
        ((1.0, [1.0, 2.0]), TypeError, ["b:", "use jnp.asarray(b)"]),
        ((1.0, b.astype(int)), TypeError, ["b:", "int", "(4, 3)", "jnp.asarray(b, float)"]),
        ((1.0, np.ones((4, 2, 3), np.float32), b[:2, 0]), ValueError, ["h0:", "h0[:, None]"]),
        ((1.0, b, np.ones(3, bool)), TypeError, ["h0:", "bool"]),
        ((1.0, np.float32(1)), ValueError, ["b:", "()", "time"]),
    ],
)
def test_operands_that_do_not_fit(arguments, error, words):
    for call in (linear_scan, jax.jit(linear_scan), explain_linear_scan):
        with pytest.raises(error) as raised:
            call(*arguments)
        assert all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"axis": 2}, ValueError, ["axis:", "2", "(4, 3)"]),
        ({"axis": -3}, ValueError, ["axis:", "-3", "(4, 3)"]),
        ({"axis": 0.5}, TypeError, ["axis:", "0.5"]),
        ({"axis": True}, TypeError, ["axis:", "True"]),
        ({"axis": (0,)}, TypeError, ["axis: got (0,), expected an integer"]),
        ({"axis": np.zeros(2, int)}, TypeError, ["axis: got array([0, 0]), expected an integer"]),
        ({"reverse": "no"}, TypeError, ["reverse:", "'no'"]),
        ({"method": "fast"}, ValueError, ["method:", "'fast'", *map(repr, linear_table.names)]),
        ({"method": "Asociative"}, ValueError, ["did you mean 'associative'?"]),
        ({"method": None}, ValueError, ["method: got None, expected one of 'auto'"]),
        ({"reset": np.ones(3, bool)}, ValueError, ["reset:", "(3,)", "4"]),
        ({"reset": np.ones(1, bool)}, ValueError, ["reset:", "(1,)", "4"]),
        ({"reset": np.ones((2, 3), bool)}, ValueError, ["reset:", "(2, 3)", "(4, 3)"]),
        ({"reset": np.ones(4, int)}, TypeError, ["reset:", "int", "bool; write reset != 0"]),
        ({"reset": np.ones(4)}, TypeError, ["reset:", "float64", "bool; write reset != 0"]),
        ({"reset": [0.0] * 4}, TypeError, ["float32", "bool; write jnp.asarray(reset) != 0"]),
        ({"reset": "yes"}, TypeError, ["reset: got 'yes', expected bool"]),
        ({"reset": [[True], [True, False]]}, TypeError, ["reset: got a list, expected bool"]),
        ({"reset": SPEC}, TypeError, ["reset: got a ShapeDtypeStruct", "expected bool"]),
    ],
)
def test_options_that_do_not_fit(options, error, words):
    with pytest.raises(error) as raised:
        linear_scan(1.0, b, **options)
    assert all(word in str(raised.value) for word in words), raised.value


def test_what_lacks_an_axis_is_told_how_to_write_it():
    drive = np.ones((2, 4, 3), np.float32)
    flags, decay = np.ones((2, 4), bool), np.ones((2, 3), np.float32)
    for call, first in ((linear_scan, 0.5), (matrix_scan, A), (explain_linear_scan, 0.5)):
        with pytest.raises(ValueError, match=r"reset: .*; reset\[:, :, None\] would broadcast"):
            call(first, drive, axis=1, reset=flags)
        with pytest.raises(ValueError, match=r"reset: .*; reset\[:, None, None\] would broadcast"):
            call(first, drive, axis=1, reset=flags[:, 0])
    with pytest.raises(ValueError, match=r"a: .*; a\[:, None, :\] would broadcast"):
        linear_scan(decay, drive, axis=1)


class Foreign:
    """An array of another library, torch's for instance: a dtype of its own, and `__array__`."""

    dtype = "foreign.float32"

    def __init__(self, numbers):
        self.numbers = numbers
        self.shape = numbers.shape

    def __array__(self, dtype=None, copy=None):
        if self.numbers.dtype == object:
            raise RuntimeError("detach it first")
        return np.asarray(self.numbers, dtype)


def test_arrays_of_other_libraries_are_taken_as_jax_takes_them():
    flags = np.array([False, True, False, False])
    weights, state = (A, b[0], A), (b[0],)
    drive, matrix = Foreign(b), Foreign(A)
    cell = (tuple(map(Foreign, weights)), drive, tuple(map(Foreign, state)), Foreign(flags))
    want = linear_scan(0.5, b, reset=flags)
    np.testing.assert_array_equal(linear_scan(0.5, drive, reset=Foreign(flags)), want)
    np.testing.assert_array_equal(linear_scan(0.5, memoryview(b), reset=list(flags)), want)
    np.testing.assert_array_equal(matrix_scan(matrix, drive), matrix_scan(A, b))
    want = cell_scan("tanh", weights, b, state, flags)[0]
    np.testing.assert_array_equal(cell_scan("tanh", *cell)[0], want)
    for rows in (
        explain_linear_scan(0.5, drive, reset=Foreign(flags)),
        explain_matrix_scan(matrix, drive),
        explain_cell_scan("tanh", *cell),
    ):
        assert sum(row.chosen for row in rows) == 1


NO_ARRAYS = {
    "None": (None, "got None"),
    "function": (lambda: b, "got a function"),
    "class": (jnp.float32, "got the class float32"),
    "text": ("a", "got 'a'"),
    "objects": (np.array([[None] * 3]), r"got dtype object and shape \(1, 3\)"),
    "texts": (np.array([["a"] * 3]), r"got dtype <U1 and shape \(1, 3\)"),
    "range": (range(3), r"got a range.*; write jnp.asarray\(\w+, float\)"),
    "key": (jax.random.key(0), "got dtype key"),
    "shape": (jax.ShapeDtypeStruct((4, 3), jnp.float32), r"got a ShapeDtypeStruct of dtype float"),
    "number": (True, "got True.*; write 1.0"),
    "foreign": (
        Foreign(np.array([None])),
        r"got a Foreign of dtype foreign.float32 and shape \(1,\).* \(detach it first\)",
    ),
}


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_what_is_no_array_is_named(name):
    x, message = NO_ARRAYS[name]
    weights, state = (A, b[0], A), (b[0],)
    for scans, operand, arguments in (
        ((linear_scan, explain_linear_scan), "b", (0.5, x)),
        ((matrix_scan, explain_matrix_scan), "A", (x, b)),
        ((cell_scan, explain_cell_scan), "x", ("tanh", weights, x, state)),
    ):
        for scan in scans[:1] if name == "shape" else scans:
            with pytest.raises(TypeError, match=f"^{operand}: {message}"):
                scan(*arguments)


def test_rows_are_a_tuple_and_print_as_a_table():
    rows = explain_linear_scan(0.5, jnp.zeros((1000, 16)), platform="cuda")
    assert rows == tuple(rows)
    header, *lines = str(rows).splitlines()
    assert header.split() == ["method", "available", "reason"]
    starts = [line.index(row.reason) for line, row in zip(lines, rows, strict=True)]
    assert set(starts) == {header.index("reason")}
    assert [line.startswith("->") for line in lines] == [row.chosen for row in rows]
    assert str(rows).isascii()
    rows = explain_matrix_scan(A, b)
    assert str(rows).splitlines()[-1].split()[:2] == ["diagonal", "yes"]


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((np.ones((3, 2), np.float32), b), {}, ["A:", "(3, 2)", "(3, 3)"]),
        ((np.ones((2, 2), np.float32), b), {}, ["A:", "(2, 2)", "(4, 3)"]),
        ((np.ones((5, 3, 3), np.float32), b), {}, ["A:", "(5, 3, 3)", "(4, 3, 3)"]),
        ((np.ones((2, 3, 3), np.float32), b[None]), {}, ["A:", "(2, 3, 3)", "(1, 4, 3, 3)"]),
        (
            (np.ones((4, 3, 3), np.float32), b[:, None]),
            {},
            ["A:", "A[:, None, :, :] would broadcast"],
        ),
        ((b[0], b), {}, ["A:", "(3,)", "for a diagonal A use linear_scan"]),
        ((A, b), {"axis": 1}, ["axis:", "last axis"]),
        ((A, b), {"axis": -1}, ["axis:", "last axis"]),
        ((A, b[0]), {}, ["b:", "(3,)"]),
        ((A, b), {"reset": np.ones((4, 3), bool)}, ["reset:", "(4, 3)", "(4, 1)"]),
        ((A, b, np.ones(2, np.float32)), {}, ["h0:", "(2,)", "(3,)"]),
    ],
)
def test_matrix_scan_refuses(arguments, options, words):
    with pytest.raises(ValueError, match=words[0]) as raised:
        matrix_scan(*arguments, **options)
    assert all(word in str(raised.value) for word in words), raised.value


def test_errors_under_vmap_and_jit():
    with pytest.raises(ValueError, match="a: shape"):
        jax.jit(jax.vmap(linear_scan))(np.ones((2, 5), np.float32), np.ones((2, 4), np.float32))


def test_strict_promotion_raises_as_jax_does(x64):
    half = b.astype(jnp.bfloat16)
    with pytest.raises(
        jax.errors.TypePromotionError if hasattr(jax.errors, "TypePromotionError") else ValueError
    ):
        linear_scan(half, b)
    with jax.numpy_dtype_promotion("standard"):
        assert linear_scan(half, b).dtype == jnp.float32
        assert linear_scan(b, b.astype(np.complex64)).dtype == jnp.complex64
    assert linear_scan(0.5, half).dtype == jnp.bfloat16
    for wide, dtype in ((np.ones((4, 3)), "float"), (np.ones((4, 3), complex), "complex")):
        size = 64 if x64 else 32  # of a number, or of its parts; without a warning, as JAX
        dtype = f"{dtype}{size if dtype == 'float' else 2 * size}"
        assert linear_scan(wide, wide).dtype == dtype


def test_real_decay_with_complex_drive_has_a_real_gradient():
    with jax.numpy_dtype_promotion("standard"):
        z = b.astype(np.complex64) * (1 + 2j)
        gradient = jax.grad(lambda a: jnp.sum(jnp.abs(linear_scan(a, z))))(jnp.float32(0.5))
    assert gradient.dtype == jnp.float32
    assert gradient.shape == ()
    # |h_t| = sqrt(5) (1 + a + ... ), so the derivative at 1/2 is sqrt(5) sum_t sum_k k a^(k-1).
    slopes = [sum(k * 0.5 ** (k - 1) for k in range(t + 1)) for t in range(4)]
    np.testing.assert_allclose(gradient, 3 * np.sqrt(5) * sum(slopes), rtol=1e-5)


@every_method
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3), (1, 0)])
def test_empty(method, shape):
    empty = jnp.ones(shape)
    for axis in range(len(shape)):
        h0 = jnp.ones([n for i, n in enumerate(shape) if i != axis])

        def f(a, b, h0, axis=axis):
            return linear_scan(a, b, h0, axis=axis, method=method)

        h, pull = jax.vjp(f, 0.5, empty, h0)
        assert h.shape == shape
        da, db, dh0 = pull(h)
        assert (da.shape, db.shape, dh0.shape) == ((), shape, h0.shape)
        assert not np.asarray(dh0).any()
        assert jax.jvp(f, (0.5, empty, h0), (1.0, empty, h0))[1].shape == shape


def test_views_and_lists_of_axes(x64):
    del x64
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2]
    want = np.cumsum(wide, axis=0)
    np.testing.assert_allclose(linear_scan(1.0, wide), want)
    np.testing.assert_allclose(linear_scan(1.0, wide.T, axis=-1), want.T)
    np.testing.assert_allclose(linear_scan(np.float32(1), wide, np.float32(0)), want)


@every_method
def test_none_is_exactly_zeros(method):
    a = jnp.array([jnp.inf, 1.0])
    missing = linear_scan(a, jnp.ones(2), method=method)
    zeros = linear_scan(a, jnp.ones(2), jnp.zeros(()), method=method)
    np.testing.assert_array_equal(missing, zeros)


def test_explanations_agree_with_the_methods():
    spec = jax.ShapeDtypeStruct((1000, 8), jnp.float32)
    square = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    flags = np.zeros(1000, bool)
    for names, rows in (
        (linear_table.names, explain_linear_scan(spec, spec, platform="cuda")),
        (MATRIX_METHODS, explain_matrix_scan(square, spec, platform="cuda")),
        (linear_table.names, explain_linear_scan(0.5, spec, reset=flags, platform="cpu")),
    ):
        assert [row.method for row in rows] == list(names)
        assert sum(row.chosen for row in rows) == 1
        assert all(row.reason for row in rows)
        assert all(row.available for row in rows if row.chosen)
    chosen = {
        (platform, n): next(
            row.method
            for row in explain_matrix_scan(np.eye(n), np.ones((64, n)), platform=platform)
            if row.chosen
        )
        for platform in ("cpu", "cuda")
        for n in (4, 256)
    }
    assert chosen == {
        ("cpu", 4): "sequential",
        ("cpu", 256): "sequential",
        ("cuda", 4): "blocked",
        ("cuda", 256): "blocked",
    }


@pytest.mark.parametrize(
    ("T", "batch", "n", "varies", "method"),
    [
        (4096, 1, 16, False, "blocked"),
        (4096, 1, 16, True, "sequential"),
        (512, 1, 16, False, "sequential"),
        (4096, 1, 128, False, "sequential"),
        (4096, 4, 16, False, "blocked"),
        (4096, 4, 4, False, "sequential"),
        (4096, 64, 16, False, "sequential"),
    ],
)
def test_auto_takes_blocks_on_a_cpu_where_they_pay(T, batch, n, varies, method):
    A = jax.ShapeDtypeStruct((T, 1, n, n) if varies else (n, n), jnp.float32)
    rows = explain_matrix_scan(A, jax.ShapeDtypeStruct((T, batch, n), jnp.float32), platform="cpu")
    assert [row.method for row in rows if row.chosen] == [method]


def test_explain_refuses_a_platform_that_is_none():
    with pytest.raises(ValueError, match=r"platform: got 'CPU', .* did you mean 'cpu'\?"):
        explain_linear_scan(0.5, b, platform="CPU")


@every_method
def test_without_jit_and_when_debugging_nans(method):
    """JAX runs a program again, step by step, to find where a nan arose."""
    with jax.disable_jit():
        h, pull = jax.vjp(lambda b: linear_scan(0.5, b, method=method), jnp.ones(3))
        np.testing.assert_allclose(h, [1, 1.5, 1.75])
        np.testing.assert_allclose(pull(jnp.ones(3))[0], [1.75, 1.5, 1])
    with jax.debug_infs(True), pytest.raises(FloatingPointError):
        linear_scan(1e30, jnp.ones(5), method=method)


def test_an_axis_is_any_integer_known_when_tracing():
    np.testing.assert_array_equal(
        linear_scan(0.5, b, axis=jnp.int32(-1)), linear_scan(0.5, b, axis=1)
    )
    assert matrix_scan(A, b, axis=np.int32(0)).shape == b.shape
    with pytest.raises(TypeError, match=r"axis: got .*, known when tracing: .*static_argnames"):
        jax.jit(linear_scan)(0.5, b, axis=1)
    with pytest.raises(TypeError, match=r"reverse: got .*, known when tracing: .*static_argnames"):
        jax.jit(linear_scan)(0.5, b, reverse=True)


def test_explanations_take_what_the_scan_takes():
    rows = explain_linear_scan(0.5, b, reset=[True, False, True, False])
    assert sum(row.chosen for row in rows) == 1
    with pytest.raises(TypeError, match="reverse: got 1"):
        explain_linear_scan(0.5, b, reverse=1)


@every_method
def test_a_reset_step_is_its_drive_whatever_its_sign(method):
    if method == "associative":
        pytest.skip("its first step adds the drive to a product of zeros")
    drive = np.full((40, 32), -0.0, np.float32)
    h = linear_scan(0.5, drive, reset=np.ones((40, 32), bool), method=method)
    assert np.signbit(np.asarray(h)).all()


def test_the_gradient_with_a_symbolic_length_is_exported():
    (length,) = jax.export.symbolic_shape("T")
    gradient = jax.jit(jax.grad(lambda a, b: jnp.sum(linear_scan(a, b)), (0, 1)))
    specs = (jax.ShapeDtypeStruct((3,), "float32"), jax.ShapeDtypeStruct((length, 3), "float32"))
    exported = jax.export.export(gradient)(*specs)
    assert [aval.shape for aval in exported.out_avals] == [(3,), (length, 3)]


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_a_symbolic_length_is_exported(platform):
    (length,) = jax.export.symbolic_shape("T")
    spec = jax.ShapeDtypeStruct((length, 3), jnp.float32)
    exported = jax.export.export(jax.jit(lambda b: linear_scan(0.5, b)), platforms=[platform])(spec)
    assert exported.out_avals[0].shape == (length, 3)


def test_layouts_of_other_platforms_give_the_same_numbers():
    """Where axes are not merged: the program that an accelerator would get, run on the CPU."""
    rng = np.random.default_rng(0)
    operands = [
        jnp.asarray(rng.normal(size=s), "float32")
        for s in [(2, 1, 5, 3), (2, 4, 5, 3), (1, 4, 1, 3)]
    ]
    operands = ScanOperands(*operands, reset=None)
    spec = Spec(elementwise, linear_table, "auto", 2, True)
    here, there = (
        jax.jit(functools.partial(run_scan, spec=spec, target=Target(platform)))(operands)
        for platform in ("cpu", "cuda")
    )
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)


def test_precision_is_highest_unless_the_caller_says_otherwise():
    def lowered():
        return jax.jit(lambda A, b: matrix_scan(A, b)).lower(A, b).as_text()

    assert "HIGHEST" in lowered()
    with jax.default_matmul_precision("default"):
        assert "HIGHEST" not in lowered()
