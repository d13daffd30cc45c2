"""What an input that is held for a time adds to a state that decays meanwhile (zero-order hold).

    G_n(t, a) = integral of s^n exp(s a) over s in [0, t],    G_0 = (exp(t a) - 1) / a

The quotient has a removable point at a = 0: as it stands it is 0 / 0 there, and its derivative
along a loses all digits long before. The family is closed under differentiation,

    dG_n / dt = t^n exp(t a),    dG_n / da = G_{n+1}

so every derivative of every order is again a number that is computed as it should be.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

NEAR = (0.5, 1.0, 2.0)  # |t a| up to which psi_n is a series, by n; the last for all beyond

# The quotient loses digits where its sum cancels: below these numbers more than the series does.


def hold_gain(t: jax.Array, a: jax.Array) -> jax.Array:
    """G_0, the drive of one unit of input held for the time t >= 0 at the rate a <= 0."""
    return _moment(0, t, a)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _moment(n: int, t: jax.Array, a: jax.Array) -> jax.Array:
    """G_n, near t a = 0 as t^(n+1) psi_n(t a), where psi_n(z) is G_n(1, z)."""
    z = t * a
    near = jnp.abs(z) < _near(n)
    close = jnp.where(near, t, 0) ** (n + 1) * _series(n, jnp.where(near, z, 0))
    return jnp.where(near, close, _quotient(n, jnp.where(near, 1, t), jnp.where(near, 1, a)))


@_moment.defjvp
def _moment_jvp(n, primals, tangents):
    t, a = primals
    dt, da = tangents
    return _moment(n, t, a), _power(n, t, a) * dt + _moment(n + 1, t, a) * da


def _near(n: int) -> float:
    return NEAR[min(n, len(NEAR) - 1)]


def _series(n: int, z: jax.Array) -> jax.Array:
    """psi_n(z) = sum_k z^k / (k! (k + n + 1)) for |z| < _near(n), to the last digit of a dtype."""
    coefficients, factorial, k = [], 1.0, 0
    while _near(n) ** k / factorial / (k + n + 1) > np.finfo(z.dtype).eps / 8 / (n + 1):
        coefficients.append(1 / factorial / (k + n + 1))
        k += 1
        factorial *= k
    total = jnp.full_like(z, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * z + c
    return total


def _quotient(n: int, t: jax.Array, a: jax.Array) -> jax.Array:
    """G_n = (t^n exp(t a) - n G_{n-1}) / a, from G_0 = (exp(t a) - 1) / a."""
    total = jnp.expm1(t * a) / a
    for m in range(1, n + 1):
        total = (_power(m, t, a) - m * total) / a
    return total


def _power(n: int, t: jax.Array, a: jax.Array) -> jax.Array:
    """t^n exp(t a), 0 where the exponential is, however large t^n."""
    e = jnp.exp(t * a)
    return jnp.where(e == 0, 1, t) ** n * e
