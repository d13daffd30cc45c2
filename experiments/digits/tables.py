"""The tables of `digits`, from its records alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experiments.digits.records import (
    array,
    layers,
    mean_and_spread,
    of,
    percent,
    reading_title,
    seeds,
)
from experiments.harness.experiment import Record, Table
from experiments.harness.figures import short_seconds
from experiments.harness.kinds import KINDS
from rnnscan.gradients import horizon


def _spread(values: np.ndarray, text: Callable[[float], str]) -> str:
    """Median, and the range over seeds where there are several."""
    middle = text(float(np.median(values)))
    if len(values) == 1:
        return middle
    return f"{middle} ({text(float(values.min()))} to {text(float(values.max()))})"


def accuracy_table(records: Sequence[Record]) -> Table:
    rows = []
    for layer in layers(records):
        mine = of(records, layer=layer)
        steps = np.concatenate([np.asarray(record["step_seconds"], float) for record in mine])
        low, middle, high = 1e3 * np.quantile(steps, [0.25, 0.5, 0.75])
        compiled = max(float(record["compile_seconds"]) for record in mine)
        best = [max(record["validation_accuracy"]) for record in mine]
        rows.append(
            (
                layer,
                f"{mine[0]['hidden']}{' complex' if KINDS[mine[0]['kind']].complex_state else ''}",
                f"{mine[0]['parameters']:,}",
                percent(float(np.median(best))),
                _spread(array(mine, "test_accuracy"), percent),
                " ± ".join(map(percent, mean_and_spread(mine))),
                f"{middle:.2g} ({low:.2g} to {high:.2g})",
                short_seconds(compiled) if compiled else "–",
            )
        )
    first = records[0]
    return Table(
        f"Digits by {first['point']['reading']}: {reading_title(first)}",
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
            f"Median (range) over {seeds(records)}; time of a training step: median (quartiles) "
            f"over epochs, batch of {first['batch_size']}. The epoch that validates best is "
            f"tested, once, on {first['test_size']} scans. A dash: the program of the layer above "
            "served again."
        ),
    )


def _horizons(records: Sequence[Record], field: str) -> np.ndarray:
    return np.array(
        [horizon(np.array(record[field], np.float64), record["eps"]) for record in records]
    )


def reach_table(records: Sequence[Record], *, brief: bool) -> Table:
    length, eps = records[0]["length"], records[0]["eps"]

    def steps(value: float) -> str:
        return f"> {length - 1}" if np.isinf(value) else f"{value:.1f}"

    def factor(value: float) -> str:
        return f"{np.exp(value):.1e}" if value < np.log(0.1) else f"{np.exp(value):.2g}"

    rows = []
    for layer in layers(records):
        mine = of(records, layer=layer)
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
        f"Reach of the loss's gradient, {reading_title(records[0])}",
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
            f"value at the first step over that at the last; medians of {seeds(records)}."
        ),
        brief=brief,
    )
