"""Figures, tables and verdicts of `digits`, from its records alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from experiments.harness import figures
from experiments.harness.experiment import Outcome, Record, Summary, Table, Verdict
from experiments.harness.figures import short_seconds
from experiments.harness.gradient_figures import LN10, layer_look, power_of_ten_axis
from rnnscan.gradients import horizon

_FLOOR = -20.0  # of the reach figure, in powers of ten
_GOOD = 0.9  # an accuracy that no classifier has by chance, and no forgetful one on 64 steps


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    done = _done(records)
    drawn: dict[str, Figure] = {}
    if done:
        drawn["accuracy"] = _accuracy_figure(done)
        longest = _of(done, reading=_longest_reading(done))
        drawn["reach"] = _reach_figure(longest)
        if longest[0]["length"] == 64:
            drawn["pixels"] = _pixel_figure(longest)
    return drawn


def summary(records: Sequence[Record]) -> Summary:
    done = _done(records)
    tables = []
    for reading in _readings(done):
        tables.append(_accuracy_table(_of(done, reading=reading)))
    for reading in _readings(done):
        brief = reading == _longest_reading(done)
        tables.append(_reach_table(_of(done, reading=reading), brief=brief))
    return Summary((_classifier_verdict(done), _memory_verdict(done)), tuple(tables))


# Records ------------------------------------------------------------------------------------------


def _done(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if "test_accuracy" in record]


def _of(records: Sequence[Record], **wanted: Any) -> list[Record]:
    return [
        record
        for record in records
        if all(record["point"].get(key) == value for key, value in wanted.items())
    ]


def _distinct(records: Sequence[Record], key: str) -> list[Any]:
    return list(dict.fromkeys(record["point"][key] for record in records))


def _layers(records: Sequence[Record]) -> list[str]:
    return _distinct(records, "layer")


def _readings(records: Sequence[Record]) -> list[str]:
    return _distinct(records, "reading")


def _longest_reading(records: Sequence[Record]) -> str:
    return max(records, key=lambda record: record["length"])["point"]["reading"]


def _looks(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """A look for each layer, the same in every figure."""
    kinds: dict[str, str] = {}
    for record in records:
        kinds.setdefault(record["point"]["layer"], record["kind"])
    seen: dict[str, int] = {}
    looks = {}
    for layer, kind in kinds.items():
        looks[layer] = layer_look(kind, seen.get(kind, 0))
        seen[kind] = seen.get(kind, 0) + 1
    return looks


def _array(records: Sequence[Record], key: str) -> np.ndarray:
    return np.array([record[key] for record in records], np.float64)


def _reading_title(record: Record) -> str:
    step = "pixel" if record["point"]["reading"] == "pixels" else "row"
    return f"{record['length']} steps of one {step}"


def _seeds(records: Sequence[Record]) -> str:
    count = len(_distinct(records, "seed"))
    return "one seed" if count == 1 else f"{count} seeds"


# Figures ------------------------------------------------------------------------------------------


def _accuracy_figure(records: Sequence[Record]) -> Figure:
    figure, (panels,) = figures.new_figure(1, 3, size=(13.2, 4.4))
    left, middle, right = panels
    looks, readings = _looks(records), _readings(records)
    _dots(left, records, lambda record: 100 * record["test_accuracy"])
    left.set_title("Test accuracy")
    left.set_xlabel("test accuracy, %")
    reading = _longest_reading(records)
    mine = _of(records, reading=reading)
    for layer in _layers(mine):
        curves = 100 * _array(_of(mine, layer=layer), "validation_accuracy")
        epochs = np.arange(curves.shape[1])
        look = {**looks[layer], "markevery": max(1, len(epochs) // 6)}
        middle.plot(epochs, np.median(curves, axis=0), label=layer, **look)
        middle.fill_between(
            epochs, curves.min(0), curves.max(0), color=look["color"], alpha=0.2, linewidth=0
        )
    middle.set_title(f"While learning, {_reading_title(mine[0])}")
    middle.set_xlabel("epoch")
    middle.set_ylabel("validation accuracy, %")
    middle.set_ylim(0, 100)
    middle.legend(loc="lower right", fontsize=8)
    _dots(right, records, lambda record: 1e3 * float(np.median(record["step_seconds"])))
    right.set_xlim(left=0)
    right.set_title("Time of a training step")
    right.set_xlabel(f"ms, batch of {records[0]['batch_size']}")
    right.set_yticklabels([])
    handles, labels = left.get_legend_handles_labels()
    if len(readings) > 1:
        figure.legend(handles, labels, loc="outside lower left", ncols=2, fontsize=9, frameon=False)
    sizes = sorted({record["parameters"] for record in records})
    figure.set_label(
        f"Digits of {records[0]['test_size']} test scans, classified from the last step by "
        f"networks of {sizes[0]:,} to {sizes[-1]:,} parameters; {_seeds(records)}. Dots: each "
        "seed; bars and lines: their median; bands: all seeds."
    )
    return figure


def _dots(axes: Axes, records: Sequence[Record], value: Callable[[Record], float]) -> None:
    """A row for each layer; in it a series of dots for each reading, one for each seed."""
    readings = _readings(records)
    for row, reading in enumerate(readings):
        colour, marker = (("#222222", "o"), (figures.ORANGE, "D"))[row % 2]
        mine = _of(records, reading=reading)
        figures.dot_rows(
            axes,
            {layer: [value(r) for r in _of(mine, layer=layer)] for layer in _layers(records)},
            shift=0.16 * (1 - 2 * row) if len(readings) > 1 else 0.0,
            color=colour,
            marker=marker,
            label=_reading_title(mine[0]),
        )


def _reach_figure(records: Sequence[Record]) -> Figure:
    figure, (panels,) = figures.new_figure(1, 2, size=(9.6, 4.6), sharex=True, sharey=True)
    looks = _looks(records)
    lowest = 0.0
    for axes, when in zip(panels, ("before", "after"), strict=True):
        for layer in _layers(records):
            curves = _array(_of(records, layer=layer), f"input_{when}") / LN10
            lags = np.arange(curves.shape[1])
            middle = np.median(curves, axis=0)
            lowest = min(lowest, float(middle.min()))
            look = looks[layer]
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
        f"How far the gradient of the loss reaches, {_reading_title(records[0])}: median over "
        f"validation sequences, then over {_seeds(records)}; bands: all seeds. Lag 0 is the last "
        "step."
    )
    return figure


def _pixel_figure(records: Sequence[Record]) -> Figure:
    layers = _layers(records)
    figure, panels = figures.new_figure(2, len(layers), size=(2.1 * len(layers) + 1.2, 4.9))
    shades = ScalarMappable(Normalize(-6, 0), "viridis")  # in powers of ten
    for column, layer in enumerate(layers):
        for row, when in enumerate(("before", "after")):
            axes = panels[row, column]
            curve = np.median(_array(_of(records, layer=layer), f"input_{when}"), axis=0) / LN10
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
        f"bottom right). Median of {_seeds(records)}."
    )
    return figure


# Tables -------------------------------------------------------------------------------------------


def _spread(values: np.ndarray, text: Callable[[float], str]) -> str:
    """Median, and the range over seeds where there are several."""
    middle = text(float(np.median(values)))
    if len(values) == 1:
        return middle
    return f"{middle} ({text(float(values.min()))} to {text(float(values.max()))})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _accuracy_table(records: Sequence[Record]) -> Table:
    rows = []
    for layer in _layers(records):
        mine = _of(records, layer=layer)
        steps = np.concatenate([np.asarray(record["step_seconds"], float) for record in mine])
        low, middle, high = 1e3 * np.quantile(steps, [0.25, 0.5, 0.75])
        compiled = max(float(record["compile_seconds"]) for record in mine)
        best = [max(record["validation_accuracy"]) for record in mine]
        rows.append(
            (
                layer,
                f"{mine[0]['hidden']}{' complex' if mine[0]['kind'] == 'LRU' else ''}",
                f"{mine[0]['parameters']:,}",
                _percent(float(np.median(best))),
                _spread(_array(mine, "test_accuracy"), _percent),
                f"{middle:.2g} ({low:.2g} to {high:.2g})",
                short_seconds(compiled) if compiled else "–",
            )
        )
    first = records[0]
    return Table(
        f"Digits by {first['point']['reading']}: {_reading_title(first)}",
        (
            "layer",
            "hidden",
            "parameters",
            "validation, %",
            "test, %",
            "step, ms",
            "compile",
        ),
        tuple(rows),
        note=(
            f"Median (range) over {_seeds(records)}; time of a training step: median (quartiles) "
            f"over epochs, batch of {first['batch_size']}. The epoch that validates best is "
            f"tested, once, on {first['test_size']} scans. A dash: the program of the layer above "
            "served again."
        ),
    )


def _horizons(records: Sequence[Record], field: str) -> np.ndarray:
    return np.array(
        [horizon(np.array(record[field], np.float64), record["eps"]) for record in records]
    )


def _reach_table(records: Sequence[Record], *, brief: bool) -> Table:
    length, eps = records[0]["length"], records[0]["eps"]

    def steps(value: float) -> str:
        return f"> {length - 1}" if np.isinf(value) else f"{value:.1f}"

    def factor(value: float) -> str:
        return f"{np.exp(value):.1e}" if value < np.log(0.1) else f"{np.exp(value):.2g}"

    rows = []
    for layer in _layers(records):
        mine = _of(records, layer=layer)
        cells = [
            steps(float(np.median(_horizons(mine, f"input_{when}"))))
            for when in ("before", "after")
        ]
        cells += [
            factor(float(np.median([record[f"input_{when}"][-1] for record in mine])))
            for when in ("before", "after")
        ]
        rows.append((layer, *cells))
    return Table(
        f"Reach of the loss's gradient, {_reading_title(records[0])}",
        (
            "layer",
            f"steps to {eps:g}, before",
            "after",
            "first input against last, before",
            "after",
        ),
        tuple(rows),
        note=(
            f"Steps back until dL/dx has fallen to {eps:g} of its value at the last step, and its "
            f"value at the first step over that at the last; medians of {_seeds(records)}."
        ),
        brief=brief,
    )


# Verdicts -----------------------------------------------------------------------------------------


def _medians(records: Sequence[Record]) -> dict[str, float]:
    return {
        layer: float(np.median(_array(_of(records, layer=layer), "test_accuracy")))
        for layer in _layers(records)
    }


def _classifier_verdict(records: Sequence[Record]) -> Verdict:
    claim = "the last state, in a linear layer, classifies real sequences"
    if not records:
        return Verdict(claim, "open", "no trained classifier among the records yet", 11)
    parts, best = [], 0.0
    for reading in _readings(records):
        mine = _of(records, reading=reading)
        medians = _medians(mine)
        top = max(medians, key=lambda layer: medians[layer])
        best = max(best, medians[top])
        parts.append(f"{_reading_title(mine[0])}: {_percent(medians[top])} % ({top})")
    head = "a linear readout" if records[0]["head"] == "linear" else "an mlp readout"
    text = f"Best test accuracy with {head}, median of {_seeds(records)}; {'; '.join(parts)}."
    outcome = "confirmed" if best >= _GOOD else "refuted"
    return Verdict(claim, outcome, text, 11, f"{_percent(best)} % of test scans")


def _memory_verdict(records: Sequence[Record]) -> Verdict:
    """Does a network that forgets at the start learn to remember, and what does it cost?"""
    claim = "a plain RNN forgets the beginning of 64 steps"
    plain = [
        record
        for record in records
        if record["kind"] == "RNN" and "torch" in record["init"] and record["length"] >= 32
    ]
    others = [
        record
        for record in records
        if record["length"] >= 32 and record["point"]["layer"] not in _layers(plain)
    ]
    if not plain or not others:
        text = "needs a tanh RNN with torch's default weights and another layer, pixel by pixel"
        return Verdict(claim, "open", text)
    before, after = (
        float(np.median([record[f"input_{when}"][-1] for record in plain]))
        for when in ("before", "after")
    )
    mine = float(np.median(_array(plain, "test_accuracy")))
    medians = _medians(others)
    top = max(medians, key=lambda layer: medians[layer])
    text = (
        f"With torch's default weights the first pixel's gradient begins at {np.exp(before):.0e} "
        f"of the last one's and ends at {np.exp(after):.1g}; test accuracy {_percent(mine)} % "
        f"against {_percent(medians[top])} % for {top}, same budget."
    )
    outcome: Outcome
    if before > np.log(plain[0]["eps"]):
        outcome = "refuted"
    elif after > np.log(plain[0]["eps"]):
        outcome = "refined"
        text += " It forgets at the start; training teaches it to remember, late and less well."
        if mine >= medians[top]:
            text = text.replace(", late and less well", "")
    else:
        outcome = "confirmed"
    return Verdict(claim, outcome, text)
