"""Figures, tables and verdicts of `digits`, from its records alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.harness import colours, figures, study
from experiments.harness.experiment import Outcome, Record, Summary, Table, Verdict
from experiments.harness.figures import short_seconds
from experiments.harness.gradient_figures import LN10, power_of_ten_axis
from experiments.harness.kinds import KINDS
from experiments.harness.records import array, distinct, seeds, select
from experiments.harness.study import percent
from rnnscan.gradients import horizon
from rnnscan.tasks.digits import CLASSES

_FLOOR = -20.0  # of the reach figure, in powers of ten
_GOAL = 0.95  # of the best recurrent mixer, pixel by pixel
_GOOD = 0.9  # an accuracy that no classifier has by chance, and no forgetful one on 64 steps
_CHANCE = float(np.log(CLASSES))  # the loss of guessing


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    done = study.done(records)
    if not done:
        return {}
    drawn = {"accuracy": _accuracy_figure(done)}
    if done[0]["depth"]:  # the norm of a block makes a dark pixel loud: no reach to be read off
        return drawn
    longest = _longest(done)
    drawn["reach"] = _reach_figure(longest)
    if longest[0]["length"] == 64:
        drawn["pixels"] = _pixel_figure(longest)
    return drawn


def summary(records: Sequence[Record]) -> Summary:
    done = study.done(records)
    by_reading = [select(done, reading=reading) for reading in distinct(done, "reading")]
    tables = [_accuracy_table(mine) for mine in by_reading]
    if done and done[0]["depth"]:
        return Summary((_mixer(done),), tuple(tables))
    longest = _longest(done)
    tables += [_reach_table(mine, brief=mine == longest) for mine in by_reading]
    return Summary((_classifier(done), _memory(done)), tuple(tables))


def _longest(records: Sequence[Record]) -> list[Record]:
    """Those of the longest reading."""
    if not records:
        return []
    return select(
        records, reading=max(records, key=lambda record: record["length"])["point"]["reading"]
    )


def _reading_title(record: Record) -> str:
    step = "pixel" if record["point"]["reading"] == "pixels" else "row"
    return f"{record['length']} steps of one {step}"


def _accuracy_figure(records: Sequence[Record]) -> Figure:
    figure, (panels,) = figures.new_figure(1, 3, size=(13.2, 4.4))
    left, middle, right = panels
    look_of = study.looks(records)
    _dots(left, records, lambda record: 100 * record["test_accuracy"])
    if len(distinct(records, "reading")) == 1:
        scores = {
            n: 100 * array(mine, "test_accuracy") for n, mine in study.layers(records).items()
        }
        figures.cut_outliers(left, scores, "{:.0f} %".format)
    left.set_title("Test accuracy")
    left.set_xlabel("test accuracy, %")
    longest = _longest(records)
    for layer, mine in study.layers(longest).items():
        curves = 100 * array(mine, "validation_accuracy")
        epochs = np.arange(curves.shape[1])
        look = {**look_of[layer], "markevery": max(1, len(epochs) // 6)}
        study.draw_curves(middle, epochs, curves, alpha=0.2, label=layer, **look)
    middle.set_title(f"While learning, {_reading_title(longest[0])}")
    middle.set_xlabel("epoch")
    middle.set_ylabel("validation accuracy, %")
    middle.set_ylim(0, 100)
    if len(look_of) <= 6:
        middle.legend(loc="lower right", fontsize=8)
    _dots(right, records, lambda record: 1e3 * float(np.median(record["step_seconds"])))
    right.set_xscale("log")
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set_title("Time of a training step")
    right.set_xlabel(f"ms, batch of {records[0]['batch_size']}")
    right.set_yticklabels([])
    handles, labels = left.get_legend_handles_labels()
    if len(look_of) > 6:
        figures.legend_below(figure)
    elif len(distinct(records, "reading")) > 1:
        figure.legend(handles, labels, loc="outside lower left", ncols=2, fontsize=9, frameon=False)
    figure.set_label(
        f"Digits of {records[0]['test_size']} test scans, classified from the "
        f"{'mean of all steps' if records[0]['read'] == 'mean' else 'last step'} by "
        f"networks of {study.parameters(records)} parameters; {seeds(records)}. Dots: each "
        "seed; bars and lines: their median; bands: all seeds."
    )
    return figure


def _dots(axes: Axes, records: Sequence[Record], value: Callable[[Record], float]) -> None:
    """A row for each layer; in it a series of dots for each reading, one for each seed."""
    readings = distinct(records, "reading")
    several = len(readings) > 1
    for row, reading in enumerate(readings):
        colour, marker = (("#222222", "o"), (colours.ORANGE, "D"))[row % 2]
        mine = select(records, reading=reading)
        figures.dot_rows(
            axes,
            {n: [value(r) for r in select(mine, layer=n)] for n in distinct(records, "layer")},
            shift=0.16 * (1 - 2 * row) if several else 0.0,
            color=colour,
            marker=marker,
            label=_reading_title(mine[0]) if several else None,
        )


def _reach_figure(records: Sequence[Record]) -> Figure:
    figure, (panels,) = figures.new_figure(1, 2, size=(9.6, 4.6), sharex=True, sharey=True)
    look_of = study.looks(records)
    lowest = 0.0
    for axes, when in zip(panels, ("before", "after"), strict=True):
        for layer, mine in study.layers(records).items():
            curves = array(mine, f"input_{when}") / LN10
            lags = np.arange(curves.shape[1])
            lowest = min(lowest, float(np.median(curves, axis=0).min()))
            look = {**look_of[layer], "markevery": 8}
            study.draw_curves(axes, lags, curves, label=layer, **look)
        axes.set_title(f"{when.capitalize()} training")
        axes.set_xlabel("lag k, steps before the last")
    panels[0].set_ylabel("norm of $dL/dx_{T-k}$, relative to lag 0")
    panels[0].set_ylim(bottom=max(lowest, _FLOOR) - 1)
    power_of_ten_axis(panels[0])
    figures.legend_below(figure)
    figure.set_label(
        f"How far the gradient of the loss reaches, {_reading_title(records[0])}: median over "
        f"validation sequences, then over {seeds(records)}; bands: all seeds. Lag 0 is the last "
        "step."
    )
    return figure


def _pixel_figure(records: Sequence[Record]) -> Figure:
    of = study.layers(records)
    wide, high = (2.1, 4.9) if len(of) <= 6 else (1.45, 3.8)
    figure, panels = figures.new_figure(2, len(of), size=(wide * len(of) + 1.2, high))
    shades = ScalarMappable(Normalize(-6, 0), "viridis")  # in powers of ten
    for column, (layer, mine) in enumerate(of.items()):
        for row, when in enumerate(("before", "after")):
            axes = panels[row, column]
            curve = np.median(array(mine, f"input_{when}"), axis=0) / LN10
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


def _accuracy_table(records: Sequence[Record]) -> Table:
    rows = []
    for layer, mine in study.layers(records).items():
        low, middle, high = 1e3 * np.quantile(study.steps(mine), [0.25, 0.5, 0.75])
        tested = array(mine, "test_accuracy")
        compiled = max(float(record["compile_seconds"]) for record in mine)
        best = [max(record["validation_accuracy"]) for record in mine]
        rows.append(
            (
                layer,
                f"{mine[0]['hidden']}{' complex' if KINDS[mine[0]['kind']].complex_state else ''}",
                f"{mine[0]['parameters']:,}",
                percent(float(np.median(best))),
                study.spread(tested, percent),
                study.mean_and_sd(tested, percent),
                f"{figures.factor(middle)} ({figures.factor(low)} to {figures.factor(high)})",
                short_seconds(compiled) if compiled else "–",
            )
        )
    first, over = records[0], study.over("median (range) over", records)
    return Table(
        f"Digits by {first['point']['reading']}: {_reading_title(first)}",
        (
            "layer",
            "hidden",
            "parameters",
            "validation, %",
            "test, %",
            "mean ± sd",
            "step, ms",
            "compile",
        ),
        tuple(rows),
        note=(
            f"{over[0].upper()}{over[1:]}; time of a training step: median (quartiles) over "
            f"epochs, batch of {first['batch_size']}. The epoch that validates best is tested, "
            f"once, on {first['test_size']} scans. A dash: the program of the layer above "
            "served again."
        ),
    )


def _horizons(records: Sequence[Record], field: str) -> np.ndarray:
    return np.array([horizon(curve, records[0]["eps"]) for curve in array(records, field)])


def _reach_table(records: Sequence[Record], *, brief: bool) -> Table:
    length, eps = records[0]["length"], records[0]["eps"]

    def steps(value: float) -> str:
        return "–" if np.isnan(value) else f"> {length - 1}" if np.isinf(value) else f"{value:.1f}"

    def factor(value: float) -> str:
        return f"{np.exp(value):.1e}" if value < np.log(0.1) else figures.factor(np.exp(value))

    rows = []
    for layer, mine in study.layers(records).items():
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
            f"value at the first step over that at the last; {study.over('medians of', records)}."
        ),
        brief=brief,
    )


def _medians(records: Sequence[Record]) -> dict[str, float]:
    """Of test accuracy, of each layer whose trainings came to something."""
    return {
        layer: float(np.median(array(mine, "test_accuracy")))
        for layer, mine in study.layers(records).items()
        if not _doubt(mine, "test_accuracy")
    }


def _doubt(records: Sequence[Record], *fields: str, goal: float | None = None) -> str:
    return study.doubt(records, _CHANCE, *fields, goal=goal)


def _classifier(records: Sequence[Record]) -> Verdict:
    claim = "the last state, in a linear layer, classifies real sequences"
    if not records:
        return Verdict(claim, "open", "no trained classifier among the records yet", 11)
    parts, best = [], 0.0
    for reading in distinct(records, "reading"):
        mine = select(records, reading=reading)
        if medians := _medians(mine):
            top = max(medians, key=lambda layer: medians[layer])
            best = max(best, medians[top])
            parts.append(f"{_reading_title(mine[0])}: {percent(medians[top])} % ({top})")
    refuted = best < _GOOD
    if refuted and (why := _doubt(records, "test_accuracy", goal=_GOOD)):
        return Verdict(claim, "open", why, 11)
    head = "a linear readout" if records[0]["head"] == "linear" else "an mlp readout"
    over = study.over("median of", records)
    text = f"Best test accuracy with {head}, {over}; {'; '.join(parts)}."
    outcome = "refuted" if refuted else "confirmed"
    return Verdict(claim, outcome, text, 11, f"{percent(best)} % of test scans")


def _mixer(records: Sequence[Record]) -> Verdict:
    """Of the recurrent mixer that validates best, so that the test set chooses nothing."""
    claim = f"pixel by pixel, a recurrent mixer reads {100 * _GOAL:g} % of the digits"
    of = study.layers(r for r in records if KINDS[r["kind"]].recurrent and r["length"] == 64)
    if not of:
        return Verdict(claim, "open", "needs a recurrent mixer, pixel by pixel")
    best = study.validates_best(of)
    mine = of[best]
    tested = array(mine, "test_accuracy")
    refuted = not tested.mean() >= _GOAL  # nan neither
    deciding = [record for some in of.values() for record in some] if refuted else mine
    if why := _doubt(deciding, "test_accuracy", goal=_GOAL if refuted else None):
        return Verdict(claim, "open", why)
    value = f"{study.mean_and_sd(tested, percent)} %"
    text = (
        f"{best}, the recurrent mixer that validates best: {value} of {mine[0]['test_size']} test "
        f"scans ({study.over('mean and standard deviation of', mine)}), "
        f"{mine[0]['parameters']:,} parameters."
    )
    others = study.layers(r for r in records if not KINDS[r["kind"]].recurrent)
    if others:
        rest = [f"{n} {percent(array(of, 'test_accuracy').mean())}" for n, of in others.items()]
        text += f" Without recurrence: {', '.join(rest)} %."
    return Verdict(claim, "refuted" if refuted else "confirmed", text, value=value)


def _memory(records: Sequence[Record]) -> Verdict:
    """Does a network that forgets at the start learn to remember, and what does it cost?"""
    claim = "a plain RNN forgets the beginning of 64 steps"
    long = [record for record in records if record["length"] >= 32]
    plain = [r for r in select(long, kind="RNN") if "torch" in r["init"]]
    named = distinct(plain, "layer")
    others = [record for record in long if record["point"]["layer"] not in named]
    if not plain or not others:
        text = "needs a tanh RNN with torch's default weights and another layer, pixel by pixel"
        return Verdict(claim, "open", text)
    before, after = (
        float(np.median([record[f"input_{when}"][-1] for record in plain]))
        for when in ("before", "after")
    )
    eps = np.log(plain[0]["eps"])
    forgets = before <= eps and not after > eps  # still, after training
    fields = ("test_accuracy", "input_before", "input_after")
    medians = _medians(others)
    why = _doubt(plain, *fields, goal=np.inf if forgets else None)
    if why or not medians:
        return Verdict(claim, "open", why or _doubt(others, "test_accuracy"))
    mine = float(np.median(array(plain, "test_accuracy")))
    top = max(medians, key=lambda layer: medians[layer])
    one_seed = ", one seed" if seeds(plain) == "one seed" else ""
    text = (
        f"With torch's default weights the first pixel's gradient begins at {np.exp(before):.0e} "
        f"of the last one's and ends at {np.exp(after):.1g}; test accuracy {percent(mine)} % "
        f"against {percent(medians[top])} % for {top}, same budget{one_seed}."
    )
    outcome: Outcome = "confirmed" if forgets else "refuted" if before > eps else "refined"
    if outcome == "refined":
        late = ", late and less well" if mine < medians[top] else ""
        text += f" It forgets at the start; training teaches it to remember{late}."
    return Verdict(claim, outcome, text)
