"""Figure, table and verdict of `recall`, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import figures, study
from experiments.harness.experiment import Outcome, Record, Summary, Table, Verdict
from experiments.harness.gradient_figures import LN10, power_of_ten_axis
from experiments.harness.kinds import KINDS
from experiments.harness.records import array, seeds, select
from experiments.harness.study import percent

ATTENTION, PLAIN = "CausalSelfAttention", "RNN"
_SOLVED = 0.9  # of the answers
_HIDES = 4.0  # per cent between two curves that are hard to tell apart


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    done = study.done(records)
    if not done:
        return {}
    figure, ((left, right),) = figures.new_figure(1, 2, size=(11.6, 5.2))
    of = study.layers(done)
    curves = {n: np.median(100 * array(mine, "accuracy"), axis=0) for n, mine in of.items()}
    turns, looks = figures.in_turns(curves, within=_HIDES), study.looks(done)
    for layer, mine in of.items():
        look = looks[layer]
        edges = np.array(mine[0]["edges"], float)
        places = (edges[:-1] + edges[1:]) / 2
        study.draw_curves(
            left, places, 100 * array(mine, "accuracy"), label=layer, **look | turns[layer]
        )
        right.plot(places, np.median(array(mine, "gradient") / LN10, axis=0), **look)
    study.level(left, 100 * done[0]["chance"], " chance", left=True)
    far, near = "distance from question to value, steps", "relative to the question's"
    left.set(ylim=(0, 103), ylabel="right answers, %", xlabel=far, title="Recall")
    right.set(ylabel=f"gradient at the value, {near}", xlabel=far, title="Gradient of the answer")
    power_of_ten_axis(right)
    figures.legend_below(figure)
    figure.set_label(
        f"Associative recall of {done[0]['pairs']} pairs in {done[0]['length']} steps, models of "
        f"{study.parameters(done)} parameters; {study.over('median of', done)}, bands: all."
    )
    return {"recall": figure}


def summary(records: Sequence[Record]) -> Summary:
    done = study.done(records)
    return Summary((_verdict(done),), (_table(done),) if done else ())


def _verdict(records: Sequence[Record]) -> Verdict:
    claim = "inside its window attention reaches further than an RNN"
    of_kind = {r["kind"]: r["point"]["layer"] for r in reversed(records) if not r["context"]}
    if ATTENTION not in of_kind or PLAIN not in of_kind:
        missing = "needs attention to the whole sequence and a tanh RNN, trained"
        return Verdict(claim, "open", missing, 9)
    of = study.layers(records)
    recalled = {layer: float(np.median(array(of[layer], "test_accuracy"))) for layer in of}
    attention, plain = (recalled[of_kind[kind]] for kind in (ATTENTION, PLAIN))
    goal, first, chance = max(_SOLVED, plain + 0.1), records[0], records[0]["chance"]
    refuted = attention < goal
    deciding = [*of[of_kind[ATTENTION]], *of[of_kind[PLAIN]]]
    decided = -np.log(chance), "test_accuracy"
    if why := study.doubt(deciding, *decided, goal=goal if refuted else None):
        return Verdict(claim, "open", why, 9)
    others = (layer for layer in of if layer != of_kind[ATTENTION] and recalled[layer] >= 0)
    best = max(others, key=lambda layer: recalled[layer])
    text = (
        f"Of {first['pairs']} pairs in {first['length']} steps attention recalls "
        f"{percent(attention)} %, a tanh RNN with as many parameters {percent(plain)} % (chance "
        f"{percent(chance)} %); best of the others: {best}, {percent(recalled[best])} %."
    )
    text += (" One seed." if seeds(records) == "one seed" else "") + _beyond_window(records)
    rivals = [r for r in records if KINDS[r["kind"]].recurrent]
    equal = sorted({r["point"]["layer"] for r in rivals if r["test_accuracy"] >= _SOLVED})
    if equal and not refuted:
        text += f" Others that recall as much: {', '.join(equal)}."
    outcome: Outcome = "refuted" if refuted else "refined" if equal else "confirmed"
    return Verdict(claim, outcome, text, 9, f"{100 * attention:.0f} % against {100 * plain:.0f} %")


def _beyond_window(records: Sequence[Record]) -> str:
    """What attention with a short window recalls within its blocks' reach, and beyond it."""
    short = [r for r in select(records, kind=ATTENTION) if r["context"]]
    if not short:
        return ""
    context, depth, edges = (short[0][key] for key in ("context", "depth", "edges"))
    low, high, reach = np.array(edges[:-1]), np.array(edges[1:]), depth * (context - 1)
    accuracy = np.median(array(short, "accuracy"), axis=0)
    known = np.isfinite(accuracy)
    inside, beyond = accuracy[known & (high <= context)], accuracy[known & (low > reach)]
    if not len(inside) or not len(beyond):
        return ""
    return (
        f" With a window of {context} it recalls {100 * inside.mean():.0f} % inside of it and "
        f"{100 * beyond.mean():.0f} % beyond the reach of its {depth} blocks."
    )


def _table(records: Sequence[Record]) -> Table:
    edges = records[0]["edges"]
    near, far = f"{edges[0]} to {edges[1] - 1}", f"{edges[-2]} to {edges[-1] - 1}"
    rows = []
    for layer, mine in study.layers(records).items():
        by_bin = 100 * np.median(array(mine, "accuracy"), axis=0)
        gradient = np.median(array(mine, "gradient"), axis=0)[-1] / LN10
        rows.append(
            (
                layer,
                f"{mine[0]['parameters']:,}",
                study.spread(array(mine, "test_accuracy"), percent),
                *(f"{by_bin[i]:.0f}" if np.isfinite(by_bin[i]) else "–" for i in (0, -1)),
                f"10^{gradient:.1f}" if np.isfinite(gradient) else "0",
                figures.short_seconds(float(np.median(study.steps(mine)))),
            )
        )
    return Table(
        "Associative recall",
        ("mixer", "parameters", "right, %", f"at {near}", f"at {far}", "gradient there", "step"),
        tuple(rows),
        note=(
            f"Median (range) over seeds; chance is {percent(records[0]['chance'])} %. Gradient of "
            "the answer at the value it needs, relative to that at the question, at the largest "
            f"distances. Step: one of training, batch of {records[0]['batch_size']}."
        ),
    )
