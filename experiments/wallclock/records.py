"""What figures, tables and verdicts read of the records of `wallclock`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments.harness.experiment import Record
from experiments.wallclock.contenders import ONE_PASS, STEP_BY_STEP


def counted(records: Iterable[Record]) -> list[Record]:
    """Layers that were timed and whose result was right."""
    return [record for record in records if record.get("counts") and "layer" in record]


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


def fraction(record: Record) -> float:
    """The share of the machine's limit that was reached; 1 is the limit."""
    return record["limit_seconds"] / (seconds(record) * record["batch"])


def gain(slow: Record, fast: Record) -> tuple[float, bool]:
    """How many times as fast the second is, and whether the quartiles of the two are apart."""
    ratio = np.median(slow["seconds"]) / np.median(fast["seconds"])
    low, high = (slow, fast) if ratio > 1 else (fast, slow)
    apart = np.quantile(low["seconds"], 0.25) > np.quantile(high["seconds"], 0.75)
    return float(ratio), bool(apart)


def title(direction: str) -> str:
    return direction.replace("+", " + ")


def share(value: float) -> str:
    """A share in percent.

    >>> share(0.3123)
    '31 %'
    """
    return f"{100 * value:.2g} %"
