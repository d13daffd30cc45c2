"""Figures, tables and verdict of `characters`, from its records alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from textwrap import TextWrapper
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.harness import figures, study
from experiments.harness.experiment import Record, Summary, Table, Verdict
from experiments.harness.kinds import KINDS
from experiments.harness.records import array, seeds

ATTENTION = "CausalSelfAttention"
_WRAPPER = TextWrapper(100, drop_whitespace=False, replace_whitespace=False)


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    done = study.done(records, "test_bits")
    return {"learning": _learning(done), "speed": _speed(done)} if done else {}


def summary(records: Sequence[Record]) -> Summary:
    done = study.done(records, "test_bits")
    numbers = [_table(done)] if done else []
    texts = [_text_table(record) for record in done if record["point"]["seed"] == 0]
    return Summary((_verdict(done),), (*numbers, *texts))


def _median(records: Sequence[Record], key: str = "test_bits") -> float:
    """inf for nan: a linear recurrence may grow on a stream until there are no numbers left."""
    return float(np.nan_to_num(np.median([record[key] for record in records]), nan=math.inf))


def _written(records: Sequence[Record]) -> float:
    """Characters a second; nan where no model's steps passed their check."""
    speeds = [record["written_per_second"] for record in records if record["counts"]]
    return float(np.median(speeds)) if speeds else math.nan


def _trained(records: Sequence[Record]) -> float:
    return _median(records, "trained_per_second")


def _learning(records: Sequence[Record]) -> Figure:
    figure, ((axes,),) = figures.new_figure(size=(8.4, 5.4))
    for layer, mine in study.layers(records).items():
        curves = array(mine, "validation_loss") / math.log(2)
        # The untrained model is far above all that follows.
        seen = 1e-6 * mine[0]["train_size"] * np.arange(1, curves.shape[1])
        axes.plot(
            seen,
            np.median(curves, axis=0)[1:],
            label=layer,
            **_look(mine[0], markersize=7),
        )
    height = records[0]["trivial_bits"]["validation_bigram"]
    study.level(axes, height, "from the character before", gap=3)
    axes.set_xlim(left=0)
    axes.set_xlabel("characters read in training, millions")
    axes.set_ylabel("bits per character")
    axes.set_title("Validation")
    figures.legend_below(figure)
    figure.set_label(
        "Validation bits per character after each epoch, models of "
        f"{study.parameters(records)} parameters."
    )
    return figure


def _speed(records: Sequence[Record]) -> Figure:
    figure, (panels,) = figures.new_figure(1, 2, size=(11.6, 5.2), sharey=True)
    titles = ("Training", "Writing, one character after another")
    speeds: tuple[Callable[[Sequence[Record]], float], ...] = (_trained, _written)
    for axes, title, speed in zip(panels, titles, speeds, strict=True):
        for layer, mine in study.layers(records).items():
            look = _look(mine[0], markersize=11, linestyle="")
            axes.plot([speed(mine)], [_median(mine)], label=layer, **look)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("characters per second")
        axes.set_title(title)
    panels[0].set_ylabel("test bits per character")
    figures.legend_below(figure)
    first = records[0]
    figure.set_label(
        f"Test bits per character against speed: training in batches of {first['batch_size']} "
        f"windows of {first['length']}, and writing by steps, one text at a time. Lower and "
        "further right is better."
    )
    return figure


def _look(record: Record, **changes: Any) -> dict[str, Any]:
    """Edges narrow enough to leave a star its points."""
    return figures.line_style(record["kind"]) | {"markeredgewidth": 0.5} | changes


def _verdict(records: Sequence[Record]) -> Verdict:
    claim = "any of these mixers learns the text"
    if not records:
        return Verdict(claim, "open", "needs a trained model")
    of = study.layers(records)
    trivial = records[0]["trivial_bits"]
    bigram = trivial["bigram"]
    wild = {n: why for n, mine in of.items() if (why := _doubt(mine, trivial["unigram"], None))}
    bits = {layer: _median(mine) for layer, mine in of.items() if layer not in wild}
    better = [layer for layer in bits if bits[layer] < bigram]
    behind = [r for layer in bits if layer not in better for r in of[layer]]
    why = _doubt(behind, trivial["unigram"], bigram)
    if why or not bits:
        return Verdict(claim, "open", why or " ".join(wild.values()))
    best = min(bits, key=lambda layer: bits[layer])
    text = (
        f"{len(better)} of {len(of)} predict the test part better than the character before does "
        f"({bigram:.2f} bits per character); best is {best}, {bits[best]:.2f}."
    )
    recurrent = [layer for layer in bits if KINDS[of[layer][0]["kind"]].recurrent]
    attention = [layer for layer in bits if of[layer][0]["kind"] == ATTENTION]
    if recurrent and attention:
        first, second = (
            min(some, key=lambda layer: bits[layer]) for some in (recurrent, attention)
        )
        text += f" Best recurrence: {first}, {bits[first]:.2f}; {second}: {bits[second]:.2f}."
    text = " ".join(
        [text, *(["One seed."] if seeds(records) == "one seed" else []), *wild.values()]
    )
    value = f"{best} {bits[best]:.2f} bits per character, bigrams {bigram:.2f}"
    if not better:
        return Verdict(claim, "open" if wild else "refuted", text, value=value)
    return Verdict(claim, "confirmed" if len(better) == len(of) else "refined", text, value=value)


def _doubt(records: Sequence[Record], unigram: float, goal: float | None) -> str:
    """In bits, of which fewer are better."""
    scored = [
        record
        | {"score": -record["test_bits"]}
        | {"validation_accuracy": -np.asarray(record["validation_loss"]) / math.log(2)}
        for record in records
    ]
    chance = unigram * math.log(2)
    return study.doubt(scored, chance, "score", "test_bits", goal=None if goal is None else -goal)


def _table(records: Sequence[Record]) -> Table:
    rows = []
    for layer, mine in sorted(study.layers(records).items(), key=lambda item: _median(item[1])):
        written = _written(mine)
        rows.append(
            (
                layer,
                f"{_median(mine):.3f}",
                f"{_median(mine, 'test_bits_windowed'):.3f}",
                f"{mine[0]['width']}",
                f"{mine[0]['parameters']:,}",
                f"{_trained(mine):,.0f}",
                "–" if math.isnan(written) else f"{written:,.0f}",
            )
        )
    first, trivial = records[0], records[0]["trivial_bits"]
    return Table(
        "Bits per character of the test part, and characters per second",
        ("mixer", "bits", "forgetting", "width", "parameters", "trained/s", "written/s"),
        tuple(rows),
        note=(
            f"Of {first['test_size']:,} characters, read as one stream; forgetting: each window of "
            f"{first['length']} begins anew. Without training: uniform {trivial['uniform']:.2f}, "
            f"by frequency {trivial['unigram']:.2f}, after the character before "
            f"{trivial['bigram']:.2f} bits. "
            + (f"Medians of {seeds(records)}. " if seeds(records) != "one seed" else "")
            + "A dash: what the steps gave did not pass its check."
        ),
    )


def _text_table(record: Record) -> Table:
    """What a model wrote, a row for each line, long ones in pieces; spaces that a page keeps."""
    written = (record["prompt"] + record["sample"]).split("\n")
    pieces = [piece for line in written for piece in _WRAPPER.wrap(line) or [""]]
    lines = [piece.replace("  ", "\u00a0\u00a0") or "\u00a0" for piece in pieces]
    return Table(
        f"{record['point']['layer']} writes ({_median([record]):.2f} bits per character)",
        (f"after {record['prompt']!r}, at temperature {record['temperature']:g}",),
        tuple((line,) for line in lines),
        brief=False,
    )
