"""Runs side by side: what differs in config and environment, each measurement with its ratio and
interval, the verdicts of each.

The first run is the reference. Verdicts are found again by the experiment as it is here, and only
they import it.
"""

from __future__ import annotations

import hashlib
import os
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from experiments.harness import contrast_tables, page, registry, terminal
from experiments.harness.experiment import Table, Verdict, sum_up
from experiments.harness.files import RunFolderError, write_atomically
from experiments.harness.measurements import measured
from experiments.harness.pairing import differing, pair
from experiments.harness.run_folder import RUNS, RunFolder

_SHOWN = 20  # rows on the terminal
_NAMED = 5  # records that one run has alone
_CELLS = (40, 24, 12)  # characters of a cell on the terminal: the first of these that fits
_LEAST = 24  # of the first column
_NUMERIC = tuple("0123456789+-")
_EQUAL = "equal"
_NAME = 180  # bytes; file systems take 255


def compare_runs(
    folders: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER FOLDER ...")],
    /,
    *,
    out: Path | None = None,
    runs: Path = RUNS,
) -> int:
    """Show what differs between runs: config, environment, measurements, verdicts.

    Args:
      folders: two run folders or more, or folders of results/; the first is the reference.
      out: the page to write; by default compare-A-B.html in the folder of runs.
      runs: the folder that holds the run folders.
    """
    if out is not None and (not out.name or os.path.isdir(out)):
        raise RunFolderError(f"--out {out}: is a folder; should be a file, {out / 'compare.html'}")
    found = pair(folders)
    console = terminal.output(width=160)
    groups = [(group[0].title, parts_of(group)) for group in found.groups]
    names = [folder.resolve().name for folder in folders]
    path = out or runs / _page_name(names)
    sections = [page.Section(title, tuple(parts)) for title, parts in groups]
    sections.append(page.Section("Left out", tuple(map(page.Text, found.left_out))))
    lead = f"{', '.join(names[1:])} against {names[0]}, which is the reference."
    # First, for a reader of what follows may have seen enough: head, less.
    text = page.render("Runs side by side", lead, sections)
    write_atomically(path, text, otherwise="name another file with --out")
    for title, parts in groups:
        console.rule(Text(title), style="dim")
        for part in parts:
            _show(console, part)
    for line in found.left_out:
        _show(console, page.Text(line))
    console.print("\nAll of it, as a page:")
    console.print(f"  {path}", soft_wrap=True, markup=False)
    return 0


def _page_name(names: Sequence[str]) -> str:
    """`compare-A-B.html`; of many runs a name that a file can have.

    >>> _page_name(["recall-0123", "recall-4567"]), _page_name(["digits-0123"] * 30)
    ('compare-recall-0123-recall-4567.html', 'compare-digits-0123-and-29-more-cc5c50e611.html')
    """
    whole = "-".join(page.file_name(name) for name in names)
    if len(os.fsencode(whole)) > _NAME:
        digest = hashlib.sha256(whole.encode()).hexdigest()[:10]
        whole = f"{page.file_name(names[0])[:40]}-and-{len(names) - 1}-more-{digest}"
    return f"compare-{whole}.html"


def parts_of(group: Sequence[RunFolder]) -> list[Table | page.Text]:
    """What is to be said of runs of one experiment, the reference first."""
    letters = string.ascii_uppercase
    labels = [letters[i] if i < len(letters) else f"run {i + 1}" for i in range(len(group))]
    records = [run.records() for run in group]
    rows = [
        (label, str(run.path), str(_points(mine)), "yes" if run.holds_all(mine) else "no")
        for label, run, mine in zip(labels, group, records, strict=True)
    ]
    parts: list[Table | page.Text] = [
        Table(
            "Runs",
            ("", "folder", "points", "finished"),
            tuple(rows),
            "A is the reference. An unfinished run is compared in what it has.",
        ),
        _facts_table("Config: what differs", labels, [run.config for run in group]),
        _facts_table("Environment: what differs", labels, [run.environment for run in group]),
        *_verdicts(labels, group, records),
    ]
    found = measured(records)
    for label, other in zip(labels[1:], found[1:], strict=True):
        parts += contrast_tables.tables(labels[0], found[0], label, other)
    return parts


def _verdicts(
    labels: Sequence[str], group: Sequence[RunFolder], records: Sequence[Sequence[dict[str, Any]]]
) -> list[Table | page.Text]:
    said: list[dict[str, Verdict]] = []
    faults: list[Table | page.Text] = []
    for label, run, mine in zip(labels, group, records, strict=True):
        try:
            _, experiment, _ = registry.reopen(run.path)
        except registry.REFUSALS as error:
            faults.append(page.Text(f"No verdicts of {label} by this version: {error}"))
            said.append({})
            continue
        summary = sum_up(experiment, mine)
        faults += [page.Text(f"Not of {label}: {failure}") for failure in summary.failures]
        said.append(_by_claim(summary.verdicts))
    claims = dict.fromkeys(claim for verdicts in said for claim in verdicts)
    if not claims:
        return faults
    rows = []
    for claim in claims:
        each = [verdicts.get(claim) for verdicts in said]
        outcomes = {verdict.outcome for verdict in each if verdict}
        changed = len(outcomes) > 1
        cells = (_outcome(verdict) for verdict in each)
        rows.append((changed, (claim, "changed" if changed else "", *cells)))
    rows.sort(key=lambda row: not row[0])
    count = sum(changed for changed, _ in rows)
    table = Table(
        "Verdicts",
        ("claim", "", *labels),
        tuple(cells for _, cells in rows),
        f"{count} of {len(rows)} changed.",
    )
    return [*faults, table]


def _by_claim(verdicts: Sequence[Verdict]) -> dict[str, Verdict]:
    """By what is claimed; what is claimed once more has its number behind it."""
    found: dict[str, Verdict] = {}
    seen: Counter[str] = Counter()
    for verdict in verdicts:
        claim = f"{verdict.number}. {verdict.claim}" if verdict.number else verdict.claim
        seen[claim] += 1
        found[claim if seen[claim] == 1 else f"{claim} ({seen[claim]})"] = verdict
    return found


def _outcome(verdict: Verdict | None) -> str:
    if verdict is None:
        return "–"
    return f"{verdict.outcome}: {verdict.value}" if verdict.value else verdict.outcome


def _facts_table(
    title: str, labels: Sequence[str], facts: Sequence[dict[str, Any]]
) -> Table | page.Text:
    rows = tuple((name, *map(_cell, values)) for name, values in differing(facts))
    if not rows:
        return page.Text(f"{title.split(':')[0]}: the same in all.")
    return Table(title, ("", *labels), rows)


def _show(console: Console, part: Table | page.Text) -> None:
    """On the terminal: long tables and cells are cut, the page has them whole."""
    if not isinstance(part, Table):
        console.print(f"\n{part.text}", markup=False, highlight=False)
        return
    if not part.brief:
        return
    left = len(part.rows[_SHOWN:])
    note = f"{part.note} Further rows are on the page: {left}." if left else part.note
    least = min(_LEAST, max((len(row[0]) for row in part.rows), default=0))
    tried = [_narrowed(part.rows[:_SHOWN], limit) for limit in _CELLS]
    rows = next((rows for rows in tried if _room(part.columns, rows, console) >= least), tried[-1])
    # The first column gives way, so that the others are seen; then the last of these go.
    count = len(part.columns)
    while count > 2 and _room(part.columns[:count], rows, console) < least:
        count -= 1
    room = max(least, _room(part.columns[:count], rows, console))
    rows = tuple((terminal.shortened(row[0], room), *row[1:]) for row in rows)
    shown = replace(part, rows=rows, note=note.strip())
    terminal.show_table(console, shown, "Further columns are on the page.")


def _narrowed(rows: Sequence[Sequence[str]], width: int) -> tuple[tuple[str, ...], ...]:
    """Words are cut, but in the first column; a number that is cut would be another one."""

    def cut(cell: str) -> str:
        return terminal.shortened(cell, _CELLS[0] if cell[:1] in _NUMERIC else width)

    return tuple((row[0], *map(cut, row[1:])) for row in rows)


def _room(columns: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> int:
    """What the other columns leave to the first, with the gaps that a table has."""
    cells = [(column, *(row[i] for row in rows)) for i, column in enumerate(columns)]
    return console.width - 2 - 3 - sum(max(map(cell_len, each)) + 3 for each in cells[1:])


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _points(records: Sequence[dict[str, Any]]) -> int:
    return sum(record["line"] == 1 for record in records)
