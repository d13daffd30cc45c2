"""A map over none, no sequences, no steps, no numbers: the result has the shape that a loop over
none would give, and gradients are zeros, by every function and method and on every platform.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import (
    cell_scan,
    explain_cell_scan,
    explain_linear_scan,
    explain_matrix_scan,
    explain_nonlinear_scan,
    explain_selective_scan,
    linear_scan,
    matrix_scan,
    nonlinear_scan,
    selective_scan,
)
from rnnscan.gradients import log_gradient_norms
from rnnscan.scan import cell_table, devices, linear_table, matrix_table, selective_table
from rnnscan.scan.cells import cell_scan_with_convergence
from rnnscan.scan.nonlinear_methods import nonlinear_table

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
NONE, STEPS, NO_STEPS, NO_FEATURES = (0, 9, 2), (3, 9, 2), (3, 0, 2), (3, 9, 0)


def linear(method, b, T, n):
    def f(a, b, h0):
        return linear_scan(a, b, h0, reset=b[:, 0, 0] > 1 if b.size else None, method=method)

    return f, [(T, b, n), (T, b, n), (n,)]


def matrix(method, b, T, n):
    def f(A, b, h0):
        return matrix_scan(A, b, h0, method=method)

    varying = method not in ("diagonal", "blocked")
    return f, [(T, 1, n, n) if varying else (n, n), (T, b, n), (n,)]


def selective(method, b, T, n):
    def f(x, A, B, h0):
        return selective_scan(x, jnp.abs(x), -jnp.abs(A), B, B, h0=h0, method=method)

    return f, [(b, T, n), (n, 2), (b, T, 2), (b, n, 2)]


def cell(kind, method, b, T, n):
    gates, states = {"tanh": (1, 1), "lstm": (4, 2), "gru": (3, 1)}[kind]

    def f(w_ih, bias, w_hh, x, h):
        weights = w_ih, bias, w_hh, *([bias[:n]] if kind == "gru" else [])
        valid = jnp.ones(x.shape[:2], bool)
        return cell_scan(kind, weights, x, (h,) * states, valid, valid, method=method)

    return f, [(gates * n, 3), (gates * n,), (gates * n, n), (b, T, 3), (b, n)]


def nonlinear(method, b, T, n):
    del b

    def f(W, h0, xs):
        return nonlinear_scan(lambda h, x: jnp.tanh(W @ h + x), h0, xs, method=method)[0]

    return f, [(n, n), (n,), (T, n)]


def of(table, *others):
    """The methods that serve on this machine for any operands, `auto` among them."""
    return [m for m in ("auto", *table.names) if m not in ("cuda", *others)]


CALLS = {
    f"{name}-{method}": (make, (*more, method))
    for name, make, more, methods in [
        ("linear", linear, (), of(linear_table)),
        ("matrix", matrix, (), of(matrix_table)),
        ("selective", selective, (), of(selective_table)),
        ("tanh", cell, ("tanh",), of(cell_table)),
        ("lstm", cell, ("lstm",), ["auto", "native", "chunked_newton"]),
        ("gru", cell, ("gru",), ["auto", "newton"]),
        ("nonlinear", nonlinear, (), of(nonlinear_table)),
    ]
    for method in methods
}


def everything(f):
    """What f is, what flows back, and both of its tangents."""

    def of(*args):
        values, pull = jax.vjp(f, *args)
        linear = jax.linearize(f, *args)[1](*args)
        return values, pull(values), jax.jvp(f, args, args), linear

    return of


def shapes(tree):
    return [leaf.shape for leaf in jax.tree.leaves(tree)]


def zeros(*given):
    return [jnp.zeros(shape) for shape in given]


@pytest.mark.parametrize("name", CALLS)
def test_a_map_over_none(name):
    """Over all operands, over each alone, and over each within and around another map."""
    make, options = CALLS[name]
    f, given = make(*options, *STEPS)
    one = shapes(jax.eval_shape(everything(f), *zeros(*given)))
    mapped = [tuple(range(len(given))), *((i,) for i in range(len(given)))]
    ways, operands = [], []
    for own in mapped:
        axes = [0 if i in own else None for i in range(len(given))]
        ways.append(jax.vmap(everything(f), axes))
        operands.append(zeros(*((0, *s) if i in own else s for i, s in enumerate(given))))
    axes, other = [0, *[None] * (len(given) - 1)], [*[None] * (len(given) - 1), 0]
    around, within = (0, *given[0]), (2, *given[-1])
    ways += [jax.vmap(jax.vmap(f, axes), other), jax.vmap(jax.vmap(f, other), axes)]
    operands += [zeros(around, *given[1:-1], within)] * 2

    found = jax.jit(lambda given: [f(*x) for f, x in zip(ways, given, strict=True)]).lower(operands)
    *maps, inner, outer = found.out_info
    assert all(shapes(results) == [(0, *s) for s in one] for results in maps)
    values = shapes(jax.eval_shape(f, *zeros(*given)))
    assert shapes(inner) == [(2, 0, *s) for s in values]
    assert shapes(outer) == [(0, 2, *s) for s in values]


@pytest.mark.parametrize("name", CALLS)
def test_no_sequences_steps_or_features(name):
    make, options = CALLS[name]
    pairs = [make(*options, *sizes) for sizes in (NONE, NO_STEPS, NO_FEATURES)]
    calls = [everything(f) for f, _ in pairs]
    operands = [zeros(*given) for _, given in pairs]

    def run(operands):
        return [f(*x) for f, x in zip(calls, operands, strict=True)]

    found = jax.jit(run).lower(operands).out_info
    for (_, gradients, *_), given in zip(found, operands, strict=True):
        assert shapes(gradients) == shapes(given)


@pytest.mark.parametrize("platform", PLATFORMS[1:])
@pytest.mark.parametrize("name", [name for name in CALLS if name.endswith("auto")])
def test_what_auto_takes_elsewhere(name, platform):
    """Methods that are for many steps, of none: nothing is lowered that has no meaning there."""
    make, options = CALLS[name]
    f, given = make(*options, 3, 100, 2)
    loss = jax.vmap(jax.value_and_grad(lambda *args: jnp.sum(jax.tree.leaves(f(*args))[0])))
    traced = jax.jit(loss).trace(*zeros(*((0, *s) for s in given)))
    assert traced.lower(lowering_platforms=(platform,)).out_info[0].shape == (0,)


@pytest.mark.parametrize("kind", ["", *devices.DEVICES])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_explanations_of_nothing(platform, kind, monkeypatch):
    monkeypatch.setattr(devices, "kind_on", lambda platform: kind)

    def spec(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    for b, T, n in itertools.product((0, 2), (0, 9, 5000), (0, 3)):
        x, batch = spec(T, b, n), spec(b, T, n)
        weights, state = (spec(n, 2), spec(n), spec(n, n)), (spec(b, n),)
        of_steps = spec(b, T, 2)
        for rows in [
            explain_linear_scan(x, x, platform=platform),
            explain_linear_scan(0.5, x, platform=platform),
            explain_matrix_scan(spec(T, b, n, n), x, platform=platform),
            explain_matrix_scan(np.zeros((n, n), "f4"), x, platform=platform),
            explain_selective_scan(batch, batch, spec(n, 2), of_steps, of_steps, platform=platform),
            explain_cell_scan("tanh", weights, of_steps, state, platform=platform),
        ]:
            assert sum(row.chosen for row in rows) == 1

    def f(h, x):
        return jnp.tanh(h[::-1] + x)

    for T, n in itertools.product((0, 9, 5000), (0, 3)):
        assert any(row.chosen for row in explain_nonlinear_scan(f, spec(n), spec(T, n)))


def test_gradients_of_what_is_mapped_over_none_are_zeros():
    """Of operands that the map shares, and they run, too."""
    calls = [
        (f, zeros(*given[:-1], (0, *given[-1])))
        for f, given in (
            linear("auto", *STEPS),
            selective("auto", *STEPS),
            cell("lstm", "auto", *STEPS),
            nonlinear("chunked_newton", *STEPS),
        )
    ]

    @jax.jit
    def gradients(operands):
        def loss(f, args):
            mapped = jax.vmap(f, [*[None] * (len(args) - 1), 0])(*args)
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(mapped))

        return [jax.grad(loss, 1)(f, x) for (f, _), x in zip(calls, operands, strict=True)]

    operands = [jax.tree.map(jnp.ones_like, x) for _, x in calls]
    found = gradients(operands)
    assert shapes(found) == shapes(operands)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("method", ["scan", "chunked_newton"])
def test_a_certificate_of_none(method):
    *weights, x, h = zeros(*cell("tanh", method, *NONE)[1])
    run = jax.jit(lambda: cell_scan_with_convergence("tanh", weights, x, (h,), method=method))
    found = run()[2]
    assert shapes(found) == [(0,)] * 4


def test_log_norms_of_states_without_numbers():
    """Beside others they change nothing; alone, no gradient is left."""

    def step(h, x):
        return h[0], 0.5 * h[1] + jnp.sum(x)

    norms = log_gradient_norms(step, (jnp.zeros((2, 0)), jnp.ones(1)), jnp.ones((3, 1)))
    np.testing.assert_allclose(norms.state, -np.log(2) * np.arange(4), rtol=1e-6)
    norms = log_gradient_norms(lambda h, x: h, jnp.zeros(0), jnp.ones(3))
    np.testing.assert_array_equal(norms.state, [0, *[-np.inf] * 3])
