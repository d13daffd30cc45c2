"""How many Newton iterations a random tanh RNN should take: a mean field of the iteration."""

import numpy as np
from numpy.polynomial.hermite_e import hermevander

from rnnscan.gradients.theory import driven_tanh

_MOST, _UNITS = 128, 4.0  # iterations of `nonlinear_scan`; units of rounding where one rests
_FLAT, _STILL = 100.0, 3e-3  # mean square error that saturates every unit; a change that is none
_STRETCHES = 1, 4, 16, 64, 256, 1024
_Z = np.linspace(-4.0, 4.0, 16)  # a standard normal; no node at 0, so wide ones are flat
_WEIGHT = np.exp(-0.5 * _Z**2) / np.exp(-0.5 * _Z**2).sum()
_A, _PAIRS = _Z[8:, None], np.outer(2 * _WEIGHT[8:], _WEIGHT).ravel()  # half of a: all is even
_HERMITE = hermevander(_Z, 5) * _WEIGHT[:, None] / np.sqrt([1, 1, 2, 6, 24, 120])


def predicted_iterations(
    gain: float, input_scale: float, width: int, length: int, roundoff: float = 2.0**-24
) -> float:
    """Iterations of `nonlinear_scan(f, 0, xs, method="newton")` on h_t = tanh(a_t), a_t = W h_{t-1}
    + x_t, W_ij ~ N(0, gain² / D), x ~ N(0, input_scale²), from f(f(0, x_{t-1}), x_t). No fit.

    Iterate k has the error e_k = h_k - h, and in a that of the step before, n_k = W e_k:

        e_{k+1} = tanh'(a + n_k) n_{k+1} + R,  R = tanh(a + n_k) - tanh'(a + n_k) n_k - tanh(a)

    For wide W (a, n_k, n_{k+1}) is Gaussian, E n_j n_k = gain² E e_j e_k, E a n_k = gain² E h e_k:
    a recurrence in t and k of E h e_k, E e_k², E e_k e_{k+1}, by quadrature, so right for large
    errors. Assumed: n_{k+1} given a and n_k knows nothing of n_{k-1} (Mehler's formula then gives
    E e_k e_{k+1}), and e_0 is uncorrelated with e_1.
    Finite D: ln of a mean of D squares has the variance S = ln(1 + c / D), c = E e⁴ / (E e²)² - 1.
    It is S / 2 lower in a typical step (lambda, the exponent, by S / 4), and sqrt(2 S ln(T / w) /
    w) higher in the worst of T / w stretches of w steps. The last w = 1, 4, ..., 1024 steps are
    taken so; the most iterations count. One rests where rms R 2 ln N / sqrt(3), the largest of N
    Gaussians squared, is 4 units.

    Left out: that W is one, so that fewer than D units are free and draws differ; heavier tails;
    that the front meets good stretches too. Measured, D 8 to 128, T 64 to 16,384: within a factor
    of 1.5 for lambda < -0.1 (295 of 295), less often up to 0 (40 of 47) and above (52 of 58).

    Returns a whole number, inf above 128; ValueError for what is not above 0. Cost: at any T about
    30 ms for lambda < -0.1, some 0.3 s near 0 and above, at worst (gain 1, little input) seconds.

    Source: worked out here, on the mean field of Molgedey, Schuchhardt & Schuster 1992. That lambda
    decides how many are needed: Gonzalez et al. 2025 (arXiv 2508.16817).

    >>> [predicted_iterations(gain, 0.5, 32, 1024) for gain in (0.5, 0.9, 1.3)]
    [3.0, 4.0, 8.0]
    """
    given = gain, input_scale, width, length, roundoff
    if not (np.all(np.isfinite(given)) and min(given) > 0):
        raise ValueError(f"{given}: all should be finite and above 0")
    q, chi, _ = driven_tanh(gain, input_scale)
    noise, squares = input_scale**2, (q - input_scale**2) / gain**2
    swept = gain**2 * _pair(noise, noise, noise)[0] + noise  # x, then W tanh(x) + x
    product, error = _pair(q, swept, gain**2 * _pair(q, noise, noise)[0] + noise)
    largest = np.tanh(np.sqrt(2 * q * np.log(4 * width)))  # of h, of 4 steps
    unit = roundoff * (largest + np.sqrt(2 * chi * squares * np.log(2 * width)))

    def march(state, steps, tilt, count):
        """The states of these steps, and how many iterations the worst of them takes."""
        states, most, low = [state], 0, 0
        for _ in range(steps):
            old = np.hstack([states[-1], np.zeros((3, 1))])
            new, rms = _step(old[:, low:], gain, q, width, tilt)
            rough = np.flatnonzero(rms * 2 * np.log(count) / np.sqrt(3) > _UNITS * unit)
            rests = low + (rough[-1] + 2 if rough.size else 1)
            most = max(most, rests)
            moving = np.flatnonzero(np.abs(new[1] - old[1, low:]) > _STILL * new[1] + unit**2)
            if most > _MOST or not moving.size:
                break
            states.append(np.hstack([old[:, :low], new])[:, : max(rests, low + 2) + 1])
            low += max(moving[0] - 2, 0)  # iterates below have their last size
        return states, most

    steps = max(length - 2, 0)  # the guess has two states right
    start = np.array([[product - squares, 0], [error, 0], [0, 0]])
    states, most = march(start, steps, 0.0, length * width)
    for w in _STRETCHES:
        if w < steps and most <= _MOST:
            begin = states[min(steps - w, len(states) - 1)]
            most = max(most, march(begin, w, np.log(length / w) / w, w * width)[1])
    return float(min(most, length)) if most <= _MOST else np.inf


def _step(state, gain, q, width, tilt):
    """(E h e_k, E e_k², E e_{k-1} e_k) a step later, the first as given; rms R but of the last."""
    p, v, c = gain**2 * state
    slope, spread = p / q, np.sqrt(np.maximum(v - p**2 / q, 1e-300))
    rho = np.clip((c[1:] - p[1:] * slope[:-1]) / (spread[1:] * spread[:-1]), -0.99, 0.99)
    slope, spread, rho = slope[:, None, None], spread[:, None, None], rho[:, None, None]
    a, mean = np.sqrt(q) * _A, slope * np.sqrt(q) * _A
    n = mean[:-1] + spread[:-1] * _Z
    y = np.tanh(a + n)
    d = 1 - y**2
    near = d * n**2 * (y - (1 - 3 * y**2) * n / 3)
    R = np.where(np.abs(n) < 1e-3, near, y - d * n - np.tanh(a))
    known = d * (mean[1:] + spread[1:] * rho * _Z) + R  # e_{k+1} by a and n_k
    square = known**2 + (1 - rho**2) * (spread[1:] * d) ** 2
    new, fourth = _mean(square), 3 * _mean(square**2) - 2 * _mean(known**4)
    S = np.log1p(np.maximum(fourth / np.maximum(new**2, 1e-300) - 1, 0) / width)
    growth = np.minimum(np.exp(np.sqrt(2 * S * tilt) - S / 2), _FLAT / np.maximum(new, 1e-300))
    right, tied = known[1:] @ _HERMITE, (known[1:] * _Z) @ _HERMITE
    e = (d[:-1] @ _HERMITE) * (mean[1:-1] * right + spread[1:-1] * tied)
    both = (rho[:-1] ** np.arange(6) * (e + (R[:-1] @ _HERMITE) * right)).sum(-1)
    out = state.copy()
    out[:2, 1:] = _mean(known * np.tanh(a)) * np.sqrt(growth), new * growth
    out[2, 2:] = 2 * (both @ _WEIGHT[8:]) * np.sqrt(growth[1:] * growth[:-1])
    return out, np.sqrt(_mean(R**2) * growth)


def _mean(f):  # over a and n
    return f.reshape(*f.shape[:-2], -1) @ _PAIRS


def _pair(q, other, both):
    """E tanh(a) tanh(b), E (tanh(a) - tanh(b))² of Gaussians with these variances, covariance."""
    a = np.sqrt(q) * _A
    b = np.tanh(both / q * a + np.sqrt(max(other - both**2 / q, 0)) * _Z)
    return _mean(np.tanh(a) * b), _mean((np.tanh(a) - b) ** 2)
