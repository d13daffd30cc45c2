"""The CUDA kernel on a host: the laws, ragged sizes under sanitizers, every barrier needed."""

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
from tests.scan.cases import LINEAR, Call
from tests.scan.cuda_host import kernel
from tests.scan.cuda_host.build import (
    KERNEL,
    HostError,
    SanitizerError,
    library,
    run_program,
    why_no_sanitizer,
    why_not,
)
from tests.scan.reference import Reference, unit_roundoff
from tests.scan.test_laws import assert_within, primals
from tests.scan.test_native import LAYOUTS

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

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


@pytest.fixture(scope="module")
def on_host():
    """`linear_scan(..., method="cuda")` on this CPU, by a callback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "launch", kernel.on_host)
        patch.setitem(vars(cuda.method), "why_not", serves_all)
        yield patch
    jax.clear_caches()  # programs with the callback


CALLS = [call for call in LINEAR + LAYOUTS if np.prod(call.b) < 100_000]


@pytest.mark.parametrize(
    ("call", "mode"),
    [(call, (None, *MODES)[i % 4]) for i, call in enumerate(CALLS)],
    ids=str,
)
def test_values_gradients_and_tangents_equal_a_loop(on_host, call, mode):
    """Law 1 through JAX."""
    on_host.setattr(cuda, "plan", functools.partial(plan, mode=mode))
    a, b, h0, reset, g = call.arrays()
    reference, u = call.reference(a, b, h0, reset), unit_roundoff(call.dtype)

    def f(a, b, h0=None):
        return linear_scan(a, b, h0, reset=reset, method="cuda", **call.options)

    @jax.jit
    def both(args, tangents, g):
        h, pull = jax.vjp(f, *args)
        return h, pull(g), jax.jvp(f, args, tangents)[1]

    with call.wide():
        args = primals(a, b, h0)
        tangents = jax.tree.map(jnp.cos, args)
        h, gradients, dh = both(args, tangents, jnp.asarray(g))
        assert h.dtype == jnp.dtype(call.dtype)
    assert_within(h, reference.states(), reference.states_bound(u))
    wanted = zip(
        ("a", "b", "h0"), reference.gradients(g), reference.gradient_bounds(g, u), strict=True
    )
    for got, (name, want, bound) in zip(gradients, wanted, strict=False):
        assert got.dtype == jnp.dtype(call.dtype)
        assert_within(got, want, bound, f"gradient of {name}")
    if not call.length:
        return
    of = dataclasses.replace
    given = Reference(*tangents, axis=call.axis, reverse=call.reverse)
    dh0 = given.loop.h0 if h0 is not None else 0.0
    loop = reference.loop
    errors = of(loop, h0=np.zeros(loop.h0.shape))
    errors = errors.before(reference.scan_order(reference.states_bound(u)))
    before = loop.before(loop.states())
    want, bound = tangent_of(reference, given.loop.a, given.loop.b, dh0, before, u, errors)
    assert_within(dh, reference.given_order(want), reference.given_order(bound), "tangent")


# Ragged shapes, without JAX.


@dataclasses.dataclass
class Ragged:
    """A map of drawn sizes: its launches, what they are given, and what should come back."""

    name: str
    launches: tuple
    arrays: dict
    results: list
    wanted: dict  # by slot: value and bound


def ragged(seed, dtypes=DTYPES, most_steps=300):
    rng = np.random.default_rng(seed)
    dtype = str(rng.choice(dtypes))
    kind = ("forward", "tangent", "transpose")[seed % 3]
    mode = MODES[seed // 3 % 3]
    outer = rng.integers(1, 5, rng.integers(0, 3))
    inner = rng.choice([1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 33, 40], rng.integers(0, 3))
    T = int(np.exp(rng.uniform(0, np.log(most_steps))))
    T = -(-T // 8) * 8 if rng.integers(2) else T
    while T * outer.prod() * inner.prod() > 10_000:
        inner = inner[:-1]
    shape = (*map(int, outer), T, *map(int, inner))
    axis = len(outer)
    time = TimeAxis(axis, T, bool(rng.integers(2)))
    one = time.one(shape)

    def some(shape, share):
        """The shape, with some axes broadcast."""
        return tuple(1 if rng.random() < share else size for size in shape)

    call = Call(
        b=shape if rng.random() < 0.8 else some(shape, 0.3),
        a=shape if rng.random() < 0.5 else some(shape, 0.5),
        h0=some(one, 0.3),
        reset=None if rng.random() < 0.4 else some(shape, 0.4),
        axis=axis,
        reverse=time.reverse,
        dtype=dtype,
    )
    a, b, h0, reset, _ = call.arrays(seed)
    a = (a / np.maximum(1, np.abs(a))).astype(a.dtype)  # else products overflow
    _, da, dh0, _, g = dataclasses.replace(call, b=shape, h0=call.h0).arrays(seed + 1)
    spread = np.broadcast_to(b, shape)
    reference = Reference(
        a, spread, np.squeeze(h0, axis), axis=axis, reverse=time.reverse, reset=reset
    )
    u = unit_roundoff(dtype)
    before_states = reference.states().astype(b.dtype)
    arrays = {"decay": a, "drive": b, "state": h0}
    shapes = {"out": shape}
    if kind == "forward":
        wanted = {"out": (reference.states(), reference.states_bound(u))}
    elif kind == "tangent":
        da = dataclasses.replace(call, b=shape).arrays(seed + 2)[0]
        arrays |= {"decay_tangent": da, "before": before_states, "first": h0, "state": dh0}
        loop = reference.loop
        before = loop.before(reference.scan_order(_wide(before_states)))
        spelled = reference.scan_order(np.broadcast_to(_wide(da), shape))
        drive = reference.scan_order(_wide(spread))
        dh0 = np.squeeze(_wide(dh0), axis)
        pair = tangent_of(reference, spelled, drive, dh0, before, u)
        wanted = {"out": tuple(map(reference.given_order, pair))}
    else:
        arrays = {"decay": a, "drive": g}
        to = a
        if a.shape == shape or a.shape[axis] == 1:
            arrays |= {"before": before_states, "first": h0}
            shapes["d_decay"] = shape if a.shape == shape else one
            to = np.broadcast_to(a, shapes["d_decay"])
        state = np.broadcast_to(np.squeeze(h0, axis), tuple(np.delete(shape, axis)))
        options = {"axis": axis, "reverse": time.reverse, "reset": reset}
        reference = Reference(to, spread, state, **options)
        pairs = zip(reference.gradients(g), reference.gradient_bounds(g, u), strict=True)
        wanted = dict(zip(("d_decay", "out", "d_state"), pairs, strict=True))
    if reset is not None:
        arrays["reset"] = reset
    problem = Problem(None, time, shape, np.dtype(b.dtype))
    shapes |= {name: x.shape for name, x in arrays.items()}
    tiny = rng.random() < 0.75
    launches = (
        kernel.tiny_plan(kind, problem, shapes, mode, rng)
        if tiny
        else plan(kind, problem, shapes, mode)
    )
    results = [cuda._results(launch, problem) for launch in launches]
    return Ragged(f"{seed}: {kind} {mode} {call} tiny={tiny}", launches, arrays, results, wanted)


def _wide(x):
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def run_ragged(cases, run):
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


def check_ragged(case):
    for name in case.launches[-1].results:
        got, (want, bound) = case.arrays[name], case.wanted[name]
        if name == "d_decay" and case.launches[-1].sums:
            got = got.sum(0)
        if name == "d_state":
            got = got.reshape(want.shape)
        smallest = float(jnp.finfo(got.dtype).smallest_subnormal)
        assert_within(got, want, bound + smallest, f"{case.name}: {name}")


def under(sanitizer, types=None, without=None):
    reason = why_no_sanitizer(sanitizer)
    if reason:
        pytest.skip(reason)
    options = {} if types is None else {"types": types}

    def run(launches, names):
        try:
            return run_program(sanitizer, launches, without=without, **options)
        except SanitizerError as fault:
            raise AssertionError(f"{names[fault.launch]}\n{fault}") from fault

    return run


def test_ragged_shapes_by_every_mode():
    cases = [ragged(seed) for seed in range(200)]
    run_ragged(cases, lambda launches, names: [library().run(launch) for launch in launches])
    for case in cases:
        check_ragged(case)
