"""`nonlinear_scan` on random problems: what it says of itself, judged step by step in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rnnscan import nonlinear_scan

PARALLEL = ("newton", "quasi_newton", "chunked_newton", "damped_newton")


def tanh_rnn(W, h, x):
    return jnp.tanh(W @ h + x)


def gru(W, h, x):
    r, z, n = jnp.split(W @ h, 3)
    u, v, w = jnp.split(x, 3)
    r, z = jax.nn.sigmoid(r + u), jax.nn.sigmoid(z + v)
    return (1 - z) * jnp.tanh(w + r * n) + z * h


def lstm(W, state, x):
    i, f, g, o = jnp.split(W @ state["h"] + x, 4)
    c = jax.nn.sigmoid(f) * state["c"] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return {"c": c, "h": jax.nn.sigmoid(o) * jnp.tanh(c)}


def gated(w, h, x):
    z = jax.nn.sigmoid(w[0] * h + x[::-1])
    return z * h + (1 - z) * jnp.tanh(w[1] * h + x)


def affine(W, h, x):
    return W @ h + x


# Cell: f, rows of W and of x for each number of a state, and the states.
CELLS = {
    "tanh": (tanh_rnn, 1, 1, lambda d: d(5)),
    "gru": (gru, 3, 3, lambda d: d(5)),
    "lstm": (lstm, 4, 4, lambda d: {"c": d(5), "h": d(5)}),
    "gated": (gated, None, 1, lambda d: d(5)),
    "affine": (affine, 1, 1, lambda d: d(5)),
}


def problems(cell, steps, gains, dtype=np.float64, size=5, h0=1.0, seed=0):
    """f, and W, h0, xs of one problem for each gain, in numbers that `dtype` holds."""
    f, rows, inputs, states = CELLS[cell]
    rng, count = np.random.default_rng(seed), len(gains)

    def draw(*shape, std=1.0):
        return (std * rng.standard_normal((count, *shape))).astype(dtype)

    shape = (2, size) if rows is None else (rows * size, size)
    W = draw(*shape) * gains.reshape(-1, 1, 1).astype(dtype)
    W = W if rows is None else W * dtype(size**-0.5)
    start = states(lambda *shape: draw(*(size,) * len(shape), std=h0))
    return f, W, start, draw(steps, inputs * size, std=0.5)


def double(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


def flat(tree):
    """Leaves of states (B, T, ...) as (B, T, numbers), in float64."""
    return [np.float64(x).reshape((*x.shape[:2], -1)) for x in jax.tree.leaves(tree)]


def step_by_step(f, W, h0, xs, reset, reverse):
    """By `lax.scan`, in the dtype of what is given."""

    def one(W, h0, xs, reset):
        def body(h, over_time):
            x, again = over_time
            h = f(W, jax.tree.map(lambda h: jnp.where(again, jnp.zeros_like(h), h), h), x)
            return h, h

        return lax.scan(body, h0, (xs, reset), reverse=reverse)[1]

    return jax.jit(jax.vmap(one))(W, h0, xs, reset)


def residuals(f, W, h0, xs, reset, hs, reverse, unit):
    """(B,): the largest |h_t - f(h_{t-1})| in float64, over roundings of h_t and what f reads."""

    def one(W, h0, xs, reset, hs):
        def before(h0, h):
            h = jnp.concatenate([h[1:], h0[None]] if reverse else [h0[None], h[:-1]])
            return jnp.where(reset.reshape((-1, *(1,) * (h.ndim - 1))), 0.0, h)

        def noisy(x, key):
            return x * (1 + unit * jax.random.rademacher(key, x.shape, x.dtype))

        previous = jax.tree.map(before, h0, hs)
        f_all = jax.vmap(f, (None, 0, 0))
        new = f_all(W, previous, xs)

        def moved(key):
            keys = jax.random.split(key, 3)
            state = jax.tree.map(lambda h: noisy(h, keys[0]), previous)
            near = f_all(noisy(W, keys[1]), state, noisy(xs, keys[2]))
            return jax.tree.map(lambda a, b: jnp.abs(a - b), near, new)

        moves = jax.vmap(moved)(jax.random.split(jax.random.key(0), 4))

        def in_units(h, new, moves):
            most = tuple(range(1, h.ndim))
            size = unit * jnp.max(jnp.abs(h), most) + jnp.sum(jnp.max(moves, 0), most)
            gap = jnp.max(jnp.abs(h - new), most)
            return jnp.max(jnp.where(gap == 0, 0.0, gap / size))

        return jnp.max(jnp.stack(jax.tree.leaves(jax.tree.map(in_units, hs, new, moves))))

    return np.asarray(jax.jit(jax.vmap(one))(W, h0, xs, reset, hs))


@pytest.mark.parametrize(
    ("cell", "method", "reverse"),
    [
        ("tanh", "newton", False),
        ("gru", "quasi_newton", True),
        ("lstm", "chunked_newton", True),
        ("gated", "damped_newton", False),
        ("gru", "auto", False),
    ],
)
def test_random_problems(cell, method, reverse):
    """From contraction to chaos, in float32: flags true both ways, states as good as step by step,
    and the bound above the error."""
    gains, roundoff = np.linspace(0.2, 3, 16), 2.0**-24
    f, *given = problems(cell, 70, gains, np.float32)
    reset = np.random.default_rng(1).random((len(gains), 70)) < 0.02
    run = jax.vmap(
        lambda W, h0, xs, reset: nonlinear_scan(
            lambda h, x: f(W, h, x), h0, xs, reset=reset, reverse=reverse, method=method
        )
    )
    hs, found = jax.jit(run)(*given, reset)
    same = step_by_step(f, *given, reset, reverse)
    with jax.enable_x64(True):
        W, h0, xs = double(given)
        exact = step_by_step(f, W, h0, xs, reset, reverse)
        other = step_by_step(f, W, h0, xs * (1 + roundoff), reset, reverse)
        of_step = residuals(f, W, h0, xs, reset, double(hs), reverse, roundoff)

    def error(h):
        both = zip(flat(h), flat(exact), strict=True)
        return np.max([np.abs(a - b).max((1, 2)) for a, b in both], axis=0)

    converged, bound = np.asarray(found.converged), np.asarray(found.error_bound)
    scale = np.max([np.abs(h).max((1, 2)) for h in flat(exact)], axis=0)
    forgets = error(other) < 8 * roundoff * scale  # a rounding at every step hardly grows
    assert of_step[converged].max() < 8
    assert of_step[~converged].min(initial=np.inf) > 2
    assert converged.all() if method in ("auto", "chunked_newton") else converged[:4].all()
    assert (error(hs) <= bound)[converged].all()
    assert (bound < 300 * (error(hs) + roundoff * scale))[converged & forgets].all()
    sound = error(hs) <= 2 * error(same) + 4 * roundoff * scale
    assert (converged & forgets).sum() >= 5
    assert sound[converged & forgets].all()


def test_iterations_are_those_of_the_literature():
    """Newton's from f(0, x), tanh RNN, D 32, T 256, residual 1e-10: medians of ten seeds."""
    expected = {0.5: 4, 0.9: 5, 1.3: 11}  # of T 1024; no fewer steps need more
    with jax.enable_x64(True):
        _, W, _, xs = problems("tanh", 256, np.ones(10), size=32, h0=0.0)

        def count(gain, W, x):
            return nonlinear_scan(
                lambda h, x: jnp.tanh(gain * (W @ h) + x),
                jnp.zeros(32),
                x,
                method="newton",
                tol=1e-10 / 2**-53,
                max_iterations=24,
            )[1]

        counted = jax.jit(jax.vmap(count, (None, 0, 0)))
        for gain, most in expected.items():
            found = counted(jnp.float64(gain), W, xs)
            assert found.converged.all()
            assert np.median(found.iterations) <= most + 1


@pytest.mark.parametrize(("method", "size"), [("newton", 1), ("newton", 32)])
def test_an_affine_step_takes_one_iteration(method, size):
    f, W, h0, xs = problems("affine", 512, np.linspace(0.2, 0.7, 4), np.float32, size, h0=1e6)

    def run(W, h0, xs):
        return nonlinear_scan(lambda h, x: f(W, h, x), h0, xs, method=method, reverse=True)[1]

    found = jax.jit(jax.vmap(run))(W, h0, xs)
    assert found.converged.all()
    np.testing.assert_array_equal(found.iterations, 1)


def logistic_map(h, x):
    return x * h * (1 - h)


@pytest.mark.parametrize("method", ["newton", "damped_newton"])
def test_chaos_is_not_claimed_to_converge(method):
    """A Lyapunov exponent of 0.5 over 300 steps: nothing that is far from right may say it is."""
    rates = jnp.full(300, 3.9)
    _, found = jax.jit(lambda x: nonlinear_scan(logistic_map, jnp.float32(0.3), x, method=method))(
        rates
    )
    assert not found.converged
    assert not np.isfinite(found.residual) or found.residual > 100
    assert found.error_bound > 1e6


def test_auto_is_right_in_chaos_and_bounds_nothing():
    """Every step is one of f; an error bound would be of no use, and says so."""
    rates = jnp.full(300, 3.9)
    hs, found = jax.jit(lambda x: nonlinear_scan(logistic_map, jnp.float32(0.3), x))(rates)
    before = np.float64(np.concatenate([[np.float32(0.3)], hs[:-1]]))
    gap = np.abs(np.float64(hs) - np.float32(3.9) * before * (1 - before))
    assert found.converged
    assert gap.max() < 4 * 2.0**-24
    assert found.error_bound > 1e6


def lorenz(h, x):
    a, b, c = h
    return h + x * jnp.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c])


def test_a_trajectory_that_is_not_finite_has_no_bound():
    """XLA's maximum passes over nan on CPUs."""
    steps = jnp.full(1000, 0.02)
    hs, found = jax.jit(lambda x: nonlinear_scan(lorenz, jnp.ones(3), x, method="newton"))(steps)
    assert not found.converged
    assert np.isfinite(hs).all() or np.isposinf(found.error_bound)


@pytest.mark.parametrize("method", ["auto", "chunked_newton"])
def test_hard_gru(method):
    """Weights and inputs a hundred times as large, in float32, as peers test theirs."""
    f, W, h0, xs = problems("gru", 200, np.full(12, 100.0), np.float32, h0=0.0)
    xs = 100 * xs
    none = np.zeros(xs.shape[:2], bool)

    def run(W, h0, xs):
        return nonlinear_scan(lambda h, x: f(W, h, x), h0, xs, method=method)

    hs, found = jax.jit(jax.vmap(run))(W, h0, xs)
    assert found.converged.all()
    with jax.enable_x64(True):
        of_step = residuals(f, *double((W, h0, xs)), none, double(hs), False, 2.0**-24)
    assert of_step.max() < 8


@pytest.mark.parametrize("method", ["sequential", *PARALLEL])
def test_gradients_are_those_of_a_scan(method):
    """Of weights, h0 and inputs, with resets, backwards in time, a state of two arrays."""
    with jax.enable_x64(True):
        f, *given = problems("lstm", 40, np.array([0.7]))
        W, h0, xs = jax.tree.map(lambda x: jnp.asarray(x[0]), given)
        reset = np.arange(40) == 17

        def value(solve):
            def total(W, h0, xs):
                hs = solve(W, h0, xs)
                return sum(jnp.sum(jnp.sin(h)) for h in jax.tree.leaves(hs)) + hs["h"][0, 0] ** 2

            return jax.jit(jax.grad(total, (0, 1, 2)))(W, h0, xs)

        def ours(W, h0, xs):
            return nonlinear_scan(
                lambda h, x: f(W, h, x), h0, xs, reset=reset, reverse=True, method=method
            )[0]

        def plain(W, h0, xs):
            def body(h, over_time):
                x, again = over_time
                h = f(W, jax.tree.map(lambda h: jnp.where(again, 0.0, h), h), x)
                return h, h

            return lax.scan(body, h0, (xs, reset), reverse=True)[1]

        for got, want in zip(*map(jax.tree.leaves, (value(ours), value(plain))), strict=True):
            assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
