"""Figure, table and verdict of `long_sequences`, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.harness import figures, study
from experiments.harness.experiment import Record, Summary, Table, Verdict
from experiments.harness.kinds import KINDS
from experiments.harness.records import array, median, seeds, select
from experiments.harness.study import percent
from rnnscan.tasks.acsf1 import CLASSES

ATTENTION = "CausalSelfAttention"
_CHANCE = float(np.log(len(CLASSES)))  # the loss of guessing


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    done = study.done(records)
    if not done:
        return {}
    figure, (panels,) = figures.new_figure(1, 3, size=(13.6, 5.6))
    left, middle, right = panels
    of = study.layers(done)
    figures.dot_rows(left, {n: [100 * r["test_accuracy"] for r in of[n]] for n in of})
    for key, name in (
        ("nearest", "nearest neighbour"),
        ("nearest_sorted", "nearest, values sorted"),
    ):
        at = 100 * done[0][key]
        left.axvline(at, color="#444444", linewidth=1, linestyle=(0, (1, 2)))
        # Above the rows, where there is room for words.
        left.annotate(
            f" {name}",
            (at, len(of) - 0.52),
            fontsize=8.5,
            rotation=90,
            va="top",
            color="#444444",
        )
    left.set_xlim(0, 100)
    left.set_xlabel("test accuracy, %")
    left.set_title("Right answers")
    looks = study.looks(done)
    for place, (layer, mine) in enumerate(of.items(), start=1):
        look = looks[layer]
        curves = array(mine, "train_loss")
        epochs = np.arange(1, curves.shape[1] + 1)
        look["markevery"] = (place % 5, max(1, len(epochs) // 6))
        middle_loss = np.median(curves, axis=0)
        middle.plot(epochs, middle_loss, label=layer + _ended(middle_loss), **look)
    study.level(middle, _CHANCE, "guessing")
    middle.set_ylim(0, None)
    middle.set_xlabel("epoch")
    middle.set_ylabel("training loss, nats")
    middle.set_title("While learning")
    figures.dot_rows(right, {n: [median(r, "step_seconds") for r in of[n]] for n in of})
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    right.xaxis.set_major_formatter(lambda value, _: figures.short_seconds(value))
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set_yticklabels([])
    right.set_xlabel(f"time, batch of {done[0]['batch_size']}")
    right.set_title("A training step")
    figures.legend_below(figure)
    figure.set_label(
        f"ACSF1: {done[0]['length']:,} steps of power, ten kinds of appliance; networks of "
        f"{study.parameters(done)} parameters, {seeds(done)}. Dots: each seed; bars and "
        "lines: their median. Dotted: nearest neighbours, of sequences and of sorted sequences."
    )
    return {"learning": figure}


def _ended(losses: np.ndarray) -> str:
    """What a curve that ends early says of itself.

    >>> _ended(np.array([2.3, np.nan, np.nan])), _ended(np.array([2.3, 2.2]))
    (', diverged in epoch 2', '')
    """
    whole = np.isfinite(losses)
    return "" if whole.all() else f", diverged in epoch {int(whole.argmin()) + 1}"


def summary(records: Sequence[Record]) -> Summary:
    done = study.done(records)
    return Summary((_verdict(done),), (_table(done),) if done else ())


def _verdict(records: Sequence[Record]) -> Verdict:
    claim = "over 1,000 real steps and more, attention sees what recurrences forget"
    recurrent = study.layers(r for r in records if KINDS[r["kind"]].recurrent)
    attention = study.layers(select(records, kind=ATTENTION))
    if not recurrent or not attention or records[0]["length"] < 1000:
        text = "needs a recurrence and attention, trained on 1,000 steps at least"
        return Verdict(claim, "open", text)
    first = records[0]
    best, seeing = map(study.validates_best, (recurrent, attention))
    mine, other = recurrent[best], attention[seeing]
    known, seen = (float(array(some, "test_accuracy").mean()) for some in (mine, other))
    # Of one proportion on the test set, twice: closer than that is not told apart.
    noise = 2 * (0.25 / first["test_size"]) ** 0.5
    ahead = seen - known
    goal = None if ahead > noise else known + noise  # of attention
    why = study.doubt(mine, _CHANCE, "test_accuracy")
    if why := why or study.doubt(other, _CHANCE, "test_accuracy", goal=goal):
        return Verdict(claim, "open", why)
    text = (
        f"Right answers over {first['length']:,} steps, {seeds(records)}: "
        f"{percent(known)} % by the recurrence that validates best ({best}), "
        f"{percent(seen)} % by attention; nearest neighbours {percent(first['nearest'])} %, "
        f"and of sorted sequences, which have no order left, {percent(first['nearest_sorted'])} %."
    )
    value = f"{percent(known)} % against {percent(seen)} %"
    if ahead > noise:
        return Verdict(claim, "confirmed", text, value=value)
    if ahead < -noise:
        return Verdict(claim, "refuted", text, value=value)
    text += f" Closer than {percent(noise)} % is not told apart by {first['test_size']} sequences."
    return Verdict(claim, "refined", text, value=value)


def _table(records: Sequence[Record]) -> Table:
    rows: list[tuple[str, ...]] = []
    for layer, mine in study.layers(records).items():
        step = float(np.median(study.steps(mine)))
        loss = float(np.mean([r["train_loss"][-1] for r in mine]))
        rows.append(
            (
                layer,
                f"{mine[0]['width']}",
                f"{mine[0]['parameters']:,}",
                f"{loss:.2f}" if np.isfinite(loss) else "diverged",
                f"{100 * np.mean([max(r['validation_accuracy']) for r in mine]):.0f}",
                study.mean_and_sd(array(mine, "test_accuracy"), percent),
                figures.short_seconds(step),
                f"{mine[0]['batch_size'] * mine[0]['length'] / step:,.0f}",
            )
        )
    first = records[0]
    spread = "" if seeds(records) == "one seed" else ", mean ± standard deviation"
    return Table(
        f"Ten appliances, {first['length']:,} steps",
        (
            *("layer", "width", "parameters", "training loss", "validation, %", "test, %"),
            *("step", "steps of input a second"),
        ),
        tuple(rows),
        note=(
            f"{seeds(records).capitalize()}{spread}; time of a training step, batch of "
            f"{first['batch_size']}. The epoch that validates best, on a handful of sequences, is "
            f"tested once on {first['test_size']}."
        ),
    )
