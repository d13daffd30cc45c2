"""Figures, tables and the verdict of `closed_form`, from its records alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.closed_form import work
from experiments.closed_form.work import METHODS
from experiments.harness import colours, figures, race
from experiments.harness.experiment import Outcome, Record, Summary, Table, Verdict
from experiments.harness.figures import factor, number, short_count, short_seconds
from experiments.harness.race import FORWARD, percent, title
from experiments.harness.records import array, by, distinct, gain, median, select

_STYLES: dict[str, dict[str, Any]] = {
    "sequential": {"color": colours.BLUE, "marker": "o"},
    "associative": {"color": colours.ORANGE, "marker": "v", "linestyle": (0, (5, 2))},
    "blocked": {"color": colours.GREEN, "marker": "s"},
    "diagonal": {"color": colours.PINK, "marker": "D", "linestyle": (0, (1, 1.2))},
}
_LOOKS = {name: {"label": name, "markeredgecolor": "white", **_STYLES[name]} for name in METHODS}
_TIME = (
    "Time of one sequence: median and quartiles. Grey: the time below which this machine cannot "
    "move the bytes or do the operations that the recurrence needs at least. What is missing was "
    "predicted to take too long or too much memory."
)
_WIDTHS = tuple(2**k for k in range(1, 10))


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    """The four questions in four panels; then time for every width, and how near to the limit."""
    timed, conditions = _timed(records), _of(records, "condition")
    found = {}
    if timed or conditions:
        found["closed_form"] = _overview(timed, conditions)
    if timed:
        found["time"] = _grid(timed, race.draw_times, _TIME)
        how_near = "How near each method comes to what this machine can do."
        found["share_of_limit"] = _grid(timed, race.draw_shares, how_near)
    return found


def summary(records: Sequence[Record]) -> Summary:
    timed, tables = _timed(records), []
    if timed:
        tables.append(_cost_table(timed))
        panels = itertools.product(_values(timed, "direction"), _values(timed, "width"))
        tables += [_time_table(select(timed, direction=d, width=n), d, n) for d, n in panels]
    if conditions := _of(records, "condition"):
        tables.append(_condition_table(conditions))
    if literal := _of(records, "literal"):
        tables.append(_literal_table(literal))
    columns = ("point", "method", "relative error", "tolerance")
    return Summary((_verdict(records),), (*tables, *race.wrong_table(records, columns, _wrong)))


def _of(records: Iterable[Record], measure: str) -> list[Record]:
    return [r for r in select(records, measure=measure) if "method" in r]


def _timed(records: Iterable[Record]) -> list[Record]:
    """Methods that were timed and whose result was right."""
    return race.counted(_of(records, "time"))


def _values(records: Iterable[Record], name: str) -> list[Any]:
    return sorted(distinct(records, name))


def _work(method: str, length: int, width: int) -> float:
    """Relative to the loop."""
    return work.cost(method, length, width).work / work.cost("sequential", length, width).work


# Figures.


def _overview(timed: Sequence[Record], conditions: Sequence[Record]) -> Figure:
    figure, panels = figures.new_figure(2, 2, size=(8.4, 6.6))
    lengths = _values(timed, "length") or [64, 16384]
    for method in METHODS:
        ratios = [_work(method, lengths[-1], n) for n in _WIDTHS]
        panels[0, 0].plot(_WIDTHS, ratios, **_LOOKS[method])
        spans = [work.cost(method, length, 1).span for length in lengths]
        panels[0, 1].plot(lengths, spans, **_LOOKS[method])
    figures.length_axis(panels[0, 0], _WIDTHS, "width of the state n")
    figures.length_axis(panels[0, 1], lengths)
    panels[0, 0].set(yscale="log", ylabel="multiplications, relative to the loop")
    panels[0, 0].yaxis.set_major_formatter("{x:g}x")
    panels[0, 0].set_title(f"work, T = {short_count(lengths[-1])}")
    panels[0, 1].set(yscale="log", ylabel="dependent products", title="span")
    panels[0, 1].yaxis.set_major_formatter("{x:g}")
    _draw_errors(panels[1, 0], conditions)
    if timed:
        # The width in the middle: small ones are all overhead, large ones all arithmetic.
        widths, direction = _values(timed, "width"), _values(timed, "direction")[0]
        width = widths[len(widths) // 2]
        _draw(panels[1, 1], race.draw_times, timed, direction, width)
        panels[1, 1].set_title(f"time, {title(direction)}, n = {width}")
    figures.legend_below(figure)
    figure.set_label(
        "Work and span are counted, for one state of width n; error and time are measured in "
        "float32. Error: relative, in the 2-norm, against a float64 loop; the largest of the seeds."
    )
    return figure


def _draw_errors(axes: Axes, records: Sequence[Record]) -> None:
    axes.set_title("error, where the eigenvectors are bad")
    for method in METHODS if records else ():
        points = _errors(records, method)
        if not points:
            continue
        x, y, available = map(np.asarray, zip(*points, strict=True))
        # Three lines lie on each other: the lower ones look out from under the upper ones.
        size = 9 - 2 * METHODS.index(method) if method != "diagonal" else 5.5
        axes.plot(x, y, **_LOOKS[method], markersize=size)
        if not available.all():
            style = {"marker": _STYLES[method]["marker"], "markersize": 7, "linestyle": "none"}
            style |= {"markerfacecolor": "white", "markeredgecolor": _STYLES[method]["color"]}
            label = f"{method}: refused, if W is concrete"
            axes.plot(x[~available], y[~available], **style, label=label)
    if records:
        axes.set(xscale="log", yscale="log", ylabel="relative error")
        axes.set_xlabel("condition number of the eigenvectors")


def _errors(records: Iterable[Record], method: str) -> list[tuple[float, float, bool]]:
    """(condition, largest error of the seeds, whether the method would serve), by condition."""
    mine, found = select(records, method=method), []
    for asked in sorted({record["point"]["condition"] for record in mine}):
        rows = [record for record in mine if record["point"]["condition"] == asked]
        condition, error = np.median(array(rows, "condition")), np.max(array(rows, "error"))
        found.append((float(condition), float(error), all(row["available"] for row in rows)))
    return found


def _grid(timed: Sequence[Record], draw: Callable[..., None], text: str) -> Figure:
    """A row of panels for each direction, with one for each width."""
    directions, widths = _values(timed, "direction"), _values(timed, "width")
    figure, panels = figures.new_figure(len(directions), len(widths), sharey="all")
    for row, direction in zip(panels, directions, strict=True):
        for axes, width in zip(row, widths, strict=True):
            _draw(axes, draw, timed, direction, width)
            if axes is not row[0]:
                axes.set_ylabel("")
    figures.legend_below(figure)
    figure.set_label(text)
    return figure


def _draw(
    axes: Axes, draw: Callable[..., None], timed: Sequence[Record], direction: str, width: int
) -> None:
    mine = select(timed, direction=direction, width=width)
    draw(axes, race.series(mine, METHODS), _LOOKS)
    figures.length_axis(axes, _values(mine, "length"))
    axes.set_title(f"{title(direction)}, n = {width}")


# Tables.


def _cost_table(records: Sequence[Record]) -> Table:
    length, widths = _values(records, "length")[-1], _values(records, "width")
    rows = []
    for method in METHODS:
        cells = (f"{_work(method, length, n):.3g}" for n in widths)
        rows.append((method, *cells, str(work.cost(method, length, widths[0]).span)))
    columns = ("", *(f"work, n = {n}" for n in widths), "span, in products")
    name = f"Counted, T = {short_count(length)}; work relative to the loop"
    return Table(name, columns, tuple(rows))


def _time_table(records: Sequence[Record], direction: str, width: int) -> Table:
    lengths, series = _values(records, "length"), race.series(records, METHODS)
    name = f"Time, {title(direction)}, n = {width}"
    table = race.length_table(name, series, lengths, lambda row: short_seconds(median(row)))
    last = [by(rows, "length").get(lengths[-1]) for rows in series.values()]
    shares = [percent(race.share(row)) if row else "–" for row in last]
    rows = tuple((*row, share) for row, share in zip(table.rows, shares, strict=True))
    columns = (*table.columns, f"of limit at {short_count(lengths[-1])}")
    note = "– : left out as too large." if any("–" in row for row in rows) else ""
    return Table(name, columns, rows, note, brief=direction == FORWARD)


def _condition_table(records: Sequence[Record]) -> Table:
    rows = []
    for asked in sorted({record["point"]["condition"] for record in records}):
        here = [record for record in records if record["point"]["condition"] == asked]
        found = {name: points[0] for name in METHODS if (points := _errors(here, name))}
        cells = [number(found[name][1], ".1e") if name in found else "–" for name in METHODS]
        served = "–"
        if "diagonal" in found:
            served = "yes" if found["diagonal"][2] else "refused"
        rows.append((number(np.median(array(here, "condition")), ".2g"), *cells, served))
    columns = ("condition of the eigenvectors", *METHODS, "diagonal serves a concrete W")
    return Table("Relative error in float32, against a float64 loop", columns, tuple(rows))


def _literal_table(records: Sequence[Record]) -> Table:
    where = "n = {point[width]}, T = {point[length]}, {method}".format_map
    rows = tuple((where(r), *race.errors(r)) for r in records)
    title = "The literal closed form against LinearRNN, both float64"
    return Table(title, ("", "relative difference", "tolerance"), rows, brief=False)


def _wrong(record: Record) -> tuple[str, ...]:
    name = record.get("method", record.get("contender", ""))
    return str(record["point"]), name, *race.errors(record)


# The verdict.


def _verdict(records: Sequence[Record]) -> Verdict:
    outcome, text, value = _finding(records)
    claim = "Without the activation all h_t follow from powers of W"
    return Verdict(claim, outcome, text, 6, value)


def _finding(records: Sequence[Record]) -> tuple[Outcome, str, str]:
    literal, timed = _of(records, "literal"), _timed(records)
    wrong = [r for r in _of(records, "time") if r.get("counts") is False]
    if not literal:
        return "open", "The literal formula was not evaluated yet.", ""
    for row in literal + wrong:
        if not math.isfinite(row["error"]):
            return "open", f"What {row['method']} gave, or should give, is no number.", ""
    worst = race.worst(literal)
    formula = f"The literal formula and the layer, both float64, differ by {worst['error']:.1e}"
    if not worst["counts"]:
        why = f"more than the {worst['tolerance']:.1e} that rounding explains ({worst['method']})."
        return "refuted", f"{formula}, {why}", ""
    if wrong:
        names = ", ".join(sorted({r["method"] for r in wrong}))
        return "refuted", f"{formula}, but in float32 {names} gave wrong results.", ""
    best = _best_parallel(timed)
    if best is None:
        return "open", f"{formula}: equal. No parallel method was timed beside it.", ""
    if doubt := race.doubt([*best, *select(timed, point=best[0]["point"])]):
        return "open", f"{formula}: equal. {doubt}", ""
    loop, other = best
    length, width, method = loop["point"]["length"], loop["point"]["width"], other["method"]
    ratios = {m: _work(m, length, width) for m in METHODS[1:]}
    times, clear = gain(loop, other)
    if times <= 1:
        pace = f"{factor(1 / times)} times as slow as the loop"
    elif clear:
        pace = f"{factor(times)} times as fast as the loop"
    else:
        pace = f"no faster than the loop beyond the noise ({times:.3g} times)"
    text = (
        f"{formula}: equal. At once costs work: at n = {width}, "
        f"T = {short_count(length)} {factor(ratios['blocked'])} times that of the loop in "
        f"blocks of powers ({work.cost('blocked', length, width).span} dependent "
        f"products instead of {length}), {ratios['associative']:.3g} times in a tree. "
        f"Here the best parallel method of its longest runs, {method}, is {pace}."
    )
    # Only if being parallel cost no work would the claim stand as it is.
    outcome = "confirmed" if min(ratios.values()) <= 1 else "refined"
    value = f"{method} {factor(times)} times as fast, n = {width}"
    return outcome, text + _eigenvectors(_of(records, "condition")), value


def _best_parallel(records: Sequence[Record]) -> tuple[Record, Record] | None:
    """At the longest length with both, over all widths: the loop and what gains most on it."""
    loops = select(records, direction=FORWARD, method="sequential")
    beside = [(loop, other) for loop in loops for other in select(records, point=loop["point"])]
    pairs = [pair for pair in beside if pair[0] is not pair[1]]
    longest = max((loop["point"]["length"] for loop, _ in pairs), default=0)
    pairs = [pair for pair in pairs if pair[0]["point"]["length"] == longest]
    return max(pairs, key=lambda pair: gain(*pair)[0], default=None)


def _eigenvectors(records: Sequence[Record]) -> str:
    """One more sentence: what diagonalising costs in accuracy, if it was measured."""
    served = [it for it in _errors(records, "diagonal") if it[2] and np.isfinite(it[:2]).all()]
    if len(served) < 2:
        return ""
    (low, first, _), (high, last, _) = served[0], served[-1]
    return (
        f" By eigenvectors the error grows from {first:.1e} to {last:.1e} as their condition "
        f"number goes from {low:.2g} to {high:.2g}; beyond, a concrete W is refused."
    )
