"""Figures, tables and the verdict of `wallclock`, from its records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness import figures
from experiments.harness.experiment import Record, Summary, Table, Verdict
from experiments.harness.figures import short_bytes, short_count, short_seconds
from experiments.wallclock.contenders import WAYS

# A sequential layer at half the limit of the machine would leave no bottleneck worth the name.
_BUSY = 0.5


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    """Time, distance from the limit, and what compiling and memory cost; one panel a direction."""
    good = _counted(records)
    if not good:
        return {}
    return {
        "time": _time_figure(good),
        "fraction_of_limit": _fraction_figure(good),
        "compile_and_memory": _cost_figure(good),
    }


def summary(records: Sequence[Record]) -> Summary:
    good = _counted(records)
    tables = []
    for direction in _directions(good):
        tables.append(_time_table(_of(good, direction=direction), direction))
    for title, field, text in (
        ("Compile time", "compile_seconds", short_seconds),
        ("Peak temporary memory", "temporary_bytes", short_bytes),
        ("Largest relative error against float64, step by step", "error", "{:.1e}".format),
    ):
        for direction in _directions(good):
            rows = _of(good, direction=direction)
            tables.append(_plain_table(rows, f"{title}, {_title(direction)}", field, text))
    wrong = [record for record in records if record.get("counts") is False]
    if wrong:
        tables.append(_wrong_table(wrong))
    return Summary((_verdict(good),), tuple(tables))


def _counted(records: Iterable[Record]) -> list[Record]:
    """Layers that were timed and whose result was right."""
    return [record for record in records if record.get("counts") and "layer" in record]


def _of(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """Records whose fields, their own or their point's, have the wanted values."""
    return [
        record
        for record in records
        if all(record.get(key, record["point"].get(key)) == value for key, value in wanted.items())
    ]


def _directions(records: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(record["point"]["direction"] for record in records))


def _lengths(records: Iterable[Record]) -> list[int]:
    return sorted({record["point"]["length"] for record in records})


def _series(records: Sequence[Record]) -> list[tuple[str, str, list[Record]]]:
    """(layer, method, records by length) of every contender there is, in the usual order."""
    found = [(*way, _of(records, layer=way[0], method=way[1])) for way in WAYS]
    return [
        (layer, method, sorted(rows, key=lambda row: row["point"]["length"]))
        for layer, method, rows in found
        if rows
    ]


def _median(record: Record) -> float:
    """Seconds for one sequence of the batch."""
    return float(np.median(record["seconds"])) / record["batch"]


def _fraction(record: Record) -> float:
    """The share of the machine's limit that was reached; 1 is the limit."""
    return record["limit_seconds"] / (_median(record) * record["batch"])


def _name(layer: str, method: str) -> str:
    return "tanh RNN, lax.scan" if layer == "RNN" else f"{layer}, {method}"


def _panels(records: Sequence[Record], draw: Callable[[Axes, list[Record]], None]) -> Figure:
    """A figure with a panel for each direction, side by side."""
    directions = _directions(records)
    figure, panels = figures.new_figure(1, len(directions), sharey="row")
    for axes, direction in zip(panels[0], directions, strict=True):
        axes.set_title(_title(direction))
        draw(axes, _of(records, direction=direction))
        if axes is not panels[0, 0]:
            axes.set_ylabel("")
    figures.legend_below(figure)
    return figure


def _title(direction: str) -> str:
    return direction.replace("+", " + ")


def _time_figure(records: Sequence[Record]) -> Figure:
    def draw(axes: Axes, rows: list[Record]) -> None:
        for layer, method, series in _series(rows):
            lengths = [row["point"]["length"] for row in series]
            samples = [np.divide(row["seconds"], row["batch"]) for row in series]
            figures.draw_band(
                axes,
                lengths,
                samples,
                label=_name(layer, method),
                **figures.line_style(layer, method),
            )
        for name, layers, dashes in (
            ("limit of the machine, dense layers", ("RNN", "LinearRNN"), (0, (1, 1.5))),
            ("limit of the machine, LRU", ("LRU",), (0, (6, 2, 1, 2))),
        ):
            limit = {
                row["point"]["length"]: row["limit_seconds"] / row["batch"]
                for row in rows
                if row["layer"] in layers
            }
            axes.plot(
                sorted(limit),
                [limit[length] for length in sorted(limit)],
                color=figures.GREY,
                linestyle=dashes,
                label=name,
            )
        figures.length_axis(axes, _lengths(rows))
        figures.seconds_axis(axes, "time per sequence")

    figure = _panels(records, draw)
    first = records[0]
    figure.set_label(
        f"Time per sequence in a batch of {first['batch']}, width {first['width']}: median and "
        "quartiles. Grey: the time below which this machine cannot move the bytes or do the "
        "operations that each layer needs at least."
    )
    return figure


def _fraction_figure(records: Sequence[Record]) -> Figure:
    def draw(axes: Axes, rows: list[Record]) -> None:
        for layer, method, series in _series(rows):
            axes.plot(
                [row["point"]["length"] for row in series],
                [100 * _fraction(row) for row in series],
                label=_name(layer, method),
                **figures.line_style(layer, method),
            )
        figures.length_axis(axes, _lengths(rows))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
        axes.axhline(100, color=figures.GREY, linestyle=(0, (1, 1.5)), label="the limit")
        axes.set_ylabel("share of the limit reached")

    figure = _panels(records, draw)
    figure.set_label(
        "How near each program comes to the limit of the machine: the larger of bytes / measured "
        "bandwidth and operations / measured rate of matrix products, over the time taken."
    )
    return figure


def _cost_figure(records: Sequence[Record]) -> Figure:
    directions = _directions(records)
    figure, panels = figures.new_figure(len(directions), 2)
    for (left, right), direction in zip(panels, directions, strict=True):
        for axes, field in ((left, "compile_seconds"), (right, "temporary_bytes")):
            for layer, method, series in _series(_of(records, direction=direction)):
                axes.plot(
                    [row["point"]["length"] for row in series],
                    [row[field] for row in series],
                    label=_name(layer, method),
                    **figures.line_style(layer, method),
                )
            figures.length_axis(axes, _lengths(records))
            axes.set_title(_title(direction))
        figures.seconds_axis(left, "compile time")
        figures.bytes_axis(right, "peak temporary memory")
    figures.legend_below(figure)
    figure.set_label(
        "What else it costs: time to compile, once for each length, and the peak of temporary "
        "memory beside arguments and results (the whole batch)."
    )
    return figure


def _some(lengths: list[int], most: int = 5) -> list[int]:
    """Not more lengths than a table has room for, the ends always among them."""
    if len(lengths) <= most:
        return lengths
    picks = np.unique(np.linspace(0, len(lengths) - 1, most).round().astype(int))
    return [lengths[pick] for pick in picks]


def _time_table(rows: list[Record], direction: str) -> Table:
    lengths = _some(_lengths(rows))
    body = []
    for layer, method, series in _series(rows):
        found = {row["point"]["length"]: row for row in series}
        cells = [short_seconds(_median(found[n])) if n in found else "–" for n in lengths]
        last = found.get(lengths[-1])
        share = f"{100 * _fraction(last):.2g} %" if last else "–"
        body.append((_name(layer, method), *cells, share))
    columns = (
        "",
        *(f"T = {short_count(n)}" for n in lengths),
        f"of limit at {short_count(lengths[-1])}",
    )
    return Table(
        f"Time per sequence, {_title(direction)} "
        f"(batch {rows[0]['batch']}, width {rows[0]['width']})",
        columns,
        tuple(body),
        note="– : left out as too large." if any("–" in row for row in body) else "",
    )


def _plain_table(rows: list[Record], title: str, field: str, text: Callable[[float], str]) -> Table:
    lengths = _some(_lengths(rows))
    body = []
    for layer, method, series in _series(rows):
        found = {row["point"]["length"]: row for row in series}
        cells = [text(found[n][field]) if n in found else "–" for n in lengths]
        body.append((_name(layer, method), *cells))
    return Table(title, _heads(lengths), tuple(body), brief=False)


def _heads(lengths: list[int]) -> tuple[str, ...]:
    return ("", *(f"T = {short_count(length)}" for length in lengths))


def _wrong_table(records: Sequence[Record]) -> Table:
    rows = tuple(
        (
            "{contender}, {point[direction]}, T = {point[length]}".format_map(record),
            f"{record['error']:.1e}",
            f"{record['tolerance']:.1e}",
        )
        for record in records
    )
    return Table(
        "Not counted: the result was wrong",
        ("contender", "relative error", "tolerance"),
        rows,
        note="These times appear in no figure and no other table.",
    )


def _verdict(good: Sequence[Record]) -> Verdict:
    claim = "Step t waits for t-1, so the machine idles"
    longest = _of(good, layer="RNN", length=max(_lengths(good), default=0))
    if not longest:
        return Verdict(claim, "open", "No tanh RNN was timed and found right yet.", 5)
    direction = _directions(longest)[-1]
    rnn = _of(longest, direction=direction)[0]
    length, share = rnn["point"]["length"], _fraction(rnn)
    text = (
        f"{_title(direction).capitalize()} at T = {short_count(length)}: the tanh RNN takes "
        f"{short_seconds(_median(rnn) * rnn['batch'] / length)} a step and reaches "
        f"{100 * share:.2g} % of this machine's limit ({rnn['limited_by']})."
    )
    value = f"{100 * share:.2g} % of the limit"
    if share >= _BUSY:
        return Verdict(claim, "refuted", f"{text} It hardly idles.", 5, value)
    gains = _gains(_of(good, direction=direction))
    if not gains:
        return Verdict(
            claim, "open", f"{text} No parallel method was timed beside it yet.", 5, value
        )
    where, gain, layer, clear = max(gains)
    parallel = f"Parallel over time at T = {short_count(where)}, {layer} (the best of them)"
    if gain > 1 and clear:
        return Verdict(
            claim, "confirmed", f"{text} {parallel} is {gain:.2g} times as fast.", 5, value
        )
    if gain > 1:
        return Verdict(
            claim, "refined", f"{text} {parallel} is no faster beyond the noise.", 5, value
        )
    return Verdict(
        claim,
        "refined",
        f"{text} But {parallel[0].lower()}{parallel[1:]} takes {1 / gain:.2g} times as long.",
        5,
        value,
    )


def _gains(rows: Sequence[Record]) -> list[tuple[int, float, str, bool]]:
    """Of each layer at the longest length that both methods were timed at: that length, sequential
    over associative time, the layer, and whether their quartiles are apart."""
    gains = []
    for layer in dict.fromkeys(layer for layer, _ in WAYS):
        one, other = (
            {row["point"]["length"]: row for row in _of(rows, layer=layer, method=method)}
            for method in ("sequential", "associative")
        )
        length = max(one.keys() & other.keys(), default=0)
        if length:
            slow, fast = one[length]["seconds"], other[length]["seconds"]
            clear = np.quantile(slow, 0.25) > np.quantile(fast, 0.75)
            gains.append((length, float(np.median(slow) / np.median(fast)), layer, bool(clear)))
    return gains
