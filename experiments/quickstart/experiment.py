"""The three experiments at a small setting, in one report: what this toolkit is for, in minutes.

Nothing is measured here: a point of this experiment is a point of one of its parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from experiments.digits import experiment as digits
from experiments.gradient_decay import experiment as gradient_decay
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.runner import describe_point
from experiments.wallclock import experiment as wallclock

CLAIM = (
    "The whole toolkit in three minutes: how long recurrences take, how far back their gradients "
    "reach, and how well they learn to read handwritten digits."
)
PARTS: dict[str, Any] = {
    "wallclock": wallclock,
    "gradient_decay": gradient_decay,
    "digits": digits,
}


class Config(BaseConfig):
    """A whole config for each part, as a table of its name."""

    wallclock: wallclock.Config
    gradient_decay: gradient_decay.Config
    digits: digits.Config


def plan(config: Config) -> list[Point]:
    """The points of the parts, one part after another."""
    return [
        {"part": name, "point": point}
        for name, part in PARTS.items()
        for point in part.plan(getattr(config, name))
    ]


def describe(point: Point) -> str:
    part = PARTS[point["part"]]
    return f"{point['part']}: {getattr(part, 'describe', describe_point)(point['point'])}"


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """The records of the parts, each with its point wrapped."""
    for point in plan(config) if points is None else points:
        name = point["part"]
        for record in PARTS[name].run(getattr(config, name), [point["point"]]):
            yield {**record, "point": point}


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    """The figures of the parts, `wallclock_time` for instance."""
    return {
        f"{name}_{key}": figure
        for name, part in PARTS.items()
        for key, figure in part.plot(_of_part(records, name)).items()
    }


def summary(records: Sequence[Record]) -> Summary:
    """Every verdict and table of the parts; of each part the first table is for the terminal."""
    verdicts, tables = [], []
    for name, part in PARTS.items():
        mine = part.summary(_of_part(records, name))
        verdicts += mine.verdicts
        brief = next((table for table in mine.tables if table.brief), None)
        tables += [replace(table, brief=table is brief) for table in mine.tables]
    return Summary(tuple(verdicts), tuple(tables))


def _of_part(records: Sequence[Record], name: str) -> list[Record]:
    """The records of a part, as it yielded them."""
    return [
        {**record, "point": record["point"]["point"]}
        for record in records
        if record["point"]["part"] == name
    ]
