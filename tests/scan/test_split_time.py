"""What devices tell each other where time is split over them, against a loop over the devices."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rnnscan.scan.split_time import at_the_end, before, entering, from_one, steps_before

AXES = {"one": "time", "in_order": ("a", "b"), "out_of_order": ("b", "a")}
every_axis = pytest.mark.parametrize("axis_name", AXES.values(), ids=AXES)


def mesh_of(devices, axis_name="time"):
    cpus = np.array(jax.devices("cpu")[:devices])
    return Mesh(cpus, ("time",)) if axis_name == "time" else Mesh(cpus.reshape(2, -1), ("a", "b"))


def on_devices(f, devices, specs, out, axis_name="time", **options):
    mesh = mesh_of(devices, axis_name)
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=out, **options))


def matvec(a, h):
    return jnp.einsum("...ij,...j->...i", a, h)


def one_by_one(apply, decay, last, h0, reset, reverse):
    """The state that enters each device."""
    state, entered = jnp.broadcast_to(h0, last.shape[1:]), [None] * len(last)
    for i in range(len(last))[:: -1 if reverse else 1]:
        entered[i] = state
        kept = jnp.where(reset[i], 0, state)
        a = jnp.where(reset[i][..., None] if decay.ndim > last.ndim else reset[i], 0, decay[i])
        state = apply(a, kept) + last[i]
    return jnp.stack(entered)


@pytest.mark.parametrize(
    ("devices", "matrix", "narrow", "flags", "reverse", "axis_name", "checked"),
    [
        (1, False, False, True, False, "time", True),
        (2, False, False, False, True, "time", True),
        (4, False, False, True, False, "time", True),
        (4, False, True, True, True, "time", False),
        (8, True, False, True, False, ("b", "a"), True),
        (8, True, True, False, False, ("a", "b"), False),
        (4, True, False, False, True, "time", True),
    ],
)
def test_entering(devices, matrix, narrow, flags, reverse, axis_name, checked):
    rng = np.random.default_rng(devices)
    size = (1,) if narrow else (3,)  # a decay that broadcasts over an axis
    decay = rng.normal(size=(devices, *size, 2, *([2] if matrix else [])))
    last, h0 = rng.normal(size=(devices, 3, 2)), rng.normal(size=(1, 2))
    reset = (rng.random((devices, 3, 1)) < 0.3) & flags
    decay, last, h0, weights = (
        jnp.asarray(x, jnp.float32) for x in (decay, last, h0, rng.normal(size=last.shape))
    )
    apply = matvec if matrix else jnp.multiply

    def run(decay, last, h0, reset):
        given = {"reset": reset[0] if flags else None, "reverse": reverse, "apply": apply}
        return entering(decay[0], last[0], h0, axis_name, **given)[None]

    split = P(axis_name)
    specs = (split, split, P(), split)
    sharded = on_devices(run, devices, specs, split, axis_name, check_vma=checked)

    def loss(f):
        return lambda *args: jnp.sum(weights * jnp.sin(f(*args)))

    def expected(decay, last, h0):
        return one_by_one(apply, decay, last, h0, reset, reverse)

    def value(f):
        return jax.jit(jax.value_and_grad(loss(f), (0, 1, 2)))(decay, last, h0)

    def by_devices(*args):
        return sharded(*args, reset)

    np.testing.assert_allclose(by_devices(decay, last, h0), expected(decay, last, h0), atol=1e-5)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), value(by_devices), value(expected)
    )


def test_entering_with_a_decay_that_all_devices_have():
    decay, last = jnp.full((1, 1), 0.5), jnp.arange(12.0).reshape(4, 3)

    def run(decay, last, h0):
        return entering(decay, last, h0, "time")

    checked, unchecked = (
        on_devices(run, 4, (P(), P("time"), P()), P("time"), check_vma=check_vma)
        for check_vma in (True, False)
    )
    h0 = jnp.ones(3)
    expected = one_by_one(
        jnp.multiply, jnp.full((4, 1), 0.5), last, h0, np.zeros((4, 1), bool), False
    )
    for sharded in (checked, unchecked):
        np.testing.assert_allclose(sharded(decay, last, h0), expected)
    text = checked.lower(decay, last, h0).compile().as_text()
    # The last states of four devices, and no decay beside them.
    (gathered,) = re.findall(r"f32\[(.*?)\].* all-gather\(", text)
    assert math.prod(map(int, gathered.split(","))) == 4 * 3


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_nothing_passes_a_device_that_resets_nor_comes_from_a_later_one(bad):
    """In either direction: device 1 resets, and device 3 has nothing but `bad`."""
    decay = jnp.array([bad, 0.5, 0.5, bad])
    last = jnp.array([bad, 1.0, 2.0, bad])
    reset = jnp.array([False, True, False, False])

    def run(decay, last, reset, h0):
        return entering(decay, last, h0, "time", reset=reset)

    split = P("time")
    sharded = on_devices(run, 4, (split, split, split, P()), split)

    def loss(decay, last, h0):
        return sharded(decay, last, reset, h0)[2:].sum()

    h0 = jnp.full((1,), bad)
    assert sharded(decay, last, reset, h0)[2:].tolist() == [1.0, 2.5]
    gradients = jax.jit(jax.grad(loss, (0, 1)))(decay, last, h0)
    # What device 0 is made of is its own affair: 0 * inf there, as in the sequence by itself.
    assert [g[1:].tolist() for g in gradients] == [[0, 1, 0], [1.5, 1, 0]]


def test_entering_carries_halves_in_float32():
    last = jnp.full((2, 3), 1 + 2**-7, jnp.bfloat16)

    def run(last):
        state = entering(last, last, last, "time")
        assert state.dtype == jnp.float32
        return state

    state = on_devices(run, 2, P("time"), P("time"))(last)
    np.testing.assert_array_equal(state[1], np.float32((1 + 2**-7) ** 2 + 1 + 2**-7))


def test_entering_on_many_devices_is_a_loop():
    """Programs do not grow with the devices; only traced, so that none is needed."""
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((64,), ("time",), axis_types=auto)

    def run(decay, last):
        return entering(decay, last, jnp.zeros((1, 3)), "time")

    sharded = jax.shard_map(run, mesh=mesh, in_specs=P("time"), out_specs=P("time"))
    x = jax.ShapeDtypeStruct((64, 3), jnp.float32)
    text = str(jax.make_jaxpr(sharded)(x, x))
    assert text.count("all_gather[") == 1
    assert text.count("scan[") == 1
    assert "unroll=1\n" in text


@every_axis
@pytest.mark.parametrize("reverse", [False, True])
def test_before_and_at_the_end(axis_name, reverse):
    x = np.arange(1, 9)

    def run(x):
        first = jnp.zeros((), x.dtype)
        flags = before(x > 4, first == 1, axis_name, reverse=reverse)
        moved = before(x, first, axis_name, reverse=reverse)
        return moved, flags, at_the_end(x, axis_name, reverse=reverse)

    split = P(axis_name)
    moved, flags, end = on_devices(run, 8, split, (split, split, P()), axis_name)(x)
    expected = np.array([*x[1:], 0] if reverse else [0, *x[:-1]])
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(flags, expected > 4)
    assert end.tolist() == [1 if reverse else 8]


def test_from_one_drops_what_the_others_have_and_its_gradient():
    x = jnp.array([[jnp.nan, 2.0], [3.0, jnp.inf]])
    here = jnp.array([[False, True], [True, False]])
    split = P("time")
    chosen = on_devices(lambda x, here: from_one(x, here, "time"), 2, (split, split), P())
    assert chosen(x, here).tolist() == [[3.0, 2.0]]
    gradient = jax.grad(lambda x: jnp.sum(chosen(x, here) ** 2))(x)
    assert gradient.tolist() == [[0.0, 4.0], [6.0, 0.0]]


@pytest.mark.parametrize(
    ("devices", "time", "steps"),
    [(4, 3, 2), (4, 2, 3), (4, 2, 5), (4, 1, 7), (2, 1, 0), (1, 3, 2), (1, 1, 3)],
)
def test_steps_before(devices, time, steps):
    rng = np.random.default_rng(0)
    x, first = rng.normal(size=(2, devices * time, 3)), rng.normal(size=(2, steps, 3))
    x, first = jnp.asarray(x, jnp.float32), jnp.asarray(first, jnp.float32)

    def run(x, first):
        return x + jnp.sum(steps_before(x, first, "time"), -2, keepdims=True), first

    def expected(x, first):
        whole = jnp.concatenate([first, x], 1)
        chunks = [
            x[:, i : i + time] + jnp.sum(whole[:, i : i + steps], 1, keepdims=True)
            for i in range(0, devices * time, time)
        ]
        return jnp.concatenate(chunks, 1), first

    split = P(None, "time")
    sharded = on_devices(run, devices, (split, P()), (split, P()))

    def loss(f):
        return jax.jit(jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(f(*a)[0])), (0, 1)))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        (sharded(x, first), loss(sharded)(x, first)),
        (expected(x, first), loss(expected)(x, first)),
    )


@pytest.mark.parametrize("axis_name", ["tim", ("time", "other"), (), ["time"]])
def test_an_axis_that_is_not_there(axis_name):
    x = jnp.zeros(2)
    with pytest.raises(ValueError, match=r"axis_name: got .*\(there is 'time'\).*shard_map"):
        on_devices(lambda x: before(x, x, axis_name), 2, P("time"), P("time"))(x)
    with pytest.raises(ValueError, match=r"axis_name: got .*\(there is none\).*shard_map"):
        before(x, x, axis_name)
