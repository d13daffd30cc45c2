"""A stand-in for the page of the report, of the same signature."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.harness.experiment import Table, Verdict


@dataclass(frozen=True)
class Text:
    text: str
    look: str = ""


@dataclass(frozen=True)
class Facts:
    title: str
    values: Mapping[str, Any]


Part = Table | Verdict | Text | Facts


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
    """A plain page."""
    lines = [f"<title>{_safe(title)}</title><h1>{_safe(title)}</h1><p>{_safe(lead)} {_safe(note)}"]
    for section in sections:
        lines.append(f"<h2>{_safe(section.title)}</h2>")
        lines += [_part(part) for part in section.parts]
    return "\n".join(lines) + "\n"


def _part(part: Part) -> str:
    if not isinstance(part, Table):
        return f"<p>{_safe(part.text if isinstance(part, Text) else part)}</p>"
    rows = "".join(
        "<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>"
        for row in (part.columns, *part.rows)
    )
    return f"<table><caption>{_safe(part.title)}</caption>{rows}</table><p>{_safe(part.note)}</p>"


def _safe(value: Any) -> str:
    return html.escape(str(value))
