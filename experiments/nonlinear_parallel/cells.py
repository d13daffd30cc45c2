"""The recurrences under test: pure functions of (params, h, x), and draws of their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, Any]
State = Any

ROWS = 4  # of the matrix state


@dataclass(frozen=True)
class Task:
    """One recurrence to evaluate: float32, weights and inputs drawn."""

    params: Params
    h0: State
    xs: np.ndarray  # (T, inputs)


@dataclass(frozen=True)
class Cell:
    """A recurrence h_t = step(params, h_{t-1}, x_t).

    Attributes:
      title: in words.
      step: of one state; h is a pytree.
      weights: (rng, width, gain) -> params in float64; the gain multiplies what meets the state.
      shapes: of the leaves of a state of this width.
      inputs: how many numbers x_t has.
    """

    title: str
    step: Callable[[Params, State, jax.Array], State]
    weights: Callable[[np.random.Generator, int, float], dict[str, np.ndarray]]
    shapes: Callable[[int], tuple[tuple[int, ...], ...]]
    inputs: Callable[[int], int]

    def zeros(self, width: int) -> State:
        leaves = [np.zeros(shape, np.float32) for shape in self.shapes(width)]
        return tuple(leaves) if len(leaves) > 1 else leaves[0]


def tanh_rnn(params: Params, h: jax.Array, x: jax.Array) -> jax.Array:
    """h = tanh(W h + x)."""
    return jnp.tanh(params["W"] @ h + x)


def gru(params: Params, h: jax.Array, x: jax.Array) -> jax.Array:
    """As torch.nn.GRU."""
    given = jnp.split(params["w_ih"] @ x + params["b_ih"], 3)
    kept = jnp.split(params["w_hh"] @ h + params["b_hh"], 3)
    r, z = jax.nn.sigmoid(given[0] + kept[0]), jax.nn.sigmoid(given[1] + kept[1])
    return (1 - z) * jnp.tanh(given[2] + r * kept[2]) + z * h


def lstm(params: Params, h: State, x: jax.Array) -> State:
    """As torch.nn.LSTM; the state is (h, c)."""
    h, c = h
    both = params["w_ih"] @ x + params["b_ih"] + params["w_hh"] @ h + params["b_hh"]
    i, f, g, o = jnp.split(both, 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def matrix_state(params: Params, H: jax.Array, x: jax.Array) -> jax.Array:
    """H_t = f_t H_{t-1} + (1 - f_t) tanh(H_{t-1} W + k_t v_t^T), after M2RNN (arXiv 2603.14360).

    x holds k_t, v_t and the logit of the gate f_t.
    """
    k, v, f = x[:ROWS], x[ROWS:-1], jax.nn.sigmoid(x[-1])
    return f * H + (1 - f) * jnp.tanh(H @ params["W"] + k[:, None] * v[None, :])


def draw(name: str, width: int, gain: float, input_scale: float, length: int, seed: int) -> Task:
    """Weights and inputs, the same numbers for every gain and scale.

    Longer inputs begin with the shorter ones, so that lengths compare on one recurrence.
    """
    cell = CELLS[name]
    drawn = cell.weights(np.random.default_rng((seed, width, 0)), width, gain)
    params = {key: w.astype(np.float32) for key, w in drawn.items()}
    rng = np.random.default_rng((seed, width, 1))
    xs = input_scale * rng.standard_normal((length, cell.inputs(width)))
    return Task(params, cell.zeros(width), xs.astype(np.float32))


def flat(states: State) -> np.ndarray:
    """All states, (T, numbers of a state) in float64: leaf by leaf, as the reference has them."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(states)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _gaussian(rng: np.random.Generator, width: int, gain: float) -> dict[str, np.ndarray]:
    return {"W": gain * rng.standard_normal((width, width)) / width**0.5}


def _torch_like(gates: int) -> Callable[..., dict[str, np.ndarray]]:
    def weights(rng: np.random.Generator, width: int, gain: float) -> dict[str, np.ndarray]:
        shapes = {"w_ih": (gates * width, width), "w_hh": (gates * width, width)}
        shapes |= {"b_ih": (gates * width,), "b_hh": (gates * width,)}
        bound = width**-0.5
        drawn = {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}
        return drawn | {"w_hh": gain * drawn["w_hh"]}

    return weights


CELLS = {
    "rnn": Cell("tanh RNN", tanh_rnn, _gaussian, lambda n: ((n,),), lambda n: n),
    "gru": Cell("GRU", gru, _torch_like(3), lambda n: ((n,),), lambda n: n),
    "lstm": Cell("LSTM", lstm, _torch_like(4), lambda n: ((n,), (n,)), lambda n: n),
    "matrix": Cell(
        "matrix state",
        matrix_state,
        lambda rng, n, gain: _gaussian(rng, n // ROWS, gain),
        lambda n: ((ROWS, n // ROWS),),
        lambda n: ROWS + n // ROWS + 1,
    ),
}
