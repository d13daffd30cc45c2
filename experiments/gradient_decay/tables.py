"""The tables of `gradient_decay`; each is None where there are no records for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.gradient_decay.records import (
    DOZEN,
    Curve,
    kept,
    layers,
    lengths,
    longest,
    mean_field_horizon,
    measured,
    percent,
    steps,
    values,
    where,
    with_interval,
    with_state,
)
from experiments.harness.experiment import Record, Table
from experiments.harness.records import seeds

_FLAT = 0.1  # ln of the change over the fitted lags up to which a curve is called flat


def of_state(records: Sequence[Record]) -> Table | None:
    records = with_state(records)
    if not records:
        return None
    rows = []
    for layer in layers(records):
        mine = longest(records, layer)
        underflow = float(np.median(values(mine, "state", "float32_lag")))
        rows.append((*_reach(layer, mine, "state"), _law(mine), steps(underflow)))
    columns = (*_columns(records), "law (seeds)", "float32 reads 0 at")
    fitted = longest(records, rows[0][0])[0]["state"]["fit_lags"]
    return Table(
        f"State: norm of dh_T/dh_(T-k), in steps; T = {max(lengths(records))}",
        columns,
        tuple(rows),
        note=(
            f"{_medians(records)} The law is the one of lower AIC over lags 0 to {fitted}. A "
            "half-life is where the measured norm first halves; a power law has no other."
        ),
    )


def of_input(records: Sequence[Record]) -> Table | None:
    if not records:
        return None
    rows = []
    for layer in layers(records):
        mine = longest(records, layer)
        newest = float(np.median(values(mine, "input", "share_of_newest")))
        rows.append((*_reach(layer, mine, "input"), percent(newest)))
    return Table(
        "Input: norm of dL/dx_(T-k) relative to lag 0, in steps; L reads the last state, or the "
        f"last output where there is none; T = {max(lengths(records))}",
        (*_columns(records), f"share of the newest {DOZEN}"),
        tuple(rows),
        note=(
            f"{_medians(records)} The share is that of the sum of the norms over all lags: "
            f"{percent(DOZEN / max(lengths(records)))} where all inputs count alike. Attention is "
            "counted from lag 1: its newest input is the query as well."
        ),
    )


def by_length(records: Sequence[Record]) -> Table | None:
    records = with_state(records)
    if not records:
        return None
    rows = []
    for layer in layers(records):
        cells = []
        for length in lengths(records):
            mine = where(records, layer=layer, length=length)
            cells.append(with_interval(_fitted_half_lives(mine)) if mine else "–")
        rows.append((layer, longest(records, layer)[0]["init"], *cells))
    return Table(
        "State: half-life of the fitted exponential by sequence length T, in steps",
        ("layer", "start", *(f"T = {length}" for length in lengths(records))),
        tuple(rows),
        note=f"{_interval(records, 'Median')}. A short one has fewer lags to fit.",
        brief=False,
    )


def by_gain(records: Sequence[Record]) -> Table | None:
    if not records:
        return None
    stds = sorted({record["point"]["input_std"] for record in records})
    gains = sorted({record["point"]["gain"] for record in records})
    length, eps = records[0]["length"], records[0]["eps"]
    rows = []
    for gain in gains:
        cells = []
        for std in stds:
            mine = where(records, gain=gain, input_std=std)
            if not mine:
                cells.append("–")
                continue
            found = with_interval(values(mine, "state", "horizon"), length)
            cells.append(f"{found} / {steps(mean_field_horizon(mine[0], eps))}")
        rows.append((f"{gain:g}", *cells))
    return Table(
        f"A tanh RNN's horizon: steps until the gradient is {eps:g}, measured / mean field",
        ("gain of W_hh", *(f"input std {std:g}" for std in stds)),
        tuple(rows),
        note=f"{_interval(records, 'Median')}, up to T = {length}.",
        brief=False,
    )


def _columns(records: Sequence[Record]) -> tuple[str, ...]:
    eps = records[0]["eps"]
    return ("layer", f"left after {DOZEN}", "half-life", "closed form", f"down to {eps:g}")


def _reach(layer: str, mine: Sequence[Record], of: Curve) -> tuple[str, ...]:
    """The cells of `_columns`."""
    expected = mine[0][of]["theory_half_life"]
    return (
        layer,
        percent(kept(mine, of, DOZEN)),
        measured(mine, of, "half_life"),
        "–" if expected is None else steps(expected),
        measured(mine, of, "horizon"),
    )


def _law(mine: Sequence[Record]) -> str:
    """Of the state's curve."""
    if any(record["state"]["law"] is None for record in mine):
        return "falls to 0"
    steepest = np.abs(values(mine, "state", "rate")).max()
    if np.isnan(steepest):
        return "–"
    if steepest * mine[0]["state"]["fit_lags"] < _FLAT:
        return "flat"
    powers = sum(record["state"]["law"] == "power" for record in mine)
    law = "power law" if powers > len(mine) / 2 else "exponential"
    return f"{law} ({max(powers, len(mine) - powers)}/{len(mine)})"


def _fitted_half_lives(records: Sequence[Record]) -> np.ndarray:
    """ln 2 / rate of the fitted exponential; a rate that is zero to rounding never halves."""
    rates = values(records, "state", "rate")
    flat = np.log(2) / 1e6
    return np.where(rates > flat, np.log(2) / np.maximum(rates, flat), np.inf)


def _medians(records: Sequence[Record]) -> str:
    return f"{_interval(records, f'Median of {seeds(records)}')}."


def _interval(records: Sequence[Record], many: str) -> str:
    """What a number and its brackets are; one seed has none."""
    several = len({record["seed"] for record in records}) > 1
    return f"{many} [95 % bootstrap interval over seeds]" if several else "One seed"
