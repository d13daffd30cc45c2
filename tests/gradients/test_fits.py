import numpy as np
import pytest

from rnnscan.gradients import (
    Fit,
    bootstrap_interval,
    fit_exponential,
    fit_power_law,
    half_life,
    horizon,
)


def test_half_life_and_horizon_of_known_decays():
    lags = np.arange(200)
    curves = -np.log(2) * lags / np.array([[0.25], [7.5], [60.0]]) + 3.0
    np.testing.assert_allclose(half_life(curves), [0.25, 7.5, 60.0])
    np.testing.assert_allclose(horizon(curves, 2.0**-3), [0.75, 22.5, 180.0])


def test_horizon_is_the_first_crossing_and_interpolates_the_logarithm():
    curve = np.array([0.0, -0.1, -0.3, -2.3, 5.0, -9.0])
    np.testing.assert_allclose(horizon(curve, np.exp(-1.3)), 2.5)
    assert horizon(curve[:3], 0.5) == np.inf
    assert horizon(np.array([-7.0]), 0.5) == np.inf


def test_horizon_of_exact_zeros_and_nans():
    inf, nan = np.inf, np.nan
    curves = [[0, -0.1, -inf, -inf], [0, -0.1, nan, -9], [0, -5.0, nan, nan], [nan, -5, -6, -7]]
    np.testing.assert_allclose(horizon(curves, np.exp(-2.5)), [2.0, nan, 0.5, nan])


def test_horizon_is_relative_to_lag_zero():
    curve = np.array([4.0, 3.0, 2.0])
    assert horizon(curve, np.exp(-1.5)) == 1.5


@pytest.mark.parametrize("eps", [0.0, 1.0, -1.0, np.nan])
def test_horizon_refuses_eps(eps):
    with pytest.raises(ValueError, match="eps"):
        horizon([0.0, -1.0], eps)


def test_horizon_refuses_nothing_at_all():
    with pytest.raises(ValueError, match="log_norms"):
        half_life(np.zeros((3, 0)))


def test_fits_find_the_coefficients_of_noisy_laws():
    lags, noise = np.arange(400), 0.05 * np.random.default_rng(0).standard_normal(400)
    exponential = fit_exponential(lags, 0.7 - 0.02 * lags + noise)
    power = fit_power_law(lags, 0.7 - 1.5 * np.log1p(lags) + noise)
    # The standard error of a slope is sigma / sqrt(sum (x - mean)^2); four of them.
    assert abs(exponential.rate - 0.02) < 4 * 0.05 / np.sqrt(((lags - lags.mean()) ** 2).sum())
    spread = np.log1p(lags) - np.log1p(lags).mean()
    assert abs(power.rate - 1.5) < 4 * 0.05 / np.sqrt((spread**2).sum())
    for fit in (exponential, power):
        assert fit.residual == pytest.approx(0.05, rel=0.1)
        assert fit.points == 400


def test_fits_agree_with_numpy_with_weights():
    rng = np.random.default_rng(1)
    lags, y, w = np.arange(30), rng.standard_normal(30), rng.uniform(0, 2, 30)
    slope, intercept = np.polyfit(lags, y, 1, w=np.sqrt(w))
    fit = fit_exponential(lags, y, w)
    np.testing.assert_allclose([-fit.rate, fit.intercept], [slope, intercept])
    np.testing.assert_allclose(fit(lags), intercept + slope * lags)


def test_aic_prefers_the_law_that_made_the_points():
    lags, noise = np.arange(200), 0.02 * np.random.default_rng(2).standard_normal(200)
    for law, other, y in [
        (fit_exponential, fit_power_law, -0.01 * lags),
        (fit_power_law, fit_exponential, -0.5 * np.log1p(lags)),
    ]:
        assert law(lags, y + noise).aic < other(lags, y + noise).aic
        assert law(lags, y).aic < other(lags, y).aic  # without any noise too


def test_aic_is_that_of_a_gaussian_likelihood():
    lags, y = np.arange(50), np.random.default_rng(3).standard_normal(50)
    fit = fit_exponential(lags, y)
    likelihood = -0.5 * 50 * (np.log(2 * np.pi * fit.residual**2) + 1)
    constant = 50 * (np.log(2 * np.pi) + 1)
    assert fit.aic == pytest.approx(-2 * likelihood + 6 - constant)


def test_exact_zeros_and_zero_weights_are_left_out():
    fit = fit_exponential([0, 1, 2, 3, 4], [0, -1, -2, -np.inf, 50.0], [1, 1, 1, 1, 0])
    assert fit.points == 3
    assert fit.rate == pytest.approx(1.0)


def test_half_life_of_a_fit():
    assert Fit("exponential", np.log(2) / 9, 0, 0, 3, 0).half_life == pytest.approx(9)
    assert Fit("power", 0.5, 0, 0, 3, 0).half_life == pytest.approx(3)  # 1 / sqrt(1 + 3)
    for law in ("exponential", "power"):
        assert Fit(law, 0.0, 0, 0, 3, 0).half_life == np.inf
        assert Fit(law, -0.1, 0, 0, 3, 0).half_life == np.inf
    assert Fit("power", 1e-9, 0, 0, 3, 0).half_life == np.inf


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0, 1], [0.0, 1.0]), "2 usable points"),
        (([1, 1, 1], [0.0, 1.0, 2.0]), "3 usable points at 1 lags"),
        (([0, 1, 2], [0.0, np.nan, -np.inf]), "1 usable points"),
        (([0, 1, 2], [0.0, 1.0]), r"lags \(3,\), log_norms \(2,\)"),
        (([0, 1, 2], [0.0, 1.0, 2.0], [1.0, -1.0, 1.0]), "weights"),
        (([0, -1, 2], [0.0, 1.0, 2.0]), "lags"),
    ],
)
def test_fits_refuse(arguments, words):
    with pytest.raises(ValueError, match=words):
        fit_power_law(*arguments)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(4), 0
    for trial in range(200):
        low, high = bootstrap_interval(
            rng.standard_normal(30), np.mean, level=0.9, resamples=200, seed=trial
        )
        inside += low < 0 < high
    assert 0.8 < inside / 200 < 0.97


def test_bootstrap_with_infinite_half_lives():
    assert bootstrap_interval([np.inf] * 5) == (np.inf, np.inf)
    low, high = bootstrap_interval([3.0, 4.0, np.inf, 5.0, 6.0])
    assert 3 <= low < 6
    assert not np.isnan(high)


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [([], {}, "values"), ([[1.0]], {}, "values"), ([1.0], {"level": 1.0}, "level")],
)
def test_bootstrap_refuses(values, options, words):
    with pytest.raises(ValueError, match=words):
        bootstrap_interval(values, **options)
