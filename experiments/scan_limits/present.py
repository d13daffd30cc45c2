"""Figures, tables and verdicts of `scan_limits`, from its records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from experiments.harness import colours, figures, predictions, race
from experiments.harness.experiment import Outcome, Record, Summary, Table, Verdict
from experiments.harness.figures import number, short_count, short_seconds
from experiments.harness.race import title
from experiments.harness.records import by, distinct, gain, median, select
from experiments.scan_limits import predictions as predicted
from experiments.scan_limits.contenders import ASSOCIATIVE, AUTO, SCAN
from experiments.scan_limits.shapes import DIRECTIONS

_SLOWER = 1.05  # how much slower than another auto may be
_LARGE = 10**6  # numbers from which on auto should be well ahead of a tree
_GAIN, _GAIN_OF_A_CHAIN = 4.0, 2.0
_COMPILE_SECONDS = 0.5
_MET = {True: ", met", False: ", not met"}

_LOOKS: dict[str, dict[str, Any]] = {
    AUTO: {"color": colours.BLUE, "marker": "o", "markersize": 10, "fillstyle": "none"},
    "linear_scan native": {"color": colours.SKY, "marker": "d"},
    "linear_scan cuda": {"color": colours.SKY, "marker": "D"},
    "linear_scan sequential": {"color": colours.ORANGE, "marker": "s"},
    "linear_scan associative": {"color": colours.RED, "marker": "^"},
    "linear_scan blocked": {"color": colours.PINK, "marker": "v"},
    SCAN: {"color": colours.GREEN, "marker": "P", "markersize": 7},
    ASSOCIATIVE: {"color": colours.RED, "marker": "X", "markersize": 7, "linestyle": (0, (5, 2))},
}
# Of peers and methods that have no look of their own, each its colour and marker.
_OTHERS = tuple(
    zip(
        (colours.BLACK, colours.BROWN, colours.PURPLE, colours.OLIVE, colours.INDIGO, colours.GREY),
        ("<", ">", "p", "h", "8", "d"),
        strict=True,
    )
)


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    """Ratio to streaming of every contender on every shape, a figure a direction; compile time."""
    good, looks = _timed(records), _looks(records)
    drawn = {}
    for direction in DIRECTIONS:
        rows = select(good, direction=direction)
        if rows:
            drawn[direction.replace("+", "_")] = _ratio_figure(rows, direction, looks)
    compiled = _compiled(records)
    if compiled:
        drawn["compile"] = _compile_figure(compiled, looks)
    found = predicted.of(good)
    return drawn | predictions.figure(found, lambda record: looks[record["contender"]])


def summary(records: Sequence[Record]) -> Summary:
    good, compiled = _timed(records), _compiled(records)
    tables = []
    for direction in DIRECTIONS:
        rows = select(good, direction=direction)
        if rows:
            tables += [_brief_table(rows, direction), _ratio_table(rows, direction)]
    if good:
        tables.append(_accuracy_table(good))
    tables += predictions.tables(predicted.of(good))
    if compiled:
        tables.append(_compile_table(compiled))
    columns = ("contender", "error, as a share of what rounding explains")
    tables += race.wrong_table(records, columns, _wrong)
    skipped = dict.fromkeys(record["skipped"] for record in records if "skipped" in record)
    if skipped:
        rows = tuple((text,) for text in skipped)
        columns = ("contender, and what was predicted, or is missing",)
        tables.append(Table("Not tried", columns, rows, brief=False))
    verdicts = (
        _asked_verdict(good),
        _best_verdict(good),
        _tree_verdict(good),
        _compile_verdict(compiled),
        _accuracy_verdict(records),
        # auto is one of the methods.
        predictions.verdict(
            predicted.of(record for record in good if record["contender"] != AUTO),
            _where,
            predicted.doubt,
        ),
    )
    return Summary(verdicts, tuple(tables))


# Which records.


def _timed(records: Iterable[Record]) -> list[Record]:
    """Contenders that were timed and whose result was right."""
    return [record for record in race.counted(records) if 0 < record.get("ratio", 0) < math.inf]


def _compiled(records: Iterable[Record]) -> list[Record]:
    compiled = [r for r in select(records, measure="compile") if "compile_seconds" in r]
    return [record for record in compiled if 0 < _compiling(record) < math.inf]


def _compiling(record: Record) -> float:
    return median(record, "compile_seconds")


def _contenders(records: Iterable[Record]) -> list[str]:
    """auto first, then its methods, then the others as they came."""
    names = list(dict.fromkeys(record["contender"] for record in records))
    return sorted(names, key=lambda name: (name != AUTO, not name.startswith("linear_scan")))


def _by_point(records: Iterable[Record]) -> list[dict[str, Record]]:
    """The contenders of each point, by their names."""
    points: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        key = (record["point"]["shape"], record["point"]["direction"])
        points.setdefault(key, {})[record["contender"]] = record
    return list(points.values())


def _looks(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """Keywords for `Axes.plot`, the same for a contender in every figure of a run."""
    looks = dict(_LOOKS)
    names = dict.fromkeys(record["contender"] for record in records)
    others = [name for name in names if name not in looks and not name.startswith("limit:")]
    for index, name in enumerate(sorted(others)):
        colour, marker = _OTHERS[index % len(_OTHERS)]
        looks[name] = {"color": colour, "marker": marker}
    return looks


def _where(record: Record) -> str:
    return "{shape} {direction}".format_map(record["point"])


# Figures.


def _ratio_figure(
    rows: Sequence[Record], direction: str, looks: dict[str, dict[str, Any]]
) -> Figure:
    shapes = distinct(rows, "shape")
    height = {shape: len(shapes) - 1 - index for index, shape in enumerate(shapes)}
    figure, panels = figures.new_figure(size=(9.2, 1.6 + 0.42 * len(shapes)))
    axes = panels[0, 0]
    axes.set_title(title(direction))
    axes.axvline(1, color=colours.GREY, linestyle=(0, (1, 1.5)), label="streaming the same bytes")
    for name in reversed(_contenders(rows)):  # auto last, on top
        series = select(rows, contender=name)
        axes.plot(
            [record["ratio"] for record in series],
            [height[record["point"]["shape"]] for record in series],
            label=name,
            zorder=4 if name == AUTO else 3,
            markeredgewidth=2.0 if name == AUTO else 1.0,
            **{**looks[name], "linestyle": "none"},
        )
    asked = select(rows, contender=AUTO)
    asked = [record for record in asked if record["asked"] is not None]
    axes.plot(
        [record["asked"] for record in asked],
        [height[record["point"]["shape"]] for record in asked],
        linestyle="none",
        marker="|",
        markersize=17,
        markeredgewidth=2,
        color="#222222",
        label="goal: auto no slower than this",
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("time / time of streaming the same bytes (left is faster)")
    axes.set_yticks(list(height.values()), list(height))
    axes.set_ylim(-0.7, len(shapes) - 0.3)
    axes.set_ylabel("outer x T x inner")
    figures.legend_below(figure)
    figure.set_label(
        f"{title(direction).capitalize()}: median time over that of streaming as many bytes as "
        "the scan must move, the best of three elementwise kernels in the same run. Left is faster."
    )
    return figure


def _compile_figure(records: Sequence[Record], looks: dict[str, dict[str, Any]]) -> Figure:
    directions, dtypes = distinct(records, "direction"), distinct(records, "dtype")
    figure, panels = figures.new_figure(len(directions), len(dtypes), sharey=True)
    for row, direction in zip(panels, directions, strict=True):
        for axes, dtype in zip(row, dtypes, strict=True):
            here = select(records, direction=direction, dtype=dtype)
            axes.set_title(f"{title(direction)}, {dtype}")
            axes.axhline(
                _COMPILE_SECONDS,
                color=colours.GREY,
                linestyle=(0, (1, 1.5)),
                label=f"goal: auto within {short_seconds(_COMPILE_SECONDS)}",
            )
            for name in reversed(_contenders(here)):
                series = select(here, contender=name)
                axes.plot(
                    [record["point"]["length"] for record in series],
                    [_compiling(record) for record in series],
                    label=name,
                    **looks[name],
                )
            figures.length_axis(axes, distinct(here, "length"))
            figures.seconds_axis(axes, "lowering and compiling" if axes is row[0] else "")
    figures.legend_below(figure)
    figure.set_label("Time to lower and compile against length, median; nothing is run.")
    return figure


# Tables.


def _brief_table(rows: Sequence[Record], direction: str) -> Table:
    """auto beside the best of the others, and what was asked."""
    body = []
    for point in _by_point(rows):
        any_record = next(iter(point.values()))
        auto = point.get(AUTO)
        others = [record for name, record in point.items() if name != AUTO]
        best = min(others, key=median, default=None)
        asked = any_record["asked"]
        met = "" if asked is None or auto is None else _MET[auto["ratio"] <= asked]
        body.append(
            (
                any_record["point"]["shape"],
                f"{any_record['bytes'] / any_record['stream_seconds'] / 1e9:.3g}",
                _ratio(auto) + (f" ({auto['auto_takes']})" if auto else ""),
                "–" if asked is None else f"{asked:g}{met}",
                f"{_ratio(best)} ({_short(best['contender'])})" if best else "–",
                _ratio(point.get(SCAN)),
                _ratio(point.get(ASSOCIATIVE)),
            )
        )
    columns = ("shape", "GB/s", "auto", "asked", "best other", SCAN, "associative_scan")
    name = f"Time over streaming the same bytes, {title(direction)}"
    note = "GB/s: of the streams. associative_scan: that of jax.lax. – : not asked, or not timed."
    return Table(name, columns, tuple(body), note=note)


def _ratio_table(rows: Sequence[Record], direction: str) -> Table:
    names = _contenders(rows)
    body = [
        (
            next(iter(point.values()))["point"]["shape"],
            *(_ratio(point.get(name)) for name in names),
        )
        for point in _by_point(rows)
    ]
    name = f"Everyone's time over streaming the same bytes, {title(direction)}"
    return Table(name, ("shape", *map(_short, names)), tuple(body), brief=False)


def _accuracy_table(rows: Sequence[Record]) -> Table:
    names = _contenders(rows)
    body = [
        (
            _where(next(iter(point.values()))),
            *(f"{point[name]['error']:.2f}" if name in point else "–" for name in names),
        )
        for point in _by_point(rows)
    ]
    return Table(
        "Largest error against float64, step by step, as a share of what rounding explains",
        ("shape, direction", *map(_short, names)),
        tuple(body),
        note="h within 4 scan(|a|, u (|a h| + |h|)), u the unit roundoff; gradients likewise.",
        brief=False,
    )


def _compile_table(records: Sequence[Record]) -> Table:
    lengths = sorted(distinct(records, "length"))
    body = []
    for direction in distinct(records, "direction"):
        for dtype in distinct(records, "dtype"):
            here = select(records, direction=direction, dtype=dtype)
            for name in _contenders(here):
                found = by(select(here, contender=name), "length")
                cells = [
                    short_seconds(_compiling(found[length])) if length in found else "–"
                    for length in lengths
                ]
                body.append((f"{_short(name)}, {title(direction)}, {dtype}", *cells))
    columns = ("", *(f"T = {short_count(length)}" for length in lengths))
    return Table("Time to lower and compile", columns, tuple(body), brief=False)


def _wrong(record: Record) -> tuple[str, ...]:
    return f"{record['contender']}, {_where(record)}", number(record["error"], ".3g")


def _ratio(record: Record | None) -> str:
    return f"{record['ratio']:.3g}" if record else "–"


def _short(name: str) -> str:
    return name.removeprefix("linear_scan ")


# Verdicts.


def _asked_verdict(good: Sequence[Record]) -> Verdict:
    claim = "auto is within the asked ratio to streaming at every shape"
    every = [r for r in select(good, contender=AUTO) if r["asked"] is not None]
    if not every:
        return Verdict(claim, "open", "No shape with a figure to reach was timed yet.")
    asked = [record for record in every if not predicted.doubt([record])]
    if not asked:
        return Verdict(claim, "open", predicted.doubt(every))
    met = sum(record["ratio"] <= record["asked"] for record in asked)
    worst = max(asked, key=lambda record: record["ratio"] / record["asked"])
    text = (
        f"{met} of {len(asked)} are. The farthest, {_where(worst)}: {worst['ratio']:.3g}, "
        f"asked {worst['asked']:g}." + race.left_out(len(every) - len(asked))
    )
    outcome: Outcome = (
        "confirmed" if met == len(asked) else "refined" if 2 * met >= len(asked) else "refuted"
    )
    return Verdict(claim, outcome, text)


def _best_verdict(good: Sequence[Record]) -> Verdict:
    claim = "auto is never more than 5 % slower than any contender"
    behind = []
    for point in _by_point(good):
        auto = point.get(AUTO)
        # The method that auto takes is the same program under its own name.
        same = auto and f"linear_scan {auto.get('auto_takes')}"
        others = [record for name, record in point.items() if name not in (AUTO, same)]
        if auto and others and not race.single([auto, *others]):
            best = min(others, key=median)
            behind.append((*gain(auto, best), auto, best))
    if not behind:
        return Verdict(claim, "open", race.single(good) or "auto was timed beside no other yet.")
    slower = [it for it in behind if it[0] > _SLOWER]
    factor, _, auto, best = max(behind, key=lambda it: it[0])
    where = f"{_where(auto)}, where it takes {factor:.3g} times as long as {best['contender']}"
    if not slower:
        return Verdict(claim, "confirmed", f"At {len(behind)} points. The worst is {where}.")
    clearly = [it for it in slower if it[1]]
    text = (
        f"It is at {len(behind) - len(slower)} of {len(behind)} points. The worst is {where}; "
        f"beyond the noise (quartiles apart) at {len(clearly)}."
    )
    return Verdict(claim, "refuted" if clearly else "refined", text)


def _tree_verdict(good: Sequence[Record]) -> Verdict:
    claim = (
        "auto is at least 4 times as fast as lax.associative_scan beyond a million numbers "
        "(2 times for a single chain)"
    )
    gains = []
    for point in _by_point(good):
        auto, tree = point.get(AUTO), point.get(ASSOCIATIVE)
        if auto and tree and auto["size"] > _LARGE and not race.single([auto, tree]):
            asked = _GAIN_OF_A_CHAIN if auto["lanes"] == 1 else _GAIN
            gains.append((gain(tree, auto)[0], asked, auto))
    if not gains:
        none = "No shape that large was timed by both yet."
        return Verdict(claim, "open", race.single(good) or none)
    least, asked, auto = min(gains, key=lambda it: it[0] / it[1])
    text = f"The least, {_where(auto)}: {least:.3g} times, asked {asked:g}."
    met = sum(times >= asked for times, asked, _ in gains)
    if met == len(gains):
        return Verdict(claim, "confirmed", text)
    outcome: Outcome = "refined" if all(times > 1 for times, _, _ in gains) else "refuted"
    return Verdict(claim, outcome, f"At {met} of {len(gains)} points. {text}")


def _compile_verdict(compiled: Sequence[Record]) -> Verdict:
    claim = "auto compiles in less than 0.5 s at any T, complex numbers and gradients included"
    autos = select(compiled, contender=AUTO)
    if not autos:
        return Verdict(claim, "open", "auto was not compiled yet.")
    worst = max(autos, key=_compiling)
    slow = sum(_compiling(record) >= _COMPILE_SECONDS for record in autos)
    point = worst["point"]
    text = (
        f"The longest: {short_seconds(_compiling(worst))}, {title(point['direction'])}, "
        f"{point['dtype']}, T = {short_count(point['length'])}."
    )
    if not slow:
        return Verdict(claim, "confirmed", text)
    return Verdict(claim, "refuted", f"{slow} of {len(autos)} take longer. {text}")


def _accuracy_verdict(records: Sequence[Record]) -> Verdict:
    claim = "auto is as exact as rounding allows: h and its gradients are within their bounds"
    autos = [record for record in select(records, contender=AUTO) if "counts" in record]
    if not autos:
        return Verdict(claim, "open", "auto was not timed yet.")
    worst = race.worst(autos)
    error = f"{worst['error']:.3g} of the bound" if math.isfinite(worst["error"]) else "no number"
    text = f"The largest error is {error}, {_where(worst)}."
    wrong = sum(not record["counts"] for record in autos)
    if wrong:
        return Verdict(claim, "refuted", f"Not at {wrong} of {len(autos)} points. {text}")
    return Verdict(claim, "confirmed", text)
