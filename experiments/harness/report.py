"""The report of a run: figures as files, and one HTML page that holds everything it shows."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from experiments.harness.environment import device_name
from experiments.harness.experiment import (
    Experiment,
    Record,
    Summary,
    Table,
    Verdict,
    in_words,
    sum_up,
)
from experiments.harness.figures import STYLE, literal, written
from experiments.harness.run_folder import RunFolder, write_atomically

_COLOURS = {"confirmed": "green", "refined": "yellow", "refuted": "red", "open": "dim"}

_CSS = """
:root { color-scheme: light dark; --ink: #1d1f23; --paper: #fbfbfa; --soft: #5f6368; --line:
#dcdcd8;
  --card: #ffffff; --confirmed: #00674c; --refined: #8a5a00; --refuted: #a33b00; --open: #5f6368; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --paper: #16181b; --soft: #a2a6ab;
  --line: #34383d; --card: #1e2125; --confirmed: #4cc9a0; --refined: #f0b849; --refuted: #ff8f5c;
  --open: #a2a6ab; } }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.5rem 0 .75rem; font-size: 1.2rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); }
.badge { display: inline-block; padding: .05rem .6rem; border: 1px solid; border-radius: 1rem;
  font-size: .85rem; font-weight: 600; }
.confirmed { color: var(--confirmed); } .refined, .unfinished { color: var(--refined); } .refuted {
color: var(--refuted); } .open { color: var(--open); } .finished { color: var(--confirmed); }
.verdict { margin: .75rem 0; padding: .7rem 1rem; background: var(--card);
  border: 1px solid var(--line); border-radius: .5rem; }
figure { margin: 1rem 0 1.75rem; }
figure img { display: block; width: 100%; height: auto; background: #ffffff; border-radius: .5rem;
  border: 1px solid var(--line); box-sizing: border-box; padding: .5rem; }
figcaption { margin-top: .4rem; color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { margin: .9rem 0 .2rem; border-collapse: collapse; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; white-space: nowrap; }
th, td { padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; white-space: nowrap; } th { font-weight: 600; color: var(--soft); }
th:first-child, td:first-child, .facts td { text-align: left; } .facts td { overflow-wrap: anywhere;
} details { margin: .75rem 0; } summary { cursor: pointer; font-weight: 600; } pre { overflow-x:
auto; padding: .6rem .8rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .4rem; font-size: .85rem; }
"""


def write(
    folder: RunFolder,
    name: str,
    experiment: Experiment,
    records: Sequence[Record],
    status: str,
    complete: bool,
) -> Summary:
    """Saves the figures of `records` as png and svg, writes `report.html`, returns the summary.

    What fails to be drawn or summed up is among the failures of the summary, and the page says so.

    Args:
      folder: the run folder to write into.
      name: the experiment's.
      experiment: draws and sums up.
      records: what was measured so far.
      status: one line; an unfinished run says so.
      complete: whether every planned point is among the records.
    """
    summary = sum_up(experiment, records)
    with mpl.rc_context(STYLE):
        try:
            figures = dict(experiment.plot(literal(records)))
        except Exception as error:
            figures = {"all": error}
        images, failures = save_figures(figures, folder.path / "figures")
    summary = replace(summary, failures=(*summary.failures, *failures))
    page = render(
        name=name,
        claim=experiment.CLAIM,
        status=status,
        complete=complete,
        summary=summary,
        images=images,
        records=records,
        config=folder.config,
        environment=folder.environment,
        folder=folder.path,
    )
    write_atomically(folder.report, page)
    return summary


def save_figures(
    figures: Mapping[str, Figure | Exception], folder: Path
) -> tuple[list[tuple[str, bytes]], list[str]]:
    """Saves each figure as `folder/key.png` and `.svg`.

    Returns captions and svg texts, and what could not be drawn. An error in the place of figures
    is why there are none.
    """
    images, failures = [], []
    for key, figure in figures.items():
        svg, png = io.BytesIO(), io.BytesIO()
        try:
            if isinstance(figure, Exception):
                raise figure
            figure.savefig(svg, format="svg", metadata={"Date": None})
            figure.savefig(png, format="png", metadata={"Software": None})
        except Exception as error:
            which = "figures" if error is figure else "figure"
            failures.append(f"{which} {key}: {in_words(error)}")
            continue
        write_atomically(folder / f"{key}.svg", svg.getvalue())
        write_atomically(folder / f"{key}.png", png.getvalue())
        images.append((written(figure.get_label()) or key.replace("_", " "), svg.getvalue()))
    return images, failures


def render(
    *,
    name: str,
    claim: str,
    status: str,
    complete: bool,
    summary: Summary,
    images: Sequence[tuple[str, bytes]],
    records: Sequence[Record],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    folder: Path,
) -> str:
    """The page as text. Whatever comes from outside this module is escaped."""
    device = device_name(dict(environment))
    version = environment["packages"]["jax"]
    skipped = [record for record in records if "skipped" in record]
    kind = "finished" if complete else "unfinished"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(name)}: {kind}</title><style>{_CSS}</style></head><body>",
        f"<h1>{_text(name)}</h1><p>{_text(claim)}</p>",
        f'<p><span class="badge {kind}">{_text(status)}</span> '
        f'<span class="soft">on {_text(device)}, jax {_text(version)}</span></p>',
        *_section("Not in this report", map(_failure, summary.failures)),
        *_section("Verdicts", (_verdict(verdict, device) for verdict in summary.verdicts)),
        *_section("Figures", (_figure(caption, svg) for caption, svg in images)),
        *_section("Tables", (_table(table) for table in summary.tables)),
        *_section("Left out", [_skipped(skipped)] if skipped else []),
        *([] if summary.tables or summary.verdicts else [_records(records)]),
        "<h2>How it was measured</h2>",
        "<p>To repeat or continue it:</p>",
        f"<pre>python -m experiments run {_text(folder / 'config.json')}</pre>",
        _facts("Config", config),
        _facts("Environment", environment),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def show(console: Console, summary: Summary, device: str) -> None:
    """The brief tables and the verdicts on a terminal."""
    for table in summary.tables:
        if table.brief:
            _show_table(console, table)
    for verdict in summary.verdicts:
        line = Text(f"\n{verdict.outcome.upper()}", style=f"bold {_COLOURS[verdict.outcome]}")
        number = f"  Claim {verdict.number}, " if verdict.number else "  "
        line.append(f"{number}{verdict.claim}: ", style="bold not dim default")
        line.append(f"{verdict.text} (On {device}.)", style="not bold not dim default")
        console.print(line)


def _show_table(console: Console, table: Table) -> None:
    """As many columns as fit side by side; a cell broken over lines is hard to read."""
    widths = [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]
    count = len(widths)
    while count > 2 and sum(widths[:count]) + 3 * count + 2 > console.width:
        count -= 1
    rich_table = RichTable(box=box.SIMPLE_HEAD)
    for index, column in enumerate(table.columns[:count]):
        words = index == 0 or not any(row[index][:1].isdigit() for row in table.rows)
        rich_table.add_column(Text(column), justify="left" if words else "right", no_wrap=True)
    for row in table.rows:
        rich_table.add_row(*(Text(cell) for cell in row[:count]))
    notes = [table.note] if table.note else []
    if count < len(widths):
        notes.append("Further columns are in the report.")
    console.print(Text(f"\n{table.title}", style="bold"))
    console.print(rich_table)
    if notes:
        console.print(Padding(Text(" ".join(notes), style="dim"), (0, 2)))


def _section(title: str, parts: Iterable[str]) -> list[str]:
    parts = list(parts)
    return [f"<h2>{title}</h2>", *parts] if parts else []


def _verdict(verdict: Verdict, device: str) -> str:
    number = f"Claim {verdict.number}, " if verdict.number else ""
    return (
        f'<div class="verdict"><span class="badge {verdict.outcome}">{verdict.outcome}</span> '
        f"<strong>{number}{_text(verdict.claim)}</strong><p>{_text(verdict.text)} "
        f'<span class="soft">Found on {_text(device)}.</span></p></div>'
    )


def _figure(caption: str, svg: bytes) -> str:
    # As an image: ids and styles of one drawing cannot reach into another.
    data = base64.b64encode(svg).decode("ascii")
    return (
        f'<figure><img alt="{_text(caption)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    note = f'<p class="soft note">{_text(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll"><table><caption>{_text(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}"
    )


def _skipped(records: Sequence[Record]) -> str:
    items = "".join(
        f"<li>{_text(record['skipped'])} <span class='soft'>{_text(json.dumps(record['point']))}"
        "</span></li>"
        for record in records
    )
    return f"<ul>{items}</ul>"


def _failure(text: str) -> str:
    return f'<p class="refuted">{_text(text)}</p>'


def _records(records: Sequence[Record]) -> str:
    """What was measured, where nothing sums it up; long ones are cut."""
    lines = (json.dumps(record) for record in records)
    text = "\n".join(line if len(line) <= 1000 else f"{line[:997]}..." for line in lines)
    return f"<details open><summary>Records</summary><pre>{_text(text)}</pre></details>"


def _facts(title: str, facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{_text(key)}</td><td>{_text(value)}</td></tr>" for key, value in _flat(facts)
    )
    return (
        f'<details><summary>{title}</summary><div class="scroll"><table class="facts">'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _text(value: Any) -> str:
    return html.escape(str(value))
