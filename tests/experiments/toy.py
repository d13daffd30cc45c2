"""An experiment of milliseconds, to test the harness with."""

import time
from typing import Annotated, Literal

import pydantic

from experiments.harness import figures
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Summary, Table, Verdict

CLAIM = "Squares are <squares>."


class Inner(BaseConfig):
    steps: int = pydantic.Field(3, gt=0)
    kind: Literal["plain", "fancy"] = "plain"


class Round(BaseConfig):
    kind: Literal["round"]
    radius: float = pydantic.Field(gt=0)


class Square(BaseConfig):
    kind: Literal["square"]
    side: float

    @pydantic.model_validator(mode="after")
    def _flat(self):
        if self.side > 9:
            raise ValueError("side should be 9 at most")
        return self


class Config(BaseConfig):
    values: tuple[int, ...] = pydantic.Field((1, 2, 3), min_length=1)
    pause: float = 0.0
    label: str = "toy"
    inner: Inner = Inner()
    maybe: Inner | None = None
    shapes: tuple[Annotated[Round | Square, pydantic.Field(discriminator="kind")], ...] = ()

    @pydantic.model_validator(mode="after")
    def _short(self):
        if self.pause > 100:
            raise ValueError("pause should be below 100")
        return self


def plan(config):
    return [{"value": value} for value in config.values]


def run(config, points=None):
    """Two records a point, so that a point can be torn."""
    for point in plan(config) if points is None else points:
        time.sleep(config.pause)
        yield {"point": point, "square": point["value"] ** 2}
        yield {"point": point, "cube": point["value"] ** 3}


def plot(records):
    figure, axes = figures.new_figure()
    squares = [record for record in records if "square" in record]
    axes[0, 0].plot(
        [record["point"]["value"] for record in squares],
        [record["square"] for record in squares],
        label="square",
    )
    figures.legend_below(figure)
    return {"squares": figure}


def summary(records):
    rows = tuple(
        (str(record["point"]["value"]), str(record["square"]))
        for record in records
        if "square" in record
    )
    return Summary(
        (Verdict("squares", "confirmed" if rows else "open", f"{len(rows)} of them & more"),),
        (Table("Squares", ("value", "square"), rows),),
    )
