"""The norm of a gradient against lag: a panel for each group of layers, and the whole range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.gradient_decay.measure import FLOAT32_TINY
from experiments.gradient_decay.records import (
    DOZEN,
    Curve,
    curve_of,
    fraction,
    groups,
    layers,
    lengths,
    longest,
    values,
    where,
    with_state,
)
from experiments.harness import colours, figures
from experiments.harness.experiment import Record
from experiments.harness.gradient_figures import LN10, layer_looks, power_of_ten_axis
from experiments.harness.kinds import KINDS
from experiments.harness.records import seeds

COLUMNS = 3
FLOOR, CEILING = -7.0, 2.0  # of the panels that show what is still remembered, powers of ten
NOWHERE = -1e4  # where a line goes that falls to exactly 0, in powers of ten
THEORY: dict[str, Any] = {"color": "black", "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 3}
DOTTED: dict[str, Any] = {"color": colours.GREY, "linewidth": 1, "linestyle": ":"}
RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 7,
    "markerfacecolor": "none",
    "linestyle": "none",
}
NAMES = {
    "state": "norm of $dh_T/dh_{T-k}$",
    "input": "norm of $dL/dx_{T-k}$,\nrelative to lag 0 (attention: 1)",
}


def by_group(records: Sequence[Record], of: Curve | None = None) -> Figure | None:
    """A panel for each group; the curve of the state where there is one, unless `of` says which."""
    if not records:
        return None
    found = groups(records)
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    size = (3.9 * columns + 0.4, 3.5 * rows + 0.4)
    figure, panels = figures.new_figure(rows, columns, size=size, sharex=True, sharey=True)
    top = FLOOR
    for axes, (title, mine) in zip(panels.flat, found.items(), strict=False):
        curve = of or curve_of(mine[0])
        top = max(top, _draw(axes, mine, curve))
        axes.set_title(title)
        axes.legend(loc="best", fontsize=8, handlelength=2.6)
        axes.axvline(DOZEN, **DOTTED)
        axes.axhline(np.log10(records[0]["eps"]), **DOTTED)
        if axes in panels[:, 0] or curve != (of or "state"):
            axes.set_ylabel(NAMES[curve])
        axes.xaxis.set_tick_params(labelbottom=True)
    for axes in panels.flat[len(found) :]:
        axes.set_axis_off()
    for axes in panels.flat[max(len(found) - columns, 0) : len(found)]:
        axes.set_xlabel("lag k, steps back")
    _lag_axis(panels[0, 0], max(lengths(records)))
    panels[0, 0].set_ylim(FLOOR, min(max(top + 0.4, 0.7), CEILING))
    power_of_ten_axis(panels[0, 0])
    rings = len(lengths(records)) > 1
    _legend(figure, records[0]["eps"], rings=rings)
    figure.set_label(_caption(records, of, rings=rings))
    return figure


def full_range(records: Sequence[Record]) -> Figure | None:
    """The curves that end where float32 has no numbers, down to their ends."""
    recurrent = with_state(records)
    underflow = float(np.log10(FLOAT32_TINY))
    deep = [
        layer
        for layer in layers(recurrent)
        if np.isfinite(np.median(values(longest(recurrent, layer), "state", "float32_lag")))
    ]
    if not deep:
        return None
    mine = [record for record in recurrent if record["point"]["layer"] in deep]
    figure, panels = figures.new_figure(1, 1, size=(8.2, 4.6))
    axes = panels[0, 0]
    _draw(axes, mine, "state", theory=False, rings=False)
    norms = np.concatenate([record["state"]["norms"] for record in mine]).astype(np.float64)
    bottom = 1.05 * norms[np.isfinite(norms)].min(initial=np.log(FLOAT32_TINY)) / LN10
    end = max(lengths(mine))
    axes.axhspan(bottom, underflow, color="#ececec", zorder=0)
    axes.axhline(underflow, color="black", linewidth=1)
    axes.annotate(
        "grey: below 2⁻¹²⁶, where a plain float32 norm reads 0\n(arithmetic, not the model)",
        (0.02, 0.04),
        xycoords="axes fraction",
        fontsize=9,
    )
    beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
    axes.annotate("2⁻¹²⁶", (end, underflow), **beside)
    axes.set_ylim(bottom, 6)
    axes.set_xlim(0, end)
    axes.set_xlabel("lag k, steps back")
    axes.set_ylabel(NAMES["state"])
    power_of_ten_axis(axes)
    figures.legend_below(figure)
    figure.set_label(
        "The norms that leave the range of float32: measured as logarithms, and straight far below "
        f"what it can hold. {_how(records)}"
    )
    return figure


def _draw(
    axes: Axes, records: Sequence[Record], of: Curve, *, theory: bool = True, rings: bool = True
) -> float:
    """A line and a band per layer at its longest length, a ring at the end of each shorter one.

    Returns the highest point of a line, in powers of ten.
    """
    highest = FLOOR
    names = layers(records)
    looks = layer_looks({layer: where(records, layer=layer)[0]["kind"] for layer in names})
    for index, (layer, look) in enumerate(looks.items()):
        mine = longest(records, layer)
        curves = _powers_of_ten([record[of]["norms"] for record in mine])
        lags = np.array(mine[0]["lags"])[: curves.shape[1]]
        middle = np.median(curves, axis=0)
        highest = max(highest, middle.max())
        axes.plot(lags, middle, label=layer, markevery=(4 + 3 * index, 12), **look)
        band = {"color": look["color"], "alpha": 0.2, "linewidth": 0}
        axes.fill_between(lags, curves.min(axis=0), curves.max(axis=0), **band)
        if theory and mine[0][of]["theory"] is not None:
            axes.plot(lags, _powers_of_ten(mine[0][of]["theory"]), **THEORY)
        for length in lengths(where(records, layer=layer))[:-1] if rings else ():
            shorter = where(records, layer=layer, length=length)
            ends = _powers_of_ten([record[of]["norms"][-1] for record in shorter])
            last = shorter[0]["lags"][len(shorter[0][of]["norms"]) - 1]
            axes.plot([last], [np.median(ends)], **RING, markeredgecolor=look["color"])
    return highest


def _powers_of_ten(log_norms: Any) -> np.ndarray:
    return np.maximum(np.array(log_norms, np.float64) / LN10, NOWHERE)


def _lag_axis(axes: Axes, end: int) -> None:
    """Lags from 0 on, by powers of two from 1 on."""
    axes.set_xscale("symlog", base=2, linthresh=1, linscale=0.5)
    ticks = [0, *(2**i for i in range(0, int(np.log2(end)) + 1, 2))]
    axes.set_xticks(ticks, [figures.short_count(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(0, end * 1.1)


def _legend(figure: Figure, eps: float, *, rings: bool) -> None:
    """What all panels share, below them."""
    axes = figure.axes[0]
    shared = axes.plot([], [], **THEORY, label="closed form")
    shared += axes.plot([], [], **DOTTED, label=f"a dozen steps, and {fraction(eps)}")
    if rings:
        look = {**RING, "markeredgecolor": colours.GREY}
        shared += axes.plot([], [], **look, label="end of a shorter sequence")
    figure.legend(handles=shared, loc="outside lower center", ncols=3, fontsize=9, frameon=False)


def _caption(records: Sequence[Record], of: Curve | None, *, rings: bool) -> str:
    what = "What is left of a gradient k steps back" if of is None else "The gradient of an input"
    states = "L is a random linear readout of the last state"
    outputs = "of the last output where there is no state" if of or _mixed(records) else ""
    attends = any(KINDS[record["kind"]].attends for record in records)
    query = (
        " Attention relative to lag 1: its newest input is the query as well." if attends else ""
    )
    return (
        f"{what}, T = {max(lengths(records))}. {_how(records)} "
        f"{'Rings: the first step of shorter sequences. ' if rings else ''}"
        f"{states}{', ' if outputs else ''}{outputs}.{query}"
    )


def _mixed(records: Sequence[Record]) -> bool:
    return len(with_state(records)) < len(records)


def _how(records: Sequence[Record]) -> str:
    first = records[0]
    many = seeds(records)
    narrow = any(KINDS[record["kind"]].as_wide_as_input for record in records)
    return (
        f"{first['hidden']} units{' (state-space: as its input)' if narrow else ''}, "
        f"{first['input_size']} white inputs of std {first['input_std']:g}; "
        f"{f'line: median of {many}, band: all of them' if many != 'one seed' else many}."
    )
