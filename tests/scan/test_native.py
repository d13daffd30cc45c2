"""The CPU kernel beyond the laws: layouts, segments of time, instruction sets, its absence."""

import concurrent.futures
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.scan_limits.shapes import SHAPES
from rnnscan import explain_linear_scan, linear_scan
from rnnscan.scan.cell_methods.cpu_kernel import KINDS
from rnnscan.scan.cpu_kernel import library
from rnnscan.scan.cpu_kernel.sources import LAUNCHER, source_hash
from tests.scan.cases import Call
from tests.scan.reference import unit_roundoff
from tests.scan.test_cells import SIZES
from tests.scan.test_laws import (
    assert_gradients_within,
    assert_within,
    differentiable,
    primals,
    vjp,
)

needs_kernel = pytest.mark.skipif(
    library.why_not() is not None, reason=f"no kernel: {library.why_not()}"
)

# Layouts that the short calls of cases.py do not reach: more lanes than a vector has, with a rest;
# rows of several groups; runs of a broadcast; time in segments, narrow and wide, with a tail; the
# threshold from which there are threads.
LAYOUTS = [
    Call(b=(3, 70, 37), a=(3, 70, 37), h0=(3, 37), axis=1, reset=(70,)),
    Call(b=(2, 65, 35), a=(65, 1), h0=(35,), axis=1, reverse=True),
    Call(b=(40, 2100), a=(2100,), h0=(), reset=(40, 2100)),
    Call(b=(33, 5, 24), a=(33, 5, 1), h0=(24,), reset=(33, 1, 24)),
    Call(b=(33, 70, 3), a=(33, 1, 3), h0=(70, 3), dtype="complex64"),
    Call(b=(9, 400, 5), a=(400, 5), h0=(9, 1), axis=1, reverse=True, reset=(9, 400, 1)),
    Call(b=(50, 129), a=(50, 129), h0=(50,), axis=1, dtype="float64", reset=(50, 129)),
    Call(b=(50, 129), a=(50, 1), axis=1, dtype="complex128", reverse=True),
    Call(b=(8, 40, 100), a=(8, 40, 1), h0=(8, 100), axis=1, dtype="bfloat16", reset=(40,)),
    Call(b=(40, 100), a=(100,), h0=(100,), dtype="float16", reverse=True),
    Call(b=(4001,), a=(4001,), h0=(), reverse=True),
    Call(b=(4001,), a=(), h0=(), dtype="float64", reset=(4001,)),
    Call(b=(2, 3003, 2), a=(2, 1, 2), h0=(2, 2), axis=1, dtype="complex64"),
    Call(b=(3003, 3), a=(3003, 1), h0=(3,), dtype="bfloat16"),
    Call(b=(20_001, 40), a=(20_001, 40), h0=(40,), reset=(20_001,)),
    Call(b=(30_001, 40), a=(40,), h0=(40,), reverse=True),
    Call(b=(20_001, 40), a=(20_001, 1), h0=(), dtype="complex64"),
    Call(b=(2000, 64, 3), a=(2000, 64, 3), h0=(64, 1), reverse=True),
]


@needs_kernel
@pytest.mark.parametrize("call", LAYOUTS, ids=str)
def test_values_and_gradients_equal_a_loop(call):
    a, b, h0, reset, g = call.arrays()
    reference, u = call.reference(a, b, h0, reset), unit_roundoff(call.dtype)
    with call.wide():
        f = differentiable(call, "native", reset)
        h, gradients = vjp(f, primals(a, b, h0), jnp.asarray(g))
        assert_within(h, reference.states(), reference.states_bound(u))
    assert_gradients_within(gradients, reference, g, call.dtype)


@needs_kernel
@pytest.mark.parametrize("call", LAYOUTS[1::3], ids=str)
def test_the_tangent_map_equals_that_of_a_loop(call):
    a, b, h0, reset, _ = call.arrays()
    with call.wide():
        args = primals(a, b, h0)
        tangents = jax.tree.map(jnp.cos, args)

        def tangent(method):
            return jax.jit(
                lambda *args: jax.jvp(differentiable(call, method, reset), args, tangents)[1]
            )(*args)

        got, want = (np.asarray(tangent(method)) for method in ("native", "sequential"))
        kind = complex if np.iscomplexobj(got) else float
        scale = np.abs(want.astype(kind)).max()
        error = np.abs(got.astype(kind) - want.astype(kind)).max()
        assert error <= 50 * unit_roundoff(call.dtype) * scale


@needs_kernel
@pytest.mark.parametrize("shape", [s for s in SHAPES if s.nbytes <= 2**24], ids=lambda s: s.name)
def test_the_shapes_of_the_benchmark_stay_within_the_bound(shape):
    """Law 1 at T up to 10^6, against `sequential` in double precision; gradients beside it."""
    rng = np.random.default_rng(0)
    sizes = (shape.outer, shape.length, shape.inner)
    with jax.enable_x64(True):
        b, g = (rng.normal(size=sizes).astype(shape.dtype) for _ in range(2))
        a = rng.uniform(0.9, 1, sizes if shape.decay == "full" else sizes[2:]).astype(shape.dtype)
        u = unit_roundoff(shape.dtype)

        def both(a, b, g, method):
            h, pull = jax.vjp(lambda a, b: linear_scan(a, b, axis=1, method=method), a, b)
            return h, *pull(g)

        @jax.jit
        def judge(a, b, g):
            want = both(*(x.astype("float64") for x in (a, b, g)), "sequential")
            got = [x.astype("float64") for x in both(a, b, g, "native")]
            h, size = want[0], jnp.abs(a.astype("float64"))
            before = jnp.concatenate([jnp.zeros_like(h[:, :1]), h[:, :-1]], 1)
            drive = u * (jnp.abs(size * before) + jnp.abs(h))
            bound = 4 * linear_scan(size, drive, axis=1, method="sequential")
            shares = jnp.max(jnp.abs(got[0] - h) / bound)
            relative = [
                jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y))
                for x, y in zip(got, want, strict=True)
            ]
            return shares, relative

        share, relative = judge(a, b, g)
        assert share <= 1
        assert max(relative) < 200 * u  # some twenty steps are remembered


@needs_kernel
@pytest.mark.parametrize("shape", [(5000,), (20_000, 40)], ids=["narrow", "wide"])
def test_products_that_overflow_do_not_matter(shape):
    """Time is split there, but 4^T overflows where h does not: the kernel begins again."""
    a, b = jnp.full(shape, 4.0), jnp.zeros(shape)
    h, pull = jax.vjp(lambda a, b: linear_scan(a, b, method="native"), a, b)
    np.testing.assert_array_equal(h, 0)
    g = jnp.zeros(shape).at[3].set(1.0)
    da, db = pull(g)
    np.testing.assert_array_equal(np.asarray(db)[:5].reshape(5, -1)[:, 0], [64, 16, 4, 1, 0])
    np.testing.assert_array_equal(da, 0)


@needs_kernel
@pytest.mark.parametrize("shape", [(16_384,), (131_072, 16)], ids=["narrow", "wide"])
def test_a_large_state_outlives_products_that_underflow(shape):
    """0.9^1024 is 0 in float32, and 0.9^1024 1e30 is not."""
    b, h0 = jnp.zeros(shape), jnp.float32(1e30)
    h = np.asarray(linear_scan(0.9, b, h0, method="native")).reshape(len(b), -1)[:, 0]
    want = 1e30 * 0.9 ** np.arange(1.0, 1301)
    np.testing.assert_allclose(h[:1300], want, rtol=1e-3)


@needs_kernel
def test_nan_stays_in_its_lane_and_its_segments():
    b = jnp.ones((20_000, 40)).at[100, 7].set(jnp.nan)
    h = np.asarray(linear_scan(0.5, b, method="native"))
    want = np.zeros(b.shape, bool)
    want[100:, 7] = True
    np.testing.assert_array_equal(np.isnan(h), want)


@needs_kernel
def test_sums_repeat_exactly():
    """However the threads share the work."""
    rng = np.random.default_rng(1)
    for shape, a_shape, axis in [
        ((64, 512, 16), (16,), 1),
        ((20_000, 32), (20_000, 1), 0),
        ((9, 20_000), (), 1),
    ]:
        b = jnp.asarray(rng.normal(size=shape), "float32")
        a = jnp.asarray(rng.uniform(0.9, 1, a_shape), "float32")

        def loss(a, h0, b=b, axis=axis):
            return jnp.sum(linear_scan(a, b, h0, axis=axis, method="native") ** 2)

        gradients = jax.jit(jax.grad(loss, (0, 1)))
        first, *others = (gradients(a, jnp.float32(0.5)) for _ in range(20))
        for other in others:
            jax.tree.map(np.testing.assert_array_equal, first, other)


@needs_kernel
def test_calls_side_by_side():
    """Several scans in one program and from several threads at once share one pool."""
    rng = np.random.default_rng(2)
    b = jnp.asarray(rng.normal(size=(6, 20_000, 16)), "float32")

    @jax.jit
    def together(b):
        return jnp.stack([linear_scan(0.9 - i / 10, b[i], method="native") for i in range(len(b))])

    want = together(b)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for got in threads.map(lambda _: together(b), range(12)):
            np.testing.assert_array_equal(got, want)


@needs_kernel
def test_nothing_of_full_size_is_made():
    T, n = 4096, 64
    b = jax.ShapeDtypeStruct((T, n), jnp.float32)

    def pull(a, b, h, g):
        del h  # residual: an argument here, so that the backward pass stands alone
        return jax.vjp(lambda a, b: linear_scan(a, b, method="native"), a, b)[1](g)

    for a in (jax.ShapeDtypeStruct((n,), jnp.float32), b):
        memory = jax.jit(pull).lower(a, b, b, b).compile().memory_analysis()
        assert memory.temp_size_in_bytes <= T * n * 4 + 4096  # h, recomputed


@needs_kernel
@pytest.mark.parametrize("level", ["baseline", "x86-64-v3"])
def test_every_instruction_set(level):
    """The same calls by the kernels that this machine would not choose, cells too."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k"]
    chosen = "values_and_gradients_equal_a_loop or overflow"
    of_cells = "kernel_equals_a_loop and (lstm or gru) or large_and_nan"
    files = [__file__, str(Path(__file__).with_name("test_cells.py"))]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"{chosen} or {of_cells}", *files],
        env={**os.environ, "RNNSCAN_CPU_LEVEL": level},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{len(LAYOUTS) + 2 + 2 * len(SIZES) + len(KINDS)} passed" in done.stdout


@needs_kernel
@pytest.mark.parametrize(
    ("shape", "axis", "method"),
    [
        ((300_000, 3), 1, "associative"),
        ((1, 100_000), 0, "associative"),
        ((20_000, 8), 1, "sequential"),
        ((8, 100_000), 0, "native"),
        ((1000,), 0, "sequential"),
        ((2000,), 0, "native"),
        ((4, 64), 0, "sequential"),
        ((64, 128, 1), 1, "native"),
    ],
)
def test_auto_takes_the_kernel_where_it_pays(shape, axis, method):
    spec = jax.ShapeDtypeStruct(shape, jnp.float32)
    rows = explain_linear_scan(spec, spec, axis=axis, platform="cpu")
    assert [row.method for row in rows if row.chosen] == [method]


@pytest.fixture
def without_kernel(monkeypatch):
    """As after an install without a compiler."""
    monkeypatch.setattr(library, "_find", lambda: None)
    monkeypatch.setattr(library, "why_not", library.why_not.__wrapped__)


def test_without_the_kernel_everything_works_and_explain_says_so(without_kernel):
    b = jnp.ones((1000, 16))
    rows = {row.method: row for row in explain_linear_scan(0.5, b, platform="cpu")}
    assert rows["sequential"].chosen
    assert not rows["native"].available
    assert all(
        word in rows["native"].reason for word in ("compile", "g++", "RNNSCAN_NATIVE=1 pip install")
    )
    jax.clear_caches()  # programs made with the kernel
    np.testing.assert_allclose(linear_scan(0.5, b)[-1], 2.0, rtol=1e-6)
    with pytest.raises(ValueError, match="method='native' cannot serve this call: the CPU kernel"):
        linear_scan(0.5, b, method="native")
    jax.clear_caches()


@needs_kernel
@pytest.mark.parametrize(
    ("name", "value", "word"),
    [("source_hash", "another", "other sources"), ("_ffi_version", 0, "newer jaxlib")],
)
def test_a_library_that_does_not_fit_is_not_registered(monkeypatch, name, value, word):
    monkeypatch.setattr(library, name, lambda *_: value)
    monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda *_, **__: pytest.fail("registered"))
    monkeypatch.delattr(sys, library.NOTE)  # as in a process that has registered none
    reason = library.why_not.__wrapped__()
    assert word in reason
    assert "restart Python" in reason  # which would find the old one at its path once more


def test_the_hash_is_of_the_sources_alone(tmp_path):
    """Of their contents and names, and of nothing that a build or an editor leaves beside them."""
    folder = tmp_path / "cpu_kernel"
    for each in (folder, tmp_path / "cuda_kernel"):
        shutil.copytree(library.FOLDER.parent / each.name, each)
    kernel = folder / "linear" / "kernel.cc"
    before = source_hash(folder)
    assert before == source_hash(library.FOLDER)
    for left_over in (library.NAME, "linear/kernel.cc~", "linear/.kernel.cc.swp"):
        (folder / left_over).write_text("left over")
    (kernel.parent / ".#kernel.cc").symlink_to("nobody@nowhere")  # Emacs: it is being edited
    assert source_hash(folder) == before
    renamed = kernel.rename(kernel.with_name("kernels.cc"))
    changed = source_hash(folder)
    renamed.rename(kernel).write_text("another")
    assert len({before, changed, source_hash(folder)}) == 3
    (tmp_path / "cuda_kernel" / "linear.h").write_text("another")  # compiled when it is needed
    unchanged = source_hash(folder)
    (folder / LAUNCHER).write_text("another")
    assert len({changed, unchanged, source_hash(folder)}) == 3


@needs_kernel
def test_a_named_kernel_says_where_it_cannot_serve():
    spec = jax.ShapeDtypeStruct((64, 4), jnp.float32)
    scan = jax.jit(lambda a, b: linear_scan(a, b, method="native"))
    with pytest.raises(ValueError, match="kernel for CPUs"):
        scan.trace(spec, spec).lower(lowering_platforms=("cuda",))
    assert library.instruction_set() in ("baseline", "x86-64-v3", "x86-64-v4")
