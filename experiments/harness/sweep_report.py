"""What a sweep found: one row a point, a figure over the swept axes, a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from experiments.harness import figures, page, report, run_folder
from experiments.harness.experiment import Experiment, Record, Summary, Table, sum_up
from experiments.harness.run_folder import RunFolder, RunFolderError
from experiments.harness.sweep_points import SweepPoint, label, shown

FINISHED = "finished"  # the state of a point; any other says why it is not
PANELS = 6
Row = dict[str, Any]


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
) -> None:
    """Writes sweep.json, summary.csv, the figure and report.html, and shows the table."""
    rows = [
        _row(experiment, point, found, state)
        for point, found, state in zip(points, folders, states, strict=True)
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    fields = [key for key in columns if key not in {*axes, "state", "seconds", "verdicts"}]
    varied = [key for key in fields if len({row[key] for row in rows if key in row}) > 1]
    fields = varied + [key for key in fields if key not in varied]
    columns = [*axes, "state", "seconds", "verdicts", *fields]
    cells = tuple(tuple(_cell(row.get(key)) for key in columns) for row in rows)
    done = sum(state == FINISHED for state in states)
    title = f"{run_folder.title(name)} over {', '.join(axes)}"
    note = "Of each measured field the median over the records of a point."
    table = Table(title, tuple(columns), cells, note)
    facts = {
        "experiment": name,
        "axes": axes,
        "points": [
            {"values": point.values, "folder": str(found.path), "state": state}
            for point, found, state in zip(points, folders, states, strict=True)
        ],
    }
    run_folder.write_atomically(folder / "sweep.json", json.dumps(facts, indent=2) + "\n")
    numbers = [[row.get(key, "") for key in columns] for row in rows]
    numbers = [[v if isinstance(v, int | float) else shown(v) for v in row] for row in numbers]
    data = page.table_csv(columns, numbers)
    run_folder.write_atomically(folder / "summary.csv", data)
    images, failures = [], []
    if varied:
        with mpl.rc_context(figures.STYLE):
            figure = draw(axes, rows, varied[:PANELS])
            images, failures = report.save_figures({"sweep": figure}, folder / "figures")
    badge = ("finished" if done == len(rows) else "unfinished", f"{done} of {len(rows)} points")
    sections = [
        page.Section("Not in this report", tuple(page.Text(f, "failure") for f in failures)),
        page.Section("Figure", tuple(images)),
        page.Section("Points", (table,)),
        page.Section("To repeat or continue it", (page.Text(again, "code"),)),
    ]
    html = page.render(title, experiment.CLAIM, sections, badge)
    run_folder.write_atomically(folder / "report.html", html)
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


def _row(experiment: Experiment, point: SweepPoint, folder: RunFolder, state: str) -> Row:
    row: Row = {**point.values, "state": state}
    try:
        records = folder.records()
    except RunFolderError:
        return row
    if folder.finished:
        text = (folder.path / "finished.json").read_text(encoding="utf-8")
        row["seconds"] = json.loads(text).get("seconds")
    if records:
        row["verdicts"] = ", ".join(v.outcome for v in sum_up(experiment, records).verdicts)
    swept = {key.rpartition(".")[2] for key in point.values}
    return {**{k: v for k, v in _medians(records).items() if k not in swept}, **row}


def _medians(records: Sequence[Record]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for record in records:
        for key, value in record.items():
            if key in ("line", "lines", "point") or key in record["point"]:
                continue
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(key, []).append(value)
    return {key: float(np.median(values)) for key, values in found.items()}


def draw(axes: Mapping[str, Sequence[Any]], rows: Sequence[Row], fields: Sequence[str]) -> Figure:
    """A panel a field; along x the first axis of numbers, a curve for each value of the others."""
    numeric = [key for key in axes if all(_is_number(value) for value in axes[key])]
    along = (numeric or list(axes))[0]
    others = [key for key in axes if key != along]
    columns = min(3, len(fields))
    figure, panels = figures.new_figure(-(-len(fields) // columns), columns)
    names = list(dict.fromkeys(label({key: row[key] for key in others}) for row in rows))
    for panel, field in zip(panels.flat, fields, strict=False):
        for index, name in enumerate(names):
            here = [r for r in rows if label({k: r[k] for k in others}) == name and field in r]
            x = [r[along] if numeric else shown(r[along]) for r in here]
            pairs = (
                sorted(zip(x, (r[field] for r in here), strict=True))
                if numeric
                else list(zip(x, (r[field] for r in here), strict=True))
            )
            style = {
                "color": f"C{index % 10}",
                "marker": "osD^vPX"[index % 7],
                "linestyle": "-" if numeric else "none",
                "markeredgecolor": "white",
            }
            panel.plot(
                [a for a, _ in pairs],
                [b for _, b in pairs],
                label=figures.literal(name) or None,
                **style,
            )
        panel.set_title(figures.literal(field))
        panel.set_xlabel(figures.literal(along))
        if numeric:
            ticks = sorted(set(axes[along]))
            if min(ticks) > 0 and max(ticks) >= 8 * min(ticks):
                panel.set_xscale("log")
                panel.minorticks_off()
            panel.set_xticks(
                ticks[:: -(-len(ticks) // 6)], [f"{t:g}" for t in ticks[:: -(-len(ticks) // 6)]]
            )
    for panel in list(panels.flat)[len(fields) :]:
        panel.set_visible(False)
    if len(names) <= 20:
        figures.legend_below(figure)
    figure.set_label(f"Medians over the records of each point, against {along}.")
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return shown(value)
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
