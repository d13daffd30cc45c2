"""What `rnnscan.scan.cost` predicts, beside what was measured: a figure, a table, a verdict.

A record keeps the counts of its program and the seconds of one of each on its machine, so that the
prediction is made from the record alone, wherever it was measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import colours, figures
from experiments.harness.experiment import Outcome, Record, Table, Verdict
from experiments.harness.figures import short_seconds
from rnnscan.scan.cost import Cost, seconds

WITHIN, SHARE = 1.5, 0.8  # of the measured time, at so many points
SLOWER = 1.3  # than the best, where one goes by the prediction


def fields(cost: Cost, device: Cost) -> dict[str, dict[str, float]]:
    """What a record keeps: of what was counted, and of the machine."""
    return {"cost": dataclasses.asdict(cost), "device": dataclasses.asdict(device)}


def predicted(record: Record) -> float:
    return seconds(Cost(**record["cost"]), Cost(**record["device"]))


def measured(record: Record) -> float:
    return float(np.median(record["seconds"]))


def factor(record: Record) -> float:
    """Predicted over measured."""
    return predicted(record) / measured(record)


def of(records: Iterable[Record]) -> list[Record]:
    """Those that were timed, were right and have a prediction."""
    return [record for record in records if record.get("counts") and "cost" in record]


def figure(
    records: Sequence[Record],
    series: Callable[[Record], str],
    look: Callable[[Record], dict[str, Any]],
) -> Figure | None:
    """Predicted against measured, one marker a series."""
    found = of(records)
    if not found:
        return None
    drawn, panels = figures.new_figure(size=(7.2, 6.0))
    axes = panels[0, 0]
    times = [f(record) for record in found for f in (measured, predicted)]
    ends = np.array([min(times) / 1.5, max(times) * 1.5])
    axes.fill_between(
        ends,
        ends / WITHIN,
        ends * WITHIN,
        color=colours.LIGHT,
        alpha=0.5,
        linewidth=0,
        label=f"within {WITHIN:g} times",
    )
    axes.plot(ends, ends, color=colours.GREY, linestyle=(0, (1, 1.5)))
    for name in dict.fromkeys(map(series, found)):
        here = [record for record in found if series(record) == name]
        axes.plot(
            [measured(record) for record in here],
            [predicted(record) for record in here],
            label=name,
            **{**look(here[0]), "linestyle": "none"},
        )
    figures.seconds_axis(axes, "predicted")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: short_seconds(value))
    axes.set_xlabel("measured, median")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    figures.legend_below(drawn)
    drawn.set_label(
        "Time predicted from counts and from the machine's own limits against time measured; on "
        "the dotted line they are equal."
    )
    return drawn


def table(records: Sequence[Record], series: Callable[[Record], str]) -> Table | None:
    """How near the prediction is, for each series."""
    found = of(records)
    if not found:
        return None
    rows = []
    for name in dict.fromkeys(map(series, found)):
        factors = np.array([factor(record) for record in found if series(record) == name])
        near = np.mean(np.maximum(factors, 1 / factors) <= WITHIN)
        low, middle, high = np.quantile(factors, [0, 0.5, 1])
        rows.append(
            (name, str(len(factors)), f"{near:.0%}", f"{middle:.2f}", f"{low:.2f}–{high:.2f}")
        )
    columns = ("", "points", f"within {WITHIN:g} times", "median", "range")
    return Table("Predicted over measured time", columns, tuple(rows), brief=False)


def verdict(records: Sequence[Record], rivals: Callable[[Record], Hashable]) -> Verdict:
    """Whether the prediction holds; `rivals` tells between which one would choose by it."""
    claim = (
        f"time is predicted within {WITHIN:g} times at {SHARE:.0%} of the points, and who chooses "
        f"by it is never more than {SLOWER:g} times slower than the best"
    )
    found = of(records)
    if not found:
        return Verdict(claim, "open", "Nothing that has a prediction was timed yet.")
    factors = np.array([factor(record) for record in found])
    near = float(np.mean(np.maximum(factors, 1 / factors) <= WITHIN))
    chosen, where = worst_choice(found, rivals)
    text = f"Within at {near:.0%} of {len(found)} points"
    text += f"; the worst choice takes {chosen:.2f} times as long as the best{where}."
    good = near >= SHARE, chosen <= SLOWER
    outcome: Outcome = "confirmed" if all(good) else "refined" if any(good) else "refuted"
    return Verdict(claim, outcome, text, value=f"{near:.0%}, {chosen:.2f} times")


def worst_choice(
    found: Sequence[Record], rivals: Callable[[Record], Hashable]
) -> tuple[float, str]:
    """By how much the one with the least prediction is slower than the fastest, at the worst."""
    groups: dict[Hashable, list[Record]] = {}
    for record in found:
        groups.setdefault(rivals(record), []).append(record)
    worst, where = 1.0, ""
    for group in groups.values():
        choice, best = min(group, key=predicted), min(group, key=measured)
        slower = measured(choice) / measured(best)
        if slower > worst:
            worst, where = slower, f" ({_where(choice)}, by {choice['contender']})"
    return worst, where


def _where(record: dict[str, Any]) -> str:
    return " ".join(str(value) for value in record["point"].values())
