"""What figures, tables and verdicts read of the records of `wallclock`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments.harness import race
from experiments.harness.experiment import Record
from experiments.wallclock.contenders import ONE_PASS, STEP_BY_STEP


def counted(records: Iterable[Record]) -> list[Record]:
    """Layers that were timed and whose result was right."""
    return [record for record in race.counted(records) if "layer" in record]


def of(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """Records whose fields, their own or their point's, have the wanted values."""
    return [
        record
        for record in records
        if all(record.get(key, record["point"].get(key)) == value for key, value in wanted.items())
    ]


def by_length(records: Iterable[Record]) -> dict[int, Record]:
    """Records of one contender and direction by their length, shortest first."""
    found = {record["point"]["length"]: record for record in records}
    return dict(sorted(found.items()))


def distinct(records: Iterable[Record], field: str) -> list[Any]:
    """The values of a field, the records' own or their points', in the order they appear in."""
    return list(dict.fromkeys(r.get(field, r["point"].get(field)) for r in records))


def lengths(records: Iterable[Record]) -> list[int]:
    return sorted(distinct(records, "length"))


def series(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each contender of one direction, by length: layer after layer."""
    pairs = [
        (layer, method)
        for layer in distinct(records, "layer")
        for method in distinct(of(records, layer=layer), "method")
    ]
    return [
        list(by_length(of(records, layer=layer, method=method)).values()) for layer, method in pairs
    ]


def has_choice(record: Record) -> bool:
    """Whether the layer could be evaluated by another method."""
    return record["method"] not in (STEP_BY_STEP, ONE_PASS)


def seconds(record: Record) -> float:
    """Median, for one sequence of the batch."""
    return float(np.median(record["seconds"])) / record["batch"]
