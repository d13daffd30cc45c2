"""The report of a run: figures as files, and one HTML page that holds everything it shows."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text as RichText

from experiments.harness import figures, page
from experiments.harness.environment import device_name
from experiments.harness.experiment import (
    Experiment,
    Record,
    Summary,
    in_words,
    sum_up,
)
from experiments.harness.figures import STYLE, literal
from experiments.harness.files import OTHER_FOLDER, write_atomically
from experiments.harness.page import Facts, Image, Section, Text
from experiments.harness.run_folder import RUNS, RunFolder
from experiments.harness.terminal import show_table
from experiments.harness.words import command, visible

_COPY = "report a copy of the folder"  # for one that may not be written to
_COLOURS = {"confirmed": "green", "refined": "yellow", "refuted": "red", "open": "dim"}


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
            drawn = dict(experiment.plot(literal(records)))
        except Exception as error:
            drawn = {"all": error}
        images, failures = save_figures(drawn, folder.path / "figures", _COPY)
    summary = replace(summary, failures=(*summary.failures, *failures))
    device = device_name(dict(folder.environment))
    kind = "finished" if complete else "unfinished"
    text = page.render(
        name,
        experiment.CLAIM,
        _sections(summary, images, records, folder, device),
        badge=(kind, status),
        note=f"on {device}, jax {folder.environment['packages']['jax']}",
    )
    write_atomically(folder.report, text, otherwise=_COPY)
    return summary


def save_figures(
    drawn: Mapping[str, Figure | Exception], folder: Path, otherwise: str = OTHER_FOLDER
) -> tuple[list[Image], list[str]]:
    """Saves each figure as `folder/key.png` and `.svg`.

    Returns them for the page, and what could not be drawn. An error in the place of figures is
    why there are none. `otherwise` is what helps where nothing can be written.
    """
    images, failures = [], []
    for key, figure in drawn.items():
        png = io.BytesIO()
        try:
            if isinstance(figure, Exception):
                raise figure
            if not _is_file_name(key):
                raise ValueError(f"{key!r} should be the name of a file, without its folder")
            image = figures.image(key, figure)
            figure.savefig(png, format="png", metadata={"Software": None})
        except Exception as error:
            which = "figures" if error is figure else "figure"
            failures.append(f"{which} {key}: {in_words(error)}")
            continue
        write_atomically(folder / f"{key}.svg", image.svg, otherwise=otherwise)
        write_atomically(folder / f"{key}.png", png.getvalue(), otherwise=otherwise)
        images.append(image)
    return images, failures


def _is_file_name(key: object) -> bool:
    """Whether a figure can be saved by that name, and in its folder.

    >>> [_is_file_name(key) for key in ("time", "of one (µs)", "../time", "..", "", "a\\0", 1)]
    [True, True, False, False, False, False, False]
    """
    return (
        isinstance(key, str)
        and key not in ("", ".", "..")
        and Path(key).name == key
        and key.isprintable()
        and len(key.encode()) <= 200
    )


def _sections(
    summary: Summary,
    images: Sequence[Image],
    records: Sequence[Record],
    folder: RunFolder,
    device: str,
) -> list[Section]:
    """What the page shows, in order; a section without parts is left out."""
    skipped = [
        Text(f"{record['skipped']} {json.dumps(record['point'])}")
        for record in records
        if "skipped" in record
    ]
    verdicts = [
        replace(verdict, text=f"{verdict.text} Found on {device}.") for verdict in summary.verdicts
    ]
    bare = [] if summary.tables or summary.verdicts else [_records(records)]
    return [
        Section("Not in this report", tuple(Text(text, "failure") for text in summary.failures)),
        Section("Verdicts", tuple(verdicts)),
        Section("Figures", tuple(images)),
        Section("Tables", summary.tables),
        Section("Left out", tuple(skipped)),
        Section("Records", tuple(bare)),
        Section(
            "How it was measured",
            (
                Text("To repeat or continue it:"),
                Text(_again(folder), "code"),
                Facts("Config", folder.config),
                Facts("Environment", folder.environment),
            ),
        ),
    ]


def _again(folder: RunFolder) -> str:
    """The command that continues a run, or repeats it on another machine."""
    words = ["python", "-m", "experiments", "run", folder.path / "config.json"]
    if folder.path.parent != RUNS:
        words += ["--runs", folder.path.parent]
    return command(*words)


def show(console: Console, summary: Summary, device: str) -> None:
    """The brief tables and the verdicts on a terminal."""
    for table in summary.tables:
        if table.brief:
            show_table(console, table)
    for verdict in summary.verdicts:
        line = RichText(f"\n{verdict.outcome.upper()}", style=f"bold {_COLOURS[verdict.outcome]}")
        number = f"  Claim {verdict.number}, " if verdict.number else "  "
        line.append(visible(f"{number}{verdict.claim}: "), style="bold not dim default")
        line.append(visible(f"{verdict.text} (On {device}.)"), style="not bold not dim default")
        console.print(line)


def _records(records: Sequence[Record]) -> Text:
    """What was measured, where nothing sums it up; long ones are cut."""
    lines = (json.dumps(record) for record in records)
    return Text(
        "\n".join(line if len(line) <= 1000 else f"{line[:997]}..." for line in lines), "code"
    )
