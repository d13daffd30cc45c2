"""Layers as a config names them: kind, size and how the recurrence begins.

[[layers]]
name = "RNN, gain 0.9"
kind = "RNN"
recurrent = "gaussian"
gain = 0.9

Each class says how it builds its layers and how they start, in a few words. What else experiments
know of a layer is in `kinds.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from pydantic import Field, model_validator

from experiments.harness.config import Config
from experiments.harness.kinds import ONE_OUTPUT
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


class Sizes(NamedTuple):
    """What a layer is made for.

    hidden: its width; of attention rounded up to what its heads divide, of a state-space layer that
    of its input in any case. output_size: for an LRU, attention and an MLP, whose output is no
    state. length: of the sequences, for an MLP and for attention to all of one.
    """

    input_size: int
    hidden: int
    output_size: int | None = None
    length: int | None = None

    def needed_length(self, config: LayerConfig) -> int:
        if self.length is None:
            raise ValueError(f"length: {config.name} ({config.kind}) is made for one, got None")
        return self.length


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

    def build(self, key: jax.Array, sizes: Sizes) -> Layer:
        options: dict[str, Any] = {"recurrent_init": self._recurrent_init()}
        if self.kind == "LSTM":
            options["forget_bias"] = self.forget_bias
        cls: Any = {"RNN": RNN, "LinearRNN": LinearRNN, "LSTM": LSTM, "GRU": GRU}[self.kind]
        return cls.init(key, sizes.input_size, sizes.hidden, **options)

    def _recurrent_init(self) -> Any:
        if self.gain is None:
            return None
        if self.recurrent == "gaussian":
            return jax.nn.initializers.variance_scaling(self.gain**2, "fan_in", "normal")
        return jax.nn.initializers.orthogonal(self.gain)

    def describe(self) -> str:
        gain = TORCH_GAIN if self.gain is None else self.gain
        bias = "" if self.forget_bias is None else f", forget bias {self.forget_bias:g}"
        return f"W_hh {self.recurrent}, gain {gain:.3g}{bias}"


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

    def build(self, key: jax.Array, sizes: Sizes) -> Layer:
        ring: Any = {"r_min": self.r_min, "r_max": self.r_max, "max_phase": self.max_phase}
        return LRU.init(key, sizes.input_size, sizes.hidden, sizes.output_size, **ring)

    def describe(self) -> str:
        return f"ring [{self.r_min:g}, {self.r_max:g}]"


class Minimal(Config):
    """A MinGRU or a MinLSTM; its decays begin near sigmoid(decay_bias), 1/2 without it."""

    name: str
    kind: Literal["MinGRU", "MinLSTM"]
    decay_bias: float | None = None

    def build(self, key: jax.Array, sizes: Sizes) -> Layer:
        cls = MinGRU if self.kind == "MinGRU" else MinLSTM
        layer: Layer = cls.init(key, sizes.input_size, sizes.hidden)
        if self.decay_bias is None:
            return layer
        # 1 - sigmoid(-a) = sigmoid(a); with gates f and i of a and -a, f / (f + i) = sigmoid(a).
        signs = {"MinGRU": (-1,), "MinLSTM": (1, -1)}[self.kind]
        gates = [jnp.full(sizes.hidden, sign * self.decay_bias) for sign in signs]
        candidate = layer.b[len(signs) * sizes.hidden :]
        return replace(layer, b=jnp.concatenate([*gates, candidate]))

    def describe(self) -> str:
        bias = self.decay_bias or 0.0
        return f"decays near {1 / (1 + math.exp(-bias)):.3g}"


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

    def build(self, key: jax.Array, sizes: Sizes) -> Layer:
        options = {name: getattr(self, name) for name in ("state_size", "dt_min", "dt_max")}
        if self.kind == "SelectiveSSM":
            return SelectiveSSM.init(key, sizes.input_size, **options)
        options |= {"expand": self.expand, "conv_width": self.conv_width}
        return Mamba.init(key, sizes.input_size, **options)

    def describe(self) -> str:
        return f"steps [{self.dt_min:g}, {self.dt_max:g}]"


class Attention(Config):
    """Causal self-attention to a window of `context` steps, by default all of the sequence."""

    name: str
    kind: Literal["CausalSelfAttention"]
    num_heads: int = Field(default=4, gt=0)
    context: int | None = Field(default=None, gt=0)
    rotary: bool = True

    def build(self, key: jax.Array, sizes: Sizes) -> Layer:
        step = self.num_heads * (2 if self.rotary else 1)
        return CausalSelfAttention.init(
            key,
            sizes.input_size,
            -(-sizes.hidden // step) * step,
            num_heads=self.num_heads,
            context=self.context or sizes.needed_length(self),
            rotary=self.rotary,
            output_size=sizes.output_size,
        )

    def describe(self) -> str:
        return "all of the sequence" if self.context is None else f"window {self.context}"


class Convolution(Config):
    """A causal convolution over `width` steps, `dilation` apart."""

    name: str
    kind: Literal["CausalConv1D"]
    width: int = Field(default=3, gt=0)
    dilation: int = Field(default=1, gt=0)

    def build(self, key: jax.Array, sizes: Sizes) -> Layer:
        window: Any = {"width": self.width, "dilation": self.dilation}
        return CausalConv1D.init(key, sizes.input_size, sizes.hidden, **window)

    def describe(self) -> str:
        return f"window {(self.width - 1) * self.dilation + 1}"


class FullyConnected(Config):
    """An MLP over the whole sequence, whose length it is made for."""

    name: str
    kind: Literal["MLP"]

    def build(self, key: jax.Array, sizes: Sizes) -> Layer:
        length = sizes.needed_length(self)
        return MLP.init(key, sizes.input_size, sizes.hidden, sizes.output_size, length=length)

    def describe(self) -> str:
        return "the whole sequence"


LayerConfig = Annotated[
    Dense | Diagonal | Minimal | StateSpace | Attention | Convolution | FullyConnected,
    Field(discriminator="kind"),
]


def check_names(layers: tuple[LayerConfig, ...]) -> tuple[LayerConfig, ...]:
    """Raises where two layers share a name; for a validator of a config."""
    names = [layer.name for layer in layers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names {twice} appear more than once; should differ")
    return layers


def check_each_step_answers(layers: tuple[LayerConfig, ...]) -> tuple[LayerConfig, ...]:
    """Raises where a layer has no output for each step; for a validator of a config."""
    for layer in layers:
        if layer.kind in ONE_OUTPUT:
            raise ValueError(
                f'kind = "{layer.kind}" has one output for a whole sequence, and each step asks'
            )
    return layers


def build(
    config: LayerConfig,
    key: jax.Array,
    *,
    input_size: int,
    hidden: int,
    output_size: int | None = None,
    length: int | None = None,
) -> Layer:
    """The layer at initialisation; see `Sizes`."""
    return config.build(key, Sizes(input_size, hidden, output_size, length))


def describe_init(config: LayerConfig) -> str:
    """The initialisation in a few words.

    >>> describe_init(Dense(name="a", kind="RNN", recurrent="gaussian", gain=0.9))
    'W_hh gaussian, gain 0.9'
    """
    return config.describe()
