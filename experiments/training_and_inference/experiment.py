"""Training and inference: time per training step, per classified sequence, per generated token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import pydantic
from matplotlib.figure import Figure
from pydantic import Field, field_validator

from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.figures import short_bytes, short_count
from experiments.harness.kinds import KINDS
from experiments.harness.layer_configs import LayerConfig, check_names
from experiments.harness.progress import say
from experiments.harness.timing import compare
from experiments.training_and_inference import present
from experiments.training_and_inference.contenders import GENERATE, PROGRAMS, TRAIN, contender

CLAIM = (
    "Claim 10, training and inference differ: generation is serial for every model; to classify, "
    "the RNN is still serial over the sequence, while attention reads it in one pass."
)


class Config(BaseConfig):
    """Which layers, at which lengths."""

    layers: tuple[LayerConfig, ...] = Field(min_length=1)
    lengths: tuple[pydantic.PositiveInt, ...] = (64, 256, 1024, 4096)
    programs: tuple[Literal["train", "classify", "generate"], ...] = PROGRAMS
    batch: pydantic.PositiveInt = Field(8, description="sequences of a training step")
    tokens: pydantic.PositiveInt = Field(32, description="generated one after another")
    features: pydantic.PositiveInt = 32
    hidden: pydantic.PositiveInt = 64
    seed: pydantic.NonNegativeInt = 0
    rounds: int = Field(7, ge=3, description="samples of each contender")
    sample_seconds: pydantic.PositiveFloat = 1e-3
    budget_seconds: pydantic.PositiveFloat = 1.0
    max_bytes: pydantic.PositiveInt = 2 * 2**30

    _names = field_validator("layers")(check_names)

    @field_validator("lengths", "programs")
    @classmethod
    def _some_and_distinct(cls, values: tuple) -> tuple:
        if not values or len(set(values)) < len(values):
            raise ValueError("should be at least one value, and none twice")
        return values


def plan(config: Config) -> list[Point]:
    """One point for each program and length: all layers are timed side by side."""
    return [
        {"program": program, "length": length}
        for length in sorted(config.lengths)
        for program in config.programs
    ]


def describe(point: Point) -> str:
    return f"{point['program']}, T = {short_count(point['length'])}"


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One record for each layer at a point."""
    for point in plan(config) if points is None else points:
        yield from _run_point(config, point)


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    return present.plot(records)


def summary(records: Sequence[Record]) -> Summary:
    return present.summary(records)


def _run_point(config: Config, point: Point) -> Iterator[Record]:
    program, length = point["program"], point["length"]
    contenders, facts = [], {}
    for layer in config.layers:
        needed = _predicted_bytes(config, layer.kind, program, length)
        name = f"{layer.name}, {describe(point)}"
        if needed > config.max_bytes:
            reason = f"would need {short_bytes(needed)} (predicted)"
            yield {"point": point, "skipped": f"{name}: {reason}", "predicted_bytes": needed}
            continue
        say(f"reference of {layer.name}")
        sizes = {"batch": config.batch, "tokens": config.tokens, "seed": config.seed}
        sizes |= {"features": config.features, "hidden": config.hidden}
        made, known = contender(layer, program, length=length, **sizes)
        contenders.append(made)
        facts[made.name] = {"layer": layer.name, "kind": layer.kind, **known}
    timings = compare(
        contenders,
        rounds=config.rounds,
        sample_seconds=config.sample_seconds,
        budget_seconds=config.budget_seconds,
        watch=say,
    )
    for timing in timings:
        yield {
            "point": point,
            **facts[timing.name],
            "batch": config.batch if program == TRAIN else 1,
            "tokens": config.tokens if program == GENERATE else 1,
            "hidden": config.hidden,
            "features": config.features,
            **timing.as_record(),
        }


def _predicted_bytes(config: Config, kind: str, program: str, length: int) -> int:
    """What a program holds at its peak, generously: arrays of the states, scores, weights."""
    count = config.batch if program == TRAIN else 1
    words, row = 12 * count * length * (config.hidden + config.features), KINDS[kind]
    if row.state_space:
        words *= 8
    if row.attends:  # scores of 512 queries, three times, and again backward
        words += 6 * count * 4 * min(512, length) * 2 * length
    if row.one_output:  # its weights, and their gradient
        words += 3 * config.hidden * length * config.features
    return 4 * words
