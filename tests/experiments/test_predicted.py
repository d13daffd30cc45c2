"""The predicted number of Newton iterations: its limits, its trends, and two cases measured."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.nonlinear_parallel import predicted
from experiments.nonlinear_parallel.predicted import predicted_iterations
from rnnscan import nonlinear_scan


def test_example():
    assert doctest.testmod(predicted).failed == 0


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_more_with_gain(scale):
    found = [predicted_iterations(gain, scale, 32, 256) for gain in (0.1, 0.5, 0.9, 1.2, 1.5, 1.8)]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_flat_in_length_where_errors_shrink():
    assert len({predicted_iterations(0.9, 0.5, 32, T) for T in (256, 4096, 65536)}) == 1


def test_grows_with_length_near_zero():
    found = [predicted_iterations(1.5, 0.5, 32, T) for T in (64, 256, 1024)]
    assert found[0] < found[1] < found[2] < 128


def test_chaos_is_given_up():
    assert predicted_iterations(2.5, 0.25, 128, 4096) == np.inf
    assert predicted_iterations(2.5, 0.25, 128, 30) <= 30  # T are always enough


def test_more_digits_take_at_most_two_more():
    few, many = (predicted_iterations(0.9, 0.5, 32, 1024, 2.0**-n) for n in (24, 53))
    assert few < many <= few + 2


def test_short_and_narrow():
    assert predicted_iterations(0.9, 0.5, 32, 2) == 0  # two states of the guess are right
    assert 1 <= predicted_iterations(0.9, 0.5, 1, 3) <= 3


@pytest.mark.parametrize(
    "arguments",
    [(0.0, 0.5, 32, 64), (0.9, 0.0, 32, 64), (0.9, 0.5, 0, 64), (0.9, 0.5, 32, 0), (np.nan,) * 4],
)
def test_out_of_range(arguments):
    with pytest.raises(ValueError, match="above 0"):
        predicted_iterations(*arguments)


@pytest.mark.parametrize(("gain", "scale"), [(0.6, 0.5), (1.2, 1.0)])
def test_as_measured(gain, scale):
    rng, D, T = np.random.default_rng(0), 32, 128
    W = jnp.asarray(gain / np.sqrt(D) * rng.standard_normal((D, D)), jnp.float32)
    xs = jnp.asarray(scale * rng.standard_normal((T, D)), jnp.float32)
    _, found = jax.jit(
        lambda W, xs: nonlinear_scan(
            lambda h, x: jnp.tanh(W @ h + x), jnp.zeros(D), xs, method="newton"
        )
    )(W, xs)
    assert abs(int(found.iterations) - predicted_iterations(gain, scale, D, T)) <= 1
