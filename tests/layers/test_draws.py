"""What weights are drawn from: their dtypes, and any initialiser for the recurrent matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers

from rnnscan.layer_parts.draws import normal, uniform
from rnnscan.layers import GRU, LSTM, LinearRNN

KEY = jax.random.key(0)
DTYPES = ("float32", "float64", "float16", "bfloat16")


def test_draws_are_those_of_jax_and_halves_are_rounded():
    shapes = ((40, 50), (96,))
    with jax.enable_x64(True):
        for dtype in map(jnp.dtype, DTYPES):
            wide = np.dtype("float32") if dtype.itemsize == 2 else dtype
            limits = jnp.asarray(-0.1, wide), jnp.asarray(0.1, wide)

            @jax.jit
            def of_jax(key, wide=wide, limits=limits):
                # Cut as well: what a compiler fuses with a draw may change its last digit.
                draws = (
                    jax.random.uniform(key, (2096,), wide, *limits),
                    jax.random.normal(key, (2096,), wide),
                )
                return [[draw[:2000].reshape(40, 50), draw[2000:]] for draw in draws]

            ours = uniform(KEY, shapes, -0.1, 0.1, dtype), normal(KEY, shapes, dtype)
            for expected, arrays in zip(of_jax(KEY), ours, strict=True):
                flat = np.concatenate([np.ravel(array) for array in arrays])
                expected = np.concatenate([np.ravel(array.astype(dtype)) for array in expected])
                np.testing.assert_array_equal(flat, expected, strict=True)
                # JAX itself draws one of 128 values of a bfloat16.
                assert len(np.unique(flat.astype(np.float64))) > 500


def test_every_initialiser_draws_the_recurrent_matrix_in_every_dtype():
    own = {
        "orthogonal": initializers.orthogonal(),
        "truncated_normal": initializers.truncated_normal(0.3, lower=-1.0, upper=1.0),
        "variance_scaling": initializers.variance_scaling(1.0, "fan_in", "truncated_normal"),
        "glorot_uniform": initializers.glorot_uniform(),
        "he_normal": initializers.he_normal(),
        "constant": initializers.constant(0.5),
        "zeros": initializers.zeros,
        "identity": lambda key, shape, dtype: np.eye(*shape, dtype=np.float32),
    }
    with jax.enable_x64(True):

        @jax.jit
        def made():
            return {
                (name, dtype): LinearRNN.init(KEY, 2, 4, recurrent_init=f, dtype=dtype).w_hh
                for name, f in own.items()
                for dtype in DTYPES
            }

        for (name, dtype), w in made().items():
            assert w.dtype == dtype, name
            wide = np.asarray(w, np.float64)
            assert np.isfinite(wide).all()
            if name == "orthogonal":
                error = np.abs(wide @ wide.T - np.eye(4)).max()
                assert error < 8 * float(jnp.finfo(dtype).eps), dtype


WRONG = {
    "not_called": (
        initializers.orthogonal,
        r"with its parentheses, got one that returns a function",
    ),
    "not_called_either": (
        initializers.normal,
        r"parentheses, got one of other arguments: too many",
    ),
    "no_function": ("orthogonal", r"with its parentheses, got 'orthogonal'"),
    "an_array": (np.eye(4), r"with its parentheses, got an array of float64"),
    "two_arguments": (lambda key, shape: jnp.eye(4), r"got one of other arguments"),
    "another_shape": (lambda key, shape, dtype: jnp.eye(3), r"shape \(4, 4\), got \(3, 3\)"),
    "integers": (lambda key, shape, dtype: jnp.ones(shape, int), r"returns an array of int32"),
    "no_array": (lambda key, shape, dtype: 0.5, r"returns 0.5"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_initialiser_is_named(wrong):
    given, message = WRONG[wrong]
    for layer in (LinearRNN, LSTM, GRU):
        with pytest.raises((TypeError, ValueError), match=f"^recurrent_init: expected .*{message}"):
            layer.init(KEY, 2, 4, recurrent_init=given)
