"""Law 6 of `selective_scan`: every transformation, on meshes too."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from tests.scan.selective_cases import (
    ALL_COMPLEX,
    METHODS,
    Call,
    assert_gradients,
    assert_outputs,
    by_every_method,
    every_method,
    vjp,
)
from tests.scan.selective_reference import NAMES

SMALL = Call(batch=(2,), T=5, h0=(1,), B=(), reset=(2, 5), delta_softplus=True)


def assert_close(got, want, tolerance):
    """Of each array, against its largest number."""
    pairs = zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True)
    for (path, a), b in pairs:
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, jax.tree_util.keystr(path)
        scale = np.abs(b).max(initial=1e-6)
        error = np.abs(a - b).max(initial=0)
        assert error <= tolerance * scale, f"{jax.tree_util.keystr(path)}: {error / scale:.2e}"


def loss_of(f):
    """A real number made of all that f returns."""

    def loss(given):
        return sum(jnp.sum(jnp.abs(jnp.sin(out)) ** 2) for out in f(given))

    return loss


def second(f, given):
    """Value, tangent, forward over reverse and reverse over forward, of everything at once."""
    along = jax.tree.map(jnp.cos, given)
    loss = loss_of(f)

    @jax.jit
    def run(given):
        first = jax.jvp(f, (given,), (along,))
        slope = jax.grad(lambda given: jax.jvp(loss, (given,), (along,))[1])(given)
        return first, slope, jax.jvp(jax.grad(loss), (given,), (along,))

    return run(given)


HIGHER = [
    dataclasses.replace(SMALL, T=3, reset=(2, 3), dtype="float64"),
    Call(T=3, dtype="float64", discretisation="zoh", signed=True, reverse=True, h0=()),
    Call(T=3, dtype="float64", discretisation="zoh", complex=ALL_COMPLEX, C=(), batch=()),
    Call(T=3, signed=True, column=True, channels=2),
]


@functools.cache  # for every method
def second_of_plain_jax(call):
    given, reset, _ = call.arrays()
    wide = dataclasses.replace(call, dtype="float64")
    given = {n: v.astype(wide.dtypes[n]) for n, v in given.items()}
    with wide.types():
        return second(call.plain(reset), given)


@by_every_method(HIGHER, associative=slice(0), blocked=slice(0), sequential=slice(1))
def test_tangents_and_second_order_equal_plain_jax(call, method):
    """jvp, vjp of jvp and jvp of vjp."""
    given, reset, _ = call.arrays()
    want = second_of_plain_jax(call)
    with call.types():
        got = second(call.scan(method, reset), given)
    assert_close(got, want, 1e-10 if call.dtype == "float64" else 2e-5)


def test_hessian_of_a_tiny_one():
    call = Call(batch=(), T=2, channels=1, N=1)
    given, _, _ = call.arrays(1)

    def of(f):
        return jax.jit(jax.hessian(loss_of(f)))(given)

    assert_close(of(call.scan("auto")), of(call.plain()), 5e-5)


@every_method
def test_jacobians_in_both_modes(method):
    """Tangents and cotangents are mapped, what they belong to is not."""
    call = Call(batch=(2,), T=2, channels=1, N=1, h0=())
    given, _, _ = call.arrays(2)
    f = call.scan(method)
    forward, backward, plain = jax.jit(
        lambda given: (jax.jacfwd(f)(given), jax.jacrev(f)(given), jax.jacrev(call.plain())(given))
    )(given)
    assert_close(forward, plain, 1e-5)
    assert_close(backward, plain, 1e-5)


def test_gradients_are_those_of_differences():
    call = Call(batch=(), T=2, channels=1, N=2, dtype="float64")
    given, _, _ = call.arrays(2)
    with call.types():
        f = jax.jit(lambda given: jnp.concatenate([x.ravel() for x in call.scan("auto")(given)]))
        check_grads(f, (given,), order=2, modes=["fwd", "rev"], rtol=1e-5, atol=1e-5)


@every_method
def test_jit_checkpoint_and_eval_shape(method):
    given, reset, _ = SMALL.arrays()
    f = SMALL.scan(method, reset)
    jitted = jax.jit(f)(given)
    assert_close(f(given), jitted, 1e-6)
    for shape, out in zip(jax.eval_shape(f, given), jitted, strict=True):
        assert (shape.shape, shape.dtype) == (out.shape, out.dtype)
    losses = loss_of(f), loss_of(jax.checkpoint(f))
    plain, remade = jax.jit(lambda given: [jax.grad(g)(given) for g in losses])(given)
    assert_close(remade, plain, 1e-6)


EACH = [*NAMES, "reset"]
MASKS = [(name,) for name in EACH] + [
    tuple(EACH),
    ("x", "delta", "B", "C"),
    ("A", "D"),
    tuple(n for n in EACH if n not in ("A", "D")),
]
ONE = Call(batch=(), T=5, reset=(5,))
MAPS = [(SMALL, "stretches", mask, (0, -1)[i % 2]) for i, mask in enumerate(MASKS)]
MAPS += [(ONE, "stretches", mask, 0) for mask in (("x",), ("A",), ("C", "D"))]
MAPS += [(SMALL, "sequential", mask, 1) for mask in (("D",), tuple(EACH))]
if "native" in METHODS:
    MAPS += [(SMALL, "native", mask, 0) for mask in (("A",), ("x", "h0"), tuple(EACH))]
    MAPS += [(ONE, "native", ("x",), 0)]


def _derivatives(given, reset, call, method):
    """Value, tangent and gradient at once."""
    f = call.scan(method, reset)
    along = jax.tree.map(jnp.cos, given)
    return jax.jvp(f, (given,), (along,)), jax.grad(loss_of(f))(given)


# One program, whatever is mapped.
_one = jax.jit(_derivatives, static_argnames=("call", "method"))


@pytest.mark.parametrize(("call", "method", "mask", "place"), MAPS, ids=str)
def test_vmap_over_any_subset(call, method, mask, place):
    """Of values, tangents and gradients; each entry equals the call of its own."""
    draws = [call.arrays(seed) for seed in range(3)]
    draws = [given | {"reset": reset} for given, reset, _ in draws]
    entries = [draws[0] | {name: draw[name] for name in mask} for draw in draws]
    mapped = {
        name: np.stack([e[name] for e in entries], place) if name in mask else value
        for name, value in draws[0].items()
    }
    axes = {name: place if name in mask else None for name in mapped}

    def split(given):
        given = dict(given)
        reset = given.pop("reset")
        return given, reset

    def f(given):
        return _derivatives(*split(given), call=call, method=method)

    got = jax.jit(jax.vmap(f, (axes,)))(mapped)
    want = [_one(*split(entry), call=call, method=method) for entry in entries]
    assert_close(got, jax.tree.map(lambda *leaves: np.stack(leaves), *want), 5e-6)


# On meshes.


def mesh_of(count=2, name="x"):
    devices = jax.devices("cpu")[:count]
    return jax.make_mesh((count,), (name,), axis_types=(AxisType.Auto,), devices=devices)


MESHED = Call(batch=(4,), T=6, channels=4, reset=(4, 6))
OF_BATCH = {name: PartitionSpec("x") for name in ("x", "delta", "B", "C", "h0")}
OF_CHANNELS = {
    "x": PartitionSpec(None, None, "x"),
    "delta": PartitionSpec(None, None, "x"),
    "A": PartitionSpec("x"),
    "D": PartitionSpec("x"),
    "h0": PartitionSpec(None, "x"),
}


def specs_of(given, specs):
    return {name: specs.get(name, PartitionSpec()) for name in given}


@every_method
def test_shard_map_over_the_batch(method):
    """With varying-axes checks; what is shared, A and D, gets a gradient that is summed."""
    given, reset, _ = MESHED.arrays()
    specs = specs_of(given, OF_BATCH)
    scan = MESHED.scan

    def local(given, reset):
        return scan(method, reset)(given)

    batch = PartitionSpec("x")
    sharded = jax.shard_map(
        local, mesh=mesh_of(), in_specs=(specs, batch), out_specs=(batch, batch)
    )

    @jax.jit
    def run(given):
        fs = (lambda given: sharded(given, reset)), scan(method, reset)
        return [(f(given), jax.grad(loss_of(f))(given)) for f in fs]

    got, want = run(given)
    assert_close(got, want, 1e-5)


@pytest.mark.parametrize("specs", [OF_BATCH, OF_CHANNELS], ids=["batch", "channels"])
@every_method
def test_arrays_that_lie_on_several_devices(method, specs):
    """They are evaluated where they lie: nothing is gathered."""
    given, reset, (dy, dlast) = MESHED.arrays()
    mesh, names = mesh_of(), specs_of(given, specs)
    there = {n: jax.device_put(v, NamedSharding(mesh, names[n])) for n, v in given.items()}
    dy_there, dlast_there = (
        jax.device_put(v, NamedSharding(mesh, names[n])) for v, n in ((dy, "x"), (dlast, "h0"))
    )
    f = MESHED.scan(method, reset)

    def both(given, dy, dlast):
        out, pull = jax.vjp(f, given)
        return out, *pull((dy, dlast))

    compiled = jax.jit(both).lower(there, dy_there, dlast_there).compile()
    (y, last), found = compiled(there, dy_there, dlast_there)
    assert_close(((y, last), found), jax.jit(both)(given, dy, dlast), 1e-5)
    assert y.sharding.is_equivalent_to(dy_there.sharding, y.ndim)
    assert last.sharding.is_equivalent_to(dlast_there.sharding, last.ndim)
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in compiled.as_text()


SPLIT = [
    Call(batch=(2,), T=12, channels=2, reset=(12,)),
    Call(batch=(), T=8, channels=2, signed=True, discretisation="zoh", reverse=True, reset=(8,)),
    Call(batch=(), T=8, channels=2, complex="A", without=("D",)),
]


@pytest.mark.parametrize("call", SPLIT, ids=str)
def test_time_that_is_split_over_devices(call):
    """By name, inside of `shard_map`: as the call on one device, every gradient too."""
    given, reset, cotangents = call.arrays()
    lead = [None] * len(call.batch)
    over_time = PartitionSpec(*lead, "t")
    specs = specs_of(given, dict.fromkeys(("x", "delta", "B", "C"), over_time))
    flags = np.zeros(call.T, bool) if reset is None else reset

    def local(given, flags):
        return call.scan("auto", flags, axis_name="t")(given)

    split = jax.shard_map(
        local,
        mesh=mesh_of(4, "t"),
        in_specs=(specs, PartitionSpec("t")),
        out_specs=(over_time, PartitionSpec()),
    )
    with call.types():
        reference = call.reference(given, flags)
        out, found = vjp(lambda given: split(given, flags), given, cotangents)
        assert_outputs(call, out, reference)
        assert_gradients(call, found, reference, cotangents)
