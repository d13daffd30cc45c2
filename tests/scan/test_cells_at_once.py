"""Recurrent cells for all steps at once, by `newton` and its siblings: against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, PartitionSpec

from rnnscan import cell_scan, explain_cell_scan
from rnnscan.scan import cell_scan_with_convergence, cell_table, stretches
from tests.scan.test_cells import (
    assert_alike,
    backward,
    cotangents_of,
    draw,
    every_kind,
    loop,
    of_dtype,
    values_and_gradients,
)

SIZE = (2, 9, 3, 5)  # batch, steps, inputs, hidden


def assert_equals_a_loop(kind, size, method, flagged):
    with jax.enable_x64(True):
        weights, x, state, flags = draw(kind, size, padded=flagged)
        *values, tape = loop(kind, weights, x, state, flags, flagged)
        want = tuple(values), backward(kind, weights, x, tape, *cotangents_of(x, state))
        given = of_dtype((weights, x, state), jnp.float64)
        got = values_and_gradients(kind, *given, flags, flagged, method)
    assert_alike(got, want, 1e-12)


@every_kind
@pytest.mark.parametrize("flagged", [False, True], ids=["plain", "padded_packed_reverse"])
def test_newton_equals_a_loop(kind, flagged):
    assert_equals_a_loop(kind, SIZE, "newton", flagged)


@pytest.mark.parametrize(
    ("kind", "size", "method"),
    [
        ("gru", SIZE, "sequential"),
        ("gru", SIZE, "quasi_newton"),
        ("tanh", SIZE, "chunked_newton"),
        ("lstm", SIZE, "damped_newton"),
        ("tanh", (2, 6, 3, 20), "newton"),  # on a CPU no Jacobians as wide as these are formed
        ("lstm", (1, 1, 1, 1), "newton"),
    ],
)
def test_its_siblings_and_other_sizes(kind, size, method):
    assert_equals_a_loop(kind, size, method, flagged=method != "sequential")


def test_derivatives_of_both_modes_and_orders():
    """Of newton, against those of the plain scan, which tests/scan/test_cells.py checks."""
    with jax.enable_x64(True):
        weights, x, state, flags = draw("lstm", (2, 4, 2, 3), padded=True)
        point = weights, x, state
        numbers = np.random.default_rng(1)
        direction = jax.tree.map(lambda leaf: numbers.standard_normal(leaf.shape), point)

        @jax.jit
        def values(s):
            def along(s, method):
                moved = jax.tree.map(lambda p, d: p + s * d, point, direction)
                h, last, found = cell_scan_with_convergence("lstm", *moved, *flags, method=method)
                return jnp.sum(jnp.sin(h)) + sum(map(jnp.sum, last)), found.converged

            def orders(method):
                def f(s):
                    return along(s, method)[0]

                def first(s):
                    return jax.jvp(f, (s,), (jnp.ones_like(s),))[1]

                return f(s), first(s), jax.grad(f)(s), jax.grad(first)(s)

            return orders("newton"), orders("scan"), along(s, "newton")[1]

        newton, scan, converged = values(jnp.zeros(()))
    assert converged.all()
    assert_alike(newton, scan, 1e-12)


def test_weights_that_are_mapped():
    """By vmap: of each problem its own; a kernel says who can."""
    weights, x, state, _ = draw("gru", SIZE)
    weights, x, state = of_dtype((weights, x, state), jnp.float32)
    pair = jax.tree.map(lambda w: jnp.stack([w, 0.5 * w]), weights)

    def gradient(method):
        def loss(weights, x):
            h, last, found = cell_scan_with_convergence("gru", weights, x, state, method=method)
            return jnp.sum(h**2) + jnp.sum(last[0]), found.converged

        return jax.vmap(jax.grad(loss, (0, 1), has_aux=True), (0, None))

    got, converged = jax.jit(gradient("newton"))(pair, x)
    assert converged.shape == (2, SIZE[0])
    assert converged.all()
    assert_alike(got, jax.jit(gradient("scan"))(pair, x)[0], 2e-6)
    with pytest.raises(ValueError, match=r"only these can do: 'scan', 'sequential', 'newton', .*"):
        gradient("native")(pair, x)


def test_jacobians_in_stretches_of_time(monkeypatch):
    """Two stretches of four steps, and a ragged rest of one: forward and backward the same."""
    with jax.enable_x64(True):
        weights, x, state, flags = draw("lstm", SIZE, padded=True)
        given = of_dtype((weights, x, state), jnp.float64)
        whole = values_and_gradients("lstm", *given, flags, True, "newton")
        bytes_a_step = SIZE[0] * (2 * SIZE[3]) ** 2 * 8
        monkeypatch.setattr(stretches, "LARGEST_ON_CPU", 4 * bytes_a_step + 1)
        assert_alike(values_and_gradients("lstm", *given, flags, True, "newton"), whole, 1e-13)


@pytest.mark.parametrize(
    ("kind", "bias"), [("tanh", 0), ("lstm", 0), ("gru", 0), ("gru", 6)], ids=str
)
def test_as_exact_as_step_by_step(kind, bias):
    """float32, a thousand steps: at most twice the error of the plain scan, and four roundings; a
    GRU that remembers for hundreds of steps, too, where residuals of one sign would add up."""
    weights, x, state, flags = draw(kind, (2, 1000, 3, 8), packed=True)
    weights.bias[8:16] += bias
    flags = flags._replace(reset=flags.reset & (bias == 0))
    true, *_ = loop(kind, weights, x, state, flags, False)
    given = of_dtype((weights, x, state), jnp.float32)

    @jax.jit
    def run(*given):
        h, _, found = cell_scan_with_convergence(kind, *given, *flags, method="newton")
        return h, cell_scan(kind, *given, *flags, method="scan")[0], found

    newton, scan, found = run(*given)
    assert found.converged.all()
    assert (found.iterations <= 8).all()
    errors = [np.abs(np.float64(h) - true).max() for h in (newton, scan)]
    assert errors[0] <= 2 * errors[1] + 4 * 2.0**-24 * np.abs(true).max()
    assert errors[0] <= found.error_bound.max()


def test_what_does_not_converge_says_so_and_auto_is_right():
    """A chaotic RNN: newton gives up by its name; what is stepped is certified as it is."""
    weights, x, state, _ = draw("tanh", (2, 300, 3, 12))
    weights = of_dtype(weights._replace(w_hh=6 * weights.w_hh), jnp.float32)
    given = weights, *of_dtype((x, state), jnp.float32)
    _, _, found = cell_scan_with_convergence("tanh", *given, method="newton")
    assert not found.converged.any()
    assert (found.residual > 8).all()
    h, _, stepped = cell_scan_with_convergence("tanh", *given, method="scan")
    assert stepped.converged.all()
    assert (stepped.iterations == 0).all()
    assert (stepped.residual < 8).all()
    assert (stepped.error_bound > 1).all()  # in chaos no rounding is forgotten
    np.testing.assert_array_equal(h, cell_scan("tanh", *given, method="scan")[0])
    auto, _, found = cell_scan_with_convergence("tanh", *given)
    assert found.converged.all()
    np.testing.assert_array_equal(auto, cell_scan("tanh", *given)[0])


def test_nan_behind_a_reset_and_in_the_padding():
    weights, x, state, _ = draw("gru", SIZE)
    weights, x, state = of_dtype((weights, x, state), jnp.float32)
    reset = np.zeros(SIZE[:2], bool)
    reset[0, 4] = True
    valid = np.ones(SIZE[:2], bool)
    valid[1, 6:] = False
    spoilt = x.at[0, 2].set(jnp.nan).at[1, 6:].set(jnp.nan)

    @jax.jit
    def gradient(x, counts):
        def loss(x):
            h, last, found = cell_scan_with_convergence(
                "gru", weights, x, state, valid, reset, method="newton"
            )
            h = jnp.where(counts[..., None] & ~jnp.isnan(h), h, 0.0)
            return jnp.sum(jnp.sin(h)) + jnp.sum(last[0][1]), (h, found.converged)

        return jax.grad(loss, has_aux=True)(x)

    onward = np.ones(SIZE[:2], bool)  # what follows the reset, and the sequence that is padded
    onward[0, :4] = False
    clean, (h, converged) = gradient(x, onward)
    assert converged.all()
    got, (h_spoilt, converged) = gradient(spoilt, onward)
    assert converged.tolist() == [False, True]
    assert_alike((h_spoilt, got[0, 4:], got[1]), (h, clean[0, 4:], clean[1]), 1e-6)
    states = cell_scan("gru", weights, spoilt, state, valid, reset, method="newton")[0]
    assert np.isnan(states[0, 2:4]).all()
    assert np.isfinite(states[0, [0, 1, 4]]).all()

    backward = onward.copy()  # and what is before it
    backward[0] = ~backward[0]
    clean, (h, _) = gradient(x, backward)
    got, (h_spoilt, _) = gradient(x.at[0, 5].set(jnp.nan), backward)
    assert_alike((h_spoilt, got[0, :4], got[1]), (h, clean[0, :4], clean[1]), 1e-6)


@pytest.mark.parametrize("method", ["newton", "scan"])
def test_nothing_to_do(method):
    weights, x, state, _ = draw("lstm", SIZE)
    weights, x, state = of_dtype((weights, x, state), jnp.float32)
    h, last, found = cell_scan_with_convergence("lstm", weights, x[:, :0], state, method=method)
    assert h.shape == (2, 0, 5)
    np.testing.assert_array_equal(last[1], state[1])
    assert found.converged.shape == (2,)
    assert found.converged.all()
    empty = of_dtype((x[:0], tuple(s[:0] for s in state)), jnp.float32)
    h, _, found = cell_scan_with_convergence("lstm", weights, *empty, method=method)
    assert (h.shape, found.iterations.shape) == ((0, 9, 5), (0,))


def test_the_batch_over_a_mesh():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    weights, x, state, flags = draw("gru", SIZE, padded=True)
    weights, x, state = of_dtype((weights, x, state), jnp.float32)

    def gradient(weights, x, state, flags):
        def loss(weights, x, state):
            h, last, _ = cell_scan_with_convergence(
                "gru", weights, x, state, *flags, method="newton"
            )
            return jnp.sum(h**2) + jnp.sum(last[0])

        return jax.grad(loss, (1, 2))(weights, x, state)

    rows = PartitionSpec("data")
    specs = (PartitionSpec(), rows, rows, rows)
    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=rows)
    assert_alike(
        jax.jit(mapped)(weights, x, state, flags),
        jax.jit(gradient)(weights, x, state, flags),
        1e-6,
    )


def test_auto_takes_none_of_them_yet():
    """On a CPU a kernel is faster, on accelerators nothing is measured."""
    weights, x, state, _ = draw("tanh", (1, 4000, 3, 4))
    given = of_dtype((weights, x, state), jnp.float32)
    for platform in ("cpu", "cuda", "tpu"):
        rows = explain_cell_scan("tanh", *given, platform=platform)
        assert {row.method for row in rows if row.chosen} <= {"scan", "native"}
        assert all(row.available for row in rows if row.method.endswith("newton"))
    assert set(cell_table.names) >= {"newton", "quasi_newton", "chunked_newton", "damped_newton"}


def test_a_symbol_for_the_batch():
    """Exported for any batch: values and gradients, those of the plain scan's maps."""
    weights, x, state, _ = draw("gru", SIZE)
    weights, x, state = of_dtype((weights, x, state), jnp.float32)

    def gradient(weights, x, state):
        def loss(x):
            return jnp.sum(cell_scan("gru", weights, x, state, method="newton")[0] ** 2)

        return jax.value_and_grad(loss)(x)

    (batch,) = export.symbolic_shape("batch")
    symbolic = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct((batch, *s.shape[1:]), s.dtype), (x, state)
    )
    exported = export.export(jax.jit(gradient))(weights, *symbolic)
    assert_alike(exported.call(weights, x, state), jax.jit(gradient)(weights, x, state), 1e-6)
