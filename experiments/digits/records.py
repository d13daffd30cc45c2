"""What figures, tables and verdicts of `digits` ask of its records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.harness.experiment import Record
from experiments.harness.gradient_figures import layer_look


def done(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if "test_accuracy" in record]


def of(records: Sequence[Record], **wanted: Any) -> list[Record]:
    return [
        record
        for record in records
        if all(record["point"].get(key) == value for key, value in wanted.items())
    ]


def _distinct(records: Sequence[Record], key: str) -> list[Any]:
    return list(dict.fromkeys(record["point"][key] for record in records))


def layers(records: Sequence[Record]) -> list[str]:
    return _distinct(records, "layer")


def readings(records: Sequence[Record]) -> list[str]:
    return _distinct(records, "reading")


def longest_reading(records: Sequence[Record]) -> str:
    return max(records, key=lambda record: record["length"])["point"]["reading"]


def looks(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """A look for each layer, the same in every figure."""
    kinds: dict[str, str] = {}
    for record in records:
        kinds.setdefault(record["point"]["layer"], record["kind"])
    seen: dict[str, int] = {}
    looks = {}
    for layer, kind in kinds.items():
        looks[layer] = layer_look(kind, seen.get(kind, 0))
        seen[kind] = seen.get(kind, 0) + 1
    return looks


def array(records: Sequence[Record], key: str) -> np.ndarray:
    return np.array([record[key] for record in records], np.float64)


def reading_title(record: Record) -> str:
    step = "pixel" if record["point"]["reading"] == "pixels" else "row"
    return f"{record['length']} steps of one {step}"


def seeds(records: Sequence[Record]) -> str:
    count = len(_distinct(records, "seed"))
    return "one seed" if count == 1 else f"{count} seeds"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def mean_and_spread(records: Sequence[Record]) -> tuple[float, float]:
    """Test accuracy over seeds: mean and standard deviation."""
    found = array(records, "test_accuracy")
    return float(found.mean()), float(found.std(ddof=1)) if len(found) > 1 else 0.0
