"""What the records say beside claim 7: of the fewest iterations, of training, of the theory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.harness.experiment import Outcome, Record, Verdict
from experiments.harness.figures import short_count
from experiments.harness.records import array, select, unsound
from experiments.nonlinear_parallel import records as kept
from experiments.nonlinear_parallel.prediction import WITHIN, compared
from experiments.nonlinear_parallel.records import ROUNDING
from experiments.nonlinear_parallel.training import WAYS

TRAINED = 50  # steps over which losses are compared
_ENOUGH = 5  # recurrences for a verdict on the theory


def fewest(records: Sequence[Record]) -> Verdict | None:
    """Whether K*(T) grows."""
    found = kept.of_part(records, "fewest")
    if not found:
        return None
    name = "K*(T), the fewest iterations within 1e-4, does not grow with T"
    lengths = sorted({r["point"]["length"] for r in found})
    seeds = {r["point"]["seed"] for r in found}
    if len(lengths) < 2 or len(seeds) < 2:
        return Verdict(name, "open", "Needs two lengths and two seeds.")
    begun = [{**r, "first error": r["errors"][:1]} for r in found]
    if unsound(begun, "exponent", "first error") or not all(map(kept.sound, found)):
        return Verdict(name, "open", "The records hold numbers that are none.")
    series = fewest_series(found)
    if any(set(rows) != set(lengths) for rows in series.values()):
        return Verdict(name, "open", "Some lengths were not measured yet.")
    if len(found) < len(series) * len(lengths) * len(seeds):
        return Verdict(name, "open", "Some seeds were not measured yet.")
    first, last = lengths[0], lengths[-1]
    ends = {title: (rows[first], rows[last]) for title, rows in series.items()}
    flat = [title for title, (low, high) in ends.items() if high <= low + 1]
    said = "; ".join(
        f"{title} {_number(low)} to {_number(high)}" for title, (low, high) in ends.items()
    )
    text = (
        f"From T = {short_count(first)} to {short_count(last)}: {said} (medians). "
        f"{len(flat)} of {len(ends)} grow by one iteration at most."
    )
    outcome: Outcome = "confirmed" if len(flat) == len(ends) else "refined" if flat else "refuted"
    return Verdict(name, outcome, text, value=f"{len(flat)} of {len(ends)} flat")


def fewest_series(found: Sequence[Record]) -> dict[str, dict[int, float]]:
    """Median over seeds by length, for each recurrence; inf where the most was not enough."""
    series: dict[str, dict[int, list[float]]] = {}
    for record in found:
        point = record["point"]
        title = record["title"]
        if point["cell"] == "rnn":
            title = f"{title}, g = {point['gain']:g}"
        counts = series.setdefault(title, {}).setdefault(point["length"], [])
        counts.append(float("inf") if record["fewest"] is None else record["fewest"])
    return {
        title: {length: float(np.median(counts)) for length, counts in sorted(rows.items())}
        for title, rows in series.items()
    }


def training(records: Sequence[Record]) -> Verdict | None:
    """Whether training by Newton is training step by step, to rounding."""
    found = kept.of_part(records, "training")
    if not found:
        return None
    name = "training with Newton's iteration is training step by step, to rounding"
    truth, loop, newton = (losses(found, way) for way in WAYS)
    if not (truth and truth.keys() == loop.keys() == newton.keys()):
        return Verdict(name, "open", "Needs the three ways of every seed.")
    if len(truth) < 2:
        return Verdict(name, "open", "Needs two seeds.")
    if flaw := unsound(found, "losses", "converged", "iterations"):
        return Verdict(name, "open", flaw)
    every = [curve for way in (truth, loop, newton) for curve in way.values()]
    if len(set(map(len, every))) > 1:
        return Verdict(name, "open", "Some were trained for fewer steps than others.")
    if any(curve[-1] > 2 * curve[0] for curve in every):
        return Verdict(name, "open", "A training diverged: take smaller steps.")
    steps = min(TRAINED, len(every[0]))
    own, other = (
        max(np.max(np.abs(way[seed] - truth[seed])[:steps]) for seed in truth)
        for way in (loop, newton)
    )
    largest = max(np.max(np.abs(curve)) for curve in truth.values())
    mine = [r for r in found if r["point"]["way"] == WAYS[2]]
    settled = np.mean([np.mean(r["converged"]) for r in mine])
    most = max(np.max(r["iterations"]) for r in mine)
    text = (
        f"Over {steps} steps and {len(truth)} seeds losses by Newton stay within {other:.1e} of "
        f"float64, those step by step within {own:.1e}; {100 * settled:.0f} % of the evaluations "
        f"converged, in at most {most:.0f} iterations for {mine[0]['length']} steps of time."
    )
    within = other <= 2 * own + 8 * ROUNDING * largest
    outcome: Outcome = "confirmed" if within and settled == 1 else "refuted"
    if within and settled < 1:
        outcome = "refined"
    return Verdict(name, outcome, text, value=f"{other:.1e} against {own:.1e}")


def losses(found: Sequence[Record], way: str) -> dict[int, np.ndarray]:
    """By seed; nan where there is none."""
    curves = {r["point"]["seed"]: array([r], "losses")[0] for r in select(found, way=way)}
    return {seed: np.where(np.isfinite(curve), curve, np.nan) for seed, curve in curves.items()}


def prediction(records: Sequence[Record]) -> Verdict | None:
    """Whether the mean field says how many iterations there are."""
    tried = [r for r in kept.newton(records) if r["point"]["cell"] == "rnn"]
    if not tried:
        return None
    name = "the mean field predicts Newton's iterations, with nothing fitted"
    if not all(map(kept.sound, tried)):
        return Verdict(name, "open", "The records hold numbers that are none: measure again.")
    found = compared(tried)
    if len(found) < _ENOUGH:
        return Verdict(name, "open", f"Needs {_ENOUGH} recurrences; there are {len(found)}.")
    done = [it for it in found if np.isfinite(it.measured)]
    lost = [it for it in found if not np.isfinite(it.measured)]
    if not done:
        return Verdict(name, "open", "None of the recurrences converged.")
    right, said = sum(it.right for it in done), sum(it.right for it in lost)
    text = (
        f"Of {len(done)} tanh RNNs on which it converged {right} are predicted within {WITHIN:g} "
        "times, from g, the scale of the inputs, D and T."
    )
    if lost:
        text += f" Of {len(lost)} on which it did not, {said} are predicted so."
    # Those that fail are the easier half: they do not make up for the others.
    share = min(right / len(done), said / len(lost) if lost else 1.0)
    outcome: Outcome = "confirmed" if share >= 0.9 else "refined" if share >= 0.5 else "refuted"
    return Verdict(name, outcome, text, value=f"{right} of {len(done)} within {WITHIN:g} times")


def _number(value: float) -> str:
    return f"{value:g}" if np.isfinite(value) else "more than tried"
