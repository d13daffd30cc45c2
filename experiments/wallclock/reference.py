"""What the layers compute, step by step in float64 numpy, gradients by hand: the judge of results.

Dense (RNN with phi = tanh, LinearRNN with phi = identity), L a loss with dL/dy = g:

    z_t = W_ih x_t + W_hh h_{t-1} + b,    h_t = phi(z_t),    y_t = h_t
    dz_t = phi'(z_t) * (g_t + W_hh^T dz_{t+1}),    dx_t = W_ih^T dz_t
    dW_hh = sum_t dz_t h_{t-1}^T,    dW_ih = sum_t dz_t x_t^T,    db = sum_t dz_t

Gated (LSTM, GRU): the equations are those of `rnnscan/layers/lstm.py` and `gru.py`. What W_hh h
gives is q_t; in an LSTM it is added to z_t and dq_t = dz_t, in a GRU the reset gate multiplies its
third part:

    LSTM  dc_t = f_{t+1} dc_{t+1} + o_t tanh'(c_t) dh_t,    dh_t = g_t + W_hh^T dz_{t+1}
    GRU   dh_t = g_t + u_{t+1} dh_{t+1} + W_hh^T dq_{t+1},    dn_t = (1 - u_t) dh_t

Diagonal (LRU), with p_t defined by dL = Re(sum_t p_t dh_t), which needs no conjugates:

    u_t = B x_t,    h_t = lambda * h_{t-1} + gamma * u_t,    y_t = Re(C h_t) + D x_t
    p_t = C^T g_t + lambda * p_{t+1}

Nothing here is shared with the layers, so that a mistake there shows here. `stepped.py` has the
other layers.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rnnscan import GRU, LRU, LSTM, RNN, LinearRNN

Arrays = dict[str, np.ndarray]


def evaluate(layer: Any, x: np.ndarray, g: np.ndarray) -> tuple[Arrays, float | None]:
    """y, and the gradients of sum(g * y) with respect to x and every parameter, by name.

    Args:
      layer: an RNN (tanh), LSTM or GRU (one layer, one direction, with biases), a LinearRNN or an
        LRU with a vector D.
      x: (batch, time, features).
      g: the cotangent of y, of y's shape.

    Returns:
      the arrays, in float64, and the modulus of the largest eigenvalue of the recurrent matrix;
      None where gates act beside it.
    """
    weights = {name: np.asarray(leaf, np.float64) for name, leaf in parameters(layer).items()}
    x, g = np.asarray(x, np.float64), np.asarray(g, np.float64)
    return BY_HAND[type(layer)](weights, x, g)


def parameters(layer: Any) -> dict[str, Any]:
    """The arrays of a layer (or of a gradient of it) by name: "w_hh", "conv.w"."""
    names = functools.partial(jax.tree_util.keystr, simple=True, separator=".")
    named = [(names(path), leaf) for path, leaf in jax.tree.leaves_with_path(layer)]
    return {name.removeprefix("cells.0.0."): leaf for name, leaf in named}


def _tanh(w: Arrays, x: np.ndarray, g: np.ndarray) -> tuple[Arrays, float]:
    return _dense(w, x, g, np.tanh)


def _dense(w: Arrays, x: np.ndarray, g: np.ndarray, phi: Any = None) -> tuple[Arrays, float]:
    biases = [name for name in w if name.startswith("b")]
    h = x @ w["w_ih"].T + sum(w[name] for name in biases)  # z, overwritten step by step
    with _one_thread():
        state = np.zeros_like(h[:, 0])
        for t in range(x.shape[1]):
            state = h[:, t] + state @ w["w_hh"].T
            state = h[:, t] = phi(state) if phi else state
        dz = np.empty_like(h)
        state = np.zeros_like(h[:, 0])
        for t in reversed(range(x.shape[1])):
            slope = 1 - h[:, t] ** 2 if phi else 1.0
            state = dz[:, t] = slope * (g[:, t] + state @ w["w_hh"])
    radius = float(np.abs(np.linalg.eigvals(w["w_hh"])).max())
    return _gradients(w, x, h, dz, dz), radius


def _gradients(w: Arrays, x: np.ndarray, h: np.ndarray, dz: np.ndarray, dq: np.ndarray) -> Arrays:
    """From those with respect to what W_ih x and W_hh h_- are added to."""
    biases = {name: dq if name == "b_hh" else dz for name in w if name.startswith("b")}
    return {
        "y": h,
        "x": dz @ w["w_ih"],
        "w_ih": _outer(dz, x),
        "w_hh": _outer(dq[:, 1:], h[:, :-1]),
        **{name: of_it.sum((0, 1)) for name, of_it in biases.items()},
    }


def _lstm(w: Arrays, x: np.ndarray, g: np.ndarray) -> tuple[Arrays, None]:
    gates = x @ w["w_ih"].T + (w["b_ih"] + w["b_hh"])  # z, overwritten by gates and then by dz
    h, c = np.empty_like(g), np.empty_like(g)
    with _one_thread():
        state = cell = np.zeros_like(g[:, 0])
        for t in range(x.shape[1]):
            i, f, n, o = np.split(gates[:, t] + state @ w["w_hh"].T, 4, axis=-1)
            i, f, n, o = _sigmoid(i), _sigmoid(f), np.tanh(n), _sigmoid(o)
            gates[:, t] = np.concatenate([i, f, n, o], axis=-1)
            cell = c[:, t] = f * cell + i * n
            state = h[:, t] = o * np.tanh(cell)
        dh = dc = np.zeros_like(g[:, 0])
        for t in reversed(range(x.shape[1])):
            i, f, n, o = np.split(gates[:, t], 4, axis=-1)
            dh, bent = g[:, t] + dh, np.tanh(c[:, t])
            dc = dc + dh * o * (1 - bent**2)
            before = c[:, t - 1] if t else np.zeros_like(dc)
            to_f = dc * before * f * (1 - f)
            parts = [dc * n * i * (1 - i), to_f, dc * i * (1 - n**2), dh * bent * o * (1 - o)]
            dc, dz = dc * f, np.concatenate(parts, axis=-1)
            gates[:, t], dh = dz, dz @ w["w_hh"]
    return _gradients(w, x, h, gates, gates), None


def _gru(w: Arrays, x: np.ndarray, g: np.ndarray) -> tuple[Arrays, None]:
    gates = x @ w["w_ih"].T + w["b_ih"]  # z, overwritten by r, u and n and then by dz
    dq = np.empty_like(gates)  # q first
    h = np.empty_like(g)
    with _one_thread():
        state = np.zeros_like(g[:, 0])
        for t in range(x.shape[1]):
            q = dq[:, t] = state @ w["w_hh"].T + w["b_hh"]
            (r, u, n), (q_r, q_u, q_n) = (np.split(part, 3, axis=-1) for part in (gates[:, t], q))
            r, u = _sigmoid(r + q_r), _sigmoid(u + q_u)
            n = np.tanh(n + r * q_n)
            gates[:, t] = np.concatenate([r, u, n], axis=-1)
            state = h[:, t] = (1 - u) * n + u * state
        dh = np.zeros_like(g[:, 0])
        for t in reversed(range(x.shape[1])):
            r, u, n = np.split(gates[:, t], 3, axis=-1)
            q_n = dq[:, t, 2 * n.shape[-1] :]
            dh = g[:, t] + dh
            before = h[:, t - 1] if t else np.zeros_like(dh)
            dn = dh * (1 - u) * (1 - n**2)
            d_r, d_u = dn * q_n * r * (1 - r), dh * (before - n) * u * (1 - u)
            dq[:, t] = np.concatenate([d_r, d_u, dn * r], axis=-1)
            dh = dh * u + dq[:, t] @ w["w_hh"]
            gates[:, t] = np.concatenate([d_r, d_u, dn], axis=-1)  # whose parts r, u and n were
    return _gradients(w, x, h, gates, dq), None


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _diagonal(w: Arrays, x: np.ndarray, g: np.ndarray) -> tuple[Arrays, float]:
    rate, angle = np.exp(w["nu_log"]), np.exp(w["theta_log"])
    decay, gamma = np.exp(-rate + 1j * angle), np.exp(w["gamma_log"])
    b, c = w["b_re"] + 1j * w["b_im"], w["c_re"] + 1j * w["c_im"]
    h, p = gamma * (x @ b.T), g @ c  # what drives them, overwritten step by step
    state = np.zeros_like(h[:, 0])
    for t in range(x.shape[1]):
        state = h[:, t] = decay * state + h[:, t]
    state = np.zeros_like(h[:, 0])
    for t in reversed(range(x.shape[1])):
        state = p[:, t] = decay * state + p[:, t]
    d_decay = (p[:, 1:] * h[:, :-1]).sum((0, 1))
    d_u = gamma * p
    d_b, d_c = _outer(d_u, x), _outer(g, h)
    found = {
        "y": (h @ c.T).real + w["d"] * x,
        "x": (d_u @ b).real + w["d"] * g,
        "nu_log": (d_decay * decay * -rate).real,
        "theta_log": (d_decay * decay * 1j * angle).real,
        "gamma_log": (d_u * (x @ b.T)).sum((0, 1)).real,
        "b_re": np.real(d_b),
        "b_im": -np.imag(d_b),
        "c_re": np.real(d_c),
        "c_im": -np.imag(d_c),
        "d": (g * x).sum((0, 1)),
    }
    return found, float(np.abs(decay).max())


def _one_thread() -> contextlib.AbstractContextManager[Any]:
    """For the product of one step: threads that wait for each other lose more than they gain."""
    if importlib.util.find_spec("threadpoolctl") is None:  # right all the same, and slower
        return contextlib.nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")


def _outer(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """sum over batch and time of left_t right_t^T."""
    return np.tensordot(left, right, axes=((0, 1), (0, 1)))


BY_HAND: dict[type, Callable[[Arrays, np.ndarray, np.ndarray], tuple[Arrays, float | None]]] = {
    RNN: _tanh,
    LSTM: _lstm,
    GRU: _gru,
    LinearRNN: _dense,
    LRU: _diagonal,
}
