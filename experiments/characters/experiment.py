"""A language model of characters, with each mixer in turn, on the same budget."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, field_validator, model_validator

from experiments.characters import model as models
from experiments.characters import present
from experiments.harness import study
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record
from experiments.harness.kinds import EACH_STEP, check_kinds
from experiments.harness.layer_configs import LayerConfig, check_names
from experiments.harness.progress import say
from experiments.harness.timing import Check, Contender, Timing, compare
from experiments.harness.training import Training
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


describe, plot, summary = study.describe, present.plot, present.summary


def plan(config: Config) -> list[Point]:
    return study.plan(config, **_sizes(config))


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One record for each model: trained, tested once, its writing read and timed."""
    for point in plan(config) if points is None else points:
        yield _run_point(config, point)


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
    data = text(config.characters)
    model_key, writing_key = jax.random.split(jax.random.key(point["seed"]))
    width, untrained = study.widest_model(config, point, key=model_key, **_sizes(config))
    parts = windows(data.train, config.length), windows(data.validation, config.length)
    histories = ("best_epoch", "train_loss", "validation_loss")
    model, record = study.fit(
        config, point, untrained, models.loss, *parts, histories, best_by="loss"
    )
    say("the test part")
    bits = models.streamed_bits(model, data.test, config.length)
    windowed = models.windowed_bits(model, data.test, config.length)
    say("writing")
    prompt = jnp.asarray(data.encode(config.prompt))
    written, timing = _write(config, model, prompt, writing_key)
    tokens = config.training.batch_size * config.length
    return record | {
        "depth": config.depth,
        "length": config.length,
        "width": width,
        "vocabulary": len(data.vocabulary),
        "sha256": data.sha256,
        "train_size": len(data.train),
        "test_size": len(data.test),
        "test_bits": bits,
        "test_bits_windowed": windowed,
        "trivial_bits": _trivial(config.characters, config.length),
        "prompt": config.prompt,
        "temperature": config.temperature,
        "sample": data.decode(written),
        "trained_per_second": tokens / np.median(record["step_seconds"]),
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
