"""Figure, table and verdict of `recall`, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import figures
from experiments.harness.experiment import Record, Summary, Table, Verdict
from experiments.harness.figures import short_seconds
from experiments.harness.gradient_figures import LN10, power_of_ten_axis
from experiments.harness.kinds import KINDS

ATTENTION, PLAIN = "CausalSelfAttention", "RNN"
_SOLVED = 0.9  # of the answers


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    done = _done(records)
    if not done:
        return {}
    figure, (panels,) = figures.new_figure(1, 2, size=(11.6, 5.2))
    left, right = panels
    for layer in _layers(done):
        mine = [record for record in done if record["point"]["layer"] == layer]
        look = _look(mine[0])
        edges = np.array(mine[0]["edges"], float)
        places = (edges[:-1] + edges[1:]) / 2
        accuracy = 100 * _array(mine, "accuracy")
        left.plot(places, np.median(accuracy, axis=0), label=layer, **look)
        left.fill_between(
            places, accuracy.min(0), accuracy.max(0), color=look["color"], alpha=0.15, linewidth=0
        )
        right.plot(places, np.median(_array(mine, "gradient") / LN10, axis=0), **look)
    chance = 100 * done[0]["chance"]
    left.axhline(chance, color="#444444", linewidth=1, linestyle=(0, (1, 2)))
    left.annotate(
        " chance",
        (0, chance),
        xycoords=("axes fraction", "data"),
        fontsize=8.5,
        va="top",
        color="#444444",
    )
    left.set_ylim(0, 103)
    left.set_ylabel("right answers, %")
    left.set_title("Recall")
    right.set_ylabel("gradient at the value, relative to the question's")
    right.set_title("Gradient of the answer")
    power_of_ten_axis(right)
    for axes in panels:
        axes.set_xlabel("distance from question to value, steps")
    figures.legend_below(figure)
    first = done[0]
    seeds = len({record["point"]["seed"] for record in done})
    figure.set_label(
        f"Associative recall of {first['pairs']} pairs in {first['length']} steps, models of "
        f"{min(r['parameters'] for r in done):,} to {max(r['parameters'] for r in done):,} "
        f"parameters; median of {seeds} seed{'s' if seeds > 1 else ''}, bands: all."
    )
    return {"recall": figure}


def summary(records: Sequence[Record]) -> Summary:
    done = _done(records)
    return Summary((_verdict(done),), (_table(done),) if done else ())


def _done(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if "test_accuracy" in record]


def _layers(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["point"]["layer"] for record in records))


def _array(records: Sequence[Record], key: str) -> np.ndarray:
    return np.array([record[key] for record in records], np.float64)


def _look(record: Record) -> dict:
    look = figures.line_style(record["kind"])
    return look | ({"linestyle": (0, (3, 1.5))} if record["context"] else {})


def _median(records: Sequence[Record], layer: str) -> float:
    return float(np.median([r["test_accuracy"] for r in records if r["point"]["layer"] == layer]))


def _verdict(records: Sequence[Record]) -> Verdict:
    claim = "inside its window attention reaches further than an RNN"
    of_kind = {r["kind"]: r["point"]["layer"] for r in reversed(records) if not r["context"]}
    if ATTENTION not in of_kind or PLAIN not in of_kind:
        text = "needs attention to the whole sequence and a tanh RNN, trained"
        return Verdict(claim, "open", text, 9)
    attention, plain = (_median(records, of_kind[kind]) for kind in (ATTENTION, PLAIN))
    first = records[0]
    best = max(
        (layer for layer in _layers(records) if layer != of_kind[ATTENTION]),
        key=lambda layer: _median(records, layer),
    )
    text = (
        f"Of {first['pairs']} pairs in {first['length']} steps attention recalls "
        f"{100 * attention:.1f} %, a tanh RNN with as many parameters {100 * plain:.1f} % (chance "
        f"{100 * first['chance']:.1f} %); best of the others: {best}, "
        f"{100 * _median(records, best):.1f} %."
    )
    text += _beyond_window(records)
    value = f"{100 * attention:.0f} % against {100 * plain:.0f} %"
    if attention < _SOLVED or attention < plain + 0.1:
        return Verdict(claim, "refuted", text, 9, value)
    others = [r for r in records if KINDS[r["kind"]].recurrent]
    equal = sorted({r["point"]["layer"] for r in others if r["test_accuracy"] >= _SOLVED})
    if equal:
        text += f" Others that recall as much: {', '.join(equal)}."
        return Verdict(claim, "refined", text, 9, value)
    return Verdict(claim, "confirmed", text, 9, value)


def _beyond_window(records: Sequence[Record]) -> str:
    """What attention with a short window recalls within its blocks' reach, and beyond it."""
    short = [r for r in records if r["kind"] == ATTENTION and r["context"]]
    if not short:
        return ""
    reach = short[0]["depth"] * (short[0]["context"] - 1)
    edges = np.array(short[0]["edges"])
    accuracy = np.median(_array(short, "accuracy"), axis=0)
    inside, beyond = accuracy[edges[1:] <= short[0]["context"]], accuracy[edges[:-1] > reach]
    if not len(inside) or not len(beyond):
        return ""
    return (
        f" With a window of {short[0]['context']} it recalls {100 * np.nanmean(inside):.0f} % "
        f"inside of it and {100 * np.nanmean(beyond):.0f} % beyond the reach of its "
        f"{short[0]['depth']} blocks."
    )


def _table(records: Sequence[Record]) -> Table:
    edges = records[0]["edges"]
    near, far = f"{edges[0]} to {edges[1] - 1}", f"{edges[-2]} to {edges[-1] - 1}"
    rows = []
    for layer in _layers(records):
        mine = [record for record in records if record["point"]["layer"] == layer]
        accuracy = 100 * np.array([record["test_accuracy"] for record in mine])
        by_bin = 100 * np.median(_array(mine, "accuracy"), axis=0)
        gradient = np.median(_array(mine, "gradient"), axis=0)[-1] / LN10
        spread = "" if len(mine) == 1 else f" ({accuracy.min():.1f} to {accuracy.max():.1f})"
        steps = np.concatenate([np.asarray(record["step_seconds"], float) for record in mine])
        rows.append(
            (
                layer,
                f"{mine[0]['parameters']:,}",
                f"{np.median(accuracy):.1f}{spread}",
                f"{by_bin[0]:.0f}",
                f"{by_bin[-1]:.0f}",
                f"10^{gradient:.1f}" if np.isfinite(gradient) else "0",
                short_seconds(float(np.median(steps))),
            )
        )
    return Table(
        "Associative recall",
        ("mixer", "parameters", "right, %", f"at {near}", f"at {far}", "gradient there", "step"),
        tuple(rows),
        note=(
            f"Median (range) over seeds; chance is {100 * records[0]['chance']:.1f} %. Gradient of "
            "the answer at the value it needs, relative to that at the question, at the largest "
            f"distances. Step: one of training, batch of {records[0]['batch_size']}."
        ),
    )
