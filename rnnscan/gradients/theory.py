"""Closed forms for the norm of dh_T/dh_{T-k}: what a measurement should show, and where it may not.

All are natural logarithms of root mean square norms, ½ ln E(‖V^T dh_T/dh_{T-k}‖² / ‖V‖²), the scale
of `log_gradient_norms` with its default V. An average of measured logarithms lies slightly lower
(Jensen), by half the variance of the logarithm where that is Gaussian.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


def diagonal_log_norm(decay: ArrayLike, lags: ArrayLike) -> np.ndarray:
    """An elementwise linear recurrence h_t = decay * h_{t-1} + b_t: ½ ln mean_i |decay_i|^2k.

    Args:
      decay: (n,) real or complex; a scalar gives k ln|decay|.
      lags: any shape, k in steps, 0 or more.

    Returns:
      float64 of the shape of lags. Exact, at every k; -inf where every decay is 0 and k > 0.

    Cost: n times the number of lags.

    >>> print(diagonal_log_norm(0.5, [0, 10]).round(3))
    [ 0.    -6.931]
    """
    decay, lags = np.atleast_1d(np.abs(np.asarray(decay))).astype(np.float64), _checked(lags)
    with np.errstate(divide="ignore", invalid="ignore"):
        powers = np.where(lags[..., None] == 0, 0.0, 2 * lags[..., None] * np.log(decay))
    return 0.5 * (np.logaddexp.reduce(powers, axis=-1) - np.log(decay.size))


def lru_ring_log_norm(lags: ArrayLike, r_min: float = 0.0, r_max: float = 1.0) -> np.ndarray:
    """The LRU at initialisation: decays uniform in area on the ring r_min <= |lambda| <= r_max.

        E|lambda|^2k = (r_max^(2k+2) - r_min^(2k+2)) / ((k + 1) (r_max² - r_min²))

    On [0, 1] this is 1 / (k + 1): a power law, no half-life of its own. A ring that ends below 1
    falls exponentially in the end, as r_max^k.

    Args:
      lags: any shape, k in steps, 0 or more.
      r_min, r_max: 0 <= r_min <= r_max, r_max > 0.

    Returns:
      ½ ln E|lambda|^2k, float64 of the shape of lags. The mean over draws of lambda: a layer of n
      states fluctuates around it, more so at lags where few of its decays are left.

    Source: Orvieto et al. 2023 (arXiv:2303.06349), Lemma 3.2, for the ring; the moment is its
    integral.

    >>> print(lru_ring_log_norm([0, 1, 3]).round(4))      # -½ ln(k + 1)
    [ 0.     -0.3466 -0.6931]
    """
    lags = _checked(lags)
    if not 0 <= r_min <= r_max or r_max <= 0:
        raise ValueError(f"r_min = {r_min}, r_max = {r_max}; should be 0 <= r_min <= r_max > 0")
    if r_min == r_max:
        return lags * np.log(r_max)
    ratio = (r_min / r_max) ** 2
    with np.errstate(divide="ignore"):
        log_ratio = np.log(ratio)
    # (1 - ratio^(k+1)) / ((k + 1) (1 - ratio)), without cancellation for a thin ring
    moment = -np.expm1((lags + 1) * log_ratio) / ((lags + 1) * -np.expm1(log_ratio))
    return lags * np.log(r_max) + 0.5 * np.log(moment)


def lru_ring_input_log_norm(lags: ArrayLike, r_min: float = 0.0, r_max: float = 1.0) -> np.ndarray:
    """The LRU's gradient with respect to its input, relative to lag 0, on a ring with r_max <= 1.

    The input enters through gamma = sqrt(1 - |lambda|²), which weighs the long memories down:
    E|lambda|^2k gamma² = m_k - m_{k+1} with m_k = E|lambda|^2k. On [0, 1] this is
    1 / ((k + 1)(k + 2)), so dL/dx falls as 1/k where dL/dh falls as 1/sqrt(k).

    Args:
      lags: any shape, k in steps, 0 or more.
      r_min, r_max: 0 <= r_min < r_max <= 1, or r_min = r_max < 1.

    Returns:
      ½ ln((m_k - m_{k+1}) / (m_0 - m_1)), float64 of the shape of lags.

    Source: Orvieto et al. 2023 (arXiv:2303.06349), §3.4, for gamma.

    >>> print(np.exp(2 * lru_ring_input_log_norm([0, 1, 2])).round(4))
    [1.     0.3333 0.1667]
    """
    lags = _checked(lags)
    if not 0 <= r_min <= r_max <= 1 or r_max <= 0 or r_min == r_max == 1:
        raise ValueError(
            f"r_min = {r_min}, r_max = {r_max}; should be 0 <= r_min < r_max <= 1, "
            "or the same number below 1"
        )
    now, later = lru_ring_log_norm(lags, r_min, r_max), lru_ring_log_norm(lags + 1, r_min, r_max)
    first = lru_ring_log_norm(1.0, r_min, r_max)
    with np.errstate(divide="ignore"):
        return now + 0.5 * (np.log(-np.expm1(2 * (later - now))) - np.log(-np.expm1(2 * first)))


def gaussian_log_norm(lags: ArrayLike, gain: float) -> np.ndarray:
    """A dense linear recurrence h_t = W h_{t-1} + b_t with W_ij ~ N(0, gain² / n): k ln gain.

    E‖W^k v‖² = gain^2k ‖v‖² to leading order, for k² well below n. At longer lags one fixed W
    departs from it: its own spectral radius takes over, and ln‖W^k‖ / k -> ln rho(W). For an
    orthogonal W times gain the same expression holds exactly, at every lag.

    Args:
      lags: any shape, k in steps, 0 or more.
      gain: above 0.

    Returns:
      float64 of the shape of lags.

    >>> print(gaussian_log_norm([0, 10], 0.9).round(4))
    [ 0.     -1.0536]
    """
    if not gain > 0:
        raise ValueError(f"gain = {gain}; should be above 0")
    return _checked(lags) * np.log(gain) + 0.0  # no negative zero


class DrivenTanh(NamedTuple):
    """The mean field of a driven tanh network.

    Attributes:
      variance: q, of a preactivation.
      susceptibility: chi, the factor by which a squared gradient norm changes in one step.
      exponent: ½ ln chi, per step; below 0 gradients vanish, above 0 they explode.
    """

    variance: float
    susceptibility: float
    exponent: float


def driven_tanh(gain: float, drive_std: float) -> DrivenTanh:
    """A wide tanh RNN driven by noise: how fast its gradients decay.

        a_t = W tanh(a_{t-1}) + drive_std * xi_t,    W_ij ~ N(0, gain² / n)
        q = gain² E tanh²(sqrt(q) z) + drive_std²          (self-consistent)
        chi = gain² E sech⁴(sqrt(q) z),    z ~ N(0, 1)

    and ‖dh_T/dh_{T-k}‖ follows exp(k * ½ ln chi). Input drives units toward saturation, where
    tanh' is small: more drive means a shorter memory.

    For an RNN layer drive_std² is the variance of W_ih x_t + b_ih + b_hh over units and steps; only
    the part that changes from step to step is noise as the derivation wants it. Weights need not be
    Gaussian: a uniform W on ±1/sqrt(n) (torch's default) has gain 1/sqrt(3).

    Args:
      gain: g, 0 or more.
      drive_std: s, 0 or more, per unit and step.

    Returns:
      DrivenTanh. Exact as n grows; the integrals are right to about 1e-12.

    Raises:
      ValueError: for a negative or non-finite argument.

    Cost: about fifty evaluations of tanh on a few thousand points (more for q above 100).

    Source: Sompolinsky, Crisanti & Sommers 1988 for the mean field; Molgedey, Schuchhardt &
    Schuster 1992 for the driven network in discrete time.

    >>> print(round(driven_tanh(0.9, 0.5).exponent, 4))
    -0.3545
    """
    if not (np.isfinite(gain) and gain >= 0 and np.isfinite(drive_std) and drive_std >= 0):
        raise ValueError(f"gain = {gain}, drive_std = {drive_std}; should be 0 or more and finite")

    def excess(q):
        return gain**2 * _gaussian_mean(lambda a: np.tanh(a) ** 2, q) + drive_std**2 - q

    # excess is concave and not negative at 0, so there is one root above 0: the stable solution.
    low, high = drive_std**2, gain**2 + drive_std**2
    if drive_std == 0:
        low, high = (1e-12, high) if gain > 1 else (0.0, 0.0)  # no drive: active only above gain 1
    while high - low > 1e-15 * high:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    q = 0.5 * (low + high)
    # sech² as 1 - tanh², which does not overflow
    chi = gain**2 * _gaussian_mean(lambda a: (1 - np.tanh(a) ** 2) ** 2, q)
    with np.errstate(divide="ignore"):
        return DrivenTanh(float(q), float(chi), float(0.5 * np.log(chi)))


def _gaussian_mean(f: Callable[[np.ndarray], np.ndarray], variance: float) -> float:
    """E f(a) for a ~ N(0, variance) and f a function of tanh(a).

    The trapezoidal rule on the whole line converges as exp(-2 pi d / h), d being the distance of
    the nearest pole of tanh(sqrt(variance) z) from the real axis. Gauss-Hermite nodes converge so
    slowly for wide a that 200 of them are off by 2% at variance 25.
    """
    deviation = np.sqrt(variance)
    step = min(0.01, 0.25 / max(deviation, 1e-3))
    z = np.arange(-10.0, 10.0 + step, step)
    density = np.exp(-0.5 * z**2)
    return float(density @ f(deviation * z) / density.sum())


def _checked(lags: ArrayLike) -> np.ndarray:
    lags = np.asarray(lags, np.float64)
    if np.any(lags < 0):
        raise ValueError(f"lags: smallest is {lags.min()}; should be 0 or more")
    return lags
