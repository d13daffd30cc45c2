"""The verdicts of `digits`, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.digits.records import (
    array,
    layers,
    mean_and_spread,
    of,
    percent,
    reading_title,
    readings,
    seeds,
)
from experiments.harness.experiment import Outcome, Record, Verdict
from experiments.harness.kinds import KINDS

_GOAL = 0.95  # of the best recurrent mixer, pixel by pixel
_GOOD = 0.9  # an accuracy that no classifier has by chance, and no forgetful one on 64 steps


def _medians(records: Sequence[Record]) -> dict[str, float]:
    return {
        layer: float(np.median(array(of(records, layer=layer), "test_accuracy")))
        for layer in layers(records)
    }


def classifier(records: Sequence[Record]) -> Verdict:
    claim = "the last state, in a linear layer, classifies real sequences"
    if not records:
        return Verdict(claim, "open", "no trained classifier among the records yet", 11)
    parts, best = [], 0.0
    for reading in readings(records):
        mine = of(records, reading=reading)
        medians = _medians(mine)
        top = max(medians, key=lambda layer: medians[layer])
        best = max(best, medians[top])
        parts.append(f"{reading_title(mine[0])}: {percent(medians[top])} % ({top})")
    head = "a linear readout" if records[0]["head"] == "linear" else "an mlp readout"
    text = f"Best test accuracy with {head}, median of {seeds(records)}; {'; '.join(parts)}."
    outcome = "confirmed" if best >= _GOOD else "refuted"
    return Verdict(claim, outcome, text, 11, f"{percent(best)} % of test scans")


def mixer(records: Sequence[Record]) -> Verdict:
    """Of the recurrent mixer that validates best, so that the test set chooses nothing."""
    claim = f"pixel by pixel, a recurrent mixer reads {100 * _GOAL:g} % of the digits"
    mine = [r for r in records if KINDS[r["kind"]].recurrent and r["length"] == 64]
    if not mine:
        return Verdict(claim, "open", "needs a recurrent mixer, pixel by pixel")

    def validated(layer: str) -> float:
        return float(np.mean([max(r["validation_accuracy"]) for r in of(mine, layer=layer)]))

    best = max(layers(mine), key=validated)
    mean, spread = mean_and_spread(of(mine, layer=best))
    text = (
        f"{best}, the recurrent mixer that validates best: {percent(mean)} ± {percent(spread)} % "
        f"of {mine[0]['test_size']} test scans (mean and standard deviation of {seeds(mine)}), "
        f"{of(mine, layer=best)[0]['parameters']:,} parameters."
    )
    others = [r for r in records if not KINDS[r["kind"]].recurrent]
    if others:
        rest = [f"{n} {percent(mean_and_spread(of(others, layer=n))[0])}" for n in layers(others)]
        text += f" Without recurrence: {', '.join(rest)} %."
    outcome = "confirmed" if mean >= _GOAL else "refuted"
    return Verdict(claim, outcome, text, value=f"{percent(mean)} ± {percent(spread)} %")


def memory(records: Sequence[Record]) -> Verdict:
    """Does a network that forgets at the start learn to remember, and what does it cost?"""
    claim = "a plain RNN forgets the beginning of 64 steps"
    plain = [
        record
        for record in records
        if record["kind"] == "RNN" and "torch" in record["init"] and record["length"] >= 32
    ]
    others = [
        record
        for record in records
        if record["length"] >= 32 and record["point"]["layer"] not in layers(plain)
    ]
    if not plain or not others:
        text = "needs a tanh RNN with torch's default weights and another layer, pixel by pixel"
        return Verdict(claim, "open", text)
    before, after = (
        float(np.median([record[f"input_{when}"][-1] for record in plain]))
        for when in ("before", "after")
    )
    mine = float(np.median(array(plain, "test_accuracy")))
    medians = _medians(others)
    top = max(medians, key=lambda layer: medians[layer])
    text = (
        f"With torch's default weights the first pixel's gradient begins at {np.exp(before):.0e} "
        f"of the last one's and ends at {np.exp(after):.1g}; test accuracy {percent(mine)} % "
        f"against {percent(medians[top])} % for {top}, same budget."
    )
    outcome: Outcome
    if before > np.log(plain[0]["eps"]):
        outcome = "refuted"
    elif after > np.log(plain[0]["eps"]):
        outcome = "refined"
        text += " It forgets at the start; training teaches it to remember, late and less well."
        if mine >= medians[top]:
            text = text.replace(", late and less well", "")
    else:
        outcome = "confirmed"
    return Verdict(claim, outcome, text)
