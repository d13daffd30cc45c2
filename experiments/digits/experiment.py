"""Handwritten digits, read pixel by pixel or row by row, classified from the last state."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import jax
import numpy as np
from matplotlib.figure import Figure
from pydantic import Field, field_validator

from experiments.digits import classifier, measure, present
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.layer_configs import LayerConfig, check_names, describe_init
from experiments.harness.progress import say
from experiments.harness.training import Training, parameter_count, train
from rnnscan.tasks import Digits, Split
from rnnscan.tasks import digits as load
from rnnscan.tasks.digits import READINGS

CLAIM = (
    "Claims 4 and 11: an RNN's last state goes into a linear layer and classifies real sequences; "
    "over 64 steps it does so only where the gradient reaches back. Accuracy, time and reach."
)


class Config(BaseConfig):
    """Which layers learn to read digits, with which budget.

    Every classifier gets the largest hidden size with which it stays within `parameters`.
    """

    layers: tuple[LayerConfig, ...] = Field(min_length=1)
    readings: tuple[Literal["pixels", "rows"], ...] = Field(default=("pixels",), min_length=1)
    seeds: int = Field(default=5, gt=0)
    parameters: int = Field(default=5000, gt=0)
    outputs: int = Field(default=64, gt=0)
    head: Literal["linear", "mlp"] = "linear"
    split_seed: int = Field(default=0, ge=0)
    probes: int = Field(default=32, gt=0)
    eps: float = Field(default=1e-3, gt=0, lt=1)
    training: Training = Training()

    _names = field_validator("layers")(check_names)

    @field_validator("readings")
    @classmethod
    def _distinct(cls, readings: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(readings)) < len(readings):
            raise ValueError("should not name a reading twice")
        return readings


def plan(config: Config) -> list[Point]:
    """One point for each trained classifier; layers take turns, so that a slow hour hits all."""
    return [
        {"reading": reading, "layer": layer.name, "seed": seed}
        for reading in config.readings
        for seed in range(config.seeds)
        for layer in config.layers
    ]


def describe(point: Point) -> str:
    return f"{point['layer']}, by {point['reading']}, seed {point['seed']}"


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One record for each classifier: trained, tested once, its gradient's reach twice."""
    for point in plan(config) if points is None else points:
        yield _run_point(config, point)


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    return present.plot(records)


def summary(records: Sequence[Record]) -> Summary:
    return present.summary(records)


@functools.cache
def _data(reading: Literal["pixels", "rows"], seed: int) -> Digits:
    return load(reading, seed=seed)


def _run_point(config: Config, point: Point) -> Record:
    layer = next(layer for layer in config.layers if layer.name == point["layer"])
    data = _data(point["reading"], config.split_seed)
    length, features = READINGS[point["reading"]]
    sizes = {"features": features, "outputs": config.outputs, "head": config.head}
    hidden = classifier.widest(layer, config.parameters, **sizes)
    untrained = classifier.init(layer, jax.random.key(point["seed"]), hidden=hidden, **sizes)
    probes = Split(data.validation.x[: config.probes], data.validation.y[: config.probes])

    say("gradient reach before training")
    before = measure.reach(untrained, probes)
    trained = train(
        untrained,
        classifier.loss,
        (data.train.x, data.train.y),
        (data.validation.x, data.validation.y),
        config.training,
        point["seed"],
    )
    after = measure.reach(trained.model, probes)
    return {
        "point": point,
        "kind": layer.kind,
        "init": describe_init(layer),
        "head": config.head,
        "length": length,
        "hidden": hidden,
        "parameters": parameter_count(untrained),
        "train_size": len(data.train),
        "test_size": len(data.test),
        "test_accuracy": measure.accuracy(trained.model, data.test),
        "best_epoch": trained.best_epoch,
        "train_loss": np.round(trained.train_loss, 5),
        "train_accuracy": np.round(trained.train_accuracy, 5),
        "validation_loss": np.round(trained.validation_loss, 5),
        "validation_accuracy": np.round(trained.validation_accuracy, 5),
        "batch_size": config.training.batch_size,
        "compile_seconds": trained.compile_seconds,
        "step_seconds": trained.step_seconds,
        "eps": config.eps,
        **{
            f"{key}_{when}": np.round(curve, 4)
            for when, curves in (("before", before), ("after", after))
            for key, curve in curves.items()
        },
    }
