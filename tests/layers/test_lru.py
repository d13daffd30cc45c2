"""The LRU against its definition, and the two things that its initialisation promises."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.layers import LRU
from tests.layers.cases import assert_close, draw


def by_definition(layer, x, h):
    """h_t = lambda * h_{t-1} + gamma * (B x_t), y_t = Re(C h_t) + D x_t, one step after another."""
    fields = [name for name in vars(layer) if name != "method"]
    p = {name: np.asarray(getattr(layer, name), np.float64) for name in fields}
    decay = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    b = np.exp(p["gamma_log"])[:, None] * (p["b_re"] + 1j * p["b_im"])
    c = p["c_re"] + 1j * p["c_im"]
    d = np.diag(p["d"]) if p["d"].ndim == 1 else p["d"]
    y = []
    for x_t in np.asarray(x, np.float64):
        h = decay * h + b @ x_t
        y.append((c @ h).real + d @ x_t)
    return np.array(y), h


@pytest.mark.parametrize(
    ("method", "outputs"), [("auto", None), ("sequential", 2), ("associative", 2)]
)
def test_equals_its_sequential_definition(method, outputs, x64):
    dtype = jnp.float64 if x64 else jnp.float32
    # The phase of lambda is as exact as float32 holds it: no more than 2^-24 of 2 pi, at each step.
    ring = {"r_min": 0.9, "max_phase": 2 * math.pi if x64 else 0.3}
    layer = LRU.init(jax.random.key(0), 3, 5, outputs, dtype=dtype, **ring)
    assert layer.d.shape == ((3,) if outputs is None else (2, 3))
    x = draw(33, 3, dtype=dtype)
    state = jax.lax.complex(draw(5, seed=2, dtype=dtype), draw(5, seed=3, dtype=dtype))
    y, last = by_definition(layer, x, np.asarray(state))
    expected = (y.astype(dtype), last.astype(state.dtype))
    assert_close(layer(x, state, method=method), expected, 1e-13 if x64 else 2e-6)


def distance_to_uniform(values, low, high):
    """The largest distance between their distribution function and the uniform one (Kolmogorov)."""
    values = (np.sort(np.asarray(values, np.float64)) - low) / (high - low)
    return np.abs(values - (np.arange(len(values)) + 0.5) / len(values)).max()


@pytest.mark.parametrize(("r_min", "r_max", "phase"), [(0, 1, 2 * math.pi), (0.9, 0.999, 0.314)])
def test_decays_are_uniform_on_the_ring(r_min, r_max, phase):
    n = 4096
    layer = LRU.init(jax.random.key(3), 1, n, r_min=r_min, r_max=r_max, max_phase=phase)
    radius = np.exp(-np.exp(np.asarray(layer.nu_log, np.float64)))
    angle = np.exp(np.asarray(layer.theta_log, np.float64))
    assert r_min * (1 - 1e-6) <= radius.min() < radius.max() <= r_max
    assert 0 < angle.min() < angle.max() <= phase
    limit = 1.63 / n**0.5  # exceeded by one key in a hundred
    assert distance_to_uniform(radius**2, r_min**2, r_max**2) < limit
    assert distance_to_uniform(angle, 0, phase) < limit
    assert abs(np.corrcoef(radius, angle)[0, 1]) < 4 / n**0.5
    # An exponent rounded in float32 is off by 2^-24 of itself, here up to 2 pi.
    np.testing.assert_allclose(layer.decay, radius * np.exp(1j * angle), rtol=0, atol=1e-6)


def test_a_circle_is_a_ring():
    layer = LRU.init(jax.random.key(0), 3, 5, r_min=0.99, r_max=0.99)
    np.testing.assert_allclose(np.abs(layer.decay), 0.99, rtol=1e-6)


def test_parameters_and_gradients_are_finite_at_the_edges_of_the_ring():
    gradient_of_sum = jax.jit(jax.grad(lambda layer: jnp.sum(layer(jnp.ones((3, 1)))[0])))
    for r_min, r_max in [(0.0, 1.0), (0.9999999, 1.0), (0.0, 1e-6)]:
        layer = LRU.init(jax.random.key(0), 1, 20_000, r_min=r_min, r_max=r_max)
        gradient = gradient_of_sum(layer)
        for leaf in jax.tree.leaves((layer, gradient)):
            assert np.isfinite(leaf).all()
        assert (np.exp(layer.nu_log) > 0).all()  # |lambda| < 1, before float32 rounds it


def test_normalisation_keeps_a_state_driven_by_white_noise_at_unit_variance():
    inputs, hidden, steps = 64, 256, 2000
    layer = LRU.init(jax.random.key(0), inputs, hidden, r_min=0.5, r_max=0.98)
    radius, gamma = np.exp(-np.exp(layer.nu_log)), np.exp(layer.gamma_log)
    np.testing.assert_allclose(gamma**2, 1 - radius.astype(np.float64) ** 2, rtol=1e-5)

    # gamma^2 / (1 - |lambda|^2) = 1, so the variance is what B makes of the input.
    state, squares = None, []
    step = jax.jit(lambda x, state: layer(x, state)[1])
    for i in range(steps // 20):
        state = step(draw(16, 20, inputs, seed=i), state)
        squares.append(jnp.abs(state) ** 2)
    variance = np.mean(squares[10:], axis=(0, 1))  # of each state, after 200 steps
    of_b = np.sum(np.square(layer.b_re) + np.square(layer.b_im), axis=1)
    # Each is a mean of 90 * 16 draws of an exponential variable: 2.6 % off, 5 deviations allowed.
    np.testing.assert_allclose(variance / of_b, 1, atol=0.13)
    assert abs(variance.mean() - 1) < 0.03


WRONG = {
    "inverted": ({"r_min": 0.9, "r_max": 0.5}, r"r_min, r_max: .* got r_min=0\.9, r_max=0\.5"),
    "outside": ({"r_max": 1.5}, r"r_min, r_max: .*r_max=1\.5"),
    "unit_circle": ({"r_min": 1.0}, r"r_min, r_max: .*r_min < 1"),
    "point": ({"r_max": 0.0}, r"r_min, r_max: .*r_max > 0"),
    "phase": ({"max_phase": 7.0}, r"max_phase: expected 0 < max_phase <= 2 pi, got 7\.0"),
    "half": ({"dtype": jnp.bfloat16}, r"dtype: expected float32 or float64 .* got bfloat16"),
    "outputs": ({"output_size": 0}, r"output_size: expected an integer >= 1, got 0"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_init_refuses(wrong):
    kwargs, message = WRONG[wrong]
    with pytest.raises((ValueError, TypeError), match=message):
        LRU.init(jax.random.key(0), 3, 4, **kwargs)
