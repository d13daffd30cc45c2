"""Figure, tables and the verdict of `parameter_sharing`, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import figures
from experiments.harness.experiment import Record, Summary, Table, Verdict
from experiments.harness.figures import number
from experiments.harness.kinds import KINDS
from experiments.harness.records import distinct, select, unsound

# What the article says of input 100, hidden 128, length 10 and no biases.
ARTICLE = {"MLP": 128_000, "CausalConv1D": 38_400, "RNN": 29_184}


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    counts = _growth(records)
    if not counts:
        return {}
    figure, ((axes,),) = figures.new_figure(size=(8.4, 5.2))
    axes.set_title("Parameters that a layer needs for sequences of one length")
    heights = {k: np.log10([by[n] or np.nan for n in sorted(by)]) for k, by in counts.items()}
    turns = figures.in_turns(heights, within=0.02)
    for kind, by_length in counts.items():
        lengths = sorted(by_length)
        found = [by_length[n] or np.nan for n in lengths]
        axes.plot(lengths, found, label=kind, **figures.line_style(kind) | turns[kind])
    first = select(records, study="growth")[0]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("sequence length T")
    axes.set_ylabel("parameters")
    figures.legend_below(figure)
    figure.set_label(
        f"Parameters of a layer of {first['hidden']} units that reads {first['input_size']} "
        "features a step, counted from its arrays, biases included."
    )
    return {"growth": figure}


def summary(records: Sequence[Record]) -> Summary:
    tables = [table for table in (_article_table(records), _growth_table(records)) if table]
    return Summary((_verdict(records),), tuple(tables))


def _counts(records: Sequence[Record], study: str) -> dict[str, int]:
    return {r["point"]["layer"]: r["parameters"] for r in select(records, study=study)}


def _growth(records: Sequence[Record]) -> dict[str, dict[int, int]]:
    grown = select(records, study="growth")
    return {
        kind: {r["length"]: r["parameters"] for r in select(grown, layer=kind)}
        for kind in distinct(grown, "layer")
    }


def _article_table(records: Sequence[Record]) -> Table | None:
    found = _counts(records, "article")
    if not found:
        return None
    with_biases = _counts(records, "biases")
    first = select(records, study="article")[0]
    inputs, hidden, length = first["input_size"], first["hidden"], first["length"]
    formulas = {
        "MLP": ("T D_in D_h", length * inputs * hidden),
        "CausalConv1D": ("3 D_in D_h", 3 * inputs * hidden),
        "RNN": ("D_h (D_in + D_h)", hidden * (inputs + hidden)),
    }
    rows = [
        (f"{kind}, no biases", number(count, ","), formulas[kind][0], f"{formulas[kind][1]:,}")
        for kind, count in found.items()
    ]
    if with_biases:
        count = with_biases["RNN"]
        formula = hidden * (inputs + hidden + 1)
        rows.append(
            (
                "RNN, two biases as in torch",
                number(count, ","),
                "D_h (D_in + D_h + 1)",
                f"{formula:,}",
            )
        )
    return Table(
        f"D_in = {inputs}, D_h = {hidden}, T = {length}",
        ("layer", "counted", "the article's formula", "gives"),
        tuple(rows),
        note="The formula has one bias vector; torch and this package keep two, which only add up.",
    )


def _growth_table(records: Sequence[Record]) -> Table | None:
    counts = _growth(records)
    if not counts:
        return None
    lengths = sorted({length for by_length in counts.values() for length in by_length})
    rows = [
        (kind, *(number(by_length.get(n, np.nan), ",") for n in lengths))
        for kind, by_length in counts.items()
    ]
    columns = ("layer", *(f"T = {length:,}" for length in lengths))
    return Table("Parameters, biases included", columns, tuple(rows))


def _verdict(records: Sequence[Record]) -> Verdict:
    claim = "parameter sharing: an RNN's parameters do not depend on the length"
    found, counts = _counts(records, "article"), _growth(records)
    if found.keys() != ARTICLE.keys() or "MLP" not in counts or "RNN" not in counts:
        return Verdict(claim, "open", "not every layer has been counted yet", 2)
    if flaw := unsound(records, "parameters", above=0):
        return Verdict(claim, "open", flaw, 2)
    if few := [kind for kind, by_length in counts.items() if len(by_length) < 2]:
        text = f"needs two lengths of every layer: {few[0]} was counted at one"
        return Verdict(claim, "open", text, 2)
    lengths = sorted(counts["MLP"])
    growing = [kind for kind, by in counts.items() if len(set(by.values())) > 1]
    made_for_one = [kind for kind in counts if KINDS[kind].one_output]
    # Least squares of parameters against length: how much of the growth a straight line leaves out.
    values = np.array([counts["MLP"][n] for n in lengths], float)
    line = np.polyfit(lengths, values, 1)
    straight = float(np.abs(np.polyval(line, lengths) - values).max() / values.max())
    grows = growing == made_for_one and straight < 1e-6
    text = (
        f"Counted: fully connected {found['MLP']:,}, convolution {found['CausalConv1D']:,}, RNN "
        f"{found['RNN']:,} without biases. From T = {lengths[0]:,} to {lengths[-1]:,} the fully "
        f"connected net grows {values[-1] / values[0]:,.0f} times, on a straight line; of the "
        f"{len(counts)} layers {len(growing)} grow{'s' if len(growing) == 1 else ''}."
    )
    biases = _counts(records, "biases").get("RNN")
    if biases:
        text += (
            f" With biases the RNN has {biases:,}: two vectors where the article's formula has one."
        )
    outcome = "confirmed" if grows and found == ARTICLE else "refuted" if not grows else "refined"
    value = " / ".join(f"{found[kind]:,}" for kind in ARTICLE)
    return Verdict(claim, outcome, text, 2, value)
