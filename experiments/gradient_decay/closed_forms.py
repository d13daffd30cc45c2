"""What theory expects of a layer at initialisation: ln of its gradient norms by lag, if it is wide.

Where nothing holds there is nothing: a form is None outside of what it was derived for, and for a
kind that it was not derived for.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from experiments.harness.layer_configs import LayerConfig
from experiments.harness.layer_options import (
    TORCH_GAIN,
    Attention,
    Convolution,
    Dense,
    Diagonal,
    FullyConnected,
    Minimal,
    StateSpace,
)
from rnnscan.gradients import theory

WEAK = 0.3  # a drive (standard deviation) below which gates are at their biases, and tanh is linear


class Expected(NamedTuple):
    """Curves at some lags: of the state, and of the input relative to lag 0 (attention: lag 1)."""

    name: str | None = None
    state: np.ndarray | None = None
    input: np.ndarray | None = None


def expected(
    config: LayerConfig, lags: np.ndarray, *, hidden: int, input_size: int, input_std: float
) -> Expected:
    match config:
        case Dense(kind="RNN" | "LinearRNN" | "LSTM" | "GRU"):
            drive = drive_std(hidden=hidden, input_size=input_size, input_std=input_std)
            return _dense(config, lags, drive)
        case Diagonal():
            ring = (config.r_min, config.r_max)
            by_state = theory.lru_ring_log_norm(lags, *ring)
            by_input = theory.lru_ring_input_log_norm(lags, *ring)
            return Expected("mean over the ring", by_state, by_input)
        case Minimal(kind="MinGRU" | "MinLSTM"):
            curve = _minimal(config, lags, input_size, input_std)
            word = "decay" if config.signed else "gate"
            return Expected(f"(mean {word}²)^(k/2)", curve, curve)
        case StateSpace(kind="SelectiveSSM" | "Mamba"):
            return Expected("mean over the steps", _state_space(config, lags))
        case Attention():
            shared = _alike(lags < (config.context or np.inf))  # and the newest asks as well
            return Expected("1/T each", input=np.where(lags == 0, np.nan, shared))
        case Convolution():
            in_window = (lags % config.dilation == 0) & (lags < config.width * config.dilation)
            return Expected("alike in the window", input=_alike(in_window))
        case FullyConnected():
            return Expected("alike", input=_alike(lags >= 0))
        case _:
            return Expected()


def drive_std(*, hidden: int, input_size: int, input_std: float) -> float:
    """Standard deviation of W_ih x_t + b_ih + b_hh, all weights uniform on ±1/sqrt(hidden)."""
    return math.sqrt((input_size * input_std**2 + 2) / (3 * hidden))


def tanh_exponent(gain: float, drive: float) -> float:
    """The mean field's ln of the gradient's factor per step."""
    return theory.driven_tanh(gain, drive).exponent


def leaky_log_norm(lags: np.ndarray, leak: float, gain: float) -> np.ndarray:
    """(leak + W)^k with W_ij ~ N(0, gain² / n): the powers of W add up at right angles, so

        ½ ln sum_j C(k, j)² leak^2(k-j) gain^2j,

    as long as the j that count have j² well below n. In the long run (leak + gain)^k.
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, lags.max() + 1)))])

    def at(k: int) -> float:
        j = np.arange(k + 1)
        binomial = log_factorial[k] - log_factorial[j] - log_factorial[k - j]
        terms = 2 * (binomial + (k - j) * np.log(leak) + j * np.log(gain))
        return 0.5 * float(np.logaddexp.reduce(terms))

    return np.array([at(int(k)) for k in lags])


def _dense(config: Dense, lags: np.ndarray, drive: float) -> Expected:
    gain = TORCH_GAIN if config.gain is None else config.gain
    if config.kind == "LinearRNN":
        curve = theory.gaussian_log_norm(lags, gain)
        return Expected("gain^k", curve, curve)
    if config.kind == "RNN":
        curve = tanh_exponent(gain, drive) * lags
        return Expected("mean field", curve, curve)
    # Gates at their biases, all else near 0, where tanh(a) = a. An LSTM has c' = f c + i W h and
    # h = o c with i = o = 1/2, a GRU h' = z h + (1 - z) W r h with z = r = 1/2: leak + W/4.
    leak = 1 / (1 + math.exp(-(config.forget_bias or 0.0)))
    if drive > WEAK or leak + gain / 4 >= 1:  # where it grows, nothing stays near 0
        return Expected()
    steps = leaky_log_norm(lags, leak, gain / 4)
    if config.kind == "GRU":
        return Expected("(1/2 + W/4)^k", steps, steps)
    # The state is (h, c). Its first step back leads from either to c, and c_T is seen in h_T too.
    first = 0.5 * math.log((leak**2 + gain**2 / 4) * (1 + 1 / 4) / 2)
    by_state = np.where(
        lags == 0, 0.0, first + leaky_log_norm(np.maximum(lags - 1, 0), leak, gain / 4)
    )
    return Expected("(f + W/4)^k", by_state, steps)


def _minimal(config: Minimal, lags: np.ndarray, input_size: int, input_std: float) -> np.ndarray:
    """Decays that only the input moves: ½ ln of the mean over units of (E decay²)^k."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(16)
    noise = input_std / math.sqrt(3) * nodes  # of a gate: W is uniform on ±1/sqrt(input_size)
    if config.decay_bias is None:
        biases = (np.arange(16) + 0.5) / 8 - 1  # as W
        biases = biases * input_size**-0.5
    else:
        biases = np.array([config.decay_bias])
    gate = biases[:, None] + noise  # (units, noise); its sign does not matter without a bias
    if config.kind == "MinGRU":
        squares = _decay(config, _sigmoid(gate)) ** 2 @ weights / weights.sum()
    else:
        other = -biases[:, None] + noise
        f, i = _sigmoid(gate)[:, None, :, None], _sigmoid(other)[None, :, None, :]
        squares = np.einsum("abcd,c,d->ab", _decay(config, f / (f + i)) ** 2, weights, weights)
        squares = squares.ravel() / weights.sum() ** 2
    return theory.diagonal_log_norm(np.sqrt(squares), lags)


def _decay(config: Minimal | StateSpace, share: np.ndarray) -> np.ndarray:
    """Of the share that is kept; the gradient's norm does not see the sign of a decay."""
    return 2 * share - 1 if config.signed else share


def _state_space(config: StateSpace, lags: np.ndarray) -> np.ndarray:
    """Decays exp(-dt n), n = 1 ... state_size, and dt log-uniform; what selects moves dt little.

    With signs a decay a is 2 a - 1.
    """
    share = (np.arange(64) + 0.5) / 64
    dt = config.dt_min * (config.dt_max / config.dt_min) ** share
    decays = _decay(config, np.exp(-dt[:, None] * np.arange(1, config.state_size + 1)))
    curve = theory.diagonal_log_norm(decays.ravel(), lags)
    if config.kind == "SelectiveSSM":
        return curve
    # Beside it a Mamba's state has the window of its convolution, which moves on by one each step.
    window = config.conv_width - 1
    left = np.exp(2 * curve) * config.state_size + np.maximum(window - lags, 0)
    return 0.5 * np.log(left / (config.state_size + window))


def _alike(reached: np.ndarray) -> np.ndarray:
    return np.where(reached, 0.0, -np.inf)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
