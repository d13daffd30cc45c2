"""Which appliance drew this power? 1,460 real steps, every mixer on the same budget."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from matplotlib.figure import Figure
from pydantic import Field, field_validator

from experiments.harness import sequence_models
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.layer_configs import LayerConfig, check_names, describe_init
from experiments.harness.training import Training, classification_loss, parameter_count, train
from experiments.long_sequences import present
from experiments.long_sequences.baselines import nearest, nearest_sorted
from rnnscan import SequenceModel
from rnnscan.tasks import acsf1
from rnnscan.tasks.acsf1 import CLASSES, LENGTH, Appliances

CLAIM = (
    "Claims 4 and 9 on real sequences of 1,460 steps: what a recurrence forgets, attention should "
    "see. Every mixer in the same network, on one budget, beside nearest neighbours."
)


class Config(BaseConfig):
    """Which mixers take part, and the budget of each: parameters and epochs."""

    layers: tuple[LayerConfig, ...] = Field(min_length=1)
    length: int = Field(default=LENGTH, ge=8, le=LENGTH, description="steps read of each sequence")
    parameters: int = Field(default=20_000, gt=0)
    depth: int = Field(default=2, gt=0)
    read: Literal["last", "mean"] = Field(default="mean", description="of the steps")
    seeds: int = Field(default=3, gt=0, description="weights and order; the split is fixed")
    split_seed: int = Field(default=0, ge=0)
    training: Training = Training(epochs=60, batch_size=16)

    _names = field_validator("layers")(check_names)


def plan(config: Config) -> list[Point]:
    """One point for each trained network; mixers take turns."""
    sequence_models.check_budget(config.layers, config.parameters, **_sizes(config))
    return [
        {"layer": layer.name, "seed": seed}
        for seed in range(config.seeds)
        for layer in config.layers
    ]


def describe(point: Point) -> str:
    return f"{point['layer']}, seed {point['seed']}"


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One record for each network: trained, and tested once."""
    for point in plan(config) if points is None else points:
        yield _run_point(config, point)


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    return present.plot(records)


def summary(records: Sequence[Record]) -> Summary:
    return present.summary(records)


_data = functools.cache(lambda seed: acsf1(seed=seed))


@functools.cache
def _neighbours(length: int, seed: int) -> dict[str, float]:
    """Accuracies of two classifiers that learn nothing, from the same training sequences."""
    data: Appliances = _data(seed)
    known, asked = ((part.x[:, :length, 0], part.y) for part in (data.train, data.test))
    return {"nearest": nearest(known, asked), "nearest_sorted": nearest_sorted(known, asked)}


def _sizes(config: Config) -> dict[str, Any]:
    """Of the network around a mixer, but for its width."""
    ends = {"input_size": 1, "outputs": len(CLASSES), "read": config.read}
    return {"depth": config.depth, "length": config.length, **ends}


def _run_point(config: Config, point: Point) -> Record:
    layer = next(layer for layer in config.layers if layer.name == point["layer"])
    data: Appliances = _data(config.split_seed)
    sizes = _sizes(config)
    width = sequence_models.widest(layer, config.parameters, **sizes)
    untrained = sequence_models.make(layer, jax.random.key(point["seed"]), width=width, **sizes)
    seen, held_out = (
        (part.x[:, : config.length], part.y) for part in (data.train, data.validation)
    )
    trained = train(untrained, loss, seen, held_out, config.training, point["seed"])
    tested = _tested(trained.model, data.test.x[:, : config.length], data.test.y)
    test_loss, accuracy = map(float, tested)
    return {
        "point": point,
        "kind": layer.kind,
        "init": describe_init(layer),
        "depth": config.depth,
        "read": config.read,
        "length": config.length,
        "width": width,
        "parameters": parameter_count(untrained),
        "train_size": len(data.train),
        "test_size": len(data.test),
        "test_accuracy": accuracy,
        "test_loss": test_loss,
        "best_epoch": trained.best_epoch,
        "train_loss": np.round(trained.train_loss, 5),
        "validation_loss": np.round(trained.validation_loss, 5),
        "validation_accuracy": np.round(trained.validation_accuracy, 5),
        "batch_size": config.training.batch_size,
        "compile_seconds": trained.compile_seconds,
        "step_seconds": trained.step_seconds,
        **_neighbours(config.length, config.split_seed),
    }


def loss(model: SequenceModel, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and accuracy of a batch."""
    return classification_loss(model(x)[0], y)


_tested = jax.jit(loss)
