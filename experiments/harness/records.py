"""What figures, tables and verdicts ask of records, whatever the experiment.

A field of a record is its own or its point's: `select(records, layer="LRU", length=512)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments.harness.experiment import Record


def field(record: Record, name: str) -> Any:
    """The record's own value, else its point's, else None.

    >>> field({"kind": "LRU", "point": {"length": 8}}, "length")
    8
    """
    return record[name] if name in record else record["point"].get(name)


def select(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """Those whose fields have the wanted values."""
    items = wanted.items()
    return [r for r in records if all(field(r, name) == value for name, value in items)]


def distinct(records: Iterable[Record], name: str) -> list[Any]:
    """The values of a field, in the order in which they appear.

    >>> distinct([{"point": {"seed": 1}}, {"point": {"seed": 0}}, {"point": {"seed": 1}}], "seed")
    [1, 0]
    """
    return list(dict.fromkeys(field(record, name) for record in records))


def by(records: Iterable[Record], name: str) -> dict[Any, Record]:
    """The records by a field that tells them apart, in its order."""
    found = {field(record, name): record for record in records}
    return dict(sorted(found.items()))


def array(records: Iterable[Record], name: str) -> np.ndarray:
    """A field of every record, stacked: float64 of shape (records, ...)."""
    return np.array([field(record, name) for record in records], np.float64)


def median(record: Record, name: str = "seconds") -> float:
    """Of the samples of one record; nan where there are none."""
    return float(np.median(record[name])) if len(record[name]) else float("nan")


def seeds(records: Sequence[Record]) -> str:
    """How many there are, in words.

    >>> seeds([{"point": {"seed": 0}}, {"point": {"seed": 1}}]), seeds([{"point": {"seed": 3}}])
    ('2 seeds', 'one seed')
    """
    count = len(distinct(records, "seed"))
    return "one seed" if count == 1 else f"{count} seeds"


def gain(slow: Record, fast: Record) -> tuple[float, bool]:
    """How many times as fast the second is, by medians, and whether the quartiles are apart.

    A single sample has no quartiles.

    >>> gain({"seconds": [2.0, 2.1, 2.2]}, {"seconds": [1.0, 1.05, 1.1]})
    (2.0, True)
    """
    ratio = median(slow) / median(fast)
    low, high = (slow, fast) if ratio > 1 else (fast, slow)
    apart = np.quantile(low["seconds"], 0.25) > np.quantile(high["seconds"], 0.75)
    return ratio, bool(apart) and min(len(slow["seconds"]), len(fast["seconds"])) > 1


def unsound(records: Iterable[Record], *names: str, above: float = -np.inf) -> str:
    """Why no verdict can rest on these fields, in words; empty where all are sound.

    A comparison with nan falls to one side, whichever that is, so it comes before all others.

    >>> unsound([{"error": float("nan"), "point": {"layer": "RNN", "length": 8}}], "error")
    'Of RNN 8 the error is no finite number: measure again.'
    >>> unsound([{"seconds": [1.0, 0.0], "point": {"length": 8}}], "seconds", above=0)
    'Of 8 the seconds are no finite numbers above 0: measure again.'
    """
    for record in records:
        for name in names:
            values = np.array(field(record, name), np.float64)
            if not (values.size and np.isfinite(values).all() and (values > above).all()):
                are = "are no finite numbers" if values.ndim else "is no finite number"
                limit = f" above {above:g}" if np.isfinite(above) else ""
                where = " ".join(map(str, record["point"].values()))
                said = name.replace("_", " ")
                return f"Of {where} the {said} {are}{limit}: measure again."
    return ""
