"""What a sweep found: one row a point, a figure over the swept axes, a page."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from experiments.harness import figures, measurements, page, report, run_folder
from experiments.harness.colours import BLUE, GREEN, ORANGE, PINK, RED, SKY
from experiments.harness.experiment import Experiment, Record, Summary, Table, sum_up
from experiments.harness.files import write_atomically
from experiments.harness.run_folder import RunFolder
from experiments.harness.sweep_points import FINISHED, SweepPoint, counted, label, shown

PANELS = 6
COLORS = (BLUE, ORANGE, GREEN, RED, PINK, SKY)
MARKERS = "osD^vPX"  # one more, so that no pair comes back soon
CURVES = 12
LONGEST = 26  # characters of a name along x
Key = tuple[str, str]  # a measured field, and the name of what it was measured of
# What a run says of itself: no key of a config and no measured field is such a one.
STATE, SECONDS, VERDICTS = ("", "state"), ("", "seconds"), ("", "verdicts")
Row = dict[Any, Any]


def write(
    folder: Path,
    name: str,
    experiment: Experiment,
    axes: Mapping[str, Sequence[Any]],
    points: Sequence[SweepPoint],
    folders: Sequence[RunFolder],
    states: Sequence[str],
    console: Console,
    again: str,
    refused: Collection[int] = (),
) -> None:
    """Writes sweep.json, summary.csv, the figure and report.html, and shows the table.

    refused: the points whose folders hold another run, of which nothing is shown.
    """
    records = [
        [] if number in refused else folder.records() for number, folder in enumerate(folders)
    ]
    values = _medians(records, axes)
    rows = [
        {**point.values, STATE: state, **_end(experiment, found, mine), **measured}
        for point, found, state, mine, measured in zip(
            points, folders, states, records, values, strict=True
        )
    ]
    fields = list(dict.fromkeys(key for measured in values for key in measured))
    varied = [key for key in fields if len({row[key] for row in rows if key in row}) > 1]
    # A terminal has room for the first: times last, since most experiments ask for another thing.
    varied = sorted(varied, key=lambda key: key[0].endswith("seconds"))
    fields = varied + [key for key in fields if key not in varied]
    columns = [*axes, STATE, SECONDS, VERDICTS, *fields]
    cells = tuple(tuple(_cell(row.get(key)) for key in columns) for row in rows)
    headings = _headings(columns)
    done = sum(state == FINISHED for state in states)
    title = f"{run_folder.title(name)} over {', '.join(axes)}"
    note = "Of each measured number the median over its samples and seeds."
    table = Table(title, headings, cells, note)
    facts = {
        "experiment": name,
        "axes": axes,
        "points": [
            {"values": point.values, "folder": str(found.path), "state": state}
            for point, found, state in zip(points, folders, states, strict=True)
        ],
    }
    write_atomically(folder / "sweep.json", json.dumps(facts, indent=2) + "\n")
    numbers = [[row.get(key, "") for key in columns] for row in rows]
    numbers = [[v if isinstance(v, int | float) else shown(v) for v in row] for row in numbers]
    data = page.table_csv(headings, numbers)
    write_atomically(folder / "summary.csv", data)
    images, failures = [], []
    if varied:
        with mpl.rc_context(figures.STYLE):
            figure = draw(axes, rows, varied)
            images, failures = report.save_figures({"sweep": figure}, folder / "figures")
    badge = ("finished" if done == len(rows) else "unfinished", f"{done} of {len(rows)} points")
    sections = [
        page.Section("Not in this report", tuple(page.Text(f, "failure") for f in failures)),
        page.Section("Figure", tuple(images)),
        page.Section("Points", (table,)),
        page.Section("To repeat or continue it", (page.Text(again, "code"),)),
    ]
    html = page.render(title, experiment.CLAIM, sections, badge)
    write_atomically(folder / "report.html", html)
    report.show(console, Summary((), (_brief(table, axes, states),)), "")
    console.print(
        f"\n{done} of {len(rows)} points are finished. The report:\n  {folder}/report.html",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def _brief(table: Table, axes: Mapping[str, Any], states: Sequence[str]) -> Table:
    rows = tuple(
        tuple(cell if len(cell) <= 40 else cell[:39] + "…" for cell in row) for row in table.rows
    )
    failed = [
        f"{label({k: v for k, v in zip(table.columns[: len(axes)], row, strict=False)})}: {s}"
        for row, s in zip(table.rows, states, strict=True)
        if s.startswith(("failed", "killed"))
    ]
    return Table(table.title, table.columns, rows, "\n".join([table.note, *failed]))


def _end(experiment: Experiment, folder: RunFolder, records: Sequence[Record]) -> Row:
    """What the run of a point says of itself."""
    row: Row = {}
    if records and folder.finished:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it says no more than that
            text = (folder.path / "finished.json").read_text(encoding="utf-8")
            row[SECONDS] = json.loads(text).get("seconds")
    if records:
        row[VERDICTS] = ", ".join(v.outcome for v in sum_up(experiment, records).verdicts)
    return row


def _medians(runs: Sequence[Sequence[Record]], axes: Mapping[str, Any]) -> list[dict[Key, float]]:
    """The measurements of each run, by the parts of their names that tell them apart in a run.

    What is swept is none of them, `length=64` where `lengths` are, unless a run has several.
    """
    found = measurements.measured(runs)
    several = {
        key
        for run in found
        for key in {key for name in run.names for key, _ in name}
        if len({dict(name).get(key) for name in run.names}) > 1
    }
    swept = {key.rpartition(".")[2] for key in axes}
    swept |= {key.removesuffix("s") for key in swept}
    fewer = several - swept
    if all(_tell_apart(run, fewer) for run in found):
        several = fewer
    return [
        {
            (field, _in_words(name, several)): float(np.median(list(map(np.median, samples))))
            for (name, field), samples in run.samples.items()
        }
        for run in found
    ]


def _tell_apart(run: measurements.Measured, parts: Collection[str]) -> bool:
    return len({(f, _in_words(name, parts)) for name, f in run.samples}) == len(run.samples)


def _in_words(name: measurements.Name, parts: Collection[str]) -> str:
    return measurements.in_words(tuple(part for part in name if part[0] in parts))


def _headings(columns: Sequence[str | Key]) -> tuple[str, ...]:
    """`accuracy` or `accuracy, LRU`; what a run says of itself gives way to a key of that name.

    >>> _headings(["state", STATE, SECONDS, ("accuracy", "LRU")])
    ('state', 'state of the run', 'seconds', 'accuracy, LRU')
    """
    plain = [key if isinstance(key, str) else ", ".join(filter(None, key)) for key in columns]
    own = {STATE, SECONDS, VERDICTS}
    return tuple(
        f"{text} of the run" if key in own and plain.count(text) > 1 else text
        for key, text in zip(columns, plain, strict=True)
    )


def draw(axes: Mapping[str, Sequence[Any]], rows: Sequence[Row], keys: Sequence[Key]) -> Figure:
    """A panel a field; along x the longest axis of numbers, curves for the values of the others.

    Axes that go side by side with that along x make no curves: its values tell the points apart.
    """
    numeric = [key for key in axes if all(_number(value) is not None for value in axes[key])]
    along = max(numeric or axes, key=lambda key: len(axes[key]))
    alone = len({_frozen(row[along]) for row in rows}) == len(rows)
    others = [key for key in axes if key != along and not alone]
    beside = [key for key in axes if key != along and alone and len(axes[key]) > 1]
    places = {
        _frozen(value): _number(value) if numeric else place
        for place, value in enumerate(axes[along])
    }
    every = list(dict.fromkeys(field for field, _ in keys))
    fields = every[:PANELS]
    columns = min(3, len(fields))
    figure, panels = figures.new_figure(-(-len(fields) // columns), columns)
    curves = [
        (name, dict(zip(others, values, strict=True)))
        for name in dict.fromkeys(name for field, name in keys if field in fields)
        for values in dict.fromkeys(tuple(_frozen(row[k]) for k in others) for row in rows)
    ]
    for panel, field in zip(panels.flat, fields, strict=False):
        for index, (name, chosen) in enumerate(curves[:CURVES]):
            here = sorted(
                (places[_frozen(row[along])], row[field, name])
                for row in rows
                if (field, name) in row and all(_frozen(row[k]) == chosen[k] for k in others)
            )
            if not here:
                continue
            values = {key: json.loads(value) for key, value in chosen.items()}
            panel.plot(
                [x for x, _ in here],
                [y for _, y in here],
                label=figures.literal(", ".join(filter(None, (name, label(values))))) or None,
                color=COLORS[index % len(COLORS)],
                marker=MARKERS[index % len(MARKERS)],
                linestyle="-" if numeric else "none",
                markeredgecolor="white",
            )
        panel.set_title(figures.literal(field))
        panel.set_xlabel(figures.literal(along))
        if numeric:
            _ticks(panel, sorted({place or 0.0 for place in places.values()}))
        else:
            _names(panel, [shown(value) for value in axes[along]])
    for panel in list(panels.flat)[len(fields) :]:
        panel.set_visible(False)
    figures.legend_below(figure)
    left = [
        counted(len(all_) - most, what)
        for all_, most, what in ((every, PANELS, "field"), (curves, CURVES, "curve"))
        if len(all_) > most
    ]
    note = f", and with it {', '.join(beside)}" if beside else ""
    note += "." + (f" In the table alone: {' and '.join(left)}." if left else "")
    figure.set_label(f"Medians over samples and seeds, against {along}{note}")
    return figure


def _ticks(panel: Axes, places: Sequence[float]) -> None:
    """At six of the values at most; logarithmic where they grow by factors, not by steps."""
    first, last = places[0], places[-1]
    if first > 0 and last >= 8 * first:
        middle = float(np.median(places))
        if abs(middle - (first * last) ** 0.5) < abs(middle - (first + last) / 2):
            panel.set_xscale("log")
            panel.minorticks_off()
    places = places[:: -(-len(places) // 6)]
    panel.set_xticks(places, [f"{place:g}" for place in places])


def _names(panel: Axes, names: Sequence[str]) -> None:
    """Of values that are no numbers, in their order; aslant where they would touch."""
    short = [n if len(n) <= LONGEST else f"{n[: LONGEST - 10]}…{n[-9:]}" for n in names]
    aslant = sum(map(len, short)) > 40 or max(map(len, short)) > 12
    panel.set_xticks(range(len(names)), figures.literal(short))
    if aslant:
        panel.tick_params(axis="x", labelrotation=30)
        for text in panel.get_xticklabels():
            text.set_horizontalalignment("right")
            text.set_rotation_mode("anchor")
    panel.set_xlim(-0.5, len(names) - 0.5)


def _number(value: Any) -> float | None:
    """A number, or a list of one; None where it is neither."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _frozen(value: Any) -> str:
    return json.dumps(value)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return shown(value)
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
