"""Programs on meshes that once failed, or took the process with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnscan import RNN, Mamba, linear_scan, nonlinear_scan

T, B, D = 16, 4, 8
AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit


def mesh_of(*types):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=types)


def operands():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (T, B, D)), rng.normal(size=(T, B, D))
    return [x.astype(np.float32) for x in (a, b, rng.normal(size=(B, D)))]


def placed(mesh, arrays, specs):
    pairs = zip(arrays, specs, strict=True)
    return [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in pairs]


def loss(scan):
    return lambda *given: jnp.sum(jnp.sin(scan(*given)))


def value_and_gradients(scan):
    return jax.value_and_grad(loss(scan), (0, 1, 2))


def assert_right(found, given, scan=linear_scan):
    """Value and gradients of the sum of sines, as on one device."""
    wanted = jax.jit(value_and_gradients(scan))(*given)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=2e-5, atol=2e-5)


DIFFERENT = {
    "time over two axes": (P("x"), P("y"), P()),
    "time and batch": (P("x"), P(None, "x"), P("x")),
    "more of the mesh": (P(None, None, "x"), P(None, None, ("x", "y")), P(None, "y")),
    "state over the axis of time": (P("x"), P("x"), P("x")),
}


@pytest.mark.parametrize("specs", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_operands_that_lie_differently_on_automatic_axes(specs):
    given = operands()
    moved = placed(mesh_of(AUTO, AUTO), given, specs)
    assert_right(jax.jit(value_and_gradients(linear_scan))(*moved), given)


def test_operands_that_lie_differently_on_explicit_axes_are_refused():
    given = placed(mesh_of(EXPLICIT, EXPLICIT), operands(), (P("x"), P("y"), P()))
    with pytest.raises(ValueError, match=r"sharded differently.*reshard"):
        jax.jit(linear_scan)(*given)


@pytest.mark.parametrize("steps", [3, 9])
def test_time_that_no_mesh_divides_evenly(steps):
    given, mesh = [x[:steps] for x in operands()[:2]], mesh_of(AUTO, AUTO)

    def scan(a, b):
        a, b = jax.lax.with_sharding_constraint((a, b), P("x"))
        return linear_scan(a, b)

    wanted = np.asarray(linear_scan(*given))
    with jax.set_mesh(mesh):  # of operands that lie nowhere yet
        np.testing.assert_allclose(np.asarray(jax.jit(scan)(*given)), wanted, 2e-5, 2e-5)


def over_x(scan, mesh, spec, **options):
    """The scan inside a `jax.shard_map` over x alone."""
    specs = spec, spec, P(*spec[1:])
    return jax.shard_map(
        scan, mesh=mesh, in_specs=specs, out_specs=spec, axis_names={"x"}, **options
    )


@pytest.mark.filterwarnings("ignore:.*with mesh.*:DeprecationWarning")
def test_partly_manual_within_a_mesh():
    """The process was aborted: the rest of the mesh was taken for the whole."""
    mesh, given = mesh_of(AUTO, AUTO), operands()
    moved = placed(mesh, given, (P(None, "x", "y"), P(None, "x", "y"), P("x", "y")))
    with mesh:
        found = jax.jit(value_and_gradients(over_x(linear_scan, mesh, P(None, "x"))))(*moved)
    assert_right(found, given)


def test_partly_manual_over_devices_that_are_not_known():
    mesh, given = mesh_of(AUTO, AUTO), operands()
    moved = placed(mesh, given, (P(None, "x", "y"), P(None, "x", "y"), P("x", "y")))
    by_name = over_x(linear_scan, mesh.abstract_mesh, P(None, "x"))
    assert_right(jax.jit(value_and_gradients(by_name))(*moved), given)


@pytest.mark.parametrize("types", [(AUTO, EXPLICIT), (EXPLICIT, AUTO)])
def test_axes_of_both_kinds(types):
    mesh, given = mesh_of(*types), operands()
    moved = placed(mesh, given, (P(None, "x", "y"), P(None, "x", "y"), P("x", "y")))
    program = jax.jit(value_and_gradients(linear_scan))
    assert_right(program(*moved), given)
    with jax.set_mesh(mesh):
        assert_right(jax.jit(value_and_gradients(linear_scan))(*moved), given)


def test_split_time_and_explicit_axes_without_a_check_of_types():
    mesh, given = mesh_of(EXPLICIT, EXPLICIT), operands()
    moved = placed(mesh, given, (P("x", None, "y"), P("x", None, "y"), P(None, "y")))

    def scan(a, b, h0):
        return linear_scan(a, b, h0, axis_name="x")

    split = jax.shard_map(
        scan,
        mesh=mesh,
        in_specs=(P("x"), P("x"), P()),
        out_specs=P("x"),
        axis_names={"x"},
        check_vma=False,
    )
    assert_right(jax.jit(value_and_gradients(split))(*moved), given)


def test_an_array_that_lies_on_no_mesh_beside_one_on_explicit_axes():
    a, b, h0 = operands()
    (moved,) = placed(mesh_of(EXPLICIT, EXPLICIT), [b], [P(None, "x", "y")])
    np.testing.assert_allclose(
        np.asarray(linear_scan(a, moved, h0)), np.asarray(linear_scan(a, b, h0)), 2e-5, 2e-5
    )


def test_mamba_on_explicit_axes():
    """The zeros before its convolution lay on all devices alike."""
    mesh, layer = mesh_of(EXPLICIT, EXPLICIT), Mamba.init(jax.random.key(0), D)
    x = operands()[0].swapaxes(0, 1)
    (moved,) = placed(mesh, [x], [P("x")])
    gradient = jax.jit(jax.grad(lambda layer, x: jnp.sum(layer(x)[0] ** 2), (0, 1)))
    with jax.set_mesh(mesh):
        found = gradient(layer, moved)
    for one, other in zip(*map(jax.tree.leaves, (found, gradient(layer, x))), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=2e-5, atol=2e-5)


def test_nonlinear_scan_on_explicit_axes_names_ways_that_work():
    mesh, (_, xs, h0) = mesh_of(EXPLICIT, EXPLICIT), operands()
    w = jnp.eye(D, dtype=jnp.float32)

    def scan(h0, xs):
        def one(h0, xs):
            return nonlinear_scan(lambda h, x: jnp.tanh(h @ w + x), h0, xs)[0]

        return jax.vmap(one, (0, 1), 1)(h0, xs)

    wanted = np.asarray(scan(h0, xs))
    moved = placed(mesh, (h0, xs), (P("x"), P(None, "x")))
    whole = placed(mesh, (h0, xs), (P(), P()))
    specs = {"in_specs": (P("x"), P(None, "x")), "out_specs": P(None, "x")}
    with jax.set_mesh(mesh):
        with pytest.raises(ValueError, match=r"explicit axes.*shard_map.*auto_axes"):
            jax.jit(scan)(*moved)
        automatic = jax.sharding.auto_axes(scan, out_sharding=P(None, "x"))
        for way, given in (
            (scan, whole),
            (automatic, moved),
            (jax.shard_map(scan, **specs), moved),
        ):
            found = np.asarray(jax.jit(way)(*given))
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lead", [(0, 4), (4, 0)])
@pytest.mark.parametrize("layer", [RNN, Mamba])
def test_a_map_over_none_on_explicit_axes(layer, lead):
    """JAX does not say how an array of no numbers lies once two of its axes are one."""
    mesh = mesh_of(EXPLICIT, EXPLICIT)
    layer = layer.init(jax.random.key(0), 4, **({"hidden_size": 4} if layer is RNN else {}))
    with jax.set_mesh(mesh):
        (x,) = placed(mesh, [np.zeros((*lead, 6, 4), "f4")], [P("x")])
        gradient = jax.vmap(jax.grad(lambda x: jnp.sum(layer(x)[0])))
        assert jax.typeof(jax.jit(gradient)(x)) == jax.typeof(x)
        assert jax.eval_shape(jax.vmap(layer), x)[0].sharding.spec[0] == "x"
