"""Standard output, tables on it, and what a shell is told of Ctrl-C."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import tyro
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from experiments.harness.experiment import Table
from experiments.harness.words import visible

SHOWN = 20  # points that a dry run lists
INTERRUPTED = 130  # the exit code that a shell reports of a command that Ctrl-C ended
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]  # --yes, and no --no-yes


class _Visible(Console):
    """Shows what would steer the terminal as an escape, wherever the text comes from."""

    def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
        for text, style, control in super().render(*args, **kwargs):
            yield Segment(text if control else visible(text), style, control)


def output(width: int = 120) -> Console:
    """Standard output; where that is no terminal, lines of that width, enough for every table."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding lacks, as an escape
    console = _Visible(emoji=False)  # a path may hold ":x:"
    return console if console.is_terminal else _Visible(width=width, emoji=False)


def show_table(
    console: Console, table: Table, more: str = "Further columns are in the report."
) -> None:
    """As many columns as fit side by side; a cell broken over lines is hard to read.

    more: said where columns were left out.
    """
    rows = [[visible(cell) for cell in row] for row in table.rows]
    widths = [max(map(cell_len, cells)) for cells in zip(table.columns, *rows, strict=True)]
    count = len(widths)
    while count > 2 and sum(widths[:count]) + 3 * count + 2 > console.width:
        count -= 1
    rich_table = RichTable(box=box.SIMPLE_HEAD)
    for index, column in enumerate(table.columns[:count]):
        words = index == 0 or not any(row[index][:1].isdigit() for row in rows)
        rich_table.add_column(
            Text(visible(column)), justify="left" if words else "right", no_wrap=True
        )
    for row in rows:
        rich_table.add_row(*(Text(cell) for cell in row[:count]))
    notes = [table.note] if table.note else []
    if count < len(widths):
        notes.append(more)
    console.print(Text(f"\n{visible(table.title)}", style="bold"))
    console.print(rich_table)
    if notes:
        console.print(Padding(Text(visible(" ".join(notes)), style="dim"), (0, 2)))


def shortened(text: str, width: int) -> str:
    """Cut in its middle: records begin alike, and a path ends in what tells runs apart. Of what is
    too narrow for two ends the beginning stays, such as an outcome.

    >>> shortened("time forward width=4 length=4096 blocked", 24)
    'time fo...h=4096 blocked'
    >>> shortened("refined: 1.5 times", 12)
    'refined: ...'
    """
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    tail = (width - 2) * 2 // 3 if width > 16 else 0
    return f"{text[: width - 3 - tail]}...{text[len(text) - tail :]}"
