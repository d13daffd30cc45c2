"""Figures, tables and the verdict of `machine`, from its records alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import colours, figures, predictions, race
from experiments.harness.experiment import Record, Summary, Table
from experiments.harness.figures import number, short_bytes, short_count, short_seconds
from experiments.harness.predictions import Prediction
from experiments.harness.records import select
from experiments.scan_limits.predictions import counted, doubt, method_of
from experiments.scan_limits.shapes import Shape
from rnnscan.scan.cost import Cost

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
    if timed := _predictions(records):
        drawn["crossovers"] = _crossover_figure(timed)
    return drawn


def summary(records: Sequence[Record]) -> Summary:
    timed = _predictions(records)
    tables = [_limits_table(records), _crossover_table(timed)]
    made = tuple(table for table in tables if table is not None)
    verdict = predictions.verdict(timed, lambda record: tuple(record["point"].items()), doubt)
    return Summary((verdict,), made + predictions.tables(timed))


def _predictions(records: Sequence[Record]) -> list[Prediction]:
    return predictions.made(_of(records, "time"), _counted, method_of)


def _counted(record: Record) -> Cost | None:
    point = record["point"]
    shape = Shape(1, point["length"], point["lanes"])
    return counted(method_of(record), shape, point["direction"])


def _of(records: Sequence[Record], measure: str) -> list[Record]:
    return [r for r in select(records, measure=measure) if "skipped" not in r]


def _groups(found: Sequence[Prediction]) -> dict[tuple[int, str], list[Prediction]]:
    """By lanes and direction, each from short to long."""
    groups: dict[tuple[int, str], list[Prediction]] = {}
    for it in sorted(found, key=lambda it: it.record["point"]["length"]):
        point = it.record["point"]
        groups.setdefault((point["lanes"], point["direction"]), []).append(it)
    return dict(sorted(groups.items()))


def _best(records: Sequence[Record], by: str, value: str, *only: bool) -> dict[int, float]:
    """The largest value by the size of its point."""
    found: dict[int, float] = {}
    for record in race.counted(records):
        if record[value] > 0 and (not only or record["in_loop"] is only[0]):
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


def _crossover_figure(found: Sequence[Prediction]) -> Figure:
    groups = _groups(found)
    columns = len({direction for _, direction in groups})
    figure, panels = figures.new_figure(-(-len(groups) // columns), columns, sharex=True)
    for axes, ((lanes, direction), here) in zip(panels.flat, groups.items(), strict=False):
        axes.set_title(f"{short_count(lanes)} lanes, {direction.replace('+', ' + ')}")
        for name in dict.fromkeys(it.name for it in here):
            series = [it for it in here if it.name == name]
            x = [it.record["point"]["length"] for it in series]
            look = _LOOKS.get(name, _OTHER)
            axes.plot(x, [it.predicted for it in series], color=look["color"])
            measured = [it.measured for it in series]
            axes.plot(x, measured, label=name, **look, linestyle="none")
        figures.length_axis(axes, sorted({it.record["point"]["length"] for it in found}))
        figures.seconds_axis(axes, "time" if axes in panels[:, 0] else "")
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
    return number(value, ".2f") if name == "fresh words" else short_seconds(value)


def _crossover_table(found: Sequence[Prediction]) -> Table | None:
    """From which length on a method is faster than another to the end."""
    rows = []
    for (lanes, direction), here in _groups(found).items():
        for slow, fast in itertools.permutations(dict.fromkeys(it.name for it in here), 2):
            said = [
                _crossover(here, slow, fast, time)
                for time in (lambda it: it.predicted, lambda it: it.measured)
            ]
            if any(said):
                where = f"{short_count(lanes)} lanes, {direction.replace('+', ' + ')}"
                rows.append((where, f"{fast} overtakes {slow}", *(text or "–" for text in said)))
    if not rows:
        return None
    note = "The first of the lengths timed from which on it is faster. – : nowhere between them."
    return Table("Where methods cross", ("", "", "predicted", "measured"), tuple(rows), note=note)


def _crossover(
    found: Sequence[Prediction], slow: str, fast: str, time: Callable[[Prediction], float]
) -> str:
    """The length, where the order changes once and for all; empty where it does not."""
    times = {
        name: {it.record["point"]["length"]: time(it) for it in found if it.name == name}
        for name in (slow, fast)
    }
    lengths = sorted(set(times[slow]) & set(times[fast]))
    faster = [times[fast][length] < times[slow][length] for length in lengths]
    if not faster or faster[0] or not faster[-1]:
        return ""
    first = int(np.flatnonzero(~np.array(faster))[-1]) + 1
    return f"T = {short_count(lengths[first])}"
