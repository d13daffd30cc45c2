"""Figure, table and verdict of `long_sequences`, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.harness import figures
from experiments.harness.experiment import Record, Summary, Table, Verdict
from experiments.harness.gradient_figures import layer_look
from experiments.harness.kinds import KINDS

ATTENTION = "CausalSelfAttention"


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    done = _done(records)
    if not done:
        return {}
    figure, (panels,) = figures.new_figure(1, 3, size=(13.6, 5.6))
    left, middle, right = panels
    layers = _layers(done)
    figures.dot_rows(left, {n: [100 * a for a in _test(done, n)] for n in layers})
    for key, name in (("nearest", "nearest"), ("nearest_sorted", "nearest, sorted")):
        at = 100 * done[0][key]
        left.axvline(at, color="#444444", linewidth=1, linestyle=(0, (1, 2)))
        # Above the rows, where there is room for words.
        left.annotate(
            f" {name}",
            (at, len(layers) - 0.52),
            fontsize=8.5,
            rotation=90,
            va="top",
            color="#444444",
        )
    left.set_xlim(0, 100)
    left.set_xlabel("test accuracy, %")
    left.set_title("Right answers")
    seen: dict[str, int] = {}
    for layer in layers:
        mine = _of(done, layer)
        kind = mine[0]["kind"]
        # The marker of a kind; another start of it has another line and depth.
        start = layer_look(kind, seen.get(kind, 0))
        look = start | {"marker": figures.line_style(kind)["marker"]}
        seen[kind] = seen.get(kind, 0) + 1
        curves = np.array([r["train_loss"] for r in mine], np.float64)
        epochs = np.arange(1, curves.shape[1] + 1)
        look["markevery"] = (len(seen) % 5, max(1, len(epochs) // 6))
        middle.plot(epochs, np.median(curves, axis=0), label=layer, **look)
    middle.axhline(np.log(10), color="#444444", linewidth=1, linestyle=(0, (1, 2)))
    middle.annotate(
        "guessing",
        (1, np.log(10)),
        xycoords=("axes fraction", "data"),
        fontsize=8.5,
        ha="right",
        va="bottom",
        color="#444444",
    )
    middle.set_ylim(0, None)
    middle.set_xlabel("epoch")
    middle.set_ylabel("training loss, nats")
    middle.set_title("While learning")
    figures.dot_rows(
        right, {n: [float(np.median(r["step_seconds"])) for r in _of(done, n)] for n in layers}
    )
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.xaxis.set_major_formatter(lambda value, _: figures.short_seconds(value))
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set_yticklabels([])
    right.set_xlabel(f"time, batch of {done[0]['batch_size']}")
    right.set_title("A training step")
    figures.legend_below(figure)
    sizes = sorted(record["parameters"] for record in done)
    figure.set_label(
        f"ACSF1: {done[0]['length']:,} steps of power, ten kinds of appliance; networks of "
        f"{sizes[0]:,} to {sizes[-1]:,} parameters, {_seeds(done)}. Dots: each seed; bars and "
        "lines: their median. Dotted: nearest neighbours, of sequences and of sorted sequences."
    )
    return {"learning": figure}


def summary(records: Sequence[Record]) -> Summary:
    done = _done(records)
    return Summary((_verdict(done),), (_table(done),) if done else ())


def _done(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if "test_accuracy" in record]


def _layers(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["point"]["layer"] for record in records))


def _of(records: Sequence[Record], layer: str) -> list[Record]:
    return [record for record in records if record["point"]["layer"] == layer]


def _test(records: Sequence[Record], layer: str) -> list[float]:
    return [record["test_accuracy"] for record in _of(records, layer)]


def _seeds(records: Sequence[Record]) -> str:
    count = len({record["point"]["seed"] for record in records})
    return "one seed" if count == 1 else f"{count} seeds"


def _best(records: Sequence[Record]) -> tuple[float, str] | None:
    """Mean test accuracy and name of the layer that validates best, so that the test set chooses
    nothing."""

    def validated(layer: str) -> float:
        return float(np.mean([max(r["validation_accuracy"]) for r in _of(records, layer)]))

    if not records:
        return None
    best = max(_layers(records), key=validated)
    return float(np.mean(_test(records, best))), best


def _verdict(records: Sequence[Record]) -> Verdict:
    claim = "over 1,000 real steps and more, attention sees what recurrences forget"
    recurrent = _best([r for r in records if KINDS[r["kind"]].recurrent])
    attention = _best([r for r in records if r["kind"] == ATTENTION])
    if not recurrent or not attention or records[0]["length"] < 1000:
        text = "needs a recurrence and attention, trained on 1,000 steps at least"
        return Verdict(claim, "open", text)
    first = records[0]
    # Of one proportion on the test set, twice: closer than that is not told apart.
    noise = 2 * (0.25 / first["test_size"]) ** 0.5
    ahead = attention[0] - recurrent[0]
    text = (
        f"Right answers over {first['length']:,} steps, {_seeds(records)}: "
        f"{_percent(recurrent[0])} by the recurrence that validates best ({recurrent[1]}), "
        f"{_percent(attention[0])} by attention; nearest neighbours {_percent(first['nearest'])}, "
        f"and of sorted sequences, which have no order left, {_percent(first['nearest_sorted'])}."
    )
    value = f"{_percent(recurrent[0])} against {_percent(attention[0])}"
    if ahead > noise:
        return Verdict(claim, "confirmed", text, value=value)
    if ahead < -noise:
        return Verdict(claim, "refuted", text, value=value)
    text += f" Closer than {_percent(noise)} is not told apart by {first['test_size']} sequences."
    return Verdict(claim, "refined", text, value=value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _table(records: Sequence[Record]) -> Table:
    rows: list[tuple[str, ...]] = []
    for layer in _layers(records):
        mine: list[Any] = _of(records, layer)
        accuracy = 100 * np.array(_test(records, layer))
        spread = f" ± {accuracy.std(ddof=1):.1f}" if len(mine) > 1 else ""
        step = float(np.median(np.concatenate([r["step_seconds"] for r in mine])))
        rows.append(
            (
                layer,
                f"{mine[0]['width']}",
                f"{mine[0]['parameters']:,}",
                f"{np.mean([r['train_loss'][-1] for r in mine]):.2f}",
                f"{100 * np.mean([max(r['validation_accuracy']) for r in mine]):.0f}",
                f"{accuracy.mean():.1f}{spread}",
                figures.short_seconds(step),
                f"{mine[0]['batch_size'] * mine[0]['length'] / step:,.0f}",
            )
        )
    first = records[0]
    return Table(
        f"Ten appliances, {first['length']:,} steps",
        (
            *("layer", "width", "parameters", "training loss", "validation, %", "test, %"),
            *("step", "steps of input a second"),
        ),
        tuple(rows),
        note=(
            f"{_seeds(records).capitalize()}"
            f"{', mean ± standard deviation' if len(records) > len(rows) else ''}; time of a "
            f"training step, batch of {first['batch_size']}. The epoch that validates best, on a "
            f"handful of sequences, is tested once on {first['test_size']}."
        ),
    )
