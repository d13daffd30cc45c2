"""The truth: every recurrence as a float64 loop in NumPy, and its largest Lyapunov exponent."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.nonlinear_parallel.cells import ROWS, Task, flat

Weights = dict[str, np.ndarray]
Step = Callable[[Weights, np.ndarray, np.ndarray], np.ndarray]

_APART = 1e-7  # of the two trajectories whose distance is watched
_LEFT_OUT = 0.1  # part of the steps at the start, until the distance points where it grows


def trajectory(name: str, task: Task) -> np.ndarray:
    """All states (T, numbers of a state), from the float32 weights and inputs as they are."""
    step, weights, h, xs = _wide(name, task)
    out = np.empty((len(xs), h.size))
    for t, x in enumerate(xs):
        h = step(weights, h, x)
        out[t] = h
    return out


class Growth(NamedTuple):
    """Of a small distance from a trajectory, ln.

    Attributes:
      exponent: a step, in the mean: the largest Lyapunov exponent, -inf where all is forgotten.
      overshoot: over the stretch along which it grows most; 0 where it only shrinks.
    """

    exponent: float
    overshoot: float


def growth(name: str, task: Task, states: np.ndarray) -> Growth:
    """From a second trajectory that starts anew beside the first at every step (Benettin et al.)"""
    step, weights, h, xs = _wide(name, task)
    v = np.random.default_rng(0).standard_normal(h.size)
    v /= np.linalg.norm(v)
    steps = np.zeros(len(xs))
    for t, x in enumerate(xs):
        v = (step(weights, h + _APART * v, x) - states[t]) / _APART
        h = states[t]
        size = np.linalg.norm(v)
        if size < 1e-30:  # forgotten at once, to the last digit
            return Growth(float("-inf"), 0.0)
        steps[t] = np.log(size)
        v /= size
    total = np.concatenate([[0.0], np.cumsum(steps)])
    overshoot = np.max(total - np.minimum.accumulate(total))
    return Growth(float(steps[int(_LEFT_OUT * len(xs)) :].mean()), float(overshoot))


def _wide(name: str, task: Task) -> tuple[Step, Weights, np.ndarray, np.ndarray]:
    weights = {key: value.astype(np.float64) for key, value in task.params.items()}
    leaves = task.h0 if isinstance(task.h0, tuple) else (task.h0,)
    h = flat([leaf[None] for leaf in leaves])[0]
    return STEPS[name], weights, h, task.xs.astype(np.float64)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _rnn(w: Weights, h: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.tanh(w["W"] @ h + x)


def _gru(w: Weights, h: np.ndarray, x: np.ndarray) -> np.ndarray:
    n = h.size
    a, b = w["w_ih"] @ x + w["b_ih"], w["w_hh"] @ h + w["b_hh"]
    gates = _sigmoid(a[: 2 * n] + b[: 2 * n])
    r, z = gates[:n], gates[n:]
    return (1 - z) * np.tanh(a[2 * n :] + r * b[2 * n :]) + z * h


def _lstm(w: Weights, state: np.ndarray, x: np.ndarray) -> np.ndarray:
    n = state.size // 2
    h, c = state[:n], state[n:]
    a = w["w_ih"] @ x + w["b_ih"] + w["w_hh"] @ h + w["b_hh"]
    c = _sigmoid(a[n : 2 * n]) * c + _sigmoid(a[:n]) * np.tanh(a[2 * n : 3 * n])
    return np.concatenate([_sigmoid(a[3 * n :]) * np.tanh(c), c])


def _matrix(w: Weights, h: np.ndarray, x: np.ndarray) -> np.ndarray:
    H, f = h.reshape(ROWS, -1), _sigmoid(x[-1])
    return (f * H + (1 - f) * np.tanh(H @ w["W"] + np.outer(x[:ROWS], x[ROWS:-1]))).ravel()


STEPS: dict[str, Step] = {"rnn": _rnn, "gru": _gru, "lstm": _lstm, "matrix": _matrix}
