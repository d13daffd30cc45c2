"""Chooses among the records of `gradient_decay`, and says in words what their numbers are.

A record of the study "decay" has two curves, `record["state"]` (of dh_T/dh_{T-k}; None for a layer
without a recurrent state) and `record["input"]` (of dL/dx_{T-k}), each with its "norms" at "lags".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from experiments.harness.experiment import Record
from experiments.harness.kinds import KINDS, Recurrence
from rnnscan.gradients import bootstrap_interval

DOZEN = 12
Curve = Literal["state", "input"]


def of_study(records: Sequence[Record], name: str) -> list[Record]:
    return [r for r in records if r["point"].get("study") == name and "state" in r]


def groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records by how a state depends on the one before it: the panels of a figure."""
    found = {
        how.value: [record for record in records if KINDS[record["kind"]].recurrence is how]
        for how in Recurrence
    }
    return {title: mine for title, mine in found.items() if mine}


def layers(records: Sequence[Record]) -> list[str]:
    """Names, by group."""
    mine = [record for group in groups(records).values() for record in group]
    order = [record for name in KINDS for record in mine if record["kind"] == name]
    return list(dict.fromkeys(record["point"]["layer"] for record in order))


def lengths(records: Sequence[Record]) -> list[int]:
    return sorted({record["point"]["length"] for record in records})


def where(records: Sequence[Record], **wanted: Any) -> list[Record]:
    return [
        record
        for record in records
        if all(record["point"].get(key) == value for key, value in wanted.items())
    ]


def longest(records: Sequence[Record], layer: str) -> list[Record]:
    mine = where(records, layer=layer)
    return where(mine, length=max(lengths(mine)))


def with_state(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record["state"] is not None]


def curve_of(record: Record) -> Curve:
    """Which curve says how far this layer reaches: that of its state, if it has one."""
    return "input" if record["state"] is None else "state"


def values(records: Sequence[Record], of: Curve, key: str) -> np.ndarray:
    return np.array([record[of][key] for record in records], np.float64)


def kept(records: Sequence[Record], of: Curve, lag: int) -> float:
    """The fraction of the gradient that is left after `lag` steps, the median of the records."""
    curves = [np.array(record[of]["norms"], np.float64) for record in records]
    fractions = [
        np.exp(np.interp(lag, record["lags"][: len(curve)], curve))
        for record, curve in zip(records, curves, strict=True)
    ]
    return float(np.median(fractions))


def mean_field_horizon(record: Record, eps: float) -> float:
    """Of a record of the study "gain"."""
    exponent = record["theory_exponent"]
    return np.log(eps) / exponent if exponent < 0 else np.inf


def steps(value: float) -> str:
    """Steps to three digits.

    >>> [steps(value) for value in (1.2, 12.04, 256.3, 1024.0, float("inf"), float("nan"))]
    ['1.20', '12.0', '256', '1024', 'never', '–']
    """
    if not np.isfinite(value):
        return "–" if np.isnan(value) else "never"
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def percent(fraction: float) -> str:
    if np.isnan(fraction):
        return "–"
    return f"{100 * fraction:.3g} %" if fraction > 0.1 else f"{100 * fraction:.2g} %"


def fraction(eps: float) -> str:
    """1/1000 for 0.001, 0.3 for 0.3."""
    return f"1/{round(1 / eps)}" if abs(1 / eps - round(1 / eps)) < 1e-6 / eps else f"{eps:g}"


def with_interval(found: np.ndarray, limit: float = np.inf) -> str:
    """Median and 95 % bootstrap interval over seeds; of one seed no interval; what lies
    beyond the measured lags as such."""

    def text(value: float) -> str:
        return f"> {limit:g}" if value > limit else steps(value)

    middle = float(np.median(found))
    if len(found) == 1:
        return text(middle)
    low, high = bootstrap_interval(found)
    if text(low) == text(high) == text(middle):
        return text(middle)
    return f"{text(middle)} [{text(low)}, {text(high)}]"


def measured(records: Sequence[Record], of: Curve, key: str) -> str:
    """A number of steps of one layer at one length, with its interval."""
    return with_interval(values(records, of, key), records[0]["point"]["length"])
