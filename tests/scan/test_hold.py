"""The gain of an input that is held, and its derivatives, against exact sums of their series."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan.scan.hold import hold_gain


def moment(n, t, a):
    """The integral of s^n exp(s a) over s in [0, t], as a sum of fractions: no digit is lost."""
    t, z = Fraction(float(t)), Fraction(float(t)) * Fraction(float(a))
    term, total = Fraction(1), Fraction(0)
    for k in range(160):
        total += term / (k + n + 1)
        term = term * z / (k + 1)
    return float(t ** (n + 1) * total)


def test_gain_and_derivatives_of_every_mode_keep_their_digits(x64):
    dtype = np.float64 if x64 else np.float32
    eps = np.finfo(dtype).eps
    # Both sides of where the series ends, no time at all, and no decay at all.
    z = -np.concatenate([np.logspace(-30, 1.3, 80), [0.4999, 0.5001, 0.0]])
    t = np.full_like(z, 1e-3)
    t[::3], t[-1] = 2.0, 0.5
    t, a = (np.append(v, w).astype(dtype) for v, w in ((t, [0, 0, 1e-30]), (z / t, [0, -3, -1e9])))

    @jax.jit
    def run(t, a):
        one = jnp.ones_like(t)
        along_a, along_t = jax.grad(hold_gain, 1), jax.grad(hold_gain)
        each = jax.vmap(lambda t, a: (hold_gain(t, a), along_t(t, a), along_a(t, a)))(t, a)
        forward = jax.jvp(hold_gain, (t, a), (0 * one, one))[1]
        second = jax.vmap(jax.grad(along_a, 1))(t, a)
        mixed = jax.jvp(jax.vmap(along_a), (t, a), (one, 0 * one))[1]
        return *each, forward, second, mixed

    gain, along_t, along_a, forward, second, mixed = (np.float64(v) for v in run(t, a))
    wide = np.float64(t), np.float64(a)
    g_0, g_1, g_2 = (np.array([moment(n, *ta) for ta in zip(*wide, strict=True)]) for n in range(3))
    tiny = float(np.finfo(dtype).tiny)  # below, numbers are zeros
    close = np.testing.assert_allclose
    close(gain, g_0, rtol=4 * eps, atol=tiny)
    # exp(z) of a rounded z is off by eps / 2 times |z|, which is 20 at most where it is not tiny.
    close(along_t, np.exp(wide[0] * wide[1]), rtol=20 * eps, atol=tiny)
    close(mixed, wide[0] * np.exp(wide[0] * wide[1]), rtol=20 * eps, atol=tiny)
    # Behind the series a quotient of differences, from numbers a few times as large as they are.
    close(along_a, g_1, rtol=16 * eps, atol=tiny)
    np.testing.assert_array_equal(forward, along_a)
    close(second, g_2, rtol=64 * eps, atol=tiny)


def test_times_whose_powers_overflow(x64):
    """Held for ever: 1 / |a| and its derivatives, along a to the second order."""
    t, a = np.float64(1e200) if x64 else np.float32(1e30), -2.0
    along_a = jax.grad(hold_gain, 1)
    t, a = jnp.asarray(t), jnp.asarray(a, jnp.asarray(t).dtype)
    assert float(hold_gain(t, a)) == 0.5
    assert float(jax.grad(hold_gain)(t, a)) == 0
    assert float(along_a(t, a)) == 0.25
    np.testing.assert_allclose(float(jax.grad(along_a, 1)(t, a)), 0.25, rtol=1e-6)
    assert float(jax.grad(along_a)(t, a)) == 0
