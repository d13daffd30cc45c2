"""What figures, tables and verdicts read of the records of `wallclock`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.harness import race
from experiments.harness.experiment import Record
from experiments.harness.records import by, distinct, median, select
from experiments.wallclock.contenders import ONE_PASS, STEP_BY_STEP


def counted(records: Iterable[Record]) -> list[Record]:
    """Layers that were timed and whose result was right."""
    return [record for record in race.counted(records) if "layer" in record]


def lengths(records: Iterable[Record]) -> list[int]:
    return sorted(distinct(records, "length"))


def series(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each contender of one direction, by length: layer after layer."""
    pairs = [
        (layer, method)
        for layer in distinct(records, "layer")
        for method in distinct(select(records, layer=layer), "method")
    ]
    return [
        list(by(select(records, layer=layer, method=method), "length").values())
        for layer, method in pairs
    ]


def has_choice(record: Record) -> bool:
    """Whether the layer could be evaluated by another method."""
    return record["method"] not in (STEP_BY_STEP, ONE_PASS)


def seconds(record: Record) -> float:
    """Median, for one sequence of the batch."""
    return median(record) / record["batch"]
