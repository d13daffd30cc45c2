"""One self-contained HTML page of sections: tables, verdicts, images, facts and text.

The template `page.html` escapes whatever it is given; `page.css` is its look, light and dark.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2

from experiments.harness.experiment import Table, Verdict
from experiments.harness.files import as_bytes
from experiments.harness.rows import flat

_LONG = 45  # characters; a longer cell is broken over lines


@dataclass(frozen=True)
class Text:
    """A paragraph; `look` is "soft", "failure" or "code", the last of which keeps its lines."""

    text: str
    look: Literal["", "soft", "failure", "code"] = ""


@dataclass(frozen=True)
class Image:
    """A figure.

    Args:
      name: what its data are called when they are saved, and its line in the contents.
      caption: the sentence below it.
      alt: what it shows, in words, for those who cannot see it.
      svg: the drawing; a png is recognised.
      data: what is drawn, as the text of a CSV file; without it no link is shown.
    """

    name: str
    caption: str
    alt: str
    svg: bytes
    data: str = ""


@dataclass(frozen=True)
class Facts:
    """Nested values as a list that is folded away: a config, an environment."""

    title: str
    values: Mapping[str, Any]


Part = Table | Verdict | Image | Facts | Text


@dataclass(frozen=True)
class Section:
    title: str
    parts: tuple[Part, ...]


def render(
    title: str,
    lead: str,
    sections: Sequence[Section],
    badge: tuple[str, str] | None = None,
    note: str = "",
) -> str:
    """The whole page. It loads nothing, and sections without parts are left out.

    Args:
      title: of the page, as a heading too.
      lead: the sentence below it.
      sections: in order; the table of contents lists them.
      badge: a look ("finished", "unfinished", or the outcome of a verdict) and its words.
      note: soft words beside the badge: the device, versions.
    """
    return _template().render(
        title=title,
        lead=lead,
        sections=[section for section in sections if section.parts],
        badge=badge,
        note=note,
    )


def table_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The text of a CSV file.

    >>> table_csv(("layer", "ms"), [("LRU, wide", 1.5)])
    'layer,ms\\n"LRU, wide",1.5\\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "kind": lambda part: type(part).__name__.lower(),
        "label": _label,
        "picture": _picture,
        "csv": lambda table: table_csv(table.columns, table.rows),
        "data_csv": lambda text: _data("text/csv;charset=utf-8", as_bytes(text)),
        "file_name": file_name,
        "looks": _looks,
        "flat": lambda values: [(key, _shown(value)) for key, value in flat(values)],
    }
    return environment.get_template("page.html")


def _label(part: Part) -> str:
    """The part's line in the table of contents; none for text and verdicts."""
    if isinstance(part, Image):
        return part.name.replace("_", " ")
    return part.title if isinstance(part, Table | Facts) else ""


def _picture(image: Image) -> str:
    # As an image: ids and styles of one drawing cannot reach into another.
    kind = "image/png" if image.svg.startswith(b"\x89PNG") else "image/svg+xml"
    return _data(kind, image.svg)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def file_name(text: str) -> str:
    """A name that every file system takes.

    >>> file_name("Time [ms] of <LRU>")
    'Time_ms_of_LRU'
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("_.")[:80] or "data"


def _looks(table: Table) -> list[list[str]]:
    """A class for each cell: numbers stand right, long words are broken over lines."""
    numeric = [
        index > 0 and any(row[index][:1].isdigit() for row in table.rows)
        for index in range(len(table.columns))
    ]
    return [
        [
            "long" if len(cell) > _LONG else "number" if number else ""
            for cell, number in zip(row, numeric, strict=True)
        ]
        for row in (table.columns, *table.rows)
    ]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
