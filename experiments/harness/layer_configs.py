"""Layers as a config names them: kind, size and how the recurrence begins.

[[layers]]
name = "RNN, gain 0.9"
kind = "RNN"
recurrent = "gaussian"
gain = 0.9
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import jax
from pydantic import Field, model_validator

from experiments.harness.config import Config
from rnnscan import LRU, RNN, LinearRNN

Layer = RNN | LinearRNN | LRU
TORCH_GAIN = 1 / math.sqrt(3)  # of entries uniform on ±1/sqrt(n)


class Dense(Config):
    """A dense recurrence: W_hh with entries of standard deviation gain / sqrt(hidden).

    "torch" is uniform with the gain 1/sqrt(3), as in `torch.nn.RNN`; "gaussian" and "orthogonal"
    take any gain.
    """

    name: str
    kind: Literal["RNN", "LinearRNN"]
    recurrent: Literal["torch", "gaussian", "orthogonal"] = "torch"
    gain: float | None = Field(default=None, gt=0)

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


LayerConfig = Annotated[Dense | Diagonal, Field(discriminator="kind")]


def check_names(layers: tuple[Dense | Diagonal, ...]) -> tuple[Dense | Diagonal, ...]:
    """Raises where two layers share a name; for a validator of a config."""
    names = [layer.name for layer in layers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names {twice} appear more than once; should differ")
    return layers


def build(
    config: Dense | Diagonal,
    key: jax.Array,
    *,
    input_size: int,
    hidden: int,
    output_size: int | None = None,
) -> Layer:
    """The layer at initialisation; `output_size` is for an LRU, whose output is not its state."""
    if isinstance(config, Diagonal):
        return LRU.init(
            key,
            input_size,
            hidden,
            output_size,
            r_min=config.r_min,
            r_max=config.r_max,
            max_phase=config.max_phase,
        )
    cls = RNN if config.kind == "RNN" else LinearRNN
    return cls.init(key, input_size, hidden, recurrent_init=_recurrent_init(config))


def _recurrent_init(config: Dense):
    if config.gain is None:
        return None
    if config.recurrent == "gaussian":
        return jax.nn.initializers.variance_scaling(config.gain**2, "fan_in", "normal")
    return jax.nn.initializers.orthogonal(config.gain)


def describe_init(config: Dense | Diagonal) -> str:
    """The initialisation in a few words.

    >>> describe_init(Dense(name="a", kind="RNN", recurrent="gaussian", gain=0.9))
    'W_hh gaussian, gain 0.9'
    """
    if isinstance(config, Diagonal):
        return f"ring [{config.r_min:g}, {config.r_max:g}]"
    gain = TORCH_GAIN if config.gain is None else config.gain
    return f"W_hh {config.recurrent}, gain {gain:.3g}"
