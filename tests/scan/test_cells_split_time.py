"""Cells whose time is split over devices, against all of time on one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rnnscan import cell_scan
from rnnscan.scan import cell_scan_with_convergence
from tests.scan.test_cells import (
    assert_alike,
    cotangents_of,
    draw,
    every_kind,
    loop,
    of_dtype,
    values_and_gradients,
)

CHUNK = P(None, "time")


def mesh_of(*shape, names=("time",)):
    count = int(np.prod(shape))
    return Mesh(np.array(jax.devices("cpu")[:count]).reshape(shape), names)


def split(f, devices, *, chunk=CHUNK, rows=None, mesh=None, **options):
    """`f(weights, x, state, flags)` -> (h, last), over a mesh."""
    rows = rows or P()
    return jax.shard_map(
        f,
        mesh=mesh or mesh_of(devices),
        in_specs=(P(), chunk, rows, chunk),
        out_specs=(chunk, rows),
        **options,
    )


def scan_of(kind, axis_name="time", **options):
    def scan(weights, x, state, flags):
        return cell_scan(kind, weights, x, state, *flags, axis_name=axis_name, **options)

    return scan


def values_and_gradients_outside(f, weights, x, state, flags):
    """As `values_and_gradients`, differentiated around the mesh."""

    @jax.jit
    def run(weights, x, state, cotangents):
        out, pull = jax.vjp(lambda *operands: f(*operands, flags), weights, x, state)
        return out, pull(cotangents)

    return run(weights, x, state, cotangents_of(x, state))


def values_and_gradients_inside(f, devices, weights, x, state, flags):
    """As `values_and_gradients`, differentiated on each device."""

    def run(weights, x, state, flags, cotangents):
        out, pull = jax.vjp(lambda *operands: f(*operands, flags), weights, x, state)
        return out, pull(cotangents)

    specs = P(), CHUNK, P(), CHUNK, (CHUNK, P())
    outs = (CHUNK, P()), (P(), CHUNK, P())  # the gradient of the state is alike on all devices too
    sharded = jax.shard_map(run, mesh=mesh_of(devices), in_specs=specs, out_specs=outs)
    return jax.jit(sharded)(weights, x, state, flags, cotangents_of(x, state))


@every_kind
@pytest.mark.parametrize(
    ("devices", "steps", "reverse", "padded"),
    [(2, 3, False, True), (4, 2, True, True), (8, 1, False, False)],
    ids=["two", "four_in_reverse", "one_step_each"],
)
def test_values_and_gradients(kind, devices, steps, reverse, padded):
    """In float32 by the kernel, where there is one; each device differentiates."""
    weights, x, state, flags = draw(kind, (3, steps * devices, 2, 5), padded=padded)
    given = *of_dtype((weights, x, state), jnp.float32), flags
    want = values_and_gradients(kind, *given, reverse)
    got = values_and_gradients_inside(scan_of(kind, reverse=reverse), devices, *given)
    assert_alike(got, want, 3e-6)


@pytest.mark.parametrize(
    ("kind", "devices", "reverse"),
    [("tanh", 4, False), ("relu", 2, True), ("lstm", 2, True), ("gru", 4, False)],
)
def test_in_float64_without_checks_of_varying_axes(kind, devices, reverse):
    weights, x, state, flags = draw(kind, (2, 3 * devices, 2, 4), padded=True)
    with jax.enable_x64(True):
        given = *of_dtype((weights, x, state), jnp.float64), flags
        f = split(scan_of(kind, reverse=reverse), devices, check_vma=False)
        got = values_and_gradients_outside(f, *given)
        assert_alike(got[0], loop(kind, weights, x, state, flags, reverse)[:2], 1e-14)
        assert_alike(got, values_and_gradients(kind, *given, reverse, "scan"), 1e-13)


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_over_two_axes_in_either_order(names):
    weights, x, state, flags = draw("lstm", (2, 8, 2, 4), padded=True)
    given = *of_dtype((weights, x, state), jnp.float32), flags
    mesh = mesh_of(2, 2, names=("a", "b"))
    f = split(scan_of("lstm", names), 4, chunk=P(None, names), mesh=mesh)
    got = values_and_gradients_outside(f, *given)
    assert_alike(got, values_and_gradients("lstm", *given, False), 3e-6)


@pytest.mark.parametrize("checked", [True, False])
def test_with_the_batch_over_another_axis(checked):
    weights, x, state, flags = draw("gru", (4, 6, 2, 4), padded=True)
    given = *of_dtype((weights, x, state), jnp.float32), flags
    mesh, chunk = mesh_of(2, 2, names=("data", "time")), P("data", "time")
    f = split(scan_of("gru"), 4, chunk=chunk, rows=P("data"), mesh=mesh, check_vma=checked)
    got = values_and_gradients_outside(f, *given)
    assert_alike(got, values_and_gradients("gru", *given, False), 3e-6)


@pytest.mark.parametrize(
    ("order", "reverse", "checked"),
    [("forward over reverse", True, True), ("reverse over forward", False, False)],
)
def test_second_derivatives(order, reverse, checked):
    """Along one direction, by the plain scan whatever method computes the first."""
    with jax.enable_x64(True):
        weights, x, state, flags = draw("gru", (2, 4, 2, 3), padded=True)
        point = of_dtype((weights, x, state), jnp.float64)
        numbers = np.random.default_rng(1)
        direction = jax.tree.map(lambda leaf: jnp.asarray(numbers.normal(size=leaf.shape)), point)
        every = 0, 1, 2

        def second(f):
            def loss(*operands):
                h, (last,) = f(*operands, flags)
                slopes = 1 + jnp.arange(h.size, dtype=h.dtype).reshape(h.shape) / h.size
                return jnp.sum(jnp.sin(h * slopes)) + jnp.sum(jnp.cos(last))

            def along(*operands):
                return jax.jvp(loss, operands, direction)[1]

            if order == "reverse over forward":
                return jax.jit(jax.grad(along, every))(*point)
            return jax.jit(lambda *point: jax.jvp(jax.grad(loss, every), point, direction))(*point)

        one = second(lambda w, x, s, f: cell_scan("gru", w, x, s, *f, reverse=reverse))
        two = second(split(scan_of("gru", reverse=reverse), 2, check_vma=checked))
        assert_alike(two, one, 1e-12)


def test_eagerly_and_through_a_checkpoint():
    weights, x, state, flags = draw("tanh", (2, 4, 2, 3), padded=True)
    given = *of_dtype((weights, x, state), jnp.float32), flags
    f = split(scan_of("tanh"), 2)
    assert_alike(f(*given), cell_scan("tanh", *given[:3], *flags), 1e-6)
    got = values_and_gradients_outside(jax.checkpoint(f), *given)
    assert_alike(got, values_and_gradients("tanh", *given, False), 3e-6)


@pytest.mark.parametrize("mapped", ["x", "weights"])
def test_vmap(mapped):
    weights, x, state, flags = draw("gru", (2, 4, 2, 3), padded=True)
    weights, x, state = of_dtype((weights, x, state), jnp.float32)
    axes = (0, None, None) if mapped == "weights" else (None, 0, None)
    pairs = [
        given if axis is None else jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), given)
        for given, axis in zip((weights, x, state), axes, strict=True)
    ]

    def gradients(f):
        def loss(*operands):
            h, (last,) = f(*operands, flags)
            return jnp.sum(jnp.sin(h)) + jnp.sum(last**2)

        return jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1, 2)), axes))(*pairs)

    one = gradients(lambda w, x, s, f: cell_scan("gru", w, x, s, *f))
    assert_alike(gradients(split(scan_of("gru"), 2)), one, 3e-6)


@pytest.mark.parametrize("reverse", [False, True], ids=["onward", "reverse"])
@pytest.mark.parametrize("step", [3, 4])
def test_nothing_passes_a_reset(step, reverse):
    """On either side of the cut between two chunks; nan before the reset, and in what comes back
    to it."""
    weights, x, state, _ = draw("gru", (2, 8, 2, 3))
    weights, x, state = of_dtype((weights, x, state), jnp.float32)
    past = np.s_[:, step + 1 :] if reverse else np.s_[:, :step]
    rest = np.s_[:, : step + 1] if reverse else np.s_[:, step:]
    flags = None, np.zeros((2, 8), bool)
    flags[1][:, step] = True
    f = split(scan_of("gru", reverse=reverse), 2)
    (want, last), (_, d_x, d_state) = values_and_gradients("gru", weights, x, state, flags, reverse)
    passed, back = values_and_gradients_outside(f, weights, x.at[past].set(jnp.nan), state, flags)
    assert np.isnan(passed[0][past]).all()
    assert_alike((passed[0][rest], passed[1]), (want[rest], last), 3e-6)
    assert_alike(back[1][rest], d_x[rest], 3e-6)
    passed, back = values_and_gradients_outside(f, weights, x.at[rest].set(jnp.nan), state, flags)
    assert np.isnan(passed[0][rest]).all()
    assert_alike(passed[0][past], want[past], 3e-6)
    assert_alike((back[1][past], back[2]), (d_x[past], d_state), 3e-6)


def test_halves_and_no_steps():
    weights, x, state, flags = draw("lstm", (2, 4, 2, 3), padded=True)
    weights, x, state = of_dtype((weights, x, state), jnp.bfloat16)
    f = jax.jit(split(scan_of("lstm"), 2))
    got = f(weights, x, state, flags)
    assert {y.dtype for y in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}
    assert_alike(got, cell_scan("lstm", weights, x, state, *flags), 2**-8)
    h, last = f(weights, x[:, :0], state, (None, None))
    assert h.shape == (2, 0, 3)
    assert_alike(last, state, 0)


def _temporary_and_text(devices, steps):
    weights, x, state, _ = draw("gru", (2, steps, 3, 8))
    given = *of_dtype((weights, x, state), jnp.float32), (None, None)
    f = split(scan_of("gru", method="scan"), devices)

    def loss(*operands):
        h, (last,) = f(*operands)
        return jnp.sum(h**2) + jnp.sum(last)

    program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*given).compile()
    return program.memory_analysis().temp_size_in_bytes, program.as_text()


def test_memory_is_split_and_only_the_state_is_sent():
    """A chunk of the same length needs the same memory, whatever the number of devices."""
    (two, _), (eight, text) = (_temporary_and_text(n, 256 * n) for n in (2, 8))
    assert eight < 1.1 * two
    assert "all-gather" not in text
    sent = re.findall(r"= (\S+?)(?:\{\S*)? collective-permute\(", text)
    assert sent == ["f32[2,8]"] * 2  # in a turn onward, and in one backwards


@pytest.mark.parametrize("method", ["newton", "sequential"])
def test_methods_that_need_all_of_time_are_refused(method):
    weights, x, state, _ = draw("tanh", (2, 4, 2, 3))
    given = *of_dtype((weights, x, state), jnp.float32), (None, None)
    message = rf"method='{method}' cannot serve .*\(axis_name='time'\).* 'scan', 'native', 'cuda'"
    with pytest.raises(ValueError, match=message):
        split(scan_of("tanh", method=method), 2)(*given)


def test_a_certificate_and_an_axis_that_is_not_there_are_refused():
    weights, x, state, _ = draw("tanh", (2, 4, 2, 3))
    given = *of_dtype((weights, x, state), jnp.float32), (None, None)

    def certified(weights, x, state, flags):
        del flags
        return cell_scan_with_convergence("tanh", weights, x, state, axis_name="time")[:2]

    with pytest.raises(ValueError, match=r"axis_name: got 'time', but a certificate needs all"):
        split(certified, 2)(*given)
    with pytest.raises(ValueError, match=r"axis_name: got 'clock'.*'time'.*inside jax.shard_map"):
        split(scan_of("tanh", "clock"), 2)(*given)
    with pytest.raises(ValueError, match=r"axis_name: got 'time'.*none.*inside jax.shard_map"):
        scan_of("tanh")(*given)


def test_beside_sequences_on_automatic_axes():
    """A `shard_map` over time alone leaves the batch to the compiler, in each turn too."""
    operands = draw("gru", (4, 8, 3, 5))
    weights, x, state, _ = of_dtype(operands, np.float32)
    mesh = mesh_of(4, 2, names=("time", "batch"))
    rows = jax.sharding.NamedSharding(mesh, P("batch"))
    f = split(scan_of("gru"), 4, mesh=mesh, axis_names={"time"})
    there = jax.device_put((x, state), rows)
    got = values_and_gradients_outside(f, weights, *there, (None, None))
    whole = scan_of("gru", axis_name=None)
    want = values_and_gradients_outside(whole, weights, x, state, (None, None))
    assert_alike(got, want, 1e-5)
