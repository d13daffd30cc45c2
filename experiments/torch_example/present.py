"""Figure, tables and verdicts of `torch_example`, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import figures
from experiments.harness.experiment import Record, Summary, Table, Verdict
from experiments.harness.figures import short_seconds
from experiments.torch_example.speed import OURS, TORCH

# What this package promises of its recurrent layers, in units of the largest reference value.
TOLERANCES = {"float32": (1e-6, 1e-5), "float64": (1e-12, 1e-12)}
SHAPES = {"output": [2, 5, 20], "h_n": [1, 2, 20]}
_GOOD = 0.85  # of ten digits, by eight rows each: no classifier has that by chance


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    pairs = _pairs(records)
    if not pairs:
        return {}
    directions = list(dict.fromkeys(point["direction"] for point, _, _ in pairs))
    figure, (panels,) = figures.new_figure(
        1, len(directions), size=(4.9 * len(directions) + 1.6, 4.6), sharey=True
    )
    shapes = list(dict.fromkeys(tuple(point["shape"]) for point, _, _ in pairs))
    layers = list(dict.fromkeys(point["layer"] for point, _, _ in pairs))
    for axes, direction in zip(panels, directions, strict=True):
        for offset, layer in enumerate(layers):
            mine = [p for p in pairs if p[0]["direction"] == direction and p[0]["layer"] == layer]
            places = [shapes.index(tuple(point["shape"])) for point, _, _ in mine]
            look = figures.line_style(layer)
            axes.plot(
                [_ratio(ours, there) for _, ours, there in mine],
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
        axes.set_xlabel("time over torch's")
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


def _compared(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if "value_error" in record]


def _worst(records: Sequence[Record], dtype: str) -> tuple[float, float]:
    mine = [record for record in records if record["dtype"] == dtype]
    return tuple(max(record[key] for record in mine) for key in ("value_error", "gradient_error"))


def _within(record: Record) -> bool:
    of_values, of_gradients = TOLERANCES[record["dtype"]]
    return record["value_error"] <= of_values and record["gradient_error"] <= of_gradients


def _equality(records: Sequence[Record]) -> Verdict:
    claim = "a tanh RNN is torch.nn.RNN"
    mine = [r for r in _compared(records) if r["point"]["layer"] == "RNN"]
    if {record["dtype"] for record in mine} < {"float32", "float64"}:
        return Verdict(claim, "open", "no comparison among the records yet", 1)
    single, double = (_worst(mine, dtype) for dtype in ("float32", "float64"))
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
    mine = [r for r in _compared(records) if r["point"] == {"study": "example", "layer": "RNN"}]
    trained = [record for record in records if "test_accuracy" in record]
    if not mine or not trained:
        text = "needs the example and a trained classifier among the records"
        return Verdict(claim, "open", text, 11)
    shapes = {"output": mine[0]["y_shape"], "h_n": mine[0]["last_shape"]}
    same = all(record["last_is_in_y"] for record in mine) and all(map(_within, mine))
    accuracy = [record["test_accuracy"] for record in trained]
    text = (
        f"output {tuple(shapes['output'])}, h_n {tuple(shapes['h_n'])}, h_n "
        f"{'is' if same else 'is not'} the last step of output, numbers torch's to "
        f"{_worst(mine, 'float32')[0]:.0e}. {trained[0]['parameters']:,} parameters trained that "
        f"way read {100 * np.mean(accuracy):.1f} % of {trained[0]['test_size']} handwritten digits "
        f"row by row (mean of {len(accuracy)} seeds)."
    )
    good = same and shapes == SHAPES and np.mean(accuracy) >= _GOOD
    value = f"{tuple(shapes['output'])} and {tuple(shapes['h_n'])}"
    return Verdict(claim, "confirmed" if good else "refuted", text, 11, value)


def _speed(records: Sequence[Record]) -> Verdict | None:
    pairs = _pairs(records)
    if not pairs:
        return None
    ratios = {_name(point): _ratio(ours, there) for point, ours, there in pairs}
    slower = {name: ratio for name, ratio in ratios.items() if ratio > 1}
    worst = max(ratios, key=lambda name: ratios[name])
    text = (
        f"At most torch's time in {len(ratios) - len(slower)} of {len(ratios)} cases; median "
        f"{np.median(list(ratios.values())):.2f} of it, at worst {ratios[worst]:.2f} ({worst})."
    )
    claim = "RNN, LSTM and GRU take no longer than torch.nn's"
    return Verdict(claim, "refined" if slower else "confirmed", text)


def _pairs(records: Sequence[Record]) -> list[tuple[dict, Record, Record]]:
    """(point, ours, torch's) of every timed case whose results were right."""
    by_point: dict[str, dict[str, Record]] = {}
    for record in records:
        if record["point"]["study"] == "speed" and record.get("counts"):
            by_point.setdefault(_name(record["point"]), {})[record["contender"]] = record
    return [
        (pair[OURS]["point"], pair[OURS], pair[TORCH])
        for pair in by_point.values()
        if OURS in pair and TORCH in pair
    ]


def _name(point: dict) -> str:
    return f"{point['layer']} {tuple(point['shape'])}, {point['direction']}"


def _ratio(ours: Record, there: Record) -> float:
    return float(np.median(ours["seconds"]) / np.median(there["seconds"]))


def _error_table(records: Sequence[Record]) -> Table | None:
    mine = _compared(records)
    if not mine:
        return None
    rows = [
        (
            f"{record['point']['layer']}, {record['point']['study']}",
            record["dtype"],
            f"{record['configurations']}",
            f"{record['value_error']:.1e}",
            f"{record['gradient_error']:.1e}",
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
    rows = [(f"{r['point']['seed']}", f"{100 * r['test_accuracy']:.1f}") for r in mine]
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
    rate = {  # of the product timed in the same turns
        _name(record["point"]): record["flops"] / np.median(record["seconds"])
        for record in records
        if record["point"]["study"] == "speed"
        and record.get("counts")
        and record["contender"] not in (OURS, TORCH)
    }
    rows = []
    for point, ours, there in pairs:
        seconds = [float(np.median(record["seconds"])) for record in (ours, there)]
        speed = ours["flops"] / seconds[0]
        of_limit = f"{100 * speed / rate[_name(point)]:.0f} %" if _name(point) in rate else "–"
        rows.append(
            (
                f"{point['layer']} {tuple(point['shape'])}",
                point["direction"],
                f"{seconds[0] / seconds[1]:.2f}",
                short_seconds(seconds[0]),
                short_seconds(seconds[1]),
                of_limit,
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
