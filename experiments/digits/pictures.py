"""The figures of `digits`, from its records alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from experiments.digits.records import (
    array,
    layers,
    longest_reading,
    looks,
    of,
    reading_title,
    readings,
    seeds,
)
from experiments.harness import colours, figures
from experiments.harness.experiment import Record
from experiments.harness.gradient_figures import LN10, power_of_ten_axis

_FLOOR = -20.0  # of the reach figure, in powers of ten


def accuracy_figure(records: Sequence[Record]) -> Figure:
    figure, (panels,) = figures.new_figure(1, 3, size=(13.2, 4.4))
    left, middle, right = panels
    look_of = looks(records)
    _dots(left, records, lambda record: 100 * record["test_accuracy"])
    left.set_title("Test accuracy")
    left.set_xlabel("test accuracy, %")
    reading = longest_reading(records)
    mine = of(records, reading=reading)
    for layer in layers(mine):
        curves = 100 * array(of(mine, layer=layer), "validation_accuracy")
        epochs = np.arange(curves.shape[1])
        look = {**look_of[layer], "markevery": max(1, len(epochs) // 6)}
        middle.plot(epochs, np.median(curves, axis=0), label=layer, **look)
        middle.fill_between(
            epochs, curves.min(0), curves.max(0), color=look["color"], alpha=0.2, linewidth=0
        )
    middle.set_title(f"While learning, {reading_title(mine[0])}")
    middle.set_xlabel("epoch")
    middle.set_ylabel("validation accuracy, %")
    middle.set_ylim(0, 100)
    if len(look_of) <= 6:
        middle.legend(loc="lower right", fontsize=8)
    _dots(right, records, lambda record: 1e3 * float(np.median(record["step_seconds"])))
    right.set_xlim(left=0)
    right.set_title("Time of a training step")
    right.set_xlabel(f"ms, batch of {records[0]['batch_size']}")
    right.set_yticklabels([])
    handles, labels = left.get_legend_handles_labels()
    if len(look_of) > 6:
        figures.legend_below(figure)
    elif len(readings(records)) > 1:
        figure.legend(handles, labels, loc="outside lower left", ncols=2, fontsize=9, frameon=False)
    sizes = sorted({record["parameters"] for record in records})
    figure.set_label(
        f"Digits of {records[0]['test_size']} test scans, classified from the "
        f"{'mean of all steps' if records[0]['read'] == 'mean' else 'last step'} by "
        f"networks of {sizes[0]:,} to {sizes[-1]:,} parameters; {seeds(records)}. Dots: each "
        "seed; bars and lines: their median; bands: all seeds."
    )
    return figure


def _dots(axes: Axes, records: Sequence[Record], value: Callable[[Record], float]) -> None:
    """A row for each layer; in it a series of dots for each reading, one for each seed."""
    several = len(readings(records)) > 1
    for row, reading in enumerate(readings(records)):
        colour, marker = (("#222222", "o"), (colours.ORANGE, "D"))[row % 2]
        mine = of(records, reading=reading)
        figures.dot_rows(
            axes,
            {layer: [value(r) for r in of(mine, layer=layer)] for layer in layers(records)},
            shift=0.16 * (1 - 2 * row) if several else 0.0,
            color=colour,
            marker=marker,
            label=reading_title(mine[0]) if several else None,
        )


def reach_figure(records: Sequence[Record]) -> Figure:
    figure, (panels,) = figures.new_figure(1, 2, size=(9.6, 4.6), sharex=True, sharey=True)
    look_of = looks(records)
    lowest = 0.0
    for axes, when in zip(panels, ("before", "after"), strict=True):
        for layer in layers(records):
            curves = array(of(records, layer=layer), f"input_{when}") / LN10
            lags = np.arange(curves.shape[1])
            middle = np.median(curves, axis=0)
            lowest = min(lowest, float(middle.min()))
            look = look_of[layer]
            axes.plot(lags, middle, label=layer, **look, markevery=8)
            axes.fill_between(
                lags, curves.min(0), curves.max(0), color=look["color"], alpha=0.15, linewidth=0
            )
        axes.set_title(f"{when.capitalize()} training")
        axes.set_xlabel("lag k, steps before the last")
    panels[0].set_ylabel("norm of $dL/dx_{T-k}$, relative to lag 0")
    panels[0].set_ylim(bottom=max(lowest, _FLOOR) - 1)
    power_of_ten_axis(panels[0])
    figures.legend_below(figure)
    figure.set_label(
        f"How far the gradient of the loss reaches, {reading_title(records[0])}: median over "
        f"validation sequences, then over {seeds(records)}; bands: all seeds. Lag 0 is the last "
        "step."
    )
    return figure


def pixel_figure(records: Sequence[Record]) -> Figure:
    names = layers(records)
    wide, high = (2.1, 4.9) if len(names) <= 6 else (1.45, 3.8)
    figure, panels = figures.new_figure(2, len(names), size=(wide * len(names) + 1.2, high))
    shades = ScalarMappable(Normalize(-6, 0), "viridis")  # in powers of ten
    for column, layer in enumerate(names):
        for row, when in enumerate(("before", "after")):
            axes = panels[row, column]
            curve = np.median(array(of(records, layer=layer), f"input_{when}"), axis=0) / LN10
            # Lag 63 is the first pixel, top left. The brightest of each scan's pixels is 1.
            scan = (curve - curve.max())[::-1].reshape(8, 8)
            axes.imshow(scan, cmap=shades.cmap, norm=shades.norm)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
            if row == 0:
                axes.set_title(layer.replace(", ", ",\n"), fontsize=9)
    for row, when in enumerate(("before", "after")):
        panels[row, 0].set_ylabel(f"{when} training")
    bar = figure.colorbar(shades, ax=panels, shrink=0.8, extend="min")
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$" if value else "1")
    bar.set_label("norm of $dL/dx_t$, relative to the largest")
    figure.set_label(
        "Which pixels the loss can see: the gradient of the loss with respect to each of the 64 "
        "pixels, in the place of the scan where it is read (first at the top left, last at the "
        f"bottom right). Median of {seeds(records)}."
    )
    return figure
