"""Layers as a config names them: kind, size and how the recurrence begins.

[[layers]]
name = "RNN, gain 0.9"
kind = "RNN"
recurrent = "gaussian"
gain = 0.9
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, model_validator

from experiments.harness.config import Config
from rnnscan import (
    GRU,
    LRU,
    LSTM,
    MLP,
    RNN,
    CausalConv1D,
    CausalSelfAttention,
    LinearRNN,
    Mamba,
    MinGRU,
    MinLSTM,
    SelectiveSSM,
)

Layer = Any  # of rnnscan.layers
TORCH_GAIN = 1 / math.sqrt(3)  # of entries uniform on ±1/sqrt(n)


class Dense(Config):
    """A dense recurrence: W_hh with entries of standard deviation gain / sqrt(hidden).

    "torch" is uniform with the gain 1/sqrt(3), as in `torch.nn.RNN`; "gaussian" and "orthogonal"
    take any gain. Of an LSTM and a GRU it is the matrix of each gate. `forget_bias` is the bias of
    an LSTM's forget gate at the start; without it that is random, near 0.
    """

    name: str
    kind: Literal["RNN", "LinearRNN", "LSTM", "GRU"]
    recurrent: Literal["torch", "gaussian", "orthogonal"] = "torch"
    gain: float | None = Field(default=None, gt=0)
    forget_bias: float | None = None

    @model_validator(mode="after")
    def _forget_bias_fits(self) -> Dense:
        if self.forget_bias is not None and self.kind != "LSTM":
            raise ValueError(
                f"forget_bias = {self.forget_bias} with kind = {self.kind!r}; should be left out, "
                'or kind be "LSTM"'
            )
        return self

    @model_validator(mode="after")
    def _gain_fits(self) -> Dense:
        if self.recurrent == "torch" and self.gain is not None:
            raise ValueError(
                f'gain = {self.gain} with recurrent = "torch", which has its own; should be left '
                'out, or recurrent be "gaussian" or "orthogonal"'
            )
        if self.recurrent != "torch" and self.gain is None:
            raise ValueError(f'gain: missing; recurrent = "{self.recurrent}" needs one, say 1.0')
        return self


class Diagonal(Config):
    """An LRU: decays on the ring r_min <= |lambda| <= r_max, phases up to max_phase."""

    name: str
    kind: Literal["LRU"]
    r_min: float = Field(default=0.0, ge=0, lt=1)
    r_max: float = Field(default=1.0, gt=0, le=1)
    max_phase: float = Field(default=2 * math.pi, gt=0, le=2 * math.pi)

    @model_validator(mode="after")
    def _ring_is_one(self) -> Diagonal:
        if self.r_min > self.r_max:
            raise ValueError(f"r_min = {self.r_min}: should not exceed r_max = {self.r_max}")
        return self


class Minimal(Config):
    """A MinGRU or a MinLSTM; its decays begin near sigmoid(decay_bias), 1/2 without it."""

    name: str
    kind: Literal["MinGRU", "MinLSTM"]
    decay_bias: float | None = None


class StateSpace(Config):
    """A SelectiveSSM, as wide as its input, or a Mamba block, which expands its input."""

    name: str
    kind: Literal["SelectiveSSM", "Mamba"]
    state_size: int = Field(default=16, gt=0)
    expand: int = Field(default=2, gt=0)
    conv_width: int = Field(default=4, gt=0)
    dt_min: float = Field(default=1e-3, gt=0)
    dt_max: float = Field(default=0.1, gt=0)

    @model_validator(mode="after")
    def _steps_in_order(self) -> StateSpace:
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min = {self.dt_min}: should not exceed dt_max = {self.dt_max}")
        return self


class Attention(Config):
    """Causal self-attention to a window of `context` steps, by default all of the sequence."""

    name: str
    kind: Literal["CausalSelfAttention"]
    num_heads: int = Field(default=4, gt=0)
    context: int | None = Field(default=None, gt=0)
    rotary: bool = True


class Convolution(Config):
    """A causal convolution over `width` steps, `dilation` apart."""

    name: str
    kind: Literal["CausalConv1D"]
    width: int = Field(default=3, gt=0)
    dilation: int = Field(default=1, gt=0)


class FullyConnected(Config):
    """An MLP over the whole sequence, whose length it is made for."""

    name: str
    kind: Literal["MLP"]


Kind = Dense | Diagonal | Minimal | StateSpace | Attention | Convolution | FullyConnected
LayerConfig = Annotated[Kind, Field(discriminator="kind")]
# Every kind, in the order in which tables and legends have them.
KINDS = (
    *("RNN", "LSTM", "GRU", "LinearRNN", "LRU", "MinGRU", "MinLSTM", "SelectiveSSM", "Mamba"),
    *("CausalSelfAttention", "CausalConv1D", "MLP"),
)
# These have no `hidden` of their own: they are as wide as their input.
AS_WIDE_AS_INPUT = ("SelectiveSSM", "Mamba")
# What a state carries on is all they know of the past.
RECURRENT = KINDS[:9]


def check_names(layers: tuple[Kind, ...]) -> tuple[Kind, ...]:
    """Raises where two layers share a name; for a validator of a config."""
    names = [layer.name for layer in layers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names {twice} appear more than once; should differ")
    return layers


def build(
    config: Kind,
    key: jax.Array,
    *,
    input_size: int,
    hidden: int,
    output_size: int | None = None,
    length: int | None = None,
) -> Layer:
    """The layer at initialisation.

    hidden: its width; of attention rounded up to what its heads divide, of a state-space layer that
    of its input in any case. output_size: for an LRU, attention and an MLP, whose output is no
    state. length: of the sequences, for an MLP and for attention to all of one.
    """
    match config:
        case Dense(kind="LinearRNN"):
            return LinearRNN.init(key, input_size, hidden, recurrent_init=_recurrent_init(config))
        case Dense():
            options: dict[str, Any] = {"recurrent_init": _recurrent_init(config)}
            if config.kind == "LSTM":
                options["forget_bias"] = config.forget_bias
            cls = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}[config.kind]
            return cls.init(key, input_size, hidden, **options)
        case Diagonal():
            ring: Any = {
                "r_min": config.r_min,
                "r_max": config.r_max,
                "max_phase": config.max_phase,
            }
            return LRU.init(key, input_size, hidden, output_size, **ring)
        case Minimal():
            return _minimal(config, key, input_size, hidden)
        case StateSpace():
            options = {key: getattr(config, key) for key in ("state_size", "dt_min", "dt_max")}
            if config.kind == "SelectiveSSM":
                return SelectiveSSM.init(key, input_size, **options)
            options |= {"expand": config.expand, "conv_width": config.conv_width}
            return Mamba.init(key, input_size, **options)
        case Attention():
            step = config.num_heads * (2 if config.rotary else 1)
            return CausalSelfAttention.init(
                key,
                input_size,
                -(-hidden // step) * step,
                num_heads=config.num_heads,
                context=config.context or _needed(length, config),
                rotary=config.rotary,
                output_size=output_size,
            )
        case Convolution():
            options = {"width": config.width, "dilation": config.dilation}
            return CausalConv1D.init(key, input_size, hidden, **options)
        case FullyConnected():
            return MLP.init(key, input_size, hidden, output_size, length=_needed(length, config))


def _needed(length: int | None, config: Kind) -> int:
    if length is None:
        raise ValueError(f"length: {config.name} ({config.kind}) is made for one, got None")
    return length


def _minimal(config: Minimal, key: jax.Array, input_size: int, hidden: int) -> Layer:
    cls = MinGRU if config.kind == "MinGRU" else MinLSTM
    layer: Layer = cls.init(key, input_size, hidden)
    if config.decay_bias is None:
        return layer
    # 1 - sigmoid(-a) = sigmoid(a); and with gates f and i of a and -a, f / (f + i) = sigmoid(a).
    signs = {"MinGRU": (-1,), "MinLSTM": (1, -1)}[config.kind]
    gates = [jnp.full(hidden, sign * config.decay_bias) for sign in signs]
    return replace(layer, b=jnp.concatenate([*gates, layer.b[len(signs) * hidden :]]))


def _recurrent_init(config: Dense):
    if config.gain is None:
        return None
    if config.recurrent == "gaussian":
        return jax.nn.initializers.variance_scaling(config.gain**2, "fan_in", "normal")
    return jax.nn.initializers.orthogonal(config.gain)


def describe_init(config: Kind) -> str:
    """The initialisation in a few words.

    >>> describe_init(Dense(name="a", kind="RNN", recurrent="gaussian", gain=0.9))
    'W_hh gaussian, gain 0.9'
    """
    match config:
        case Dense():
            gain = TORCH_GAIN if config.gain is None else config.gain
            bias = "" if config.forget_bias is None else f", forget bias {config.forget_bias:g}"
            return f"W_hh {config.recurrent}, gain {gain:.3g}{bias}"
        case Diagonal():
            return f"ring [{config.r_min:g}, {config.r_max:g}]"
        case Minimal():
            bias = config.decay_bias or 0.0
            return f"decays near {1 / (1 + math.exp(-bias)):.3g}"
        case StateSpace():
            return f"steps [{config.dt_min:g}, {config.dt_max:g}]"
        case Attention():
            return "all of the sequence" if config.context is None else f"window {config.context}"
        case Convolution():
            return f"window {(config.width - 1) * config.dilation + 1}"
        case FullyConnected():
            return "the whole sequence"
