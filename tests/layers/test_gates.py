"""LSTM and GRU beyond the laws and beyond torch: their equations, initial weights and states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.layers import GRU, LSTM
from tests.layers.cases import assert_close, draw, draw_state

KEY = jax.random.key(0)
both = pytest.mark.parametrize(("cls", "gates"), [(LSTM, 4), (GRU, 3)])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_step(u, v, h, c):
    (i, f, g, o), z = (slice(k * h.size, (k + 1) * h.size) for k in range(4)), u + v
    c = sigmoid(z[f]) * c + sigmoid(z[i]) * np.tanh(z[g])
    return sigmoid(z[o]) * np.tanh(c), c


def gru_step(u, v, h):
    r, z, n = (slice(k * h.size, (k + 1) * h.size) for k in range(3))
    keep = sigmoid(u[z] + v[z])
    new = np.tanh(u[n] + sigmoid(u[r] + v[r]) * v[n])
    return ((1 - keep) * new + keep * h,)


@both
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_equals_its_equations(cls, gates, bias, x64):
    """One sequence, one layer, in both directions: a loop in float64."""
    dtype = np.dtype("float64" if x64 else "float32")
    layer = cls.init(KEY, 3, 5, bidirectional=True, bias=bias, dtype=dtype)
    x, first = draw(33, 3, dtype=dtype), draw_state(layer, ())
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (layer.cells[0], x, first))
    cells, inputs, states = wide
    outputs, ends = [], []
    for d, cell in enumerate(cells):
        b_ih, b_hh = (np.zeros(5 * gates) if b is None else b for b in (cell.b_ih, cell.b_hh))
        now = tuple(part[d] for part in (states if cls is LSTM else (states,)))
        h = []
        for x_t in inputs[:: -1 if d else 1]:
            u, v = cell.w_ih @ x_t + b_ih, cell.w_hh @ now[0] + b_hh
            now = (lstm_step if cls is LSTM else gru_step)(u, v, *now)
            h.append(now[0])
        outputs.append(h[:: -1 if d else 1])
        ends.append(now)
    last = tuple(np.stack(parts).astype(dtype) for parts in zip(*ends, strict=True))
    expected = np.concatenate(outputs, -1).astype(dtype), last if cls is LSTM else last[0]
    assert_close(layer(x, first), expected, 1e-15 * 10 if x64 else 1e-6)


@both
def test_init_draws_as_torch_does(cls, gates):
    layer = cls.init(KEY, 50, 100, num_layers=2, bidirectional=True)
    assert [cell.w_ih.shape for cell in sum(layer.cells, ())] == [
        (100 * gates, features) for features in (50, 50, 200, 200)
    ]
    for leaf in jax.tree.leaves(layer):
        leaf = np.asarray(leaf)
        assert np.abs(leaf).max() <= 0.1  # uniform(-1/sqrt(100), 1/sqrt(100))
        assert abs(leaf.std() * 3**0.5 / 0.1 - 1) < 4 / leaf.size**0.5
    starts = {tuple(np.asarray(leaf).ravel()[:2]) for leaf in jax.tree.leaves(layer)}
    assert len(starts) == len(jax.tree.leaves(layer))  # nothing is drawn twice


@both
def test_recurrent_init_draws_the_square_matrix_of_each_gate(cls, gates):
    layer = cls.init(KEY, 3, 4, num_layers=2, recurrent_init=jax.nn.initializers.orthogonal())
    squares = [np.asarray(c.w_hh).reshape(gates, 4, 4) for c in sum(layer.cells, ())]
    squares = np.concatenate(squares)
    np.testing.assert_allclose(
        squares @ squares.transpose(0, 2, 1), [np.eye(4)] * len(squares), atol=1e-6
    )
    assert len(np.unique(squares[:, 0, 0])) == len(squares)  # each drawn anew
    plain = cls.init(KEY, 3, 4, num_layers=2)
    np.testing.assert_array_equal(layer.cells[1][0].w_ih, plain.cells[1][0].w_ih)


def test_forget_bias_is_how_fast_c_fades():
    layer = LSTM.init(KEY, 3, 4, forget_bias=1.0, bidirectional=True)
    plain = LSTM.init(KEY, 3, 4, bidirectional=True)
    for cell, before in zip(sum(layer.cells, ()), sum(plain.cells, ()), strict=True):
        total, others = cell.b_ih + cell.b_hh, before.b_ih + before.b_hh
        np.testing.assert_array_equal(total[4:8], 1)
        np.testing.assert_array_equal(np.delete(total, range(4, 8)), np.delete(others, range(4, 8)))
    # Without weights nothing but the bias of f is left: c fades by sigmoid(1) a step.
    bare = jax.tree.map(jnp.zeros_like, LSTM.init(KEY, 3, 4))
    cell = bare.cells[0][0]
    opened = LSTM(((type(cell)(cell.w_ih, cell.w_hh, cell.b_ih.at[4:8].set(1.0), cell.b_hh),),))
    for f, half_life in ((bare, 1.0), (opened, 2.2)):
        _, (_, c) = f(jnp.zeros((10, 3)), (jnp.zeros((1, 4)), jnp.ones((1, 4))))
        np.testing.assert_allclose(c, 2 ** (-10 / half_life), rtol=0.03)
    with pytest.raises(ValueError, match=r"forget_bias: expected None with bias=False, got 1\.0"):
        LSTM.init(KEY, 3, 4, bias=False, forget_bias=1.0)


X, S = jnp.zeros((2, 5, 3)), jnp.zeros((1, 2, 4))
STATES = {
    "one_array": (LSTM, S, r"pair \(h, c\) of arrays of shape \(1, 2, 4\), got one array"),
    "stacked": (LSTM, jnp.stack([S, S]), r"pair .*, got one array of shape \(2, 1, 2, 4\)"),
    "three": (LSTM, (S, S, S), r"pair .*, got a tuple of 3"),
    "dict": (LSTM, {"h": S, "c": S}, r"pair .*, got a dict"),
    "shape_of_c": (LSTM, (S, S[0]), r"state: expected shape \(1, 2, 4\), got \(2, 4\)"),
    "dtype_of_h": (LSTM, (S.astype(int), S), r"state: .* floating dtype, got int32"),
    "of_an_lstm": (GRU, (S, S), r"one array of shape \(1, 2, 4\), got a tuple of 2"),
    "batch": (GRU, S[:, :1], r"state: expected shape \(1, 2, 4\), got \(1, 1, 4\)"),
}


@pytest.mark.parametrize("wrong", STATES)
def test_states_of_another_structure(wrong):
    cls, state, message = STATES[wrong]
    layer = cls.init(KEY, 3, 4)
    for call in (lambda: layer(X, state), lambda: layer.step(X[:, 0], state)):
        with pytest.raises((ValueError, TypeError), match=message):
            call()


@both
def test_stepping_in_both_directions_is_refused(cls, gates):
    layer = cls.init(KEY, 3, 4, bidirectional=True)
    with pytest.raises(ValueError, match=r"step: expected .* one direction, got bidirectional"):
        layer.step(jnp.zeros(3))


@both
def test_the_size_of_the_program_does_not_grow_with_length(cls, gates):
    layer = jax.eval_shape(lambda: cls.init(KEY, 3, 4))
    gradient = jax.jit(jax.grad(lambda layer, x: jnp.sum(layer(x)[0])))
    texts = {
        (platform, len(lowered.as_text()))
        for platform in ("cpu", "cuda")
        for time in (2000, 9000)
        for shape in [jax.ShapeDtypeStruct((time, 3), jnp.float32)]
        for lowered in [gradient.trace(layer, shape).lower(lowering_platforms=(platform,))]
    }
    assert len(texts) == 2
