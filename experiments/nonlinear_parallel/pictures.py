"""Figures of `nonlinear_parallel`: methods, fewest iterations, theory, training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from experiments.harness import colours, figures
from experiments.harness.experiment import Record
from experiments.harness.figures import short_count
from experiments.nonlinear_parallel import records as kept
from experiments.nonlinear_parallel.asides import fewest_series, losses
from experiments.nonlinear_parallel.prediction import WITHIN, compared
from experiments.nonlinear_parallel.programs import NEWTON, PLAIN
from experiments.nonlinear_parallel.training import WAYS

# Marks lie on each other: the lower ones look out from under the upper ones.
STYLES: dict[str, dict[str, Any]] = {
    "damped_newton": {"color": colours.PINK, "marker": "D", "markersize": 8},
    "quasi_newton": {"color": colours.ORANGE, "marker": "v", "markersize": 7},
    "chunked_newton": {"color": colours.GREEN, "marker": "s", "markersize": 6},
    "newton": {"color": colours.BLUE, "marker": "o", "markersize": 5},
}
_LOOP = {"color": colours.GREY, "marker": "X", "markersize": 11}
_ROW = (
    {"color": colours.BLUE, "marker": "o", "linestyle": "-"},
    {"color": colours.ORANGE, "marker": "v", "linestyle": (0, (5, 2))},
    {"color": colours.GREEN, "marker": "s", "linestyle": (0, (1, 1.2))},
    {"color": colours.PINK, "marker": "D", "linestyle": (0, (3, 1, 1, 1))},
    {"color": colours.INDIGO, "marker": "^", "linestyle": (0, (8, 2))},
    {"color": colours.GREY, "marker": "X", "linestyle": "-"},
)
_THIN = {"color": "#444444", "linewidth": 1, "linestyle": (0, (1, 2))}


def methods(records: Sequence[Record]) -> Figure | None:
    """Iterations against the exponent and against T, and errors against the exponent."""
    mine = [r for r in kept.methods(records) if r["point"]["cell"] == "rnn"]
    if not kept.methods(mine, NEWTON):
        return None
    figure, (panels,) = figures.new_figure(1, 3, size=(13.2, 4.6))
    shape = _richest(mine)
    here = [r for r in mine if _shape(r) == shape]
    title = f"T = {shape[0]:,}, D = {shape[1]}"
    _by_exponent(panels[0], here)
    panels[0].set_title(f"Iterations, {title}")
    _by_length(panels[1], kept.methods(mine, NEWTON))
    _errors(panels[2], here)
    panels[2].set_title(f"Error against float64, {title}")
    figures.legend_below(figure)
    figure.set_label(
        "Tanh RNNs, float32; every seed a mark. Hollow: gave up, its states are of no use. The "
        "exponent is measured along the trajectory in float64."
    )
    return figure


def fewest(records: Sequence[Record]) -> Figure | None:
    found = kept.of_part(records, "fewest")
    if not found:
        return None
    figure, ((axes,),) = figures.new_figure(size=(7.2, 4.4))
    lengths = {r["point"]["length"] for r in found}
    size = 12.0
    for style, (title, rows) in zip(_cycle(), fewest_series(found).items(), strict=False):
        look = {**style, "markersize": size, "markeredgecolor": "white"}
        axes.plot(list(rows), list(rows.values()), label=title, **look)
        size = max(size - 2.0, 5.0)  # lines lie on each other: the lower ones look out
    axes.set_ylim(0, None)
    axes.set_ylabel("K*, Newton's iterations")
    figures.length_axis(axes, lengths)
    figures.legend_below(figure)
    figure.set_label(
        f"The fewest iterations after which every state is within {found[0]['near']:g} of the "
        f"loop's; medians of {len({r['point']['seed'] for r in found})} seeds. A longer sequence "
        "begins with the shorter one."
    )
    return figure


def prediction(records: Sequence[Record]) -> Figure | None:
    found = [it for it in compared(records) if np.isfinite([it.predicted, it.measured]).all()]
    if not found:
        return None
    figure, ((axes,),) = figures.new_figure(size=(6.4, 5.0))
    ends = np.array([1.0, 2 * max(max(it.predicted, it.measured) for it in found)])
    axes.plot(ends, ends, color="#444444", linewidth=1)
    axes.fill_between(
        ends,
        ends / WITHIN,
        ends * WITHIN,
        color=colours.GREY,
        alpha=0.15,
        linewidth=0,
        label=f"within {WITHIN:g} times",
    )
    for style, length in zip(_cycle(), sorted({it.length for it in found}), strict=False):
        rows = [it for it in found if it.length == length]
        axes.plot(
            [it.predicted for it in rows],
            [it.measured for it in rows],
            label=f"T = {short_count(length)}",
            markeredgecolor="white",
            **{**style, "linestyle": "none"},
        )
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50, 100]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("iterations predicted by the mean field")
    axes.set_ylabel("iterations measured")
    figures.legend_below(figure)
    figure.set_label(
        "Newton's iterations for tanh RNNs, medians over seeds, against a prediction from gain, "
        "input scale, D and T alone; the line is equality. What does not converge is not shown."
    )
    return figure


def training(records: Sequence[Record]) -> Figure | None:
    found = kept.of_part(records, "training")
    truth, loop, newton = (losses(found, way) for way in WAYS)
    if not (truth and newton):
        return None
    figure, (panels,) = figures.new_figure(1, 3, size=(13.2, 4.2))
    for seed, curve in truth.items():
        steps = np.arange(1, len(curve) + 1)
        named = seed == min(truth)
        wide = {"color": colours.GREY, "linewidth": 4, "alpha": 0.5}
        label = "step by step, float64" if named else None
        panels[0].plot(steps, _smooth(curve), label=label, **wide)
        if seed in newton:
            label = "newton, float32" if named else None
            thin = {"color": colours.BLUE, "linewidth": 1.2}
            panels[0].plot(steps, _smooth(newton[seed]), label=label, **thin)
    for curves, color, line, label in (
        (newton, colours.BLUE, "-", "newton, float32"),
        (loop, colours.ORANGE, (0, (4, 2)), "step by step, float32"),
    ):
        both = ((curve, truth.get(seed, ())) for seed, curve in curves.items())
        apart = [np.abs(curve - true) for curve, true in both if len(curve) == len(true)]
        if len(set(map(len, apart))) == 1:
            worst = np.max(apart, axis=0)
            style = {"color": color, "linestyle": line, "linewidth": 1.5, "label": label}
            panels[1].plot(np.arange(1, len(worst) + 1), worst, **style)
    for r in found:
        if r["point"]["way"] == WAYS[2]:
            counts = np.asarray(r["iterations"])
            panels[2].plot(np.arange(1, len(counts) + 1), counts, color=colours.BLUE, linewidth=1)
    panels[0].set_ylabel("cross-entropy, mean of 10 steps")
    panels[1].set_ylabel("distance of the loss from float64")
    panels[1].set_yscale("log")
    panels[2].set_ylabel("iterations, most of a batch")
    panels[2].set_ylim(0, None)
    for axes, title in zip(panels, ("Loss", "Difference", "Newton's iterations"), strict=True):
        axes.set_xlabel("step of training")
        axes.set_title(title)
    figures.legend_below(figure)
    first = found[0]
    figure.set_label(
        f"A tanh RNN of {first['hidden']} units reads digits as {first['length']} pixels; the same "
        f"weights and batches for every way, {len(truth)} seeds; the distance is their largest."
    )
    return figure


def _by_exponent(axes: Axes, here: Sequence[Record]) -> None:
    for name, style in STYLES.items():
        rows = kept.methods(here, name)
        done = [r for r in rows if r["converged"]]
        lost = [r for r in rows if not r["converged"]]
        _marks(axes, done, "exponent", "iterations", label=name.replace("_", " "), **style)
        _marks(axes, lost, "exponent", "iterations", hollow=True, **style)
    axes.axvline(0, **_THIN)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("Lyapunov exponent λ, a step")
    axes.set_ylabel("iterations")


def _by_length(axes: Axes, rows: Sequence[Record]) -> None:
    widths = [r["point"]["width"] for r in rows]
    # The width with most lengths; the larger of equals.
    width = max(set(widths), key=lambda w: (len({_shape(r) for r in rows if _shape(r)[1] == w}), w))
    rows = [r for r in rows if r["point"]["width"] == width]
    lengths = sorted({r["point"]["length"] for r in rows})
    for style, gain in zip(_cycle(), sorted({r["point"]["gain"] for r in rows}), strict=False):
        mine = [r for r in rows if r["point"]["gain"] == gain]
        middle = {
            n: kept.median([r for r in mine if r["point"]["length"] == n], "iterations")
            for n in lengths
            if any(r["point"]["length"] == n for r in mine)
        }
        lost = [n for n in middle if any(not r["converged"] for r in mine if _shape(r)[0] == n)]
        axes.plot(
            list(middle),
            list(middle.values()),
            markeredgecolor="white",
            **style,
        )
        axes.annotate(
            f"  g = {gain:g}",
            (max(middle), middle[max(middle)]),
            fontsize=9,
            va="center",
            annotation_clip=False,
        )
        axes.plot(
            lost,
            [middle[n] for n in lost],
            linestyle="none",
            marker=style["marker"],
            markersize=7,
            markerfacecolor="white",
            markeredgecolor=style["color"],
        )
    axes.plot(lengths, lengths, **_THIN)
    axes.annotate("one a step  ", (lengths[-1], lengths[-1]), fontsize=9, ha="right", va="bottom")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("iterations")
    axes.set_title(f"Newton's iterations, D = {width}, medians")
    figures.length_axis(axes, lengths)
    axes.set_xlim(lengths[0] / 1.3, lengths[-1] * 2.6)  # room for the names of the lines


def _errors(axes: Axes, here: Sequence[Record]) -> None:
    loop = [{**r, "error": max(r["error"], 1e-9)} for r in kept.methods(here, PLAIN)]
    _marks(axes, loop, "exponent", "error", label="step by step", **_LOOP)
    for name, style in STYLES.items():
        rows = [r for r in kept.methods(here, name) if np.isfinite(r["error"])]
        _marks(axes, [r for r in rows if r["converged"]], "exponent", "error", **style)
        lost = [r for r in rows if not r["converged"]]
        _marks(axes, lost, "exponent", "error", hollow=True, **style)
    axes.axvline(0, **_THIN)
    axes.set_yscale("log")
    axes.set_xlabel("Lyapunov exponent λ, a step")
    axes.set_ylabel("largest error of a state")
    if any(np.isfinite(r["error"]) for r in here):
        axes.set_ylim(None, 1e3)  # what gave up may be anywhere


def _marks(axes: Axes, rows: Sequence[Record], x: str, y: str, **style: Any) -> None:
    """One for each record; `hollow` where what it found is of no use."""
    look = {"markeredgecolor": "white", **style, "linestyle": "none"}
    if look.pop("hollow", False):
        look |= {"markerfacecolor": "white", "markeredgecolor": style["color"]}
    axes.plot([r[x] for r in rows], [r[y] for r in rows], **look)


def _shape(record: Record) -> tuple[int, int]:
    return record["point"]["length"], record["point"]["width"]


def _richest(records: Sequence[Record]) -> tuple[int, int]:
    """The shape with most methods; the longest of equals."""
    shapes = {_shape(r) for r in records}
    count = {s: len({r["method"] for r in records if _shape(r) == s}) for s in shapes}
    return max(shapes, key=lambda shape: (count[shape], shape))


def _smooth(curve: np.ndarray, over: int = 10) -> np.ndarray:
    """Means of the last steps, so that batches do not hide the rest."""
    total = np.cumsum(np.concatenate([np.zeros(1), curve]))
    steps = np.arange(1, len(curve) + 1)
    before = np.maximum(steps - over, 0)
    return (total[steps] - total[before]) / (steps - before)


def _cycle() -> Iterable[dict[str, Any]]:
    return (dict(_ROW[i % len(_ROW)]) for i in range(100))
