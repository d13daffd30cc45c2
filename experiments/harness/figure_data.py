"""What a figure shows, read from the figure itself: as a CSV file, and in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.category import StrCategoryLocator
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from experiments.harness.page import table_csv

_COLUMNS = ("panel", "series", "x", "y", "low", "high", "value")
_ALWAYS = 4  # of these columns; the others are left out where they are empty
UNSEEN = "\u200b"  # has no width; before a name that matplotlib would leave out of a legend


@dataclass(frozen=True)
class _Row:
    series: str
    x: Any = None
    y: Any = None
    low: Any = None
    high: Any = None
    value: Any = None


def csv_text(figure: Figure) -> str:
    """Everything drawn from data, a row for each point: lines, bands, bars, points and images.

    A line across a whole panel has one coordinate alone. Empty where nothing of that is drawn.
    """
    names = _Names(figure)
    rows = [
        (panel, row.series, *map(_cell, (row.x, row.y, row.low, row.high, row.value)))
        for panel, axes in _panels(figure)
        for row in _rows(axes, names)
    ]
    if not rows:
        return ""
    used = [
        index
        for index in range(len(_COLUMNS))
        if index < _ALWAYS or any(row[index] for row in rows)
    ]
    return table_csv([_COLUMNS[i] for i in used], ([row[i] for i in used] for row in rows))


def in_words(figure: Figure) -> str:
    """The kind of chart, its axes and its series: what a figure is to those who cannot see it."""
    names = _Names(figure)
    panels = _panels(figure)
    sentences = [f"{len(panels)} panels."] if len(panels) > 1 else []
    told = None
    for panel, axes in panels:
        series = list(dict.fromkeys(filter(None, (row.series for row in _rows(axes, names)))))
        shown = f"{_kind(axes)}: {_axis(axes, 'y')} against {_axis(axes, 'x')}"
        shown += f"; series {'; '.join(series)}." if series else "."
        sentences.append(
            (f"{panel}: " if panel else "") + ("the same." if shown == told else shown)
        )
        told = shown
    return " ".join(sentences) or "An empty figure."


def _panels(figure: Figure) -> list[tuple[str, Axes]]:
    """The axes that show data, each with its title; a colour bar explains and shows none."""
    shown = [
        axes for axes in figure.axes if axes.get_label() != "<colorbar>" and axes.get_visible()
    ]
    titles = [_plain(axes.get_title("left") or axes.get_title()) for axes in shown]
    if len(shown) > 1:
        titles = [title or f"panel {index}" for index, title in enumerate(titles, 1)]
    return list(zip(titles, shown, strict=True))


class _Names:
    """Names of series: a label once given to a colour holds for what shares its look."""

    def __init__(self, figure: Figure) -> None:
        self._looks: dict[Any, str] = {}
        self._colours: dict[str, set[str]] = {}
        for axes in figure.axes:
            for line in axes.lines:
                if name := _given(line):
                    self._looks.setdefault(_look(line), name)
                    self._colours.setdefault(_look(line)[0], set()).add(name)

    def of(self, artist: Any) -> str:
        name = _given(artist)
        if not name and isinstance(artist, Line2D):
            name = self._looks.get(_look(artist), "")
        return name or self.of_colour(
            artist.get_color() if isinstance(artist, Line2D) else artist.get_facecolor()
        )

    def of_colour(self, colour: Any) -> str:
        if np.ndim(colour) == 2:  # of a collection: one for each of its parts
            colour = colour[0] if len(colour) else "none"
        names = self._colours.get(to_hex(colour), set())
        return next(iter(names)) if len(names) == 1 else ""


def _rows(axes: Axes, names: _Names) -> Iterator[_Row]:
    if axes.name == "3d":  # whose artists hold what was projected, not the data
        return
    spread = [part for part in axes.containers if isinstance(part, ErrorbarContainer)]
    apart = {line for part in spread for line in (part[0], *part[1])}
    for line in axes.lines:
        if line not in apart:
            yield from _line(axes, line, names.of(line))
    for part in spread:
        yield from _errors(axes, part, names)
    for part in axes.containers:
        if isinstance(part, BarContainer):
            yield from _bars(axes, part, names)
    for part in axes.collections:
        if isinstance(part, PathCollection):
            for x, y in np.ma.filled(part.get_offsets(), np.nan):
                yield _Row(names.of(part), _place(axes, "x", x), _place(axes, "y", y))
        # One along y (fill_betweenx), which matplotlib tells since 3.10, has no low and high in y.
        elif isinstance(part, PolyCollection) and getattr(part, "t_direction", "x") == "x":
            yield from _band(part, names.of(part))
    for image in axes.images:
        values = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)
        if values.ndim == 2:
            for (y, x), value in np.ndenumerate(values):
                yield _Row("", _place(axes, "x", x), _place(axes, "y", y), value=value)


def _line(axes: Axes, line: Line2D, name: str) -> Iterator[_Row]:
    in_x, in_y = line.get_transform().contains_branch_seperately(axes.transData)
    points = np.ma.filled(np.ma.asarray(line.get_xydata(), dtype=float), np.nan)
    if not (in_x or in_y):  # axline: its ends are those of the panel
        return
    if not (in_x and in_y):  # axhline and axvline: one end tells all
        points = points[:1]
    rows = [
        _Row(name, _place(axes, "x", x) if in_x else None, _place(axes, "y", y) if in_y else None)
        for x, y in points
        if np.isfinite(x) and np.isfinite(y)
    ]
    # A bar across one named row marks the median of the dots on it.
    if len(rows) == 2 and rows[0] == rows[1] and isinstance(rows[0].y, str):
        return
    yield from rows


def _errors(axes: Axes, part: ErrorbarContainer, names: _Names) -> Iterator[_Row]:
    line, _, bars = part
    if not line:
        return
    name = _given(part) or names.of(line)
    points = np.asarray(line.get_xydata(), dtype=float)
    # Bars along x come before those along y; of a point that is no number there is none.
    upright = bars[-1].get_segments() if part.has_yerr and bars else [None] * len(points)
    for (x, y), bar in zip(points, upright, strict=True):
        low, high = (None, None) if bar is None or not len(bar) else np.sort(np.asarray(bar)[:, 1])
        if np.isfinite(x) and np.isfinite(y):
            yield _Row(name, _place(axes, "x", x), _place(axes, "y", y), low, high)


def _bars(axes: Axes, part: BarContainer, names: _Names) -> Iterator[_Row]:
    for bar in part:
        name = _given(part) or names.of_colour(bar.get_facecolor())
        if part.orientation == "horizontal":
            place = _place(axes, "y", bar.get_y() + bar.get_height() / 2)
            yield _Row(name, bar.get_x() + bar.get_width(), place)
        else:
            place = _place(axes, "x", bar.get_x() + bar.get_width() / 2)
            yield _Row(name, place, bar.get_y() + bar.get_height())


def _band(part: PolyCollection, name: str) -> Iterator[_Row]:
    """What `fill_between` drew: the lowest and the highest corner at each x."""
    for path in part.get_paths():
        corners = np.asarray(path.vertices)
        for x in np.unique(corners[:, 0]):
            heights = corners[corners[:, 0] == x, 1]
            yield _Row(name, x, low=heights.min(), high=heights.max())


def _place(axes: Axes, which: str, value: float) -> Any:
    """The name of a row or column that has one, else the number."""
    names, index = _tick_names(axes, which), int(np.rint(np.nan_to_num(value)))
    return names[index] if 0 <= index < len(names) else value


def _tick_names(axes: Axes, which: str) -> list[str]:
    """What rows or columns 0, 1, 2 ... are called; nothing where ticks are numbers."""
    axis = getattr(axes, f"{which}axis")
    places, words = axis.get_major_locator(), axis.get_major_formatter()
    if not isinstance(places, FixedLocator | StrCategoryLocator) or not np.array_equal(
        places(), np.arange(np.size(places()))
    ):
        return []
    names = [_plain(words(place)) for place in range(np.size(places()))]
    plain = all(not name or name.replace(".", "", 1).isdigit() for name in names)
    return [] if plain else names


def _kind(axes: Axes) -> str:
    lines = [line for line in axes.lines if line.get_transform().contains_branch(axes.transData)]
    if axes.images:
        return "Image"
    if any(isinstance(part, BarContainer) for part in axes.containers):
        return "Bar chart"
    if any(line.get_linestyle() != "None" and np.size(line.get_xdata()) > 2 for line in lines):
        return "Line chart"
    return "Chart of points"


def _axis(axes: Axes, which: str) -> str:
    """The label of an axis, of one that shares it, or of the whole figure."""
    together = getattr(axes, f"get_shared_{which}_axes")().get_siblings(axes)
    labels = [getattr(one, f"get_{which}label")() for one in (axes, *together)]
    figure = axes.figure
    labels.append(getattr(figure, f"get_sup{which}label")() if figure else "")
    label = _plain(next(filter(None, labels), "")) or f"{which} axis"
    if names := _tick_names(axes, which):
        label += f" ({'; '.join(names)})"
    scale = getattr(axes, f"get_{which}scale")()
    return f"{label} (logarithmic)" if scale == "log" else label


def _given(artist: Any) -> str:
    label = str(artist.get_label() or "")
    return "" if label.startswith("_") else _plain(label)


def _look(line: Line2D) -> tuple[str, str, str]:
    return to_hex(line.get_color()), str(line.get_marker()), str(line.get_linestyle())


def _plain(text: str) -> str:
    """A label on one line."""
    return " ".join(written(text).split())


def written(text: Any) -> str:
    r"""Text of a figure as it is shown, without what only the drawing needs.

    >>> written(r"a \$x\$ b")
    'a $x$ b'
    """
    return str(text).replace(r"\$", "$").replace(UNSEEN, "")


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.10g}" if np.isfinite(value) else ""
