"""What `rnnscan.scan.cost` predicts, beside what was measured: a figure, a table, a verdict.

A record keeps the seconds of one of each on its machine ("device"); what its program does is
counted anew when it is read, so that records of any machine are held against the counts of today.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import colours, figures, race
from experiments.harness.experiment import Outcome, Record, Table, Verdict
from experiments.harness.figures import short_seconds
from experiments.harness.records import median
from rnnscan.scan.cost import Cost, seconds

WITHIN, SHARE = 1.5, 0.8  # of the measured time, at so many points
SLOWER = 1.3  # than the best, where one goes by the prediction


class Prediction(NamedTuple):
    """Of a record: seconds."""

    record: Record
    name: str  # of what is drawn and listed together
    predicted: float
    measured: float

    @property
    def factor(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured

    @property
    def near(self) -> bool:
        return max(self.factor, 1 / self.factor) <= WITHIN


def kept(device: Cost) -> dict[str, dict[str, float]]:
    """What a record keeps of its machine."""
    return {"device": dataclasses.asdict(device)}


def made(
    records: Iterable[Record],
    counted: Callable[[Record], Cost | None],
    name: Callable[[Record], str],
) -> list[Prediction]:
    """Of the records that were timed, were right, and whose programs are counted."""
    found = []
    for record in race.counted(records):
        cost = counted(record) if "device" in record else None
        if cost is not None:
            predicted = seconds(cost, Cost(**record["device"]))
            if 0 < predicted < math.inf:
                found.append(Prediction(record, name(record), predicted, median(record)))
    return found


def figure(
    found: Sequence[Prediction], look: Callable[[Record], dict[str, Any]]
) -> dict[str, Figure]:
    """Predicted against measured, one marker a name; nothing where there is nothing."""
    if not found:
        return {}
    drawn, panels = figures.new_figure(size=(7.2, 6.0))
    axes = panels[0, 0]
    times = [time for it in found for time in (it.measured, it.predicted)]
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
    for name in dict.fromkeys(it.name for it in found):
        here = [it for it in found if it.name == name]
        axes.plot(
            [it.measured for it in here],
            [it.predicted for it in here],
            label=name,
            **{**look(here[0].record), "linestyle": "none", "markersize": 7},
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
    return {"prediction": drawn}


def tables(found: Sequence[Prediction]) -> tuple[Table, ...]:
    """How near the prediction is, for each name; nothing where there is nothing."""
    if not found:
        return ()
    rows = []
    for name in dict.fromkeys(it.name for it in found):
        here = [it for it in found if it.name == name]
        near = np.mean([it.near for it in here])
        quantiles = np.quantile([it.factor for it in here], [0, 0.5, 1])
        low, middle, high = (f"{value:.2f}" for value in quantiles)
        rows.append((name, str(len(here)), f"{near:.0%}", middle, f"{low}–{high}"))
    columns = ("", "points", f"within {WITHIN:g} times", "median", "range")
    return (Table("Predicted over measured time", columns, tuple(rows), brief=False),)


def verdict(
    found: Sequence[Prediction],
    rivals: Callable[[Record], Hashable],
    doubt: Callable[[Sequence[Record]], str] = lambda records: "",
) -> Verdict:
    """Whether the prediction holds, which rests on the machine's limits.

    rivals: tells between which one would choose by it. doubt: why it may not rest on records.
    """
    claim = (
        f"time is predicted within {WITHIN:g} times at {SHARE:.0%} of the points, and who chooses "
        f"by it is never more than {SLOWER:g} times slower than the best"
    )
    if not found:
        return Verdict(claim, "open", "Nothing that has a prediction was timed yet.")
    sound = [it for it in found if not doubt([it.record])]
    if not sound:
        return Verdict(claim, "open", doubt([it.record for it in found]))
    left, found = len(found) - len(sound), sound
    near = float(np.mean([it.near for it in found]))
    slower, choice = worst_choice(found, rivals)
    text = f"Within at {near:.0%} of {len(found)} points; "
    text += f"the worst choice takes {slower:.2f} times as long as the best"
    if choice is not None:
        where = " ".join(map(str, choice.record["point"].values()))
        text += f" ({choice.record['contender']}, {where})"
    text += "." + race.left_out(left)
    good = near >= SHARE, slower <= SLOWER
    outcome: Outcome = "confirmed" if all(good) else "refined" if any(good) else "refuted"
    return Verdict(claim, outcome, text, value=f"{near:.0%}, {slower:.2f} times")


def worst_choice(
    found: Sequence[Prediction], rivals: Callable[[Record], Hashable]
) -> tuple[float, Prediction | None]:
    """By how much who has the least prediction is slower than the fastest, at the worst."""
    groups: dict[Hashable, list[Prediction]] = {}
    for it in found:
        groups.setdefault(rivals(it.record), []).append(it)
    worst: tuple[float, Prediction | None] = 1.0, None
    for group in groups.values():
        choice = min(group, key=lambda it: it.predicted)
        slower = choice.measured / min(it.measured for it in group)
        if slower > worst[0]:
            worst = slower, choice
    return worst
