"""Figures, tables and the verdict of `closed_form`, from its records alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.closed_form import work
from experiments.closed_form.work import FORWARD, METHODS
from experiments.harness import colours, figures
from experiments.harness.experiment import Outcome, Record, Summary, Table, Verdict
from experiments.harness.figures import short_count, short_seconds

_STYLES: dict[str, dict[str, Any]] = {
    "sequential": {"color": colours.BLUE, "marker": "o"},
    "associative": {"color": colours.ORANGE, "marker": "v", "linestyle": (0, (5, 2))},
    "blocked": {"color": colours.GREEN, "marker": "s"},
    "diagonal": {"color": colours.PINK, "marker": "D", "linestyle": (0, (1, 1.2))},
}
_LIMIT = {"color": colours.GREY, "linestyle": (0, (1, 1.5)), "label": "limit of the machine"}
_WIDTHS = tuple(2**k for k in range(1, 10))


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    """The four questions in four panels; then time for every width, and how near to the limit."""
    timed, conditions = _timed(records), _of(records, "condition")
    found = {}
    if timed or conditions:
        found["closed_form"] = _overview(timed, conditions)
    if timed:
        found["time"] = _time_figure(timed)
        found["share_of_limit"] = _share_figure(timed)
    return found


def summary(records: Sequence[Record]) -> Summary:
    literal, conditions, timed = (
        _of(records, "literal"),
        _of(records, "condition"),
        _timed(records),
    )
    tables = []
    if timed:
        tables.append(_cost_table(timed))
        groups = sorted({(r["point"]["direction"], r["point"]["width"]) for r in timed})
        tables += [_time_table(timed, direction, width) for direction, width in groups]
    if conditions:
        tables.append(_condition_table(conditions))
    if literal:
        tables.append(_literal_table(literal))
    wrong = [record for record in records if record.get("counts") is False]
    if wrong:
        tables.append(_wrong_table(wrong))
    return Summary((_verdict(records),), tuple(tables))


def _of(records: Iterable[Record], measure: str) -> list[Record]:
    return [r for r in records if r["point"]["measure"] == measure and "method" in r]


def _timed(records: Iterable[Record]) -> list[Record]:
    """Methods that were timed and whose result was right."""
    return [record for record in _of(records, "time") if record.get("counts")]


def _median(record: Record) -> float:
    return float(np.median(record["seconds"]))


def _lengths(records: Iterable[Record]) -> list[int]:
    return sorted({record["point"]["length"] for record in records})


def _widths(records: Iterable[Record]) -> list[int]:
    return sorted({record["point"]["width"] for record in records})


def _directions(records: Iterable[Record]) -> list[str]:
    return sorted({record["point"]["direction"] for record in records})


def _series(records: Iterable[Record], direction: str, width: int) -> dict[str, list[Record]]:
    """The records of every method there is, by length."""
    here = [
        record
        for record in records
        if (record["point"]["direction"], record["point"]["width"]) == (direction, width)
    ]
    found = {
        method: sorted(
            (record for record in here if record["method"] == method),
            key=lambda record: record["point"]["length"],
        )
        for method in METHODS
    }
    return {method: rows for method, rows in found.items() if rows}


def _title(direction: str) -> str:
    return direction.replace("+", " + ")


# Figures.


def _overview(timed: Sequence[Record], conditions: Sequence[Record]) -> Figure:
    figure, panels = figures.new_figure(2, 2, size=(8.4, 6.6))
    lengths = _lengths(timed) or [64, 16384]
    _draw_work(panels[0, 0], lengths[-1])
    _draw_span(panels[0, 1], lengths)
    _draw_errors(panels[1, 0], conditions)
    if timed:
        # The width in the middle: small ones are all overhead, large ones all arithmetic.
        widths = _widths(timed)
        width = widths[len(widths) // 2]
        _draw_times(panels[1, 1], timed, _directions(timed)[0], width)
        panels[1, 1].set_title(f"time, {_title(_directions(timed)[0])}, n = {width}")
    figures.legend_below(figure)
    figure.set_label(
        "Work and span are counted, for one state of width n; error and time are measured in "
        "float32. Error: relative, in the 2-norm, against a float64 loop; the largest of the seeds."
    )
    return figure


def _draw_work(axes: Axes, length: int) -> None:
    for method in METHODS:
        ratio = [
            work.cost(method, length, n).work / work.cost("sequential", length, n).work
            for n in _WIDTHS
        ]
        axes.plot(_WIDTHS, ratio, label=method, markeredgecolor="white", **_STYLES[method])
    figures.length_axis(axes, _WIDTHS, "width of the state n")
    axes.set_yscale("log")
    axes.set_ylabel("multiplications, relative to the loop")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_title(f"work, T = {short_count(length)}")


def _draw_span(axes: Axes, lengths: Sequence[int]) -> None:
    for method in METHODS:
        span = [work.cost(method, length, 1).span for length in lengths]
        axes.plot(lengths, span, label=method, markeredgecolor="white", **_STYLES[method])
    figures.length_axis(axes, lengths)
    axes.set_yscale("log")
    axes.set_ylabel("dependent products")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title("span")


def _draw_errors(axes: Axes, records: Sequence[Record]) -> None:
    axes.set_title("error, where the eigenvectors are bad")
    if not records:
        return
    for method in METHODS:
        points = _errors(records, method)
        if not points:
            continue
        x, y, available = map(np.asarray, zip(*points, strict=True))
        # Three lines lie on each other: the lower ones look out from under the upper ones.
        size = 9 - 2 * METHODS.index(method) if method != "diagonal" else 5.5
        style = {**_STYLES[method], "markeredgecolor": "white", "markersize": size}
        axes.plot(x, y, label=method, **style)
        if not available.all():
            axes.plot(
                x[~available],
                y[~available],
                linestyle="none",
                marker=style["marker"],
                markersize=7,
                markerfacecolor="white",
                markeredgecolor=style["color"],
                label=f"{method}: refused, if W is concrete",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("condition number of the eigenvectors")
    axes.set_ylabel("relative error")


def _errors(records: Iterable[Record], method: str) -> list[tuple[float, float, bool]]:
    """(condition, largest error of the seeds, whether the method would serve), by condition."""
    groups: dict[float, list[Record]] = {}
    for record in records:
        if record["method"] == method:
            groups.setdefault(record["point"]["condition"], []).append(record)
    return sorted(
        (
            float(np.median([row["condition"] for row in rows])),
            float(np.max([row["error"] for row in rows])),
            all(row["available"] for row in rows),
        )
        for rows in groups.values()
    )


def _draw_times(axes: Axes, records: Sequence[Record], direction: str, width: int) -> None:
    series = _series(records, direction, width)
    for method, rows in series.items():
        lengths = [row["point"]["length"] for row in rows]
        style = {**_STYLES[method], "markeredgecolor": "white"}
        figures.draw_band(axes, lengths, [row["seconds"] for row in rows], label=method, **style)
    limit = {
        row["point"]["length"]: row["limit_seconds"] for rows in series.values() for row in rows
    }
    axes.plot(sorted(limit), [limit[length] for length in sorted(limit)], **_LIMIT)
    figures.length_axis(axes, limit)
    figures.seconds_axis(axes, "time")


def _time_figure(records: Sequence[Record]) -> Figure:
    directions, widths = _directions(records), _widths(records)
    figure, panels = figures.new_figure(len(directions), len(widths), sharey="all")
    for row, direction in zip(panels, directions, strict=True):
        for axes, width in zip(row, widths, strict=True):
            _draw_times(axes, records, direction, width)
            axes.set_title(f"{_title(direction)}, n = {width}")
            if axes is not row[0]:
                axes.set_ylabel("")
    figures.legend_below(figure)
    figure.set_label(
        "Time of one sequence: median and quartiles. Grey: the time below which this machine "
        "cannot move the bytes or do the operations that the recurrence needs at least. What is "
        "missing was predicted to take too long or too much memory."
    )
    return figure


def _share_figure(records: Sequence[Record]) -> Figure:
    directions, widths = _directions(records), _widths(records)
    figure, panels = figures.new_figure(len(directions), len(widths), sharey="all")
    for row, direction in zip(panels, directions, strict=True):
        for axes, width in zip(row, widths, strict=True):
            for method, rows in _series(records, direction, width).items():
                axes.plot(
                    [r["point"]["length"] for r in rows],
                    [100 * r["limit_seconds"] / _median(r) for r in rows],
                    label=method,
                    markeredgecolor="white",
                    **_STYLES[method],
                )
            figures.length_axis(axes, _lengths(records))
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
            axes.yaxis.set_minor_formatter(lambda value, _: "")
            axes.set_title(f"{_title(direction)}, n = {width}")
        row[0].set_ylabel("share of the limit reached")
    figures.legend_below(figure)
    figure.set_label("How near each method comes to what this machine can do.")
    return figure


# Tables.


def _cost_table(records: Sequence[Record]) -> Table:
    length = _lengths(records)[-1]
    widths = _widths(records)
    rows = tuple(
        (
            method,
            *(
                f"{work.cost(method, length, n).work / work.cost('sequential', length, n).work:.3g}"
                for n in widths
            ),
            str(work.cost(method, length, widths[0]).span),
        )
        for method in METHODS
    )
    columns = ("", *(f"work, n = {n}" for n in widths), "span, in products")
    title = f"Counted, T = {short_count(length)}; work relative to the loop"
    return Table(title, columns, rows)


def _time_table(records: Sequence[Record], direction: str, width: int) -> Table:
    series = _series(records, direction, width)
    lengths = _lengths(row for rows in series.values() for row in rows)
    body = []
    for method, rows in series.items():
        found = {row["point"]["length"]: row for row in rows}
        cells = [short_seconds(_median(found[n])) if n in found else "–" for n in lengths]
        last = found.get(lengths[-1])
        share = f"{100 * last['limit_seconds'] / _median(last):.2g} %" if last else "–"
        body.append((method, *cells, share))
    columns = ("", *(f"T = {short_count(n)}" for n in lengths))
    return Table(
        f"Time, {_title(direction)}, n = {width}",
        (*columns, f"of limit at {short_count(lengths[-1])}"),
        tuple(body),
        note="– : left out as too large." if any("–" in row for row in body) else "",
        brief=direction == FORWARD,
    )


def _condition_table(records: Sequence[Record]) -> Table:
    errors = {method: _errors(records, method) for method in METHODS}
    rows = []
    for i, (condition, _, _) in enumerate(errors["diagonal"]):
        served = "yes" if errors["diagonal"][i][2] else "refused"
        cells = [f"{errors[method][i][1]:.1e}" for method in METHODS]
        rows.append((f"{condition:.2g}", *cells, served))
    return Table(
        "Relative error in float32, against a float64 loop",
        ("condition of the eigenvectors", *METHODS, "diagonal serves a concrete W"),
        tuple(rows),
    )


def _literal_table(records: Sequence[Record]) -> Table:
    rows = tuple(
        (
            f"n = {record['point']['width']}, T = {record['point']['length']}, {record['method']}",
            f"{record['error']:.1e}",
            f"{record['tolerance']:.1e}",
        )
        for record in records
    )
    title = "The literal closed form against LinearRNN, both float64"
    return Table(title, ("", "relative difference", "tolerance"), rows, brief=False)


def _wrong_table(records: Sequence[Record]) -> Table:
    rows = tuple(
        (
            str(record["point"]),
            record.get("method", record.get("contender", "")),
            f"{record['error']:.1e}",
            f"{record['tolerance']:.1e}",
        )
        for record in records
    )
    return Table(
        "Not counted: the result was wrong",
        ("point", "method", "relative error", "tolerance"),
        rows,
        note="These times appear in no figure and no other table.",
    )


# The verdict.


def _verdict(records: Sequence[Record]) -> Verdict:
    literal, timed = _of(records, "literal"), _timed(records)
    if not literal:
        return _settled("open", "The literal formula was not evaluated yet.")
    worst = max(literal, key=lambda r: r["error"] / r["tolerance"])
    formula = f"The literal formula and the layer, both float64, differ by {worst['error']:.1e}"
    if not worst["counts"]:
        why = f"more than the {worst['tolerance']:.1e} that rounding explains ({worst['method']})."
        return _settled("refuted", f"{formula}, {why}")
    wrong = [r for r in _of(records, "time") if r.get("counts") is False]
    if wrong:
        names = ", ".join(sorted({r["method"] for r in wrong}))
        return _settled("refuted", f"{formula}, but in float32 {names} gave wrong results.")
    best = _best_parallel(timed)
    if best is None:
        return _settled("open", f"{formula}: equal. No parallel method was timed beside it.")
    loop, other = best
    point, method = loop["point"], other["method"]
    ratios = {m: work.cost(m, point["length"], point["width"]).work / loop["work"] for m in METHODS}
    gain = _median(loop) / _median(other)
    clear = np.quantile(loop["seconds"], 0.25) > np.quantile(other["seconds"], 0.75)
    pace = (
        f"{gain:.2g} times as fast as the loop"
        if gain > 1 and clear
        else (
            f"no faster than the loop beyond the noise ({gain:.3g} times)"
            if gain > 1
            else f"{1 / gain:.2g} times as slow as the loop"
        )
    )
    text = (
        f"{formula}: equal. At once costs work: at n = {point['width']}, "
        f"T = {short_count(point['length'])} {ratios['blocked']:.2g} times that of the loop in "
        f"blocks of powers ({work.cost('blocked', point['length'], point['width']).span} dependent "
        f"products instead of {point['length']}), {ratios['associative']:.3g} times in a tree. "
        f"Here the best parallel method of its longest runs, {method}, is {pace}."
    )
    # Only if being parallel cost no work would the claim stand as it is.
    outcome = (
        "confirmed" if min(ratios[m] for m in METHODS if m != "sequential") <= 1 else "refined"
    )
    value = f"{method} {gain:.2g} times as fast, n = {point['width']}"
    return _settled(outcome, text + _eigenvectors(_of(records, "condition")), value)


def _settled(outcome: Outcome, text: str, value: str = "") -> Verdict:
    claim = "Without the activation all h_t follow from powers of W"
    return Verdict(claim, outcome, text, 6, value)


def _best_parallel(records: Sequence[Record]) -> tuple[Record, Record] | None:
    """At the longest length with both, over all widths: the loop and what gains most on it."""
    forward = [r for r in records if r["point"]["direction"] == FORWARD]
    pairs = []
    for width in _widths(forward):
        series = _series(forward, FORWARD, width)
        loops = {r["point"]["length"]: r for r in series.get("sequential", ())}
        for method in METHODS[1:]:
            rows = [r for r in series.get(method, ()) if r["point"]["length"] in loops]
            if rows:
                longest = rows[-1]
                pairs.append((loops[longest["point"]["length"]], longest))
    if not pairs:
        return None
    length = max(loop["point"]["length"] for loop, _ in pairs)
    pairs = [pair for pair in pairs if pair[0]["point"]["length"] == length]
    return max(pairs, key=lambda pair: _median(pair[0]) / _median(pair[1]))


def _eigenvectors(records: Sequence[Record]) -> str:
    """One more sentence: what diagonalising costs in accuracy, if it was measured."""
    served = [point for point in _errors(records, "diagonal") if point[2]]
    if len(served) < 2:
        return ""
    (low, first, _), (high, last, _) = served[0], served[-1]
    return (
        f" By eigenvectors the error grows from {first:.1e} to {last:.1e} as their condition "
        f"number goes from {low:.2g} to {high:.2g}; beyond, a concrete W is refused."
    )
