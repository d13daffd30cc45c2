"""What a curve of gradient norm against lag says: half-life, horizon, the law that it follows.

Everything here takes natural logarithms (as `log_gradient_norms` gives them) and works in float64
NumPy: it is not meant to be traced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike


def half_life(log_norms: ArrayLike) -> np.ndarray:
    """The lag at which the norm has first halved: `horizon(log_norms, 0.5)`.

    Args:
      log_norms: (..., K), natural logarithms at lags 0, 1 ... K-1.

    Returns:
      (...,) float64, in steps; see `horizon`.

    >>> import numpy as np
    >>> print(half_life(np.log(0.5) * np.arange(10) / 3))
    3.0
    """
    return horizon(log_norms, 0.5)


def horizon(log_norms: ArrayLike, eps: float) -> np.ndarray:
    """The lag at which the norm is first `eps` times what it is at lag 0.

    Between two lags the logarithm is taken as linear. A curve that comes back later still counts
    from its first crossing. No noise is assumed: average the logarithms first where there is some.

    Args:
      log_norms: (..., K), natural logarithms at lags 0, 1 ... K-1.
      eps: the fraction, above 0 and below 1.

    Returns:
      (...,) float64, in steps: inf where the curve stays above eps as far as it goes, nan where a
      nan comes first. A curve that falls to exact zero (-inf) crosses at that lag.

    Raises:
      ValueError: if eps is not between 0 and 1, or there is no lag at all.

    Cost: one pass over log_norms.

    >>> import numpy as np
    >>> curve = np.log(0.9) * np.arange(100)
    >>> print(horizon(curve, 1e-3).round(2), horizon(curve, 1e-9))
    65.56 inf
    """
    log_norms = np.asarray(log_norms, np.float64)
    if not 0 < eps < 1:
        raise ValueError(f"eps = {eps}; should lie between 0 and 1, both excluded")
    if log_norms.ndim == 0 or log_norms.shape[-1] == 0:
        raise ValueError(f"log_norms: shape {log_norms.shape}; should have lags on its last axis")
    target = log_norms[..., :1] + np.log(eps)
    stop = ~(log_norms > target)  # true at a crossing, and at nan
    stop[..., 0] = np.isnan(log_norms[..., 0])
    at = np.argmax(stop, axis=-1)
    after = np.take_along_axis(log_norms, at[..., None], axis=-1)[..., 0]
    before = np.take_along_axis(log_norms, np.maximum(at - 1, 0)[..., None], axis=-1)[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = (before - target[..., 0]) / (before - after)
    lag = np.where(np.isneginf(after), at, at - 1 + part)
    return np.where(stop.any(axis=-1), np.where(np.isnan(after), np.nan, lag), np.inf)[()]


@dataclass(frozen=True)
class Fit:
    """A law of decay, fitted to logarithms by weighted least squares.

        exponential    ln D(k) = intercept - rate * k
        power          ln D(k) = intercept - rate * ln(1 + k)

    Attributes:
      law: "exponential" or "power".
      rate: per step, or the exponent of the power law; negative where the norm grows.
      intercept: the fitted ln D(0).
      residual: root mean square distance of the points from the law, in units of ln D.
      points: how many points were used.
      aic: Akaike's criterion; of two fits to the same points the smaller is the better law.
    """

    law: Literal["exponential", "power"]
    rate: float
    intercept: float
    residual: float
    points: int
    aic: float

    @property
    def half_life(self) -> float:
        """Steps until the fitted law has halved its value at lag 0; inf where it does not fall.

        >>> print(Fit("power", 1.0, 0.0, 0.0, 9, 0.0).half_life)      # 1 / (1 + k) is 1/2 at k = 1
        1.0
        """
        if not self.rate > 0:
            return float("inf")
        if self.law == "exponential":
            return float(np.log(2) / self.rate)
        with np.errstate(over="ignore"):
            return float(np.expm1(np.log(2) / self.rate))

    def __call__(self, lags: ArrayLike) -> np.ndarray:
        """The fitted ln D at these lags."""
        return self.intercept - self.rate * _abscissa(self.law, np.asarray(lags, np.float64))


def fit_exponential(lags: ArrayLike, log_norms: ArrayLike, weights: ArrayLike | None = None) -> Fit:
    """Fits ln D(k) = c - r k: a decay by the factor e^-r each step.

    Args:
      lags: (m,), in steps, 0 or more.
      log_norms: (m,), natural logarithms of the norm. Points where it is not finite (exact zeros)
        are left out: no line in the log domain goes through them.
      weights: (m,), 0 or more; None weighs every point the same.

    Returns:
      A `Fit`. Its aic is m ln(RSS / m) + 2 * 3 (two coefficients and a variance). Neighbouring
      lags are correlated, so compare two laws by its sign and not by its size, and take intervals
      from independent runs (`bootstrap_interval`), not from the residual.

    Raises:
      ValueError: if shapes differ or fewer than three finite points at two lags remain.

    Cost: O(m).

    Source: Akaike 1974, "A new look at the statistical model identification", for the criterion.

    >>> fit = fit_exponential([0, 1, 2, 3], [0.0, -0.5, -1.0, -1.5])
    >>> print(round(fit.rate, 6), round(fit.half_life, 3))
    0.5 1.386
    """
    return _fit("exponential", lags, log_norms, weights)


def fit_power_law(lags: ArrayLike, log_norms: ArrayLike, weights: ArrayLike | None = None) -> Fit:
    """Fits ln D(k) = c - p ln(1 + k): a decay without a time scale of its own.

    The shift by one lets lag 0 take part and changes nothing at long lags; it is the law of a ring
    of decays that reaches 1 (`theory.lru_ring_log_norm`).

    Args, returns, errors, cost: as `fit_exponential`.

    >>> import numpy as np
    >>> lags = np.arange(50)
    >>> fit = fit_power_law(lags, -0.5 * np.log1p(lags))
    >>> print(round(fit.rate, 6), fit.aic < fit_exponential(lags, -0.5 * np.log1p(lags)).aic)
    0.5 True
    """
    return _fit("power", lags, log_norms, weights)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[np.ndarray], ArrayLike] = np.median,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """A percentile bootstrap interval: `statistic` of the values, drawn again with replacement.

    Args:
      values: (m,), one number per independent run (a seed). inf is allowed.
      statistic: of an (m,) array, a number.
      level: the share of resamples inside the interval.
      resamples: how many; the ends are stable to about 1 / sqrt(resamples) of the spread.
      seed: of the resampling.

    Returns:
      (low, high). With few values it is narrow by construction: it cannot leave their range.

    Raises:
      ValueError: if there are no values, or level is not between 0 and 1.

    Cost: resamples calls of `statistic`.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".

    >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> low < 3 < high
    True
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values: shape {values.shape}; should be (m,) with m > 0")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}; should lie between 0 and 1, both excluded")
    draws = np.random.default_rng(seed).integers(0, values.size, (resamples, values.size))
    found = np.asarray([statistic(values[draw]) for draw in draws], np.float64)
    # Order statistics, not interpolated: between a number and inf there is nothing to interpolate.
    low = np.quantile(found, (1 - level) / 2, method="lower")
    high = np.quantile(found, (1 + level) / 2, method="higher")
    return float(low), float(high)


def _abscissa(law: str, lags: np.ndarray) -> np.ndarray:
    return lags if law == "exponential" else np.log1p(lags)


def _fit(
    law: Literal["exponential", "power"],
    lags: ArrayLike,
    log_norms: ArrayLike,
    weights: ArrayLike | None,
) -> Fit:
    lags, y = np.asarray(lags, np.float64), np.asarray(log_norms, np.float64)
    w = np.ones_like(y) if weights is None else np.asarray(weights, np.float64)
    if y.ndim != 1 or lags.shape != y.shape or w.shape != y.shape:
        raise ValueError(
            f"lags {lags.shape}, log_norms {y.shape}, weights {w.shape}: should be 1-D and alike"
        )
    if np.any(lags < 0) or np.any(w < 0):
        raise ValueError("lags, weights: should be 0 or more everywhere")
    use = np.isfinite(y) & (w > 0)
    x, y, w = _abscissa(law, lags[use]), y[use], w[use]
    if len(y) < 3 or np.ptp(x) == 0:
        raise ValueError(
            f"log_norms: {len(y)} usable points at {len(np.unique(x))} lags; "
            "should be three at least, at two lags or more"
        )
    w = w / w.sum()
    x_mean, y_mean = w @ x, w @ y
    slope = (w @ ((x - x_mean) * (y - y_mean))) / (w @ (x - x_mean) ** 2)
    variance = w @ (y - y_mean - slope * (x - x_mean)) ** 2
    # An exact line has no variance; what rounding leaves stands in for it.
    floor = (np.finfo(np.float64).eps * max(1.0, np.abs(y).max())) ** 2
    aic = len(y) * np.log(max(variance, floor)) + 2 * 3
    return Fit(
        law,
        rate=float(-slope),
        intercept=float(y_mean - slope * x_mean),
        residual=float(np.sqrt(variance)),
        points=len(y),
        aic=float(aic),
    )
