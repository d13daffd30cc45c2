"""Scans of arrays on meshes: right by the laws, nothing gathered, one collective for split time.

Eight CPU devices, on meshes whose axes are automatic (`AxisType.Auto`) or explicit, as
`jax.make_mesh` has them. What is exchanged is read off the compiled programs.
"""

import collections
import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rnnscan import linear_scan, matrix_scan
from tests.scan.cases import MATRIX_METHODS, METHODS, Call
from tests.scan.reference import unit_roundoff
from tests.scan.test_laws import assert_gradients_within, assert_within, scan_of

AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
both_kinds = pytest.mark.parametrize("kind", [AUTO, EXPLICIT], ids=lambda kind: kind.name)


@dataclasses.dataclass(frozen=True)
class Placed:
    """A call whose b is divided: `axes` of the mesh and their sizes, `spec` of the axes of b."""

    call: Call
    axes: dict[str, int]
    spec: tuple

    def __str__(self):
        return f"{self.call}-{self.axes}-{self.spec}"

    @property
    def time(self):
        """The mesh axes over which time is split."""
        return self.spec[self.call.axis]

    def mesh(self, kind):
        return mesh_of(self.axes, kind)

    def specs(self, *, h0=True):
        """Of a, b, h0 and reset: as b, where they do not broadcast."""
        call, rank = self.call, len(self.call.b)
        spec = [*self.spec, *[None] * (rank - len(self.spec))]
        rest = [part for i, part in enumerate(spec) if i != call.axis % rank]
        decay = [*spec, None] if call.matrix else spec
        found = [_lined_up(call.a, decay), PartitionSpec(*spec)]
        if call.h0 is not None and h0:
            found.append(_lined_up(call.h0, rest))
        if call.reset is not None:
            over_time = len(call.reset) == 1
            found.append(_lined_up(call.reset, [spec[call.axis]] if over_time else spec))
        return tuple(found)


def _lined_up(shape, parts):
    parts = parts[len(parts) - len(shape) :]
    return PartitionSpec(*(p if n != 1 else None for n, p in zip(shape, parts, strict=True)))


def mesh_of(axes, kind=AUTO):
    devices = jax.devices("cpu")[: math.prod(axes.values())]
    kinds = (kind,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds, devices=devices)


def put(mesh, arrays, specs):
    pairs = zip(arrays, specs, strict=True)
    return tuple(jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in pairs)


def split_scan(placed, mesh, method="auto", **options):
    """The scan inside of `jax.shard_map`, told by name over which axes time is split."""
    call, specs = placed.call, placed.specs()

    def scan(a, b, *rest):
        rest = list(rest)
        h0 = rest.pop(0) if call.h0 is not None else None
        reset = rest.pop(0) if call.reset is not None else None
        own = {"reset": reset, "method": method, "axis_name": placed.time, **call.options}
        return scan_of(call)(a, b, h0, **own)

    return jax.shard_map(scan, mesh=mesh, in_specs=specs, out_specs=specs[1], **options)


def whole_scan(placed, method="auto"):
    """The scan of arrays that say themselves how they lie."""
    call = placed.call

    def scan(a, b, *rest):
        rest = list(rest)
        h0 = rest.pop(0) if call.h0 is not None else None
        reset = rest.pop(0) if call.reset is not None else None
        return scan_of(call)(a, b, h0, reset=reset, method=method, **call.options)

    return scan


def vjp(f, args, reset, g):
    """(h, gradients of <g, h>), compiled as one."""

    @jax.jit
    def both(args, reset, g):
        h, pull = jax.vjp(lambda *args: f(*args, *reset), *args)
        return h, pull(g)

    return both(args, reset, g)


def assert_right(placed, kind, make, method="auto"):
    """Law 1, for h and all gradients."""
    call = placed.call
    a, b, h0, reset, g = call.arrays()
    reference, u = call.reference(a, b, h0, reset), unit_roundoff(call.dtype)
    mesh = placed.mesh(kind)
    with call.wide():
        given = put(mesh, [x for x in (a, b, h0, reset) if x is not None], placed.specs())
        args, flags = (given[:-1], given[-1:]) if reset is not None else (given, ())
        (g_there,) = put(mesh, [g], [placed.specs()[1]])
        h, gradients = vjp(make(placed, mesh), args, flags, g_there)
        assert h.dtype == jnp.dtype(call.dtype)
        assert h.sharding.is_equivalent_to(NamedSharding(mesh, placed.specs()[1]), h.ndim)
        assert_within(h, reference.states(), reference.states_bound(u))
        assert_gradients_within(gradients, reference, g, call.dtype)


# Batch and channels.

APART = [
    Placed(Call(b=(5, 8, 3), a=(5, 8, 3), h0=(8, 3)), {"x": 8}, (None, "x")),
    Placed(Call(b=(5, 4, 6), a=(5, 1, 6), reset=(5,)), {"x": 4, "y": 2}, (None, "x", "y")),
    Placed(Call(b=(4, 6, 4), a=(4, 1, 1), h0=(1, 4), axis=1, reverse=True), {"x": 4}, ("x",)),
    Placed(
        Call(b=(9, 2, 8), a=(8,), h0=(8,), reset=(9, 2, 1), dtype="bfloat16"),
        {"x": 2, "y": 4},
        (None, "x", "y"),
    ),
    Placed(Call(b=(8, 7), a=(1, 7), axis=1, dtype="complex64"), {"x": 8}, ("x",)),
    Placed(Call(b=(8, 4, 3), a=(1, 4, 3, 3), axis=1, h0=(3,)), {"x": 8}, ("x",)),
    Placed(Call(b=(6, 4, 3), a=(3, 3), h0=(4, 3), reset=(6, 4, 1)), {"x": 4}, (None, "x")),
]


@both_kinds
@pytest.mark.parametrize("placed", APART, ids=str)
def test_batch_and_channels(placed, kind):
    assert_right(placed, kind, lambda placed, mesh: whole_scan(placed))


# Time.

SPLIT = [
    Placed(Call(b=(16, 3), a=(16, 3), h0=(3,)), {"t": 8}, ("t",)),
    Placed(Call(b=(8, 2), a=(8, 2), reset=(8,), reverse=True), {"t": 8}, ("t",)),
    Placed(
        Call(b=(2, 12, 4), a=(4,), h0=(2, 4), axis=1, reset=(2, 12, 1), reverse=True),
        {"y": 2, "t": 4},
        (None, "t", "y"),
    ),
    Placed(
        Call(b=(4, 12, 2), a=(4, 12, 1), h0=(1, 2), axis=1, dtype="complex64"),
        {"t": 2, "x": 4},
        ("x", "t"),
    ),
    Placed(Call(b=(80, 2), a=(80, 2), h0=(2,), dtype="bfloat16"), {"t": 4}, ("t",)),
    Placed(Call(b=(16, 2), a=(16, 1), h0=(), dtype="float16", reset=(16,)), {"t": 8}, ("t",)),
    Placed(Call(b=(16, 3), a=(16, 3), reset=(16, 3)), {"x": 2, "y": 4}, (("y", "x"),)),
    Placed(Call(b=(8, 3), a=(8, 3, 3), h0=(3,), reverse=True), {"t": 4}, ("t",)),
    Placed(Call(b=(2, 16, 3), a=(3, 3), axis=1, h0=(2, 3), reset=(16,)), {"t": 4}, (None, "t")),
    Placed(
        Call(b=(12, 2, 2), a=(12, 1, 2, 2), h0=(2, 2), reset=(12, 2, 1), dtype="complex128"),
        {"t": 4, "x": 2},
        ("t", "x"),
    ),
]


@both_kinds
@pytest.mark.parametrize("placed", SPLIT, ids=str)
def test_time_by_itself(placed, kind):
    assert_right(placed, kind, lambda placed, mesh: whole_scan(placed))


@pytest.mark.parametrize("check_vma", [True, False], ids=["types", "no types"])
@pytest.mark.parametrize("placed", SPLIT, ids=str)
def test_time_by_name(placed, check_vma):
    """Without types a gradient is summed over devices, and must not be counted several times."""
    kind = EXPLICIT if check_vma else AUTO
    assert_right(placed, kind, lambda placed, mesh: split_scan(placed, mesh, check_vma=check_vma))


@pytest.mark.parametrize(("scan", "method"), [
    *[("linear", method) for method in METHODS],
    *[("matrix", method) for method in MATRIX_METHODS],
])  # fmt: skip
def test_every_method_serves(scan, method):
    """Many steps on few devices, a batch beside them."""
    call = Call(b=(130, 4), a=(4,), h0=(4,), reset=(130,))
    if scan == "matrix":
        call = Call(b=(130, 2, 3), a=(3, 3), h0=(2, 3), reset=(130,))
    placed = Placed(call, {"t": 2, "x": 2}, ("t", "x"))
    if method == "diagonal":  # its error has the condition number of the eigenvectors
        a, b, h0, reset, _ = call.arrays()
        mesh = placed.mesh(AUTO)
        got = jax.jit(whole_scan(placed, method))(*put(mesh, (a, b, h0, reset), placed.specs()))
        np.testing.assert_allclose(got, matrix_scan(a, b, h0, reset=reset), atol=1e-5)
        return
    assert_right(placed, AUTO, lambda placed, mesh: whole_scan(placed, method))


def test_what_a_reset_drops_does_not_pass_a_cut():
    """inf and nan on one device, a reset on the next, at its first step and later."""
    placed = Placed(Call(b=(16, 2), a=(16, 2), h0=(2,), reset=(16, 2)), {"t": 4}, ("t",))
    a, b, h0, _, g = placed.call.arrays()
    reset = np.zeros((16, 2), bool)
    reset[4, 0] = reset[6, 1] = True
    b[3], a[2] = np.nan, np.inf
    h0[:] = np.nan
    mesh = placed.mesh(AUTO)
    args = put(mesh, (a, b, h0, reset), placed.specs())
    h, gradients = vjp(split_scan(placed, mesh), args[:3], args[3:], g)
    want = vjp(whole_scan(placed), (a, b, h0), (reset,), g)
    assert np.isfinite(h[4:, 0]).all()
    assert np.isfinite(h[6:, 1]).all()
    np.testing.assert_allclose(h, want[0], rtol=1e-6)
    for ours, theirs in zip(gradients, want[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_products_that_underflow_or_overflow():
    """A chunk's product of decays that is 0 or inf, where the states are neither."""
    placed = Placed(Call(b=(400, 1), a=(400, 1)), {"t": 4}, ("t",))
    for decay, drive in ((0.2, np.ones(400)), (20.0, np.zeros(400)), (3.0, np.arange(400) > 330)):
        a, b = np.full((400, 1), decay, np.float32), np.asarray(drive, np.float32)[:, None]
        want = linear_scan(a, b, method="sequential")
        got = jax.jit(whole_scan(placed))(*put(placed.mesh(AUTO), (a, b), placed.specs()))
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_no_steps_and_one():
    mesh = mesh_of({"t": 4})
    for steps in (0, 4):
        b = jnp.ones((steps, 3))
        placed = Placed(Call(b=b.shape, a=b.shape, h0=(3,)), {"t": 4}, ("t",))
        h, (da, db, dh0) = vjp(split_scan(placed, mesh), (b / 2, b, jnp.ones(3)), (), b)
        want = vjp(whole_scan(placed), (b / 2, b, jnp.ones(3)), (), b)
        jax.tree.map(np.testing.assert_array_equal, (h, (da, db, dh0)), want)


# Derivatives of higher order, and batches.


def derivatives(f):
    """Of a loss: forward over reverse, reverse over reverse."""

    def loss(*args):
        return jnp.sum(jnp.sin(f(*args)))

    every = (0, 1, 2)
    gradient = jax.grad(loss, every)

    def pairs(*args):
        return sum(jnp.sum(x * y) for x, y in zip(gradient(*args), args, strict=True))

    return lambda *args: (jax.jvp(gradient, args, args)[1], jax.grad(pairs, every)(*args))


@both_kinds
@pytest.mark.parametrize("way", ["whole", "by name"])
def test_second_derivatives(way, kind):
    call = Call(b=(12, 4), a=(12, 1), h0=(4,), dtype="float64")
    placed = Placed(call, {"t": 2, "x": 4}, ("t", "x"))
    a, b, h0, _, _ = call.arrays()
    mesh = placed.mesh(kind)
    with jax.enable_x64(True):
        f = whole_scan(placed) if way == "whole" else split_scan(placed, mesh)
        got = jax.jit(derivatives(f))(*put(mesh, (a, b, h0), placed.specs()))
        want = jax.jit(derivatives(whole_scan(placed)))(a, b, h0)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-11), got, want)


@both_kinds
def test_vmap_over_what_is_sharded_and_what_is_not(kind):
    """The gradient too, which is linear in places where the types say less than there is."""
    placed = Placed(Call(b=(8, 4, 2), a=(8, 4, 2), h0=(4, 2)), {"t": 2, "x": 4}, ("t", "x"))
    a, b, h0, _, g = placed.call.arrays()
    given = put(placed.mesh(kind), (a, b, h0, g), (*placed.specs(), placed.specs()[1]))

    def gradient(a, b, h0, g):
        h, pull = jax.vjp(linear_scan, a, b, h0)
        return h, pull(g)

    want = gradient(a, b, h0, g)
    for batch, options in ((1, {}), (2, {}), (1, {"spmd_axis_name": "x"})):
        if options and kind is EXPLICIT:
            continue  # there the types say it
        ins, outs = (batch, batch, batch - 1, batch), (batch, (batch, batch, batch - 1))
        mapped = jax.vmap(gradient, in_axes=ins, out_axes=outs, **options)
        got = jax.jit(mapped)(*given)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got, want)


def test_within_a_shard_map_over_other_axes():
    """What is left is automatic: over a batch nothing is gathered, and time is split by name."""
    mesh = mesh_of({"x": 4, "y": 2})
    call = Call(b=(8, 4, 2), a=(8, 4, 2), h0=(4, 2))
    a, b, h0, _, g = call.arrays()
    want = vjp(linear_scan, (a, b, h0), (), g)

    over_x = PartitionSpec(None, "x"), PartitionSpec(None, "x"), PartitionSpec("x")
    batch = jax.shard_map(
        linear_scan, mesh=mesh, in_specs=over_x, out_specs=over_x[0], axis_names={"x"}
    )
    spec = PartitionSpec(None, "x", "y")
    given = put(mesh, (a, b, h0), (spec, spec, PartitionSpec("x", "y")))
    (g_there,) = put(mesh, [g], [spec])
    assert exchanged(lambda *args: vjp(batch, args, (), g_there), *given) == {}
    got = vjp(batch, given, (), g_there)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got, want)

    specs = PartitionSpec("x"), PartitionSpec("x"), PartitionSpec()
    time = jax.shard_map(
        lambda a, b, h0: linear_scan(a, b, h0, axis_name="x"),
        mesh=mesh, in_specs=specs, out_specs=specs[0], axis_names={"x"},
    )  # fmt: skip
    spec = PartitionSpec("x", None, "y")
    given = put(mesh, (a, b, h0), (spec, spec, PartitionSpec(None, "y")))
    got = vjp(time, given, (), g)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got, want)


# What is exchanged.

_COLLECTIVE = re.compile(
    r"= (\([^)]*\)|\S+) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
    r"(?:-start)?\("
)
_ARRAY = re.compile(r"[a-z]+[0-9]+\[([0-9,]*)\]")


def exchanged(f, *args):
    """The collectives of the compiled program, with the numbers of their results."""
    found = collections.defaultdict(list)
    for result, name in _COLLECTIVE.findall(jax.jit(f).lower(*args).compile().as_text()):
        shapes = (shape.split(",") for shape in _ARRAY.findall(result))
        found[name].append(sum(math.prod(map(int, filter(None, shape))) for shape in shapes))
    return dict(found)


def loss_of(f):
    return lambda *args: jnp.sum(jnp.sin(f(*args)))


def gradient_of(f):
    return lambda *args: jax.grad(loss_of(f), tuple(range(len(args))))(*args)


@both_kinds
def test_nothing_is_gathered_for_batch_and_channels(kind):
    mesh = mesh_of({"x": 4, "y": 2}, kind)
    spec, over_channels = PartitionSpec(None, "x", "y"), PartitionSpec(None, None, "y")
    a, b, h0 = jnp.full((32, 1, 8), 0.5), jnp.ones((32, 16, 8)), jnp.ones((16, 8))
    full = put(mesh, (b / 2, b, h0), (spec, spec, PartitionSpec("x", "y")))
    assert exchanged(linear_scan, *full) == {}
    assert exchanged(gradient_of(linear_scan), *full) == {}
    assert exchanged(lambda *args: jax.jvp(linear_scan, args, args)[1], *full) == {}
    # What broadcasts over x is summed over it: one all-reduce, of its own size on a device.
    given = put(mesh, (a, b), (over_channels, spec))
    assert exchanged(linear_scan, *given) == {}
    assert exchanged(gradient_of(linear_scan), *given) == {"all-reduce": [32 * 4]}


@both_kinds
@pytest.mark.parametrize("flagged", [False, True], ids=["", "reset"])
def test_time_takes_one_collective_each_way(kind, flagged):
    """Two words a channel of each device forward, three with flags; one collective more backward,
    where arrays that lie on automatic axes send a third, the state that the next device needs."""
    channels, devices = 24, 8
    call = Call(
        b=(64, channels), a=(64, channels), h0=(channels,), reset=(64, 1) if flagged else None
    )
    placed = Placed(call, {"t": devices}, ("t",))
    mesh = placed.mesh(kind)
    a, b, h0, reset, _ = call.arrays()
    given = put(mesh, (a, b, h0, *([reset] if flagged else [])), placed.specs())
    args, flags = given[:3], given[3:]
    for named, f in enumerate((whole_scan(placed), split_scan(placed, mesh))):
        words = 2 * channels + flagged
        assert exchanged(f, *given) == {"all-gather": [devices * words]}
        third = 0 if named or kind is EXPLICIT else channels

        def gradient(*args, f=f):
            return gradient_of(lambda *args: f(*args, *flags))(*args)

        both = {"all-gather": [devices * words, devices * (words + third)]}
        assert exchanged(gradient, *args) == both


def temporaries(f, *args):
    return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("method", ["native", "sequential", "blocked"])
def test_no_temporary_is_as_large_as_a_chunk(method):
    """An eighth of one device's, the pairs of all devices and a stretch apart."""
    if method not in METHODS:
        pytest.skip("the kernel was not compiled at the install")
    steps, channels, devices = 1 << 15, 16, 8
    call = Call(b=(steps, channels), a=(steps, channels), h0=(channels,))
    placed = Placed(call, {"t": devices}, ("t",))
    args = put(placed.mesh(AUTO), call.arrays()[:3], placed.specs())
    f = whole_scan(placed, method)
    chunk, pairs = 4 * steps * channels // devices, 4 * 3 * devices * channels
    for program in (f, gradient_of(f)):
        one = temporaries(program, *call.arrays()[:3])
        assert temporaries(program, *args) <= one / devices + 2 * pairs + chunk / 8


# Errors.


def test_an_axis_that_is_not_there():
    b = jnp.ones((8, 2))
    with pytest.raises(ValueError, match=r"axis_name: got 't', expected a mesh axis .*shard_map"):
        linear_scan(0.5, b, axis_name="t")
    mesh, over = mesh_of({"x": 2}), PartitionSpec("x")
    with pytest.raises(ValueError, match=r"axis_name: got 't'.*'x'"):
        jax.shard_map(
            lambda b: matrix_scan(jnp.eye(2), b, axis_name="t"),
            mesh=mesh, in_specs=over, out_specs=over,
        )(b)  # fmt: skip


def test_operands_that_are_sharded_differently():
    mesh = mesh_of({"x": 2, "y": 2}, EXPLICIT)
    a, b = put(mesh, [jnp.ones((4, 4))] * 2, (PartitionSpec("x"), PartitionSpec("y")))
    with pytest.raises(ValueError, match=r"sharded differently.*\('y',\).*\('x',\).*reshard"):
        linear_scan(a, b, axis=1)
    a, b = put(mesh, [jnp.ones((4, 4))] * 2, (PartitionSpec("x"), PartitionSpec(None, "x")))
    with pytest.raises(ValueError, match="sharded differently"):
        linear_scan(a, b, axis=1)


def test_steps_that_do_not_divide_evenly():
    """An array cannot lie so, but within a program it can: there time is whole on each device."""
    mesh = mesh_of({"t": 4})
    spec, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("t", None))
    b = jnp.arange(20.0).reshape(10, 2)

    @jax.jit
    def run(b):
        b = jax.lax.with_sharding_constraint(b, spec)
        return jax.lax.with_sharding_constraint(linear_scan(0.5, b), whole)

    np.testing.assert_allclose(run(b), linear_scan(0.5, b), rtol=1e-6)
