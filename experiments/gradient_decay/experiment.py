"""How the norm of a gradient depends on how far back it is taken: tanh RNN, LinearRNN and LRU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field, field_validator

from experiments.gradient_decay import measure, present
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.layer_configs import Dense, LayerConfig, check_names, describe_init
from experiments.harness.reach import thinned_lags

CLAIM = (
    "Claim 4: in practice a plain RNN forgets; after a dozen or so steps the early information is "
    "almost gone. Norm of dh_T/dh_t and dL/dx_t against lag, at initialisation."
)


class Gains(BaseConfig):
    """A tanh RNN with Gaussian W_hh of each gain, under white input of each standard deviation."""

    values: tuple[float, ...] = ()
    input_stds: tuple[float, ...] = (1.0,)
    length: int = Field(default=256, ge=16)

    @field_validator("values", "input_stds")
    @classmethod
    def _positive_and_distinct(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if any(value <= 0 for value in values) or len(set(values)) < len(values):
            raise ValueError("should be above 0, and none twice")
        return values


class Config(BaseConfig):
    """Which layers, how wide, and how long; weights and inputs are drawn anew for each seed."""

    layers: tuple[LayerConfig, ...] = Field(min_length=1)
    lengths: tuple[int, ...] = Field(default=(64, 256, 1024), min_length=1)
    hidden: int = Field(default=128, gt=0)
    input_size: int = Field(default=8, gt=0)
    input_std: float = Field(default=1.0, gt=0)
    seeds: int = Field(default=8, gt=0)
    sequences: int = Field(default=2, gt=0)
    eps: float = Field(default=1e-3, gt=0, lt=1)
    fit_lags: int = Field(default=128, ge=8)
    gains: Gains = Gains()

    _names = field_validator("layers")(check_names)

    @field_validator("lengths")
    @classmethod
    def _long_enough_and_distinct(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if min(lengths) < 16 or len(set(lengths)) < len(lengths):
            raise ValueError("should be 16 at least, for a fit, and none twice")
        return lengths


def plan(config: Config) -> list[Point]:
    """One point for each layer and length, then one for each gain and drive; seeds are within."""
    decay: list[Point] = [
        {"study": "decay", "layer": layer.name, "length": length}
        for layer in config.layers
        for length in sorted(config.lengths)
    ]
    return decay + [
        {"study": "gain", "gain": gain, "input_std": std}
        for std in config.gains.input_stds
        for gain in config.gains.values
    ]


def describe(point: Point) -> str:
    if point["study"] == "decay":
        return f"{point['layer']}, T = {point['length']}"
    return f"tanh RNN, gain {point['gain']:g}, input std {point['input_std']:g}"


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One record for each seed of a point."""
    for point in plan(config) if points is None else points:
        yield from (_decay if point["study"] == "decay" else _gain)(config, point)


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    return present.plot(records)


def summary(records: Sequence[Record]) -> Summary:
    return present.summary(records)


def _decay(config: Config, point: Point) -> Iterator[Record]:
    layer = next(layer for layer in config.layers if layer.name == point["layer"])
    length = point["length"]
    sizes = {"hidden": config.hidden, "input_size": config.input_size}
    states, inputs = measure.curves(
        layer,
        seeds=config.seeds,
        sequences=config.sequences,
        length=length,
        input_std=config.input_std,
        **sizes,
    )
    lags = thinned_lags(length)
    name, by_state, by_input = measure.closed_forms(
        layer, lags, input_std=config.input_std, **sizes
    )
    for seed, (state, of_input) in enumerate(zip(states, inputs, strict=True)):
        yield {
            "point": point,
            "seed": seed,
            "kind": layer.kind,
            "init": describe_init(layer),
            "plain": isinstance(layer, Dense) and layer.recurrent == "torch",
            **sizes,
            "input_std": config.input_std,
            "sequences": config.sequences,
            "eps": config.eps,
            **measure.numbers(state, config.eps, config.fit_lags),
            "lags": lags,
            "state": np.round(state[lags], 4),
            # Lag T has no input, and the norm at lag 0 is that of W_ih: relative to it.
            "input": np.round((of_input - of_input[0])[lags[:-1]], 4),
            "theory": name,
            "theory_state": np.round(by_state, 4),
            "theory_input": np.round(by_input[:-1], 4),
        }


def _gain(config: Config, point: Point) -> Iterator[Record]:
    gain, input_std = point["gain"], point["input_std"]
    layer = Dense(name="tanh RNN", kind="RNN", recurrent="gaussian", gain=gain)
    sizes = {"hidden": config.hidden, "input_size": config.input_size, "input_std": input_std}
    states, _ = measure.curves(
        layer,
        seeds=config.seeds,
        sequences=config.sequences,
        length=config.gains.length,
        **sizes,
    )
    for seed, state in enumerate(states):
        yield {
            "point": point,
            "seed": seed,
            "length": config.gains.length,
            **sizes,
            "drive_std": measure.drive_std(**sizes),
            "eps": config.eps,
            **measure.numbers(state, config.eps, config.fit_lags),
            "theory_exponent": measure.tanh_exponent(gain, **sizes),
        }
