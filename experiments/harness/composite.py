"""Several experiments in one run: one folder, one report, and it continues where it stopped.

Nothing is measured here: a point of the whole is a point of one of its parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.harness.experiment import Point, Record, Summary, sum_up
from experiments.harness.runner import describe_point, measure

Parts = Mapping[str, Any]  # modules that follow the protocol of experiment.py, by name


def plan(parts: Parts, config: Any) -> list[Point]:
    """The points of the parts, one part after another; `config` has a part's config by its name."""
    return [
        {"part": name, "point": point}
        for name, part in parts.items()
        for point in part.plan(getattr(config, name))
    ]


def describe(parts: Parts, point: Point) -> str:
    part = parts[point["part"]]
    return f"{point['part']}: {getattr(part, 'describe', describe_point)(point['point'])}"


def run(parts: Parts, config: Any, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """The records of the parts, each with its point wrapped."""
    for point in plan(parts, config) if points is None else points:
        name = point["part"]
        for record in measure(name, parts[name], getattr(config, name), point["point"]):
            yield {**record, "point": point}


def plot(parts: Parts, records: Sequence[Record]) -> dict[str, Any]:
    """The figures of the parts, `wallclock_time` for instance.

    In the place of a part that cannot draw is its error, which the report tells of.
    """
    made: dict[str, Any] = {}
    for name, part in parts.items():
        try:
            drawn = part.plot(of_part(records, name))
            made |= {f"{name}_{key}": figure for key, figure in drawn.items()}
        except Exception as error:
            made[name] = error
    return made


def summaries(parts: Parts, records: Sequence[Record]) -> dict[str, Summary]:
    """What each part says of its records; its failures bear its name."""
    found = {name: sum_up(part, of_part(records, name)) for name, part in parts.items()}
    return {
        name: replace(said, failures=tuple(f"{name}, {failure}" for failure in said.failures))
        for name, said in found.items()
    }


def of_part(records: Sequence[Record], name: str) -> list[Record]:
    """The records of a part, as it yielded them."""
    return [
        {**record, "point": record["point"]["point"]}
        for record in records
        if record["point"]["part"] == name
    ]
