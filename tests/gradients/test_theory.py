"""Closed forms against draws and against measured gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.gradients import fit_exponential, log_gradient_norms, theory


def norms(step, h0, xs, cotangents=None):
    call = jax.jit(lambda h0, xs, rows: log_gradient_norms(step, h0, xs, cotangents=rows))
    return call(h0, xs, cotangents)


def ring(seed, count, r_min, r_max):
    """Decays of the LRU at initialisation, uniform in area."""
    u = np.random.default_rng(seed).uniform(size=count)
    return np.sqrt(r_min**2 + u * (r_max**2 - r_min**2))


def test_diagonal_is_the_mean_square_of_the_powers():
    decay, lags = np.array([0.5, 0.9j, -0.99]), np.array([0, 1, 7, 40])
    expected = 0.5 * np.log(np.mean(np.abs(decay) ** (2 * lags[:, None]), axis=1))
    np.testing.assert_allclose(theory.diagonal_log_norm(decay, lags), expected, atol=1e-15)
    assert theory.diagonal_log_norm(0.5, 5000) == pytest.approx(-5000 * np.log(2))  # no underflow


def test_diagonal_with_a_decay_of_zero():
    expected = [0, 0.5 * np.log(0.5)]
    np.testing.assert_allclose(theory.diagonal_log_norm([0.0, 1.0], [0, 9]), expected)
    np.testing.assert_array_equal(theory.diagonal_log_norm(0.0, [0, 1]), [0, -np.inf])


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.5, 0.9), (0.9, 0.999), (0.0, 0.7)])
def test_ring_is_the_mean_over_draws(bounds):
    decays, lags = ring(0, 1_000_000, *bounds), np.array([0, 1, 2, 5, 20, 60])
    powers = decays ** (2 * lags[:, None])
    gamma = 1 - decays**2
    error = powers.std(axis=1) / powers.mean(axis=1) / 1000  # of the mean, relative
    got = theory.lru_ring_log_norm(lags, *bounds)
    assert np.all(np.abs(got - 0.5 * np.log(powers.mean(axis=1))) <= 3 * error + 1e-12)
    driven = powers * gamma
    expected = 0.5 * np.log(driven.mean(axis=1) / driven[0].mean())
    got = theory.lru_ring_input_log_norm(lags, *bounds)
    error = driven.std(axis=1) / driven.mean(axis=1) / 1000
    assert np.all(np.abs(got - expected) <= 3 * (error + error[0]))


def test_ring_limits():
    lags = np.array([0, 1, 10, 1000])
    np.testing.assert_allclose(theory.lru_ring_log_norm(lags), -0.5 * np.log1p(lags))
    expected = -0.5 * np.log((lags + 1) * (lags + 2) / 2)
    np.testing.assert_allclose(theory.lru_ring_input_log_norm(lags), expected, rtol=1e-9)
    circle = lags * np.log(0.8)
    np.testing.assert_allclose(theory.lru_ring_log_norm(lags, 0.8, 0.8), circle)
    np.testing.assert_allclose(theory.lru_ring_input_log_norm(lags, 0.8, 0.8), circle, atol=1e-12)
    thin = theory.lru_ring_log_norm(lags, 0.8, 0.8 + 1e-12)
    np.testing.assert_allclose(thin, circle, atol=1e-8)


def test_measured_gradient_of_a_ring_of_decays():
    """2000 steps in float32: the measurement equals the closed form for its own decays."""
    decays = ring(1, 256, 0.0, 0.99)
    step = lambda h, x: jnp.asarray(decays, jnp.float32) * h  # noqa: E731
    got = norms(step, jnp.zeros(256), jnp.zeros((2000, 0)), jnp.ones((1, 256)))
    lags = np.arange(2001)
    of_these = theory.diagonal_log_norm(np.float32(decays), lags)
    np.testing.assert_allclose(got.state, of_these, rtol=1e-5, atol=1e-5)
    # and, as long as many decays are left, the one for the ring
    early = lags < 20
    ring_law = theory.lru_ring_log_norm(lags, 0.0, 0.99)
    np.testing.assert_allclose(got.state[early], ring_law[early], atol=0.1)


@pytest.mark.parametrize("gain", [0.6, 1.2])
def test_gaussian_matrix_at_short_lags(gain):
    n = 300
    W = jnp.asarray(gain * np.random.default_rng(5).standard_normal((n, n)) / n**0.5, jnp.float32)
    got = norms(lambda h, x: W @ h, jnp.zeros(n), jnp.zeros((6, 0)))
    np.testing.assert_allclose(got.state, theory.gaussian_log_norm(range(7), gain), atol=0.03)


@pytest.mark.parametrize(("gain", "drive"), [(0.9, 0.5), (1.5, 0.3)])
def test_driven_tanh_against_a_measured_network(gain, drive):
    n, length, rng = 400, 300, np.random.default_rng(6)
    W = jnp.asarray(gain * rng.standard_normal((n, n)) / n**0.5, jnp.float32)
    xs = jnp.asarray(drive * rng.standard_normal((length, n)), jnp.float32)
    step = lambda h, x: jnp.tanh(W @ h + x)  # noqa: E731
    rows = jnp.asarray(rng.standard_normal((8, n)), jnp.float32)
    got = norms(step, jnp.zeros(n), xs, rows)
    lags = np.arange(20, 200)
    measured = -fit_exponential(lags, got.state[20:200]).rate
    assert measured == pytest.approx(theory.driven_tanh(gain, drive).exponent, abs=0.012)


def test_driven_tanh_equals_the_reference_value_and_its_limits():
    assert theory.driven_tanh(0.9, 0.5).exponent == pytest.approx(-0.3545, abs=5e-5)
    assert theory.driven_tanh(0.5, 0.0) == pytest.approx((0, 0.25, np.log(0.5)))
    assert theory.driven_tanh(2.0, 0.0).exponent > 0  # chaos without drive
    assert theory.driven_tanh(2.0, 3.0).exponent < 0  # that drive suppresses
    assert theory.driven_tanh(0.0, 1.0) == (1.0, 0.0, -np.inf)
    tiny = theory.driven_tanh(0.7, 1e-4)
    assert tiny.exponent == pytest.approx(np.log(0.7), abs=1e-7)


@pytest.mark.parametrize("variance", [3.0, 20.0, 300.0])
def test_driven_tanh_solves_its_equations(variance):
    """By Monte Carlo: with a gain of 2 and the drive that makes q what is asked for."""
    a = np.sqrt(variance) * np.random.default_rng(7).standard_normal(1_000_000)
    drive = np.sqrt(variance - 4 * np.mean(np.tanh(a) ** 2))
    got = theory.driven_tanh(2.0, drive)
    assert got.variance == pytest.approx(variance, rel=0.01)
    assert got.susceptibility == pytest.approx(4 * np.mean(np.cosh(a) ** -4.0), rel=0.02)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.lru_ring_log_norm(1, 0.9, 0.5), "r_min = 0.9"),
        (lambda: theory.lru_ring_log_norm(-1), "lags"),
        (lambda: theory.lru_ring_input_log_norm(1, 0.5, 1.1), "r_max = 1.1"),
        (lambda: theory.lru_ring_input_log_norm(1, 1.0, 1.0), "r_min = 1.0"),
        (lambda: theory.gaussian_log_norm(1, 0.0), "gain = 0.0"),
        (lambda: theory.driven_tanh(-1.0, 0.0), "gain = -1.0"),
        (lambda: theory.driven_tanh(1.0, np.inf), "drive_std = inf"),
    ],
)
def test_theory_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()
