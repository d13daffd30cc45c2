"""Figures, tables and the verdict of `machine`, from its records alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import colours, figures, predictions
from experiments.harness.experiment import Record, Summary, Table
from experiments.harness.figures import short_bytes, short_count, short_seconds

_LOOKS: dict[str, dict[str, Any]] = {
    "native": {"color": colours.SKY, "marker": "d"},
    "cuda": {"color": colours.BLUE, "marker": "D"},
    "sequential": {"color": colours.ORANGE, "marker": "s"},
    "associative": {"color": colours.RED, "marker": "^"},
    "blocked": {"color": colours.PINK, "marker": "v"},
}
_OTHER = {"color": colours.GREY, "marker": "o"}


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    """Bandwidth by size; measured and predicted times against length."""
    drawn = {}
    if streams := _of(records, "stream"):
        drawn["bandwidth"] = _bandwidth_figure(streams)
    if timed := predictions.of(_of(records, "time")):
        drawn["crossovers"] = _crossover_figure(timed)
    return drawn


def summary(records: Sequence[Record]) -> Summary:
    timed = predictions.of(_of(records, "time"))
    tables = [_limits_table(records), _crossover_table(timed), predictions.table(timed, _method)]
    verdict = predictions.verdict(timed, lambda record: tuple(record["point"].items()))
    return Summary((verdict,), tuple(table for table in tables if table is not None))


def _of(records: Sequence[Record], measure: str) -> list[Record]:
    return [r for r in records if r["point"]["measure"] == measure and "skipped" not in r]


def _method(record: Record) -> str:
    return record["contender"].removeprefix("linear_scan ")


def _best(records: Sequence[Record], by: str, value: str, *only: bool) -> dict[int, float]:
    """The largest value by the size of its point."""
    found: dict[int, float] = {}
    for record in records:
        if record["counts"] and (not only or record["in_loop"] is only[0]):
            size = record["point"][by]
            found[size] = max(found.get(size, 0.0), record[value])
    return dict(sorted(found.items()))


def _bandwidth_figure(records: Sequence[Record]) -> Figure:
    figure, panels = figures.new_figure()
    axes = panels[0, 0]
    for in_loop, label, look in (
        (True, "memory used again", {"color": colours.BLUE, "marker": "o"}),
        (False, "new memory at every call", {"color": colours.ORANGE, "marker": "s"}),
    ):
        found = _best(records, "bytes", "bandwidth", in_loop)
        axes.plot(list(found), [value / 1e9 for value in found.values()], label=label, **look)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: short_bytes(value))
    axes.set_xlabel("two arrays read and one written, together")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("bandwidth, GB/s")
    figures.legend_below(figure)
    figure.set_label("Bandwidth of the best of three elementwise kernels, by what they move.")
    return figure


def _crossover_figure(records: Sequence[Record]) -> Figure:
    lanes = sorted({record["point"]["lanes"] for record in records})
    directions = list(dict.fromkeys(record["point"]["direction"] for record in records))
    figure, panels = figures.new_figure(len(directions), len(lanes), sharex=True)
    for (row, direction), (column, width) in itertools.product(
        enumerate(directions), enumerate(lanes)
    ):
        axes = panels[row, column]
        here = [
            record
            for record in records
            if (record["point"]["direction"], record["point"]["lanes"]) == (direction, width)
        ]
        axes.set_title(f"{direction.replace('+', ' + ')}, {short_count(width)} lanes")
        for name in dict.fromkeys(map(_method, here)):
            series = sorted(
                (record for record in here if _method(record) == name),
                key=lambda record: record["point"]["length"],
            )
            x = [record["point"]["length"] for record in series]
            look = _LOOKS.get(name, _OTHER)
            axes.plot(x, [predictions.predicted(r) for r in series], color=look["color"])
            axes.plot(
                x,
                [predictions.measured(r) for r in series],
                label=name,
                **{**look, "linestyle": "none"},
            )
        figures.length_axis(axes, sorted({record["point"]["length"] for record in here}))
        figures.seconds_axis(axes, "time" if column == 0 else "")
    figures.legend_below(figure)
    figure.set_label("Markers: measured, median. Lines: predicted from the machine's limits.")
    return figure


def _limits_table(records: Sequence[Record]) -> Table | None:
    rows: list[tuple[str, str]] = []
    for in_loop, words in ((True, "memory used again"), (False, "new memory at every call")):
        found = _best(_of(records, "stream"), "bytes", "bandwidth", in_loop)
        rows += [
            (f"bandwidth, {short_bytes(size)}, {words}", f"{value / 1e9:.3g} GB/s")
            for size, value in found.items()
        ]
    rates = _best(_of(records, "product"), "size", "flop_rate")
    rows += [(f"products of {n} x {n}", f"{rate / 1e9:.3g} GFLOP/s") for n, rate in rates.items()]
    for record in _of(records, "each"):
        rows.append((_NAMES[record["contender"]], _said(record["contender"], record["value"])))
    if not rows:
        return None
    return Table("Limits of the machine, float32", ("limit", "measured"), tuple(rows))


_NAMES = {
    "launch": "from one operation of a program to the next",
    "step": "a turn of a compiled loop",
    "element": "a number in the rows of such a loop",
    "line": "a place far from the one before",
    "fresh words": "a word of new memory, in words streamed",
    "call": "a call from Python",
    "memory": "memory",
    "kind": "kind of device",
}


def _said(name: str, value: Any) -> str:
    if name == "memory":
        return short_bytes(value)
    if name == "kind":
        return str(value)
    return f"{value:.2f}" if name == "fresh words" else short_seconds(value)


def _crossover_table(records: Sequence[Record]) -> Table | None:
    """From which length on a method is faster than another to the end."""
    groups = dict.fromkeys((r["point"]["lanes"], r["point"]["direction"]) for r in records)
    rows = []
    for lanes, direction in groups:
        here = [
            record
            for record in records
            if (record["point"]["lanes"], record["point"]["direction"]) == (lanes, direction)
        ]
        for slow, fast in itertools.permutations(dict.fromkeys(map(_method, here)), 2):
            said = [
                _crossover(here, slow, fast, f)
                for f in (predictions.predicted, predictions.measured)
            ]
            if any(said):
                where = f"{short_count(lanes)} lanes, {direction.replace('+', ' + ')}"
                rows.append((where, f"{fast} overtakes {slow}", *(text or "–" for text in said)))
    if not rows:
        return None
    note = (
        "Of the lengths that were timed, the first from which on it is faster. – : nowhere between."
    )
    return Table("Where methods cross", ("", "", "predicted", "measured"), tuple(rows), note=note)


def _crossover(records: Sequence[Record], slow: str, fast: str, value: Any) -> str:
    """The length, where the order changes once; empty where it does not."""
    times = {
        name: {r["point"]["length"]: value(r) for r in records if _method(r) == name}
        for name in (slow, fast)
    }
    lengths = sorted(set(times[slow]) & set(times[fast]))
    faster = [times[fast][length] < times[slow][length] for length in lengths]
    if not faster or faster[0] or not faster[-1]:
        return ""
    first = int(np.flatnonzero(~np.array(faster))[-1]) + 1
    return f"T = {short_count(lengths[first])}"
