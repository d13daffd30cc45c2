"""What a scan should give, in double precision, and how far rounding may move it.

A loop over time in numpy, all lanes at once. With u the unit roundoff:

- h: law 1 of the scans, `4 * scan(|a|, u (|a_t h_{t-1}| + |h_t|))`: each step rounds a product and
  a sum, and the recurrence carries the error on.
- db, the adjoint l_t = g_t + a_{t+1} l_{t+1}: the same recurrence, backwards, on absolute values.
  (A tree adds up parts that may cancel later; with absolute values they do not.)
- da_t = l_t h_{t-1}: the product rule on both errors, and one rounding.
- da of a constant decay is a sum of N such terms: besides, an error of 4 u sqrt(N) times the sum of
  their absolute values, N roundings being independent (Higham and Mary 2019, "A new approach to
  probabilistic rounding error analysis", theorem 2.4).

Complex gradients follow JAX: no conjugation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NAMES = ("h", "da", "db")


@dataclass(frozen=True)
class Expected:
    """`values[name]` within `bounds[name]`, elementwise; in the shapes of b, a and b."""

    values: dict[str, np.ndarray]
    bounds: dict[str, np.ndarray]

    def share(self, name: str, found: np.ndarray) -> float:
        """The largest error of `found`, as a share of its bound: at most 1 is right."""
        expected = self.values[name]
        if found.shape != expected.shape:
            raise ValueError(f"{name}: shape {found.shape}, expected {expected.shape}")
        error = np.abs(found - expected)
        # Where there is no error, a bound of zero is kept to.
        with np.errstate(divide="ignore"):
            np.divide(error, self.bounds[name], out=error, where=error != 0)
        return float(np.max(error, initial=0.0))


def evaluate(a: np.ndarray, b: np.ndarray, g: np.ndarray) -> Expected:
    """Value and gradients of `<g, h>` for `h_t = a_t h_{t-1} + b_t`, time on axis 1 of b and g.

    Args:
      a: decay, of b's shape or constant, (inner,).
      b, g: drive and cotangent, (outer, T, inner), in single precision.
    """
    u = float(np.finfo(b.dtype).eps) / 2
    constant = a.ndim == 1
    wide = np.complex128 if np.iscomplexobj(b) else np.float64
    drive, cotangent = (_time_first(x.astype(wide)) for x in (b, g))
    decay = _time_first(np.broadcast_to(a.astype(wide), b.shape))
    size = np.abs(decay)

    h = solve(decay, drive)
    h_bound = 4 * u * solve(size, size * _before(np.abs(h)) + np.abs(h))
    h_size = solve(size, np.abs(drive))
    later, later_size = _after(decay), _after(size)
    adjoint = _backwards(later, cotangent)
    adjoint_size = _backwards(later_size, np.abs(cotangent))
    adjoint_bound = 4 * u * _backwards(later_size, 2 * adjoint_size)
    # The same form for h, since here it multiplies: law 1 says nothing of a h that is nearly zero.
    h_error = 4 * u * solve(size, 2 * h_size)
    da = adjoint * _before(h)
    da_size = adjoint_size * _before(h_size)
    da_bound = adjoint_bound * _before(h_size) + adjoint_size * _before(h_error) + 4 * u * da_size

    def in_place(x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x.reshape(b.shape[1], b.shape[0], b.shape[2]), 0, 1)

    def summed(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, b.shape[2]).sum(axis=0)

    if constant:
        count = b.shape[0] * b.shape[1]
        da_bound = summed(da_bound) + 4 * u * count**0.5 * summed(np.abs(da))
        da = summed(da)
    else:
        da, da_bound = in_place(da), in_place(da_bound)
    values = {"h": in_place(h), "da": da, "db": in_place(adjoint)}
    bounds = {"h": in_place(h_bound), "da": da_bound, "db": in_place(adjoint_bound)}
    return Expected(values, bounds)


def solve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`h_t = a_t h_{t-1} + b_t` from zero, time first, lanes behind."""
    if b.shape[1] == 1:  # numbers of Python's own are faster than arrays of one
        h, states = b.dtype.type(0).item(), []
        for a_t, b_t in zip(a[:, 0].tolist(), b[:, 0].tolist(), strict=True):
            h = a_t * h + b_t
            states.append(h)
        return np.array(states, b.dtype)[:, None]
    out = b.copy()
    for t in range(1, len(b)):
        out[t] += a[t] * out[t - 1]
    return out


def _backwards(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return solve(a[::-1], b[::-1])[::-1]


def _time_first(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, 0)).reshape(x.shape[1], -1)


def _before(x: np.ndarray) -> np.ndarray:
    """x_{t-1}, zero at the start."""
    return np.concatenate([np.zeros_like(x[:1]), x[:-1]])


def _after(x: np.ndarray) -> np.ndarray:
    """x_{t+1}, zero at the end."""
    return np.concatenate([x[1:], np.zeros_like(x[:1])])
