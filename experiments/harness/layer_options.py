"""What a config says of a layer: its kind, and how its recurrence begins.

[[layers]]
name = "RNN, gain 0.9"  # without one, its kind
kind = "RNN"
recurrent = "gaussian"
gain = 0.9

Each class says of which kinds it is, how it makes their layers and how they start, in a few words.
What else experiments know of a kind is in `kinds.py`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from pydantic import Field, model_validator

from experiments.harness.config import Config

Layer = Any  # of rnnscan.layers
Init = Callable[..., Layer]  # of a layer's class
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

    def needed_length(self, options: Options) -> int:
        if self.length is None:
            raise ValueError(f"length: {options.name} ({options.kind}) is made for one, got None")
        return self.length


class Options(Config):
    """What all have; `kind` is one of the names in a `Literal`, and by default the name."""

    name: str = ""
    kind: Any

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_kind(cls, values: Any) -> Any:
        return {"name": values.get("kind"), **values} if isinstance(values, dict) else values

    def build(self, init: Init, key: jax.Array, sizes: Sizes) -> Layer:
        """The layer at initialisation; `init` is that of the kind's class."""
        raise NotImplementedError

    def describe(self) -> str:
        """The initialisation in a few words."""
        raise NotImplementedError


class Dense(Options):
    """A dense recurrence: W_hh with entries of standard deviation gain / sqrt(hidden).

    "torch" is uniform with the gain 1/sqrt(3), as in `torch.nn.RNN`; "gaussian" and "orthogonal"
    take any gain. Of an LSTM and a GRU it is the matrix of each gate. `forget_bias` is the bias of
    an LSTM's forget gate at the start; without it that is random, near 0.
    """

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

    def build(self, init: Init, key: jax.Array, sizes: Sizes) -> Layer:
        options: dict[str, Any] = {"recurrent_init": self._recurrent_init()}
        if self.forget_bias is not None:
            options["forget_bias"] = self.forget_bias
        return init(key, sizes.input_size, sizes.hidden, **options)

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


class Diagonal(Options):
    """An LRU: decays on the ring r_min <= |lambda| <= r_max, phases up to max_phase."""

    kind: Literal["LRU"]
    r_min: float = Field(default=0.0, ge=0, lt=1)
    r_max: float = Field(default=1.0, gt=0, le=1)
    max_phase: float = Field(default=2 * math.pi, gt=0, le=2 * math.pi)

    @model_validator(mode="after")
    def _ring_is_one(self) -> Diagonal:
        if self.r_min > self.r_max:
            raise ValueError(f"r_min = {self.r_min}: should not exceed r_max = {self.r_max}")
        return self

    def build(self, init: Init, key: jax.Array, sizes: Sizes) -> Layer:
        ring: Any = {"r_min": self.r_min, "r_max": self.r_max, "max_phase": self.max_phase}
        return init(key, sizes.input_size, sizes.hidden, sizes.output_size, **ring)

    def describe(self) -> str:
        return f"ring [{self.r_min:g}, {self.r_max:g}]"


class Minimal(Options):
    """A MinGRU or a MinLSTM; its decays begin near sigmoid(decay_bias), 1/2 without it.

    `signed` stretches a decay s from (0, 1) to 2 s - 1 in (-1, 1): they begin near
    tanh(decay_bias / 2), 0 without it.
    """

    kind: Literal["MinGRU", "MinLSTM"]
    decay_bias: float | None = None
    signed: bool = False

    def build(self, init: Init, key: jax.Array, sizes: Sizes) -> Layer:
        layer = init(key, sizes.input_size, sizes.hidden, signed=self.signed)
        if self.decay_bias is None:
            return layer
        # 1 - sigmoid(-a) = sigmoid(a); with gates f and i of a and -a, f / (f + i) = sigmoid(a).
        signs = (1, -1)[-(layer.blocks - 1) :]  # of all blocks but the candidate
        gates = [jnp.full(sizes.hidden, sign * self.decay_bias) for sign in signs]
        candidate = layer.b[len(signs) * sizes.hidden :]
        return replace(layer, b=jnp.concatenate([*gates, candidate]))

    def describe(self) -> str:
        bias = self.decay_bias or 0.0
        if self.signed:
            return f"signed decays near {math.tanh(bias / 2):.3g}"
        return f"decays near {1 / (1 + math.exp(-bias)):.3g}"


class StateSpace(Options):
    """A SelectiveSSM, as wide as its input, or a Mamba block, which expands its input.

    `signed` stretches a decay a from (0, 1) to 2 a - 1 in (-1, 1).
    """

    kind: Literal["SelectiveSSM", "Mamba"]
    state_size: int = Field(default=16, gt=0)
    expand: int = Field(default=2, gt=0)
    conv_width: int = Field(default=4, gt=0)
    dt_min: float = Field(default=1e-3, gt=0)
    dt_max: float = Field(default=0.1, gt=0)
    signed: bool = False

    @model_validator(mode="after")
    def _steps_in_order(self) -> StateSpace:
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min = {self.dt_min}: should not exceed dt_max = {self.dt_max}")
        return self

    def build(self, init: Init, key: jax.Array, sizes: Sizes) -> Layer:
        known = inspect.signature(init).parameters  # a SelectiveSSM alone has nothing to expand
        options = {name: value for name, value in self if name in known}
        return init(key, sizes.input_size, **options)

    def describe(self) -> str:
        signed = "signed " if self.signed else ""
        return f"{signed}steps [{self.dt_min:g}, {self.dt_max:g}]"


class Attention(Options):
    """Causal self-attention to a window of `context` steps, by default all of the sequence."""

    kind: Literal["CausalSelfAttention"]
    num_heads: int = Field(default=4, gt=0)
    context: int | None = Field(default=None, gt=0)
    rotary: bool = True

    def build(self, init: Init, key: jax.Array, sizes: Sizes) -> Layer:
        step = self.num_heads * (2 if self.rotary else 1)
        return init(
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


class Convolution(Options):
    """A causal convolution over `width` steps, `dilation` apart."""

    kind: Literal["CausalConv1D"]
    width: int = Field(default=3, gt=0)
    dilation: int = Field(default=1, gt=0)

    def build(self, init: Init, key: jax.Array, sizes: Sizes) -> Layer:
        window: Any = {"width": self.width, "dilation": self.dilation}
        return init(key, sizes.input_size, sizes.hidden, **window)

    def describe(self) -> str:
        return f"window {(self.width - 1) * self.dilation + 1}"


class FullyConnected(Options):
    """An MLP over the whole sequence, whose length it is made for."""

    kind: Literal["MLP"]

    def build(self, init: Init, key: jax.Array, sizes: Sizes) -> Layer:
        length = sizes.needed_length(self)
        return init(key, sizes.input_size, sizes.hidden, sizes.output_size, length=length)

    def describe(self) -> str:
        return "the whole sequence"
