"""The linear RNN against its definition, its closed form, and the RNN that it is without tanh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.layers import RNN, LinearRNN
from tests.layers.cases import assert_close, draw


@pytest.mark.parametrize(
    ("method", "bias"),
    [
        ("auto", True),
        ("sequential", False),
        ("associative", True),
        ("blocked", False),
        ("diagonal", True),
    ],
)
def test_equals_its_closed_form(method, bias, x64):
    """h_t = W^t h_0 + sum_k W^(t-k) (W_ih x_k + b)."""
    dtype = np.float64 if x64 else np.float32
    layer = LinearRNN.init(jax.random.key(0), 3, 5, bias=bias, dtype=dtype)
    x, state = draw(17, 3, dtype=dtype), draw(5, seed=2, dtype=dtype)
    w = np.asarray(layer.w_hh, np.float64)
    drive = np.asarray(x, np.float64) @ np.asarray(layer.w_ih, np.float64).T
    drive += np.asarray(layer.b, np.float64) if bias else 0
    power = [np.linalg.matrix_power(w, k) for k in range(18)]
    h = [
        power[t] @ state + sum(power[t - k] @ drive[k - 1] for k in range(1, t + 1))
        for t in range(1, 18)
    ]
    expected = np.array(h).astype(dtype)
    # By way of eigenvectors a rounding is enlarged by their condition number.
    enlarged = np.linalg.cond(np.linalg.eig(w)[1]) if method == "diagonal" else 1
    tolerance = enlarged * (1e-13 if x64 else 2e-6)
    assert_close(layer(x, state, method=method), (expected, expected[-1]), tolerance)


def test_is_a_relu_rnn_whose_states_stay_positive():
    rnn = RNN.init(jax.random.key(0), 3, 5, nonlinearity="relu", bias=False)
    positive = jax.tree.map(jnp.abs, rnn)
    cell = positive.cells[0][0]
    x = jnp.abs(draw(2, 6, 3))
    y, _ = LinearRNN(cell.w_ih, cell.w_hh, None)(x)
    assert_close(y, positive(x)[0])


def test_no_eigenvectors_no_diagonal():
    layer, x = LinearRNN.init(jax.random.key(0), 2, 2, method="diagonal"), jnp.ones((4, 2))
    assert layer(x)[0].shape == (4, 2)
    jordan = LinearRNN(layer.w_ih, jnp.array([[0.5, 1.0], [0.0, 0.5]]), layer.b)
    with pytest.raises(ValueError, match="cannot serve this call: the eigenvectors of A have"):
        jordan(x, method="diagonal")


def test_recurrent_init():
    layer = LinearRNN.init(
        jax.random.key(0), 3, 4, recurrent_init=jax.nn.initializers.orthogonal(), bias=False
    )
    product = jnp.matmul(layer.w_hh, layer.w_hh.T, precision="highest")
    np.testing.assert_allclose(product, np.eye(4), atol=1e-6)
    assert layer.b is None
