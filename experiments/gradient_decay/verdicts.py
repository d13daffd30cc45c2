"""What the records of `gradient_decay` say of claim 4, and of the closed forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.gradient_decay.records import (
    DOZEN,
    curve_of,
    fraction,
    kept,
    layers,
    longest,
    measured,
    percent,
    values,
    where,
    with_state,
)
from experiments.harness.experiment import Outcome, Record, Verdict

GATED = ("LSTM", "GRU")
FURTHER = 2.0  # times as far is what "further" means


def of_a_dozen(decay: Sequence[Record], gain: Sequence[Record]) -> Verdict:
    """Claim 4: is 1/1000 reached within a third of a dozen to three dozen steps, and by what?"""
    claim = "after a dozen or so steps a plain RNN has almost forgotten"
    decay = with_state(decay)
    plain = _usual_start(decay, "RNN")
    if not plain:
        text = "no tanh RNN with torch's default weights among the records yet"
        return Verdict(claim, "open", text, 4)
    reach = [record for record in decay if record["kind"] in ("RNN", *GATED)]
    if flaw := _flaw([*reach, *gain], "horizon") or _flaw(plain, "half_life", "norms"):
        return Verdict(claim, "open", flaw, 4)
    eps, length = plain[0]["eps"], plain[0]["point"]["length"]
    horizon = _horizon(plain)
    if np.isinf(horizon) and length < 3 * DOZEN:
        text = f"its gradient is above {fraction(eps)} after all {length} steps: needs longer ones"
        return Verdict(claim, "open", text, 4)
    interval = measured(plain, "state", "horizon")
    half = float(np.median(values(plain, "state", "half_life")))
    text = (
        f"A tanh RNN with torch's default weights halves its gradient every {half:.2g} steps and "
        f"keeps {percent(kept(plain, 'state', DOZEN))} of it after {DOZEN}; it is down to "
        f"{fraction(eps)} after {interval} steps. "
    )
    others = _spread_over_gains(gain)
    if others:
        low, high, length = others
        until = f"more than {length}" if np.isinf(high) else f"{high:.3g}"
        text += (
            "The number belongs to the gain of W_hh and to how hard the input drives, not to the "
            f"RNN: over the gains and inputs tried it is {low:.2g} to {until} steps. "
        )
    longer = _further(decay, horizon, kinds=("RNN",))
    if longer:
        text += f"More than twice as far, of tanh RNNs: {'; '.join(longer)}. "
    gated, sentence = _gated(decay, horizon)
    outcome: Outcome
    if not DOZEN / 3 <= horizon <= 3 * DOZEN:
        outcome = "refuted"
    else:
        no_help = bool(gated) and min(gated) < FURTHER
        outcome = "refined" if others or longer or no_help else "confirmed"
    value = f"{fraction(eps)} after {interval} steps"
    return Verdict(claim, outcome, (text + sentence).strip(), 4, value)


def of_closed_forms(decay: Sequence[Record]) -> Verdict:
    claim = "closed forms say how fast a gradient decays at initialisation"
    rows = []
    for layer in layers(decay):
        mine = longest(decay, layer)
        of = curve_of(mine[0])
        if mine[0][of]["theory"] is None:
            continue
        expected = np.array(mine[0][of]["theory"], np.float64)
        early = (np.array(mine[0]["lags"])[: len(expected)] <= DOZEN) & np.isfinite(expected)
        found = values(mine, of, "norms")[:, early]
        if not found.size:
            continue
        if not np.isfinite(found).all():
            text = f"The norms of {layer} hold no finite numbers: measure again."
            return Verdict(claim, "open", text)
        rows.append((float(np.abs(np.median(found, axis=0) - expected[early]).max()), layer))
    if not rows:
        return Verdict(claim, "open", "no records with a closed form yet")
    worst, layer = max(rows)
    have = (
        "the one layer that has" if len(rows) == 1 else f"each of the {len(rows)} layers that have"
    )
    text = (
        f"Over the first {DOZEN} steps the measured norm is within a factor {np.exp(worst):.2f} of "
        f"the closed form for {have} one (worst: {layer}). At "
        "longer lags one finite W keeps to its own spectral radius, and a finite ring to its "
        "slowest decay."
    )
    return Verdict(claim, "confirmed" if worst < np.log(2) else "refined", text)


def _flaw(records: Sequence[Record], *keys: str) -> str:
    """Why no verdict can rest on these numbers of the state; a horizon may lie beyond the lags."""
    for record in records:
        for key in keys:
            found = values([record], "state", key)
            wrong = np.isnan(found) | ((found <= 0) if key != "norms" else np.isinf(found))
            if wrong.any() or not found.size:
                where = " ".join(map(str, record["point"].values()))
                what = key.replace("_", "-")
                return f"{where}, seed {record['seed']}, has no sound {what}: measure again."
    return ""


def _usual_start(decay: Sequence[Record], kind: str) -> list[Record]:
    """The records of torch's initialisation at the longest length."""
    mine = [record for record in decay if record["kind"] == kind and record["plain"]]
    return longest(mine, mine[0]["point"]["layer"]) if mine else []


def _horizon(records: Sequence[Record]) -> float:
    return float(np.median(values(records, "state", "horizon")))


def _further(decay: Sequence[Record], horizon: float, kinds: Sequence[str]) -> list[str]:
    """Layers of these kinds that reach more than twice as far as this, each with its number."""
    found = []
    for layer in layers([record for record in decay if record["kind"] in kinds]):
        mine = longest(decay, layer)
        if _horizon(mine) > FURTHER * horizon:
            found.append(f"{layer} ({measured(mine, 'state', 'horizon')})")
    return found


def _gated(decay: Sequence[Record], horizon: float) -> tuple[list[float], str]:
    """How many times as far as `horizon` LSTM and GRU reach at their usual start, and in words."""
    usual = {kind: _usual_start(decay, kind) for kind in GATED}
    usual = {kind: records for kind, records in usual.items() if records}
    if not usual:
        return [], ""
    parts = [f"{kind} takes {measured(mine, 'state', 'horizon')}" for kind, mine in usual.items()]
    if np.isinf(horizon):
        return [], f"At torch's start {' and '.join(parts)} steps."
    reach = [_horizon(mine) / horizon for mine in usual.values()]
    end = max(mine[0]["point"]["length"] for mine in usual.values()) / horizon
    times = " and ".join(
        f"more than {end:.2g}" if np.isinf(ratio) else f"{ratio:.2g}" for ratio in reach
    )
    text = f"At torch's start {' and '.join(parts)} steps, {times} times as many"
    started = _further(decay, horizon, kinds=tuple(usual))
    if started:
        text += f"; more than twice as many: {'; '.join(started)}"
    return reach, f"{text}."


def _spread_over_gains(gain: Sequence[Record]) -> tuple[float, float, int] | None:
    """Least and greatest median horizon of the gain study, if they differ twofold; and its T."""
    points = {(r["point"]["gain"], r["point"]["input_std"]) for r in gain}
    medians = [_horizon(where(gain, gain=g, input_std=std)) for g, std in points]
    if not medians or max(medians) < 2 * min(medians):
        return None
    return min(medians), max(medians), gain[0]["length"]
