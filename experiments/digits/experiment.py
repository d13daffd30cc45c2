"""Handwritten digits, read pixel by pixel or row by row, classified from the last state."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import jax
import numpy as np
from pydantic import Field, field_validator, model_validator

from experiments.digits import classifier, measure, present
from experiments.harness import study
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record
from experiments.harness.kinds import OWN_WIDTH, STATE, check_kinds
from experiments.harness.layer_configs import LayerConfig, check_names, describe_init
from experiments.harness.progress import say
from experiments.harness.sequence_models import largest, make, refuse_small_budget
from experiments.harness.training import Training
from rnnscan.tasks import Digits, Split
from rnnscan.tasks import digits as load
from rnnscan.tasks.digits import CLASSES, READINGS

CLAIM = (
    "Claims 4 and 11: an RNN's last state goes into a linear layer and classifies real sequences; "
    "over 64 steps it does so only where the gradient reaches back. Accuracy, time and reach."
)

HISTORIES = (
    *("best_epoch", "train_loss", "train_accuracy"),
    *("validation_loss", "validation_accuracy"),
)


class Config(BaseConfig):
    """Which layers learn to read digits, with which budget.

    Every classifier gets the largest width with which it stays within `parameters`. With depth 0
    it is a layer whose last output goes into a head; else a `SequenceModel` of so many blocks,
    which reads the last step or the mean of all.
    """

    layers: tuple[LayerConfig, ...] = Field(min_length=1)
    readings: tuple[Literal["pixels", "rows"], ...] = Field(default=("pixels",), min_length=1)
    seeds: int = Field(default=5, gt=0)
    parameters: int = Field(default=5000, gt=0)
    depth: int = Field(default=0, ge=0, description="blocks around each layer; 0: the bare layer")
    read: Literal["last", "mean"] = Field(default="last", description="of the blocks' steps")
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

    @model_validator(mode="after")
    def _bare_layers_stand_alone(self) -> Config:
        # With nothing around it the last output alone holds what it knows of a sequence.
        if self.depth == 0:
            kinds = (layer.kind for layer in self.layers)
            check_kinds("digits with depth = 0", "layers[{}].kind", kinds, STATE, OWN_WIDTH)
        return self


plot, summary = present.plot, present.summary


def plan(config: Config) -> list[Point]:
    """The points of a study, for one reading after another."""
    _check_budget(config)
    return [
        {"reading": reading, **point}
        for reading in config.readings
        for point in study.points(config)
    ]


def describe(point: Point) -> str:
    return f"{point['layer']}, by {point['reading']}, seed {point['seed']}"


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One record for each classifier: trained, tested once, its gradient's reach twice."""
    for point in plan(config) if points is None else points:
        yield _run_point(config, point)


@functools.cache
def _data(reading: Literal["pixels", "rows"], seed: int) -> Digits:
    return load(reading, seed=seed)


def _maker(
    config: Config, layer: LayerConfig, reading: str
) -> tuple[int, Callable[[int], Callable[[jax.Array], Any]]]:
    """What its width is a multiple of, and what makes a classifier from a width and a key."""
    length, features = READINGS[reading]
    sizes: dict[str, Any]
    if config.depth:
        sizes = {"depth": config.depth, "length": length, "input_size": features}
        sizes |= {"outputs": CLASSES, "read": config.read}
        return 4, lambda width: functools.partial(make, layer, width=width, **sizes)
    sizes = {"features": features, "outputs": config.outputs, "head": config.head}
    return 1, lambda width: functools.partial(classifier.init, layer, hidden=width, **sizes)


def _check_budget(config: Config) -> None:
    for reading in config.readings:
        makers = {layer.name: _maker(config, layer, reading) for layer in config.layers}
        smallest = {name: model(step) for name, (step, model) in makers.items()}
        refuse_small_budget(config.parameters, smallest, 4 if config.depth else 1)


def _run_point(config: Config, point: Point) -> Record:
    layer = study.layer_of(config, point)
    data = _data(point["reading"], config.split_seed)
    step, model = _maker(config, layer, point["reading"])
    hidden = largest(model, config.parameters, step=step, name=layer.name)
    untrained = model(hidden)(jax.random.key(point["seed"]))
    probes = Split(data.validation.x[: config.probes], data.validation.y[: config.probes])

    say("gradient reach before training")
    before = measure.reach(untrained, probes)
    parts = (data.train.x, data.train.y), (data.validation.x, data.validation.y)
    trained, record = study.fit(config, point, untrained, classifier.loss, *parts, HISTORIES)
    after = measure.reach(trained, probes)
    return record | {
        "init": describe_init(layer),
        "head": config.head,
        "depth": config.depth,
        "read": config.read if config.depth else "last",
        "length": data.train.x.shape[1],
        "hidden": hidden,
        "train_size": len(data.train),
        "test_size": len(data.test),
        "test_accuracy": measure.accuracy(trained, data.test),
        "eps": config.eps,
        "input_before": np.round(before, 4),
        "input_after": np.round(after, 4),
    }
