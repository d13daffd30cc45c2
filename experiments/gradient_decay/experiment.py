"""How the norm of a gradient depends on how far back it is taken, for every kind of layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field, field_validator

from experiments.gradient_decay import decay_figures, gain_figure, measure, tables, verdicts
from experiments.gradient_decay.closed_forms import drive_std, expected, tanh_exponent
from experiments.gradient_decay.records import DOZEN, of_study
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.kinds import KINDS
from experiments.harness.layer_configs import LayerConfig, check_names, describe_init
from experiments.harness.layer_options import Dense
from experiments.harness.reach import thinned_lags
from rnnscan.gradients import half_life

CLAIM = (
    "Claim 4: in practice a plain RNN forgets; after a dozen or so steps the early information is "
    "almost gone, against which LSTM and GRU were made. Norm of dh_T/dh_t and dL/dx_t against lag, "
    "for every layer at initialisation."
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
    decay, gain = of_study(records, "decay"), of_study(records, "gain")
    made = {
        "decay": decay_figures.by_group(decay),
        "input": decay_figures.by_group(decay, of="input"),
        "full_range": decay_figures.full_range(decay),
        "gain": gain_figure.by_gain(gain),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def summary(records: Sequence[Record]) -> Summary:
    decay, gain = of_study(records, "decay"), of_study(records, "gain")
    made = (
        tables.of_state(decay),
        tables.of_input(decay),
        tables.by_length(decay),
        tables.by_gain(gain),
    )
    found = (verdicts.of_a_dozen(decay, gain), verdicts.of_closed_forms(decay))
    return Summary(found, tuple(table for table in made if table is not None))


def _decay(config: Config, point: Point) -> Iterator[Record]:
    layer = next(layer for layer in config.layers if layer.name == point["layer"])
    length = point["length"]
    sizes = {
        "hidden": config.hidden,
        "input_size": config.input_size,
        "input_std": config.input_std,
    }
    states, inputs = measure.curves(
        layer, seeds=config.seeds, sequences=config.sequences, length=length, **sizes
    )
    lags = thinned_lags(length)
    theory = expected(layer, np.arange(length + 1), **sizes)

    def said_of(
        log_norms: np.ndarray, by_theory: np.ndarray | None, first: int = 0
    ) -> dict[str, Any]:
        at = lags[lags < len(log_norms)]  # lag T has no input
        known = by_theory is not None
        return {
            **measure.numbers(log_norms[first:], config.eps, config.fit_lags),
            "norms": np.round(log_norms[at], 4),
            "theory": np.round(by_theory[at], 4) if known else None,
            "theory_half_life": float(half_life(by_theory[first:])) if known else None,
        }

    # Attention's newest input is its query too, which is no matter of distance: count from lag 1.
    first = 1 if KINDS[layer.kind].attends else 0
    for seed, of_input in enumerate(inputs):
        # The norm at the first lag is that of the weights of the input: relative to it.
        of_input = of_input - of_input[first]
        yield {
            "point": point,
            "seed": seed,
            "kind": layer.kind,
            "init": describe_init(layer),
            "plain": isinstance(layer, Dense)
            and layer.recurrent == "torch"
            and layer.forget_bias is None,
            **sizes,
            "sequences": config.sequences,
            "eps": config.eps,
            "closed_form": theory.name,
            "lags": lags,
            "state": None if states is None else said_of(states[seed], theory.state),
            "input": {
                **said_of(of_input, theory.input, first),
                "share_of_newest": measure.share_of_newest(of_input, DOZEN),
            },
        }


def _gain(config: Config, point: Point) -> Iterator[Record]:
    gain, input_std = point["gain"], point["input_std"]
    layer = Dense(name="tanh RNN", kind="RNN", recurrent="gaussian", gain=gain)
    sizes = {"hidden": config.hidden, "input_size": config.input_size, "input_std": input_std}
    length = config.gains.length
    states, _ = measure.curves(
        layer, seeds=config.seeds, sequences=config.sequences, length=length, **sizes
    )
    assert states is not None
    drive = drive_std(**sizes)
    for seed, state in enumerate(states):
        yield {
            "point": point,
            "seed": seed,
            "length": length,
            **sizes,
            "drive_std": drive,
            "eps": config.eps,
            "state": measure.numbers(state, config.eps, config.fit_lags),
            "theory_exponent": tanh_exponent(gain, drive),
        }
