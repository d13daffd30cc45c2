"""Figure, tables and verdicts of `torch_example`, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import figures
from experiments.harness.experiment import Record, Summary, Table, Verdict
from experiments.harness.figures import number, short_seconds
from experiments.harness.records import array, distinct, field, median, seeds, select, unsound
from experiments.torch_example.contenders import OURS, TORCH

# What this package promises of its recurrent layers, in units of the largest reference value.
TOLERANCES = {"float32": (1e-6, 1e-5), "float64": (1e-12, 1e-12)}
_ERRORS = ("value_error", "gradient_error")
SHAPES = {"output": [2, 5, 20], "h_n": [1, 2, 20]}
_GOOD = 0.85  # of ten digits, by eight rows each: no classifier has that by chance


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    pairs = _pairs(records)
    if not pairs:
        return {}
    ours = [ours for ours, _ in pairs]
    directions = distinct(ours, "direction")
    figure, (panels,) = figures.new_figure(
        1, len(directions), size=(4.9 * len(directions) + 1.6, 4.6), sharey=True
    )
    shapes = list(dict.fromkeys(tuple(field(record, "shape")) for record in ours))
    layers = distinct(ours, "layer")
    for axes, direction in zip(panels, directions, strict=True):
        for offset, layer in enumerate(layers):
            mine = [pair for pair in pairs if select(pair[:1], direction=direction, layer=layer)]
            places = [shapes.index(tuple(field(here, "shape"))) for here, _ in mine]
            look = figures.line_style(layer)
            axes.plot(
                [_ratio(*pair) for pair in mine],
                [place + 0.2 * (offset - 1) for place in places],
                linestyle="none",
                marker=look["marker"],
                color=look["color"],
                markersize=8,
                label=layer,
            )
        axes.axvline(1.0, color="#444444", linewidth=1.2)
        axes.set_xscale("log")
        axes.set_xlim(min(0.008, 0.8 * axes.get_xlim()[0]), max(2.0, axes.get_xlim()[1]))
        axes.set_title(direction)
        axes.set_xlabel("time / torch's (left of the line is faster)")
        axes.set_yticks(range(len(shapes)), [", ".join(map(str, shape)) for shape in shapes])
        axes.set_ylim(len(shapes) - 0.5, -0.5)
    panels[0].set_ylabel("T, batch, inputs, hidden")
    figures.legend_below(figure)
    figure.set_label(
        "Time of the recurrent layers over that of torch.nn on the same machine and work, medians "
        "of samples taken in turns. Left of the line: faster than torch."
    )
    return {"speed": figure}


def summary(records: Sequence[Record]) -> Summary:
    tables = [_error_table(records), _classifier_table(records), _speed_table(records)]
    verdicts = (_equality(records), _example(records), _speed(records))
    return Summary(
        tuple(verdict for verdict in verdicts if verdict), tuple(table for table in tables if table)
    )


def _compared(records: Sequence[Record], **wanted: str) -> list[Record]:
    return [record for record in select(records, **wanted) if "value_error" in record]


def _worst(records: Sequence[Record], dtype: str) -> np.ndarray:
    """Of values and of gradients."""
    mine = select(records, dtype=dtype)
    return np.max([array(mine, key) for key in _ERRORS], axis=1)


def _within(record: Record) -> bool:
    errors = [record[key] for key in _ERRORS]
    return bool(np.all(np.array(errors) <= TOLERANCES[record["dtype"]]))


def _equality(records: Sequence[Record]) -> Verdict:
    claim = "a tanh RNN is torch.nn.RNN"
    mine = _compared(records, layer="RNN")
    if set(distinct(mine, "dtype")) < TOLERANCES.keys():
        return Verdict(claim, "open", "no comparison among the records yet", 1)
    if flaw := unsound(mine, *_ERRORS):
        return Verdict(claim, "open", flaw, 1)
    single, double = (_worst(mine, dtype) for dtype in TOLERANCES)
    count = max(record["configurations"] for record in mine)
    where = "the stored example" if count == 1 else f"the example and {count} random configurations"
    text = (
        f"Largest difference from torch {mine[0]['torch']} over {where}, relative to the largest "
        f"value: states {single[0]:.1e} in float32 and {double[0]:.1e} in float64, gradients "
        f"{single[1]:.1e} and {double[1]:.1e}."
    )
    outcome = "confirmed" if all(map(_within, mine)) else "refuted"
    return Verdict(claim, outcome, text, 1, f"differs by {single[0]:.0e}, float32")


def _example(records: Sequence[Record]) -> Verdict:
    claim = "the PyTorch example: output, h_n, and a classifier on the last state"
    mine = _compared(records, study="example", layer="RNN")
    trained = [record for record in records if "test_accuracy" in record]
    if not select(mine, dtype="float32") or not trained:
        text = "needs the example and a trained classifier among the records"
        return Verdict(claim, "open", text, 11)
    if flaw := unsound(mine, *_ERRORS) or unsound(trained, "test_accuracy"):
        return Verdict(claim, "open", flaw, 11)
    shapes = {"output": mine[0]["y_shape"], "h_n": mine[0]["last_shape"]}
    same = all(record["last_is_in_y"] for record in mine) and all(map(_within, mine))
    accuracy = float(np.mean(array(trained, "test_accuracy")))
    many = f"mean of {seeds(trained)}" if len(trained) > 1 else "one seed"
    text = (
        f"output {tuple(shapes['output'])}, h_n {tuple(shapes['h_n'])}, h_n "
        f"{'is' if same else 'is not'} the last step of output, numbers torch's to "
        f"{_worst(mine, 'float32')[0]:.0e}. {trained[0]['parameters']:,} parameters trained that "
        f"way read {100 * accuracy:.1f} % of {trained[0]['test_size']} handwritten digits "
        f"row by row ({many})."
    )
    value = f"{tuple(shapes['output'])} and {tuple(shapes['h_n'])}"
    if not same or shapes != SHAPES:
        return Verdict(claim, "refuted", text, 11, value)
    if accuracy < _GOOD:  # which is no fault of the shapes
        text += " Trained too briefly, or it diverged: train longer."
        return Verdict(claim, "open", text, 11, value)
    return Verdict(claim, "confirmed", text, 11, value)


def _speed(records: Sequence[Record]) -> Verdict | None:
    claim = "RNN, LSTM and GRU take no longer than torch.nn's"
    timed = [r for r in select(records, study="speed") if r.get("contender") in (OURS, TORCH)]
    if not timed:
        return None
    if wrong := select(timed, counts=False):
        text = f"{wrong[0]['contender']}'s result of {_name(wrong[0])} is wrong: its time is none."
        return Verdict(claim, "open", text)
    if flaw := unsound(timed, "seconds", above=0):
        return Verdict(claim, "open", flaw)
    ratios = {_name(ours): _ratio(ours, there) for ours, there in _pairs(records)}
    if not ratios:
        return Verdict(claim, "open", "needs both of a pair among the records")
    slower = {name: ratio for name, ratio in ratios.items() if ratio > 1}
    worst = max(ratios, key=lambda name: ratios[name])
    text = (
        f"At most torch's time in {len(ratios) - len(slower)} of {len(ratios)} cases; median "
        f"{np.median(list(ratios.values())):.2f} of it, at worst {ratios[worst]:.2f} ({worst})."
    )
    return Verdict(claim, "refined" if slower else "confirmed", text)


def _pairs(records: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Ours and torch's of every timed case whose results were right."""
    done = select(records, study="speed", counts=True)
    theirs = {_name(record): record for record in select(done, contender=TORCH)}
    ours = select(done, contender=OURS)
    return [(record, theirs[_name(record)]) for record in ours if _name(record) in theirs]


def _name(record: Record) -> str:
    point = record["point"]
    return f"{point['layer']} {tuple(point['shape'])}, {point['direction']}"


def _ratio(ours: Record, there: Record) -> float:
    """nan, which is not drawn, where a time is none."""
    pair = [ours, there]
    return np.nan if unsound(pair, "seconds", above=0) else median(ours) / median(there)


def _error_table(records: Sequence[Record]) -> Table | None:
    mine = _compared(records)
    if not mine:
        return None
    rows = [
        (
            f"{record['point']['layer']}, {record['point']['study']}",
            record["dtype"],
            f"{record['configurations']}",
            *(number(record[key], ".1e") for key in _ERRORS),
        )
        for record in mine
    ]
    return Table(
        "Differences from torch, relative to the largest value",
        ("layer", "dtype", "configurations", "states", "gradients"),
        tuple(rows),
        note="The largest over all configurations; torch in float64 is the reference.",
    )


def _classifier_table(records: Sequence[Record]) -> Table | None:
    mine = [record for record in records if "test_accuracy" in record]
    if not mine:
        return None
    rows = [(f"{r['point']['seed']}", number(100 * r["test_accuracy"], ".1f")) for r in mine]
    return Table(
        f"Digits by rows, last state of {mine[0]['hidden']} units into a linear layer",
        ("seed", "test accuracy, %"),
        tuple(rows),
        brief=False,
    )


def _speed_table(records: Sequence[Record]) -> Table | None:
    pairs = _pairs(records)
    if not pairs:
        return None
    done = select(records, study="speed", counts=True)
    # Of the product timed in the same turns.
    rate = {_name(r): _rate(r) for r in done if r["contender"] not in (OURS, TORCH)}
    rows = []
    for ours, there in pairs:
        name, layer = _name(ours), ours["point"]["layer"]
        share = _rate(ours) / rate.get(name, np.nan)
        rows.append(
            (
                f"{layer} {tuple(ours['point']['shape'])}",
                ours["point"]["direction"],
                number(_ratio(ours, there), ".2f"),
                short_seconds(median(ours)),
                short_seconds(median(there)),
                f"{100 * share:.0f} %" if np.isfinite(share) else "–",
            )
        )
    return Table(
        "Time against torch.nn, (T, batch, inputs, hidden)",
        ("layer", "direction", "ratio", "rnnscan", "torch", "of the matmul rate"),
        tuple(rows),
        note=(
            "Medians of samples taken in turns. Last column: operations a second over those of a "
            "large matrix product timed in the same turns."
        ),
    )


def _rate(record: Record) -> float:
    """Operations a second; nan where the time is none."""
    if unsound([record], "seconds", "flops", above=0):
        return np.nan
    return record["flops"] / median(record)
