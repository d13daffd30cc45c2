"""Recall against distance: attention beside recurrences, on the same budget."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from experiments.harness import study
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record
from experiments.harness.kinds import EACH_STEP, check_kinds
from experiments.harness.layer_configs import LayerConfig, check_names
from experiments.harness.progress import say
from experiments.harness.training import Training
from experiments.recall import model as models
from experiments.recall import present
from rnnscan import SequenceModel
from rnnscan.tasks import Recall, associative_recall

CLAIM = (
    "Claim 9: self-attention has no time dependence, and inside its window it handles long range "
    "much better than an RNN. Associative recall against distance, on one budget."
)


class Config(BaseConfig):
    """The task, the budget, and which mixers take part."""

    layers: tuple[LayerConfig, ...] = Field(min_length=1)
    length: int = Field(default=64, ge=12)
    pairs: int = Field(default=4, ge=1)
    vocabulary: int = Field(default=32, ge=8)
    train_size: int = Field(default=8192, gt=0)
    test_size: int = Field(default=1024, gt=0)
    parameters: int = Field(default=30_000, gt=0)
    depth: int = Field(default=2, gt=0)
    seeds: int = Field(default=2, gt=0)
    probes: int = Field(default=16, gt=0, description="sequences on which gradients are measured")
    bins: int = Field(default=8, gt=1)
    training: Training = Training(epochs=12)

    _names = field_validator("layers")(check_names)

    @model_validator(mode="after")
    def _each_step_answers(self) -> Config:
        check_kinds("recall", "layers[{}].kind", (layer.kind for layer in self.layers), EACH_STEP)
        return self


describe, plot, summary = study.describe, present.plot, present.summary


def plan(config: Config) -> list[Point]:
    return study.plan(config, **_sizes(config))


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One record for each model: trained, tested once, its gradients measured."""
    for point in plan(config) if points is None else points:
        yield _run_point(config, point)


_data = functools.lru_cache(maxsize=4)(associative_recall)


def _sizes(config: Config) -> dict[str, Any]:
    """Of the network around a mixer, but for its width."""
    ends = dict.fromkeys(("tokens", "outputs"), config.vocabulary)
    return {"depth": config.depth, "length": config.length} | ends


def _run_point(config: Config, point: Point) -> Record:
    sizes: Any = {name: getattr(config, name) for name in ("length", "pairs", "vocabulary")}
    counts = (config.train_size, config.test_size, config.test_size)
    training, validation, test = (_data(n, **sizes, seed=i) for i, n in enumerate(counts))
    width, untrained = study.widest_model(config, point, **_sizes(config))
    parts = (training.x, training.y), (validation.x, validation.y)
    histories = ("train_loss", "validation_accuracy")
    model, record = study.fit(config, point, untrained, models.loss, *parts, histories)
    say("recall and gradients by distance")
    right = np.asarray(models.answers(model, test.x)) == test.y
    edges = tuple(int(e) for e in np.linspace(1, config.length, config.bins + 1).round())
    return record | {
        "context": getattr(study.layer_of(config, point), "context", None),
        **{name: getattr(config, name) for name in ("depth", "length", "pairs", "test_size")},
        "width": width,
        "chance": 1 / test.values,
        "test_accuracy": float(right[test.distance > 0].mean()),
        "edges": list(edges),
        "accuracy": np.round(models.by_distance(right.astype(float), test.distance, edges), 5),
        "gradient": np.round(_reach(model, test, config.probes, edges), 4),
    }


def _reach(model: SequenceModel, test: Recall, probes: int, edges: tuple[int, ...]) -> np.ndarray:
    """Mean ln norm of an answer's gradient at the value it needs, over that at the question."""
    x, y, distance = test.x[:probes], test.y[:probes], test.distance[:probes]
    norms = np.asarray(models.reach(model, x, y), np.float64)
    row, step = np.nonzero(distance)
    with np.errstate(invalid="ignore"):
        relative = norms[row, step, step - distance[row, step]] - norms[row, step, step]
    return models.by_distance(relative, distance[row, step], edges)
