"""One look for every figure: colours, markers, units, legends outside.

Figures are made without pyplot: no global state, no window, nothing to close.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from experiments.harness import figure_data
from experiments.harness.figure_data import written
from experiments.harness.kinds import KINDS
from experiments.harness.page import Image

STYLE: Any = {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.dpi": 160,
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "svg.fonttype": "path",
    "svg.hashsalt": "rnnscan",
}

_LINES = {"": "-", "sequential": "-", "associative": (0, (5, 2))}


_MATHEMATICS = MathTextParser("path")


def literal(value: Any) -> Any:
    """Records whose text matplotlib shows as it is written, and not as mathematics.

    A layer is named as one likes; so what comes from a config is made literal once, before any
    figure sees it, and dollars in our own labels stay mathematics. Long names are broken over
    lines, very long ones cut, and control characters named.

    >>> literal([{"layer": "a $x$ b", "seed": 0}])
    [{'layer': 'a \\\\$x\\\\$ b', 'seed': 0}]
    """
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [literal(item) for item in value]
    return _literal(value) if isinstance(value, str) else value


def _literal(text: str) -> str:
    if len(text) > 180:
        text = f"{text[:120]} … {text[-57:]}"
    text = "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )
    lines = [
        part
        for line in text.split("\n")
        for part in textwrap.wrap(line, 40, drop_whitespace=False) or [line]
    ]
    text = "\n".join(lines if len(lines) <= 5 else [*lines[:4], "…"])
    return (figure_data.UNSEEN if text.startswith("_") else "") + text.replace("$", r"\$")


def image(name: str, figure: Figure) -> Image:
    """The figure for a page: drawn, with its caption, described, and its data.

    Args:
      name: of its files; the caption where the figure's own label is empty.
      figure: its label is the caption.
    """
    svg = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return Image(
        name=name,
        caption=written(figure.get_label()) or name.replace("_", " "),
        alt=figure_data.in_words(figure),
        svg=svg.getvalue(),
        data=figure_data.csv_text(figure),
    )


class _Figure(Figure):
    """Shows a text that is no mathematics as it is written, where matplotlib would fail."""

    def draw(self, renderer: Any) -> None:
        for text in self.findobj(Text):
            assert isinstance(text, Text)
            try:
                for line in filter(is_math_text, text.get_text().split("\n")):
                    _MATHEMATICS.parse(line)
            except ValueError:
                text.set_parse_math(False)
        super().draw(renderer)


def line_style(kind: str, method: str = "") -> dict[str, Any]:
    """Keywords for `Axes.plot`: the colour and marker of a kind of layer, the line of a method.

    A kind keeps its colour and marker in every figure; a method changes the line alone.
    """
    row = KINDS[kind]
    look = {"color": row.color, "marker": row.marker, "markeredgecolor": "white"}
    if row.marker == "*":  # of which a white edge would leave little
        look |= {"markersize": 10, "markeredgewidth": 0.5}
    return {**look, "linestyle": _LINES.get(method, ":")}


def in_turns(
    curves: Mapping[str, Sequence[float] | np.ndarray], within: float = 0.0
) -> dict[str, dict[str, Any]]:
    """Keywords for `Axes.plot` that show each of several curves that lie on one another.

    They take turns along the line that they share: a dash of each, a marker of each. A curve that
    lies alone keeps its own look.

    Args:
      curves: heights by name; of as many places, if they are to be compared.
      within: how far apart two curves may be at most and still hide one another.

    >>> found = in_turns({"a": [1, 1], "b": [1, 1], "c": [2, 2]})
    >>> found["a"], found["c"]
    ({'linestyle': (0.0, (3.0, 3.0)), 'markevery': (0, 2)}, {})
    >>> found["b"]
    {'linestyle': (3.0, (3.0, 3.0)), 'markevery': (1, 2)}
    """
    groups: list[list[str]] = []
    for name, heights in curves.items():
        for group in groups:
            if _alike(heights, curves[group[0]], within):
                group.append(name)
                break
        else:
            groups.append([name])
    return {
        name: _turn(place, len(group)) if len(group) > 1 else {}
        for group in groups
        for place, name in enumerate(group)
    }


def _alike(one: Any, other: Any, within: float) -> bool:
    one, other = np.asarray(one, float), np.asarray(other, float)
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-6, atol=within)


def _turn(place: int, count: int, dash: float = 3.0) -> dict[str, Any]:
    offset = dash * (-place % count)
    return {"linestyle": (offset, (dash, dash * (count - 1))), "markevery": (place, count)}


def new_figure(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] | None = None, **subplots: Any
) -> tuple[Figure, np.ndarray]:
    """A figure in the shared style and its axes, always as an array of shape (rows, columns).

    Args:
      rows, columns: how many panels.
      size: width and height in inches; by default 4.6 x 3.5 a panel, a single one somewhat larger.
      subplots: handed to `Figure.subplots`, `sharey="row"` for instance.
    """
    size = size or (max(7.2, 4.6 * columns), (4.0 if rows == columns == 1 else 3.5 * rows) + 0.4)
    with mpl.rc_context(STYLE):
        figure = _Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    return figure, axes


def draw_band(
    axes: Axes, x: Sequence[float], samples: Sequence[Sequence[float]], **style: Any
) -> None:
    """A line through the medians of `samples[i]` at `x[i]`, in a band from quartile to quartile."""
    if not len(x):
        return
    low, middle, high = quartiles(samples)
    axes.plot(x, middle, **style)
    axes.fill_between(x, low, high, color=style.get("color"), alpha=0.2, linewidth=0)


def quartiles(samples: Sequence[Sequence[float]]) -> np.ndarray:
    """Lower quartile, median and upper quartile of each row of samples; shape (3, rows).

    Of the finite ones; nan, which leaves a gap in a line, where there are none.
    """
    finite = [np.asarray(row)[np.isfinite(row)] for row in samples]
    return np.array(
        [np.quantile(row if row.size else np.nan, [0.25, 0.5, 0.75]) for row in finite]
    ).T


def dot_rows(
    axes: Axes,
    groups: Mapping[str, Sequence[float]],
    *,
    shift: float = 0.0,
    color: str = "#222222",
    marker: str = "o",
    label: str | None = None,
) -> None:
    """A row for each group, the first on top: a dot for each value, a bar at their median.

    shift: up, in rows, for a second series beside the first.
    """
    places = [place + shift for place in reversed(range(len(groups)))]
    for place, values in zip(places, groups.values(), strict=True):
        axes.plot(
            values,
            [place] * len(values),
            marker=marker,
            linestyle="none",
            color=color,
            alpha=0.7,
            markeredgecolor="white",
            label=label,
        )
        label = None  # once
        if len(values) > 1:
            bar = [place - 0.13, place + 0.13]
            axes.plot([np.median(values)] * 2, bar, color=color, linewidth=2.2)
    axes.set_yticks(range(len(groups)), list(groups)[::-1])
    axes.set_ylim(-0.5, len(groups) - 0.5)
    axes.grid(visible=False, axis="y")


def cut_outliers(
    axes: Axes, groups: Mapping[str, Sequence[float] | np.ndarray], text: Callable[[float], str]
) -> None:
    """Of rows drawn by `dot_rows`, one or two far from all others do not squeeze these.

    The axis ends where the others do; an arrow at its edge says where such a row has its median.
    Far means three times the distance of the quartiles, and there must be six rows at least.
    """
    middles = np.array([np.median(values) for values in groups.values()])
    low, high = np.quantile(middles, [0.25, 0.75]) if len(middles) else (0.0, 0.0)
    beyond = 3 * (high - low)
    outside = (middles < low - beyond) | (middles > high + beyond)
    if len(groups) < 6 or not 1 <= outside.sum() <= 2:
        return
    inside = [v for v, out in zip(groups.values(), outside, strict=True) if not out]
    kept = np.concatenate([np.asarray(values, float) for values in inside])
    margin = 0.06 * np.ptp(kept)
    axes.set_xlim(kept.min() - margin, kept.max() + margin)
    for place, middle in zip(reversed(range(len(groups))), middles, strict=True):
        if outside[-1 - place]:
            below = middle < low
            axes.annotate(
                f"← {text(middle)}" if below else f"{text(middle)} →",
                (0.01 if below else 0.99, place),
                xycoords=("axes fraction", "data"),
                ha="left" if below else "right",
                va="center",
                fontsize=8.5,
            )


def length_axis(axes: Axes, lengths: Iterable[int], label: str = "sequence length T") -> None:
    """A logarithmic x axis in base 2 with ticks at some of the lengths, written 64, 1k, 32k."""
    ticks = sorted(set(lengths))
    ticks = ticks[:: -(-len(ticks) // 6)] if ticks else []
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.set_xlabel(label)


def seconds_axis(axes: Axes, label: str) -> None:
    """A logarithmic y axis of times in seconds, with ticks written 10 µs, 1 ms, 1 s."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_seconds(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(label)


def bytes_axis(axes: Axes, label: str) -> None:
    """A logarithmic y axis of bytes, with ticks written 1 KiB, 32 KiB, 1 MiB."""
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_bytes(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(label)


def legend_below(figure: Figure) -> None:
    """One legend for all panels, below them, so that it hides no data; each label once."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return
    # At 9 points a letter is some 0.075 inches wide, a handle with its gaps 0.7.
    longest = max(len(line) for label in entries for line in label.split("\n"))
    room = figure.get_figwidth() / (0.7 + 0.075 * longest)
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=max(1, min(len(entries), int(room))),
        fontsize=9,
        handlelength=3.2,
        frameon=False,
    )


def number(value: float, spec: str) -> str:
    """Formatted so; a dash where it is none.

    >>> number(0.25, ".0%"), number(float("nan"), ".0%")
    ('25%', '–')
    """
    return format(value, spec) if np.isfinite(value) else "–"


def factor(value: float) -> str:
    """Two digits, and all of those before the point; a dash where it is none.

    >>> [factor(value) for value in (0.031, 1.52, 34.6, 99.7, 1234.5, float("nan"))]
    ['0.031', '1.5', '35', '100', '1234', '–']
    """
    return number(value, ".2g" if abs(value) < 99.5 else ".0f")


def short_count(value: float) -> str:
    """64, 1k (1024), 1.5k, 32k, 1M (2^20): lengths as people say them.

    >>> [short_count(value) for value in (64, 1000, 1024, 1536, 32768, 2**20)]
    ['64', '1000', '1k', '1.5k', '32k', '1M']
    """
    for size, unit in ((2**20, "M"), (2**10, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def short_seconds(value: float) -> str:
    """A time with three digits and the unit that fits; a dash where there is none.

    >>> [short_seconds(value) for value in (0, 2.5e-7, 0.00123, 0.5, 90, float("nan"))]
    ['0 s', '0.25 µs', '1.23 ms', '500 ms', '90 s', '–']
    """
    for size, unit in ((1e-6, "µs"), (1e-3, "ms")):
        if 0 < value < size * 999.5:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} s" if np.isfinite(value) else "–"


def short_bytes(value: float) -> str:
    """Bytes with three digits and the unit that fits; a dash where nobody says how many.

    >>> [short_bytes(value) for value in (12, 4096, 1.5 * 2**20, 2**31, float("nan"))]
    ['12 B', '4 KiB', '1.5 MiB', '2 GiB', '–']
    """
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size <= value < np.inf:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} B" if np.isfinite(value) else "–"
