"""The CUDA kernel on a host: the laws, ragged sizes under sanitizers, every barrier needed."""

import contextlib
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import linear_scan
from rnnscan.scan.cuda_kernel import launch as launcher
from rnnscan.scan.cuda_kernel.plan import plan
from rnnscan.scan.linear_method import Problem
from rnnscan.scan.linear_methods import cuda
from rnnscan.scan.table import serves_all
from rnnscan.scan.time_axis import TimeAxis
from tests.scan import test_laws
from tests.scan.cases import LINEAR, Call
from tests.scan.cuda_host import kernel
from tests.scan.cuda_host.build import (
    KERNEL,
    SanitizerError,
    library,
    run_program,
    why_no_sanitizer,
    why_not,
)
from tests.scan.reference import Reference, unit_roundoff
from tests.scan.test_later import check as check_later
from tests.scan.test_later import last_step, wide
from tests.scan.test_laws import DECAYS, assert_gradients_within, assert_within, long_scan, primals
from tests.scan.test_native import LAYOUTS

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

KINDS = ("forward", "tangent", "transpose")
MODES = ("walk", "apply", "chained")
DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def tangent_of(reference, da, db, dh0, before, u, before_error=0.0):
    """dh and how far rounding may move it, in scan order; `before`: h_{t-1}, and its error."""
    loop = dataclasses.replace(reference.loop, h0=np.broadcast_to(dh0, reference.loop.h0.shape))
    through = np.where(loop.reset, 0, da * before)
    drive = db + through
    dh = loop.states(b=drive)
    carried = np.abs(loop.a * np.concatenate([loop.h0[None], dh[:-1]]))
    terms = np.abs(through) + np.abs(drive) + np.where(loop.reset, 0, carried) + np.abs(dh)
    errors = dataclasses.replace(loop, a=np.abs(loop.a), h0=np.zeros(loop.h0.shape))
    of_before = np.where(loop.reset, 0, np.abs(da) * before_error)
    return dh, errors.states(b=4 * u * terms + of_before)


@pytest.fixture
def on_host(monkeypatch):
    """`linear_scan(..., method="cuda")` on this CPU, by a callback; called with a mode."""
    monkeypatch.setattr(launcher, "launch", kernel.on_host)
    monkeypatch.setitem(vars(cuda.method), "why_not", serves_all)

    @contextlib.contextmanager
    def of_mode(mode):
        def counted(*args):
            count[0] += 1
            return plan(*args, mode)

        count = [0]
        with monkeypatch.context() as patch:
            patch.setattr(cuda, "plan", counted)
            yield
        assert count[0]  # no program of another mode was used again

    yield of_mode
    jax.clear_caches()  # programs with the callback


CALLS = [call for call in LINEAR + LAYOUTS if 0 < np.prod(call.b) < 100_000]
LATER = Call(b=(2, 301, 3), a=(2, 301, 3), h0=(3,), axis=1, reset=(301,), reverse=True)


@pytest.mark.parametrize(
    ("call", "mode"),
    [(call, (None, *MODES)[i % 4]) for i, call in enumerate(CALLS)],
    ids=str,
)
def test_values_gradients_and_tangents_equal_a_loop(on_host, call, mode):
    """Law 1 through JAX."""
    a, b, h0, reset, g = call.arrays()
    reference, u = call.reference(a, b, h0, reset), unit_roundoff(call.dtype)

    def f(a, b, h0=None):
        return linear_scan(a, b, h0, reset=reset, method="cuda", **call.options)

    @jax.jit
    def both(args, tangents, g):
        h, pull = jax.vjp(f, *args)
        return h, pull(g), jax.jvp(f, args, tangents)[1]

    with call.wide(), on_host(mode):
        args = primals(a, b, h0)
        tangents = jax.tree.map(jnp.cos, args)
        h, gradients, dh = both(args, tangents, jnp.asarray(g))
        assert h.dtype == jnp.dtype(call.dtype)
    assert_within(h, reference.states(), reference.states_bound(u))
    assert_gradients_within(gradients, reference, g, call.dtype)
    given = Reference(*tangents, **call.options).loop
    loop = reference.loop
    errors = dataclasses.replace(loop, h0=np.zeros(loop.h0.shape))
    errors = errors.before(reference.scan_order(reference.states_bound(u)))
    before = loop.before(loop.states())
    want, bound = tangent_of(reference, given.a, given.b, given.h0, before, u, errors)
    assert_within(dh, reference.given_order(want), reference.given_order(bound), "tangent")


@pytest.mark.parametrize("mode", MODES)
def test_nothing_leaks(on_host, mode):
    for reverse in (False, True):
        with on_host(mode):
            test_laws.test_packed_segments_equal_separate_calls("cuda", reverse, matrix=False)
        with on_host(mode):
            test_laws.test_nothing_leaks_across_a_reset("cuda", reverse, matrix=False)
    with on_host(mode):
        test_laws.test_inf_and_nan_stay_in_their_lane("cuda")


@pytest.mark.parametrize(
    ("decay", "mode"), [(decay, MODES[1 + i % 2]) for i, decay in enumerate(DECAYS)]
)
def test_long_scans_stay_within_the_bound(on_host, decay, mode):
    operands, states, bound = long_scan(decay)
    with on_host(mode):
        assert_within(linear_scan(*operands, method="cuda"), states, bound)


@pytest.mark.parametrize("mode", MODES)
def test_the_transpose_starts_from_what_later_steps_send(on_host, mode):
    with on_host(mode):
        check_later(LATER, "cuda")


# Ragged shapes, without JAX.


@dataclasses.dataclass
class Work:
    """The launches of a map, what they are given, and what should come back."""

    name: str
    launches: tuple
    arrays: dict
    results: list
    wanted: dict  # by slot: value and bound


def ragged(seed, dtypes=DTYPES):
    """A call, a map and a layout, drawn."""
    rng = np.random.default_rng(seed)
    outer = rng.integers(1, 5, rng.integers(0, 3))
    inner = rng.choice([1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 33, 40], rng.integers(0, 3))
    T = int(300 ** rng.uniform() ** 0.7)
    T = -(-T // 8) * 8 if rng.integers(2) else T
    while T * outer.prod() * inner.prod() > 5000:
        inner = inner[:-1]
    shape, axis = (*map(int, outer), T, *map(int, inner)), len(outer)
    one = (*shape[:axis], 1, *shape[axis + 1 :])

    def some(shape, share):
        """The shape, with some axes broadcast."""
        return tuple(1 if rng.random() < share else size for size in shape)

    decays = (shape, one, some(one, 0.3), some(shape, 0.5))
    call = Call(
        b=shape,
        a=decays[rng.choice(4, p=(0.4, 0.2, 0.2, 0.2))],
        h0=some(one, 0.3),
        reset=None if rng.random() < 0.4 else some(shape, 0.4),
        axis=axis,
        reverse=bool(rng.integers(2)),
        dtype=str(rng.choice(dtypes)),
    )
    drive = shape if rng.random() < 0.8 else some(shape, 0.3)
    tiny = kernel.Tiny.drawn(rng) if rng.random() < 0.75 else None
    later = some(one, 0.3) if rng.random() < 0.5 else None
    return work(call, KINDS[seed % 3], MODES[seed // 3 % 3], tiny, drive, later)


def work(call, kind, mode, tiny=None, drive=None, later=None):
    """One map of a call whose arrays are in line.

    `drive`: another shape for that of a scan; `later`: the shape of what the transpose starts from.
    """
    (a, b, h0, reset, g), shape = call.arrays(), call.b
    a = (a / np.maximum(1, np.abs(a))).astype(a.dtype)  # else products overflow
    da, db, dh0, *_ = call.arrays(1)
    if drive:
        b, db = (x[tuple(slice(size) for size in drive)] for x in (b, db))
    time = TimeAxis(call.axis, call.length, call.reverse)
    options = {"axis": call.axis, "reverse": call.reverse, "reset": reset}
    spread, u = np.broadcast_to(b, shape), unit_roundoff(b.dtype)
    reference = Reference(a, spread, np.squeeze(h0, call.axis), **options)
    h = reference.states().astype(b.dtype)
    arrays, shapes = {"decay": a, "drive": b, "state": h0}, {"out": shape}
    if kind == "forward":
        wanted = {"out": (reference.states(), reference.states_bound(u))}
    elif kind == "tangent":
        arrays |= {"decay_tangent": da, "drive": db, "before": h, "first": h0, "state": dh0}
        spread = np.broadcast_to(db, shape)
        given = Reference(da, spread, np.squeeze(dh0, call.axis), **options).loop
        before = reference.loop.before(reference.scan_order(wide(h)))
        pair = tangent_of(reference, given.a, given.b, given.h0, before, u)
        wanted = {"out": tuple(map(reference.given_order, pair))}
    else:
        arrays = {"decay": a, "drive": g}
        if later:
            arrays["state"] = dataclasses.replace(call, b=later).arrays(2)[1]
            g = wide(g).copy()
            g[last_step(call)] += np.squeeze(wide(arrays["state"]), call.axis)
        if a.shape == shape or a.shape[call.axis] == 1:
            arrays |= {"before": h, "first": h0}
            shapes["d_decay"] = shape if a.shape == shape else time.one(shape)
        to = np.broadcast_to(a, shapes.get("d_decay", a.shape))
        h0 = np.broadcast_to(h0, time.one(shape))
        reference = Reference(to, spread, np.squeeze(h0, call.axis), **options)
        pairs = zip(reference.gradients(g), reference.gradient_bounds(g, u), strict=True)
        wanted = dict(zip(("d_decay", "out", "d_state"), pairs, strict=True))
    arrays |= {} if reset is None else {"reset": reset}
    shapes |= {name: x.shape for name, x in arrays.items()}
    problem = Problem(None, time, shape, np.dtype(b.dtype))
    args = kind, problem, shapes, mode
    launches = plan(*args) if tiny is None else kernel.tiny_plan(*args, tiny)
    results = [cuda._results(launch, problem) for launch in launches]
    name = f"{kind} {mode} {call} {drive} {later} {tiny}"
    return Work(name, launches, arrays, results, wanted)


def run_works(cases, run):
    """The first launches of all, then the second ones: `apply` is given what `reduce` found."""
    for turn in range(2):
        left = [(i, case) for i, case in enumerate(cases) if len(case.launches) > turn]
        launches = [
            kernel.launch(case.launches[turn], case.arrays, case.results[turn], seed=i)
            for i, case in left
        ]
        ran = run(launches, [case.name for _, case in left])
        for (_, case), launch, one in zip(left, launches, ran, strict=True):
            case.arrays |= kernel.results_of(case.launches[turn], launch, one)


def check(case):
    for name in case.launches[-1].results:
        got, (want, bound) = case.arrays[name], case.wanted[name]
        if name == "d_decay" and case.launches[-1].sums:
            got = got.sum(0)
        if name == "d_state":
            got = got.reshape(want.shape)
        smallest = float(jnp.finfo(got.dtype).smallest_subnormal)
        assert_within(got, want, bound + smallest, f"{case.name}: {name}")


def under(sanitizer, types, without=None):
    reason = why_no_sanitizer(sanitizer)
    if reason:
        pytest.skip(reason)

    def run(launches, names):
        try:
            return run_program(sanitizer, launches, types=types, without=without)
        except SanitizerError as fault:
            raise AssertionError(f"{names[fault.launch]}\n{fault}") from fault

    return run


def test_ragged_shapes_by_every_mode():
    cases = [ragged(seed) for seed in range(300)]
    run_works(cases, lambda launches, _: [library().run(launch) for launch in launches])
    for case in cases:
        check(case)


# Where time is short, by shape and axis: time last, units of several numbers, one step.
SHORT = [
    ((3171, 3), 1),
    ((400, 8, 12), 2),
    ((3171, 5, 8), 1),
    ((907, 5, 7), 1),
    ((3170, 1), 1),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "axis"), SHORT)
def test_short_sequences_share_a_warp(shape, axis, kind):
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    call = Call(b=shape, a=shape, h0=one, axis=axis, reverse=True, reset=shape)
    each = work(call, kind, None)
    (launch,) = each.launches
    assert (launch.mode, launch.inner) == ("walk", launch.chains)
    assert launch.lanes >= 4
    run_works([each], lambda launches, _: [library().run(launch) for launch in launches])
    check(each)


def laid_out(shape, axis, dtype, constant=()):
    """How the plan lays out a forward pass; `constant`: operands that are so in time."""
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    shapes = {name: one if name in constant else shape for name in ("decay", "drive")}
    problem = Problem(None, TimeAxis(axis, shape[axis], False), shape, jnp.dtype(dtype))
    return [plan("forward", problem, {**shapes, "out": shape}, mode) for mode in (None, *MODES)]


def test_halves_are_copied_by_words():
    """Less than 4 bytes would have to go through registers, and the warp would wait."""
    for width in (512, 1024, 2048, 4096):
        for launches in laid_out((8, 4096, width), 1, "bfloat16"):
            assert all(launch.vector > 1 for launch in launches)


def test_operands_that_are_constant_need_no_shared_memory():
    for launches in laid_out((255, 33, 2), 0, "bfloat16", ("decay", "drive")):
        assert launches[-1].chunks * launches[-1].chunk >= 255


def test_ragged_shapes_under_the_address_sanitizer():
    """And that of undefined behaviour; types that are computed alike are left out."""
    run = under("address", ("f16", "f32", "c128"))
    cases = [ragged(seed, ("float16", "float32", "complex128")) for seed in range(300, 500)]
    run_works(cases, run)
    for case in cases:
        check(case)


@functools.cache
def for_threads():
    """Few and small: every map by every mode, with more tiles than stages, chunks and warps."""
    tiny = kernel.Tiny(4, 2, 3, 2, warps=2, tiles=3, budget=1)
    calls = [
        Call(b=(37, 8), a=(1, 8), h0=(1, 8), reset=(37, 1)),
        Call(b=(2, 76), a=(2, 76), h0=(2, 1), axis=1, reverse=True),
    ]
    return [
        work(call, kind, mode, tiny, later=call.h0)
        for call in calls
        for mode in MODES
        for kind in KINDS
    ]


def test_the_thread_sanitizer_finds_no_race():
    run_works(for_threads(), under("thread", ("f32",)))
    for each in for_threads():
        check(each)


def barriers():
    lines = (KERNEL / "linear.h").read_text().splitlines()
    return [i for i, line in enumerate(lines, 1) if re.search(r"\bsync_(warp|block)\(\)", line)]


@pytest.mark.parametrize("line", barriers())
def test_every_barrier_is_missed(line):
    """Without it there is a race."""
    run = under("thread", ("f32",), without=line)
    with pytest.raises(AssertionError, match="data race"):
        run_works(for_threads(), run)


# Forward, tangent, transpose; `reduce` reads once more.
WORDS = {"walk": (3, 5, 5), "chained": (3, 5, 5), "apply": (5, 9, 7)}


@pytest.mark.parametrize("constant", [False, True], ids=["full", "constant"])
@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [(mode, *pair) for mode in MODES for pair in zip(KINDS, WORDS[mode], strict=True)],
)
def test_words_an_element(mode, kind, words, constant):
    shape, one = (512, 64), (1, 64)
    each = work(Call(b=shape, a=one if constant else shape, h0=one), kind, mode)
    ran = []

    def run(launches, _):
        found = [library().run(launch) for launch in launches]
        ran.extend(found)
        return found

    run_works([each], run)
    check(each)
    moved = sum(one.bytes_read + one.bytes_written for one in ran) / 4
    last = each.launches[-1]
    if mode == "apply":  # of three words: each chunk writes one, and reads those before it
        moved -= 3 * last.chains * (last.chunks + last.chunks * (last.chunks - 1) // 2)
    if constant:  # a, once or twice, and da
        words -= (1 if kind == "forward" else 2) + (mode == "apply") * (1 + (kind == "tangent"))
    # What is constant in time each lane reads for its own steps.
    assert words <= moved / (512 * 64) < words + (0.7 if constant else 0.2)
