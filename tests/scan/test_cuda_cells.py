"""The CUDA kernel of recurrent cells on a host: float64 loops, resets, sanitizers, barriers."""

import contextlib
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import cell_scan, explain_cell_scan
from rnnscan.scan.cell_methods import cuda
from rnnscan.scan.cuda_kernel import card, cells, launch, nvrtc
from rnnscan.scan.cuda_kernel.cells import ACTIVATIONS, SLOTS, CellLaunch
from rnnscan.scan.table import serves_all
from tests.scan import test_cells
from tests.scan.cuda_host import build
from tests.scan.cuda_host.build import KERNEL, Result, SanitizerError
from tests.scan.test_laws import assert_within

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

U = 2.0**-24


@dataclasses.dataclass
class Work:
    """A launch, what it is given, and each result with how far rounding may move it."""

    what: CellLaunch
    arrays: dict
    wanted: list

    def on_host(self, seed=0):
        slots = [self.arrays.get(name) for name in SLOTS]
        for name, (value, _) in zip(self.what.results, self.wanted, strict=True):
            slots[SLOTS.index(name)] = Result(value.shape, np.dtype(np.float32))
        what = self.what
        return build.Launch(what.problem(), slots, what.grid, what.block, what.shared_bytes, seed)

    def check(self, ran):
        for got, (want, bound) in zip(ran.results, self.wanted, strict=True):
            assert_within(got, want, bound, str(self.what))


def work(activation, shape, *, backward, flags=3, reverse=False, seed=0, **layout):
    """Drawn numbers; the rows of W, and its columns, sum to about 1, so that errors do not grow."""
    batch, steps, hidden = shape
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return np.float32(rng.standard_normal(shape))

    valid = rng.random((batch, steps)) < 0.7 if flags & 1 else None
    reset = rng.random((batch, steps)) < 0.3 if flags & 2 else None
    if valid is not None and reset is not None:
        reset &= valid
    w, drive, first = normal(hidden, hidden) / hidden, normal(*shape), normal(batch, hidden)
    arrays = {"drive": drive, "weights": w, "first": first, "valid": valid, "reset": reset}
    if backward:
        h = np.tanh(normal(*shape)) if activation == "tanh" else np.maximum(normal(*shape), 0)
        arrays["states"] = h
    loop = backward_loop if backward else forward_loop
    with np.errstate(invalid="ignore"):
        wanted = loop(activation, reverse, **arrays)
    what = cells.plan(
        activation,
        shape,
        backward=backward,
        reverse=reverse,
        padded=valid is not None,
        resets=reset is not None,
    )
    return Work(dataclasses.replace(what, **layout), arrays, wanted)


def product(w, v, error):
    """W v, and how far: of the errors of v, and of about H + 4 roundings in turn."""
    w = np.float64(w)
    terms = len(w) + 4
    return v @ w.T, (error + terms * U * np.abs(v)) @ np.abs(w).T


def flag(flags, t, default):
    return np.full((1, 1), default) if flags is None else flags[:, t, None]


def forward_loop(activation, reverse, drive, weights, first, valid, reset):
    h, error = np.float64(first), np.zeros(first.shape)
    out, bound = np.zeros(drive.shape), np.zeros(drive.shape)
    for t in reversed(range(drive.shape[1])) if reverse else range(drive.shape[1]):
        y, e = (np.where(flag(reset, t, False), 0, x) for x in product(weights, h, error))
        z = drive[:, t] + y
        new = np.tanh(z) if activation == "tanh" else np.maximum(z, 0)
        valid_t = flag(valid, t, True)
        error = np.where(valid_t, e + U * np.abs(z) + 4 * U * np.abs(new), error)
        h = np.where(valid_t, new, h)
        out[:, t], bound[:, t] = h, error
    return [(out, bound)]


def backward_loop(activation, reverse, drive, states, weights, first, valid, reset):
    l, error = np.float64(first), np.zeros(first.shape)  # noqa: E741
    out, bound = np.zeros(drive.shape), np.zeros(drive.shape)
    for t in range(drive.shape[1]) if reverse else reversed(range(drive.shape[1])):
        h, valid_t, reset_t = np.float64(states[:, t]), flag(valid, t, True), flag(reset, t, False)
        l = l + drive[:, t]  # noqa: E741
        error = error + U * np.abs(l)
        slope = 1 - h * h if activation == "tanh" else h > 0
        d = np.where(valid_t, slope * l, 0)
        of_slope = 0 if activation == "relu" else 3 * U * np.abs(l)
        e = np.where(valid_t, np.abs(slope) * error + of_slope, 0)
        out[:, t], bound[:, t] = d, e
        y, e = product(weights.T, d, e)
        l = np.where(reset_t, 0, np.where(valid_t, y, l))  # noqa: E741
        error = np.where(reset_t, 0, np.where(valid_t, e, error))
    return [(out, bound), (l, error)]


# (batch, steps, hidden), and how the launch may differ from the plan for it.
RAGGED = [
    ((1, 1, 1), {}),
    ((3, 7, 5), {"rows": 2, "ahead": 1}),
    ((5, 9, 32), {"rows": 4, "ahead": 4}),
    ((2, 6, 33), {"rows": 1, "kept": 1}),
    ((7, 5, 70), {"rows": 4, "kept": 0, "ahead": 3}),
    ((3, 4, 97), {"rows": 2, "kept": 2}),
    ((133, 3, 8), {}),
    ((270, 2, 3), {}),
    ((2, 3, 256), {}),
    ((5, 2, 201), {"rows": 4, "kept": 3}),
]


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ragged_sizes_equal_a_loop(activation, backward):
    for i, (shape, layout) in enumerate(RAGGED):
        options = {"flags": i % 4, "reverse": bool(i // 2 % 2), "seed": i, **layout}
        each = work(activation, shape, backward=backward, **options)
        each.check(host().run(each.on_host(seed=i)))


def host():
    return build.library("cells.h", ("f32",))


@pytest.fixture
def on_host(monkeypatch):
    """`cell_scan(..., method="cuda")` on this CPU, by a callback."""

    def call(what, arrays):
        def run(*operands):
            given = dict(zip(what.operands, map(np.asarray, operands), strict=True))
            wanted = [(np.empty(shape), None) for shape in shapes]
            return host().run(Work(what, given, wanted).on_host()).results

        every = {"out": (what.batch, what.steps, what.hidden), "last": (what.batch, what.hidden)}
        shapes = [every[name] for name in what.results]
        results = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
        return jax.pure_callback(run, results, *(arrays[name] for name in what.operands))

    @contextlib.contextmanager
    def patched():
        with monkeypatch.context() as patch:
            patch.setattr(cuda, "_call", call)
            patch.setitem(vars(cuda.method), "why_not", serves_all)
            patch.setattr(test_cells, "cell_scan", functools.partial(cell_scan, method="cuda"))
            yield

    yield patched
    jax.clear_caches()  # programs with the callback


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_values_and_gradients_through_jax(on_host, kind):
    for reverse in (False, True):
        size = (3, 6, 4, 37)
        weights, x, state, flags = test_cells.draw(kind, size, padded=True)
        *values, tape = test_cells.loop(kind, weights, x, state, flags, reverse)
        cotangents = test_cells.cotangents_of(x, state)
        want = tuple(values), test_cells.backward(kind, weights, x, tape, *cotangents)
        given = test_cells.of_dtype((weights, x, state), jnp.float32)
        with on_host():
            got = test_cells.values_and_gradients(kind, *given, flags, reverse)
        # As for the kernel for CPUs: sums of so many products, carried over some ten steps.
        terms = 4 + 37 + 3 * 6
        test_cells.assert_alike(got, want, 10 * U * terms**0.5)


@pytest.mark.parametrize("reverse", [False, True], ids=["onward", "reverse"])
def test_nothing_passes_a_reset(on_host, reverse):
    with on_host():
        test_cells.test_nothing_passes_a_reset("tanh", reverse)


# Sanitizers.


def few():
    """Small, of every map: registers and shared memory, with tiles that are not full."""
    shapes = [((3, 4, 33), {"rows": 2, "kept": 1}), ((3, 3, 5), {"rows": 4, "ahead": 2})]
    shapes.append(((2, 3, 4), {}))  # one sequence a block: two lanes end with the same sum
    return [
        work("tanh", shape, backward=backward, **layout)
        for shape, layout in shapes
        for backward in (False, True)
    ]


def under(sanitizer, works, without=None):
    if reason := build.why_no_sanitizer(sanitizer):
        pytest.skip(reason)
    launches = [each.on_host(seed) for seed, each in enumerate(works)]
    return build.run_program(sanitizer, launches, "cells.h", ("f32",), without=without)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_the_sanitizers_find_nothing(sanitizer):
    works = few()
    for each, ran in zip(works, under(sanitizer, works), strict=True):
        each.check(ran)


def barriers():
    lines = (KERNEL / "cells.h").read_text().splitlines()
    return [i for i, line in enumerate(lines, 1) if re.search(r"\bsync_block\(\)", line)]


def test_every_barrier_is_missed():
    """Without it there is a race."""
    assert len(barriers()) == 2
    for line in barriers():
        with pytest.raises(SanitizerError, match="data race"):
            under("thread", few()[:1], without=line)


# Which calls it serves, and what it says of others.


def spec(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def row(kind="tanh", hidden=8, batch=4, platform="cuda", dtype=jnp.float32):
    gates = test_cells.CELLS[kind].gates * hidden
    states = test_cells.CELLS[kind].states
    apart = [spec(hidden, dtype=dtype)] * test_cells.CELLS[kind].apart
    weights = (spec(gates, 3, dtype=dtype), spec(gates, dtype=dtype))
    weights = (*weights, spec(gates, hidden, dtype=dtype), *apart)
    state = tuple(spec(batch, hidden, dtype=dtype) for _ in states)
    rows = explain_cell_scan(
        kind, weights, spec(batch, 9, 3, dtype=dtype), state, platform=platform
    )
    assert [r.method for r in rows if r.chosen] == ["native" if platform == "cpu" else "scan"]
    return next(r for r in rows if r.method == "cuda")


@pytest.fixture
def machine(monkeypatch):
    """One with a compiler, and a card of this compute capability or none."""

    def has(capability=None):
        monkeypatch.setattr(card, "_capability", lambda: capability)
        monkeypatch.setattr(card, "_driver", lambda: None)
        monkeypatch.setattr(card, "why_not", card_why_not)
        monkeypatch.setattr(nvrtc, "why_not", lambda: None)

    card_why_not = card.why_not.__wrapped__
    has()
    return has


def test_auto_leaves_it_until_it_is_measured(machine):
    del machine
    found = row()
    assert found.available
    assert "until it is measured" in found.reason


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"platform": "rocm"}, ["NVIDIA"]),
        ({"kind": "gru"}, ["tanh, relu, not gru yet"]),
        ({"kind": "lstm"}, ["not lstm yet", "'scan'"]),
        ({"dtype": jnp.float16, "hidden": 257}, ["256 units, not of 257"]),
    ],
)
def test_what_it_does_not_serve_is_said(machine, given, words):
    del machine
    found = row(**given)
    assert not found.available
    assert all(word in found.reason for word in words), found.reason


def test_a_card_with_too_little_shared_memory_is_refused(machine):
    for capability, hidden, available in (
        ((9, 0), 256, True),
        ((8, 0), 256, True),
        ((8, 9), 256, True),
        ((8, 9), 192, True),
        ((7, 5), 16, False),
        (None, 256, True),
    ):
        machine(capability)
        found = row(hidden=hidden)
        assert found.available == available, (capability, hidden, found.reason)
        assert available or "method='scan'" in found.reason
    machine((8, 6))
    found = row(hidden=256, batch=200)
    assert not found.available
    assert "100 KB of shared memory, and with compute capability 8.6" in found.reason


def test_without_a_compiler_it_says_so(machine, monkeypatch):
    del machine
    monkeypatch.setattr(nvrtc, "why_not", lambda: "NVRTC is not found")
    assert "NVRTC is not found; method='scan' does without" in row().reason
    with jax.enable_x64(True):
        assert "float32, not in float64" in row(dtype=jnp.float64).reason


def test_an_exported_program_does_without(machine):
    del machine
    weights, x, state, _ = test_cells.draw("tanh", (2, 3, 2, 5))
    given = test_cells.of_dtype((weights, x, state), jnp.float32)

    def run(method):
        return jax.jit(lambda *a: cell_scan("tanh", *a, method=method)[0])

    exported = jax.export.export(run("auto"), platforms=["cuda"])(*given)
    assert not any(target in exported.mlir_module() for target in launch.TARGETS.values())
    with pytest.raises(ValueError, match=r"an exported program .*'scan'"):
        jax.export.export(run("cuda"), platforms=["cuda"])(*given)
    batch = jax.export.symbolic_shape("b")[0]
    with pytest.raises(ValueError, match="a size is a symbol"):
        jax.export.export(run("cuda"), platforms=["cuda"])(
            given[0], spec(batch, 3, 2), (spec(batch, 5),)
        )
