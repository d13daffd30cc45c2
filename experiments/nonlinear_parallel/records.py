"""Which records there are: by part, method and group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments.harness.experiment import Record
from experiments.nonlinear_parallel.programs import NEWTON, PLAIN

# An exponent below the first is clearly negative (a distance halves within four steps), above the
# second clearly positive.
FORGETS, GROWS = -0.2, 0.1
# A distance that grows a thousandfold along some stretch costs three digits there, whatever its
# growth in the mean.
STRETCH = float(np.log(1e3))
ROUNDING = 2.0**-24  # of a number below 1, in float32


def of_part(records: Iterable[Record], part: str) -> list[Record]:
    return [r for r in records if r["point"].get("part") == part and "skipped" not in r]


def methods(records: Iterable[Record], name: str | None = None) -> list[Record]:
    """Of the methods, or of one of them."""
    found = [r for r in of_part(records, "methods") if "method" in r]
    return found if name is None else [r for r in found if r["method"] == name]


def newton(records: Iterable[Record]) -> list[Record]:
    """Newton's iteration wherever it was tried, in the grid too."""
    grid = of_part(records, "phase")
    return [r for r in [*methods(records), *grid] if r.get("method") == NEWTON]


def whole(records: Iterable[Record]) -> list[Record]:
    """Those that hold the numbers that they should; there is no verdict where others are."""
    return [r for r in records if sound(r)]


def sound(record: Record) -> bool:
    """A fewest may be none, the error of what gave up anything, an exponent minus infinity."""
    if "fewest" in record:
        return record["fewest"] is None or bool(np.isfinite(record["fewest"]))
    if "method" not in record:
        return True
    finite = ["overshoot", "sequential_error", "largest", "iterations"]
    finite += ["error"] if record["converged"] else []
    numbers = np.array([record.get(key) for key in finite], np.float64)
    bounds = [record.get("exponent"), -record.get("error_bound", 0.0)]
    return bool(np.isfinite(numbers).all() and (np.array(bounds, np.float64) < np.inf).all())


def forgets(record: Record) -> bool:
    """Clearly negative, and no stretch along which a distance grows a thousandfold."""
    return record["exponent"] <= FORGETS and record["overshoot"] <= STRETCH


def stretched(record: Record) -> bool:
    """Clearly negative in the mean, with such a stretch."""
    return record["exponent"] <= FORGETS and record["overshoot"] > STRETCH


def grows(record: Record) -> bool:
    return record["exponent"] >= GROWS


def recurrence(record: Record) -> tuple[Any, ...]:
    """What seeds share."""
    point = record["point"]
    keys = ("cell", "width", "gain", "input_scale", "length")
    return tuple(point[key] for key in keys)


def groups(records: Iterable[Record]) -> dict[tuple[Any, ...], list[Record]]:
    """All seeds of a recurrence together."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        found.setdefault(recurrence(record), []).append(record)
    return found


def seconds(record: Record) -> float:
    """The median of a time that counts; nan where there is none."""
    return middle(record["seconds"]) if record.get("counts") else float("nan")


def middle(samples: Sequence[float]) -> float:
    """The median of times; nan where one of them is none."""
    found = np.asarray(samples, np.float64)
    known = found.size and (np.isfinite(found) & (found > 0)).all()
    return float(np.median(found)) if known else float("nan")


def slowdown(records: Sequence[Record], of: str = NEWTON) -> dict[tuple[Any, ...], list[float]]:
    """How many times as long as the plain loop, seed by seed, by recurrence."""
    loops = {_point(r): seconds(r) for r in methods(records, PLAIN)}
    found: dict[tuple[Any, ...], list[float]] = {}
    for record in methods(records, of):
        ratio = seconds(record) / loops.get(_point(record), float("nan"))
        if np.isfinite(ratio):
            found.setdefault(recurrence(record), []).append(float(ratio))
    return found


def median(records: Iterable[Record], key: str) -> float:
    return float(np.median([record[key] for record in records]))


def _point(record: Record) -> tuple[Any, ...]:
    return (*recurrence(record), record["point"]["seed"])
