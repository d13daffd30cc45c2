"""How many parameters a layer has, against the length it reads: counted from real layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import pydantic
from matplotlib.figure import Figure

from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.kinds import KINDS
from experiments.harness.layer_configs import build, by_default
from experiments.parameter_sharing import present
from experiments.parameter_sharing.present import ARTICLE
from rnnscan import MLP, RNN, CausalConv1D

CLAIM = (
    "Claim 2, parameter sharing: an RNN has D_h (D_in + D_h + 1) parameters whatever the length, "
    "where a fully connected net's grow with it. Counted from the arrays of real layers."
)


class Config(BaseConfig):
    """Sizes of every layer, and the lengths that they are made for."""

    input_size: pydantic.PositiveInt = 100
    hidden: pydantic.PositiveInt = 128
    length: pydantic.PositiveInt = 10
    lengths: tuple[pydantic.PositiveInt, ...] = (10, 100, 1000, 10_000)

    @pydantic.field_validator("lengths")
    @classmethod
    def _several_and_distinct(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if len(lengths) < 2 or len(set(lengths)) < len(lengths):
            raise ValueError("should be two lengths at least, and none twice")
        return lengths


def plan(config: Config) -> list[Point]:
    """The article's three layers without biases, then every layer at every length."""
    points: list[Point] = [{"study": "article", "layer": kind} for kind in ARTICLE]
    points += [{"study": "biases", "layer": "RNN"}]
    return points + [
        {"study": "growth", "layer": kind, "length": length}
        for kind in KINDS
        for length in sorted(config.lengths)
    ]


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One count a point."""
    for point in plan(config) if points is None else points:
        layer = _layer(config, point)
        yield {
            "point": point,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(layer)),
            "input_size": config.input_size,
            "hidden": config.hidden,
            "length": point.get("length", config.length),
            "arrays": {
                jax.tree_util.keystr(path): list(leaf.shape)
                for path, leaf in jax.tree.leaves_with_path(layer)
            },
        }


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    return present.plot(records)


def summary(records: Sequence[Record]) -> Summary:
    return present.summary(records)


def _layer(config: Config, point: Point) -> Any:
    """The layer with shapes in place of numbers: nothing is allocated."""
    inputs, hidden = config.input_size, config.hidden
    key = jax.random.key(0)

    def made() -> Any:
        if point["study"] == "growth":
            layer, length = by_default(point["layer"]), point["length"]
            return build(layer, key, input_size=inputs, hidden=hidden, length=length)
        if point["study"] == "biases":
            return RNN.init(key, inputs, hidden)
        if point["layer"] == "MLP":
            return MLP.init(key, inputs, hidden, length=config.length, bias=False)
        if point["layer"] == "CausalConv1D":
            return CausalConv1D.init(key, inputs, hidden, width=3, bias=False)
        return RNN.init(key, inputs, hidden, bias=False)

    return jax.eval_shape(made)
