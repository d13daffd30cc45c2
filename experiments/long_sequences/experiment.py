"""Which appliance drew this power? 1,460 real steps, every mixer on the same budget."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import jax
from pydantic import Field, field_validator

from experiments.harness import study
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record
from experiments.harness.layer_configs import LayerConfig, check_names, describe_init
from experiments.harness.training import Training, classification_loss
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


describe, plot, summary = study.describe, present.plot, present.summary


def plan(config: Config) -> list[Point]:
    return study.plan(config, **_sizes(config))


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One record for each network: trained, and tested once."""
    for point in plan(config) if points is None else points:
        yield _run_point(config, point)


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
    data: Appliances = _data(config.split_seed)
    width, untrained = study.widest_model(config, point, **_sizes(config))
    seen, held_out, asked = (
        (part.x[:, : config.length], part.y) for part in (data.train, data.validation, data.test)
    )
    histories = ("best_epoch", "train_loss", "validation_loss", "validation_accuracy")
    model, record = study.fit(config, point, untrained, loss, seen, held_out, histories)
    test_loss, accuracy = map(float, _tested(model, *asked))
    return record | {
        "init": describe_init(study.layer_of(config, point)),
        "depth": config.depth,
        "read": config.read,
        "length": config.length,
        "width": width,
        "train_size": len(data.train),
        "test_size": len(data.test),
        "test_accuracy": accuracy,
        "test_loss": test_loss,
        **_neighbours(config.length, config.split_seed),
    }


def loss(model: SequenceModel, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and accuracy of a batch."""
    return classification_loss(model(x)[0], y)


_tested = jax.jit(loss)
