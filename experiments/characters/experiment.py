"""A language model of characters, with each mixer in turn, on the same budget."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from pydantic import Field, field_validator, model_validator

from experiments.characters import model as models
from experiments.characters import present
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.kinds import EACH_STEP, check_kinds
from experiments.harness.layer_configs import LayerConfig, check_names
from experiments.harness.progress import say
from experiments.harness.sequence_models import check_budget, make, widest
from experiments.harness.timing import Check, Contender, Timing, compare
from experiments.harness.training import Training, parameter_count, train
from rnnscan import SequenceModel
from rnnscan.tasks import Characters, python_reference
from rnnscan.tasks.characters import bigram_bits, unigram_bits, windows

CLAIM = (
    "Any of these mixers makes a language model of characters: each of them, on one budget, "
    "predicts the Python reference better than the character before does. Bits per character."
)
# Of the logits by steps from those by one call, relative to the largest, in float32: a thousand
# times what is seen on a CPU, and far below what a wrong step gives.
TOLERANCE = 1e-3


class Config(BaseConfig):
    """The text, the budget, which mixers take part, and what they are asked to write."""

    layers: tuple[LayerConfig, ...] = Field(min_length=1)
    length: int = Field(default=128, gt=0, description="of the windows that are trained on")
    characters: int | None = Field(default=None, gt=1, description="of each part; None: all")
    parameters: int = Field(default=100_000, gt=0)
    depth: int = Field(default=2, gt=0)
    seeds: int = Field(default=1, gt=0)
    prompt: str = Field(default='The "for" statement', min_length=1)
    temperature: float = Field(default=0.8, gt=0)
    sample_length: int = Field(default=400, gt=0, description="characters after the prompt")
    rounds: int = Field(default=7, ge=3, description="samples of the time to write")
    training: Training = Training(epochs=10, batch_size=32)

    _names = field_validator("layers")(check_names)

    @model_validator(mode="after")
    def _each_step_answers(self) -> Config:
        check_kinds(
            "characters", "layers[{}].kind", (layer.kind for layer in self.layers), EACH_STEP
        )
        return self

    @field_validator("prompt")
    @classmethod
    def _of_the_text(cls, prompt: str) -> str:
        text(None).encode(prompt)
        return prompt

    @model_validator(mode="after")
    def _windows_fit(self) -> Config:
        data = text(self.characters)
        shortest = min(map(len, (data.train, data.validation, data.test)))
        if self.length >= shortest:
            raise ValueError(
                f"length = {self.length}: should be below {shortest}, the characters of the "
                "shortest part of the text"
            )
        return self


def plan(config: Config) -> list[Point]:
    """One point for each trained model; mixers take turns."""
    check_budget(config.layers, config.parameters, **_sizes(config))
    return [
        {"layer": layer.name, "seed": seed}
        for seed in range(config.seeds)
        for layer in config.layers
    ]


def describe(point: Point) -> str:
    return f"{point['layer']}, seed {point['seed']}"


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One record for each model: trained, tested once, its writing read and timed."""
    for point in plan(config) if points is None else points:
        yield _run_point(config, point)


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    return present.plot(records)


def summary(records: Sequence[Record]) -> Summary:
    return present.summary(records)


@functools.cache
def text(characters: int | None) -> Characters:
    """The reference, or the first so many characters of each of its parts."""
    data = python_reference()
    parts = (data.train, data.validation, data.test)
    return replace(
        data,
        **{
            name: part[:characters]
            for name, part in zip(("train", "validation", "test"), parts, strict=True)
        },
    )


@functools.cache
def _trivial(characters: int | None, length: int) -> dict[str, float]:
    """Bits per character of what needs no training, where the models are asked."""
    data = text(characters)
    size = len(data.vocabulary)
    asked = {
        name: part[: (len(part) - 1) // length * length + 1]
        for name, part in (("validation", data.validation), ("test", data.test))
    }
    return {
        "uniform": float(np.log2(size)),
        "unigram": unigram_bits(data.train, asked["test"][1:], size),
        "bigram": bigram_bits(data.train, asked["test"], size),
        "validation_bigram": bigram_bits(data.train, asked["validation"], size),
    }


def _sizes(config: Config) -> dict[str, Any]:
    """Of the network around a mixer, but for its width."""
    tokens = len(text(config.characters).vocabulary)
    return {"depth": config.depth, "length": config.length, "tokens": tokens, "outputs": tokens}


def _run_point(config: Config, point: Point) -> Record:
    layer = next(layer for layer in config.layers if layer.name == point["layer"])
    data = text(config.characters)
    size = len(data.vocabulary)
    sizes = _sizes(config)
    width = widest(layer, config.parameters, **sizes)
    model_key, writing_key = jax.random.split(jax.random.key(point["seed"]))
    untrained = make(layer, model_key, width=width, **sizes)
    trained = train(
        untrained,
        models.loss,
        windows(data.train, config.length),
        windows(data.validation, config.length),
        config.training,
        point["seed"],
        best_by="loss",
    )
    say("the test part")
    bits = models.streamed_bits(trained.model, data.test, config.length)
    windowed = models.windowed_bits(trained.model, data.test, config.length)
    say("writing")
    prompt = jnp.asarray(data.encode(config.prompt))
    written, timing = _write(config, trained.model, prompt, writing_key)
    step_seconds = np.asarray(trained.step_seconds)
    return {
        "point": point,
        "kind": layer.kind,
        "depth": config.depth,
        "length": config.length,
        "width": width,
        "parameters": parameter_count(untrained),
        "vocabulary": size,
        "sha256": data.sha256,
        "train_size": len(data.train),
        "test_size": len(data.test),
        "test_bits": bits,
        "test_bits_windowed": windowed,
        "trivial_bits": _trivial(config.characters, config.length),
        "best_epoch": trained.best_epoch,
        "train_loss": np.round(trained.train_loss, 5),
        "validation_loss": np.round(trained.validation_loss, 5),
        "prompt": config.prompt,
        "temperature": config.temperature,
        "sample": data.decode(written),
        "batch_size": config.training.batch_size,
        "compile_seconds": trained.compile_seconds,
        "step_seconds": step_seconds,
        "trained_per_second": config.training.batch_size * config.length / np.median(step_seconds),
        "write_seconds": list(timing.samples),
        "written_per_second": config.sample_length / float(np.median(timing.samples)),
        "step_error": timing.check.error,
        "counts": timing.counts,
    }


def _write(
    config: Config, model: SequenceModel, prompt: jax.Array, key: jax.Array
) -> tuple[np.ndarray, Timing]:
    """The tokens after the prompt, and the time of the steps that gave them.

    The steps are checked against one call on the prompt and these tokens.
    """
    written = []

    def check(output: tuple[jax.Array, jax.Array]) -> Check:
        written.append(np.asarray(output[0]))
        error = models.step_error(model, prompt, *output)
        return Check(error, TOLERANCE, "one call on the text")

    logits, state = model(prompt)
    arguments = (model, logits[-1], state, key, config.temperature)
    function = functools.partial(models.go_on, count=config.sample_length)
    contender = Contender("writing", function, arguments, check)
    (timing,) = compare([contender], rounds=config.rounds, in_loop=False)
    return written[0], timing
