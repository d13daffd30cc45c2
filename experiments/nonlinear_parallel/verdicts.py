"""What the records say of claim 7."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.harness.experiment import Outcome, Record, Verdict
from experiments.harness.figures import factor, short_count
from experiments.nonlinear_parallel import records as kept
from experiments.nonlinear_parallel.records import ROUNDING, forgets, grows, stretched

FEW = 1 / 4  # of the steps


def claim(records: Sequence[Record]) -> Verdict:
    """Claim 7."""
    tried = kept.newton(records)
    if flaw := _flaw(records, tried):
        return _settled("open", flaw)
    quiet, wild = [r for r in tried if forgets(r)], [r for r in tried if grows(r)]
    if not quiet:
        return _settled(
            "open", f"No recurrence with an exponent below {kept.FORGETS:g} was measured."
        )
    if wrong := _wrong(records, tried):
        return _settled("confirmed", wrong)
    best, cost = _best(records, quiet)
    if not wild:
        text = f"{best} Only recurrences that forget were measured. {cost}"
        return _settled("refuted", text, _value(quiet))
    lost = [r for r in wild if not r["converged"]]
    slow = [r for r in wild if r["converged"] and r["iterations"] >= FEW * r["point"]["length"]]
    if len(lost) + len(slow) < len(wild):
        easy = next(r for r in wild if r not in lost and r not in slow)
        text = f"{best} Where errors grow too: {_count(easy)}. {cost}"
        return _settled("refuted", text, _value(quiet))
    text = f"{best} {_where_not(tried, lost, slow)} {cost}"
    return _settled("refined", text, _value(quiet))


def _flaw(records: Sequence[Record], tried: Sequence[Record]) -> str:
    """Why no verdict follows; empty where one does."""
    if not tried:
        return "Newton's iteration was not measured yet."
    for r in tried:
        if not kept.sound(r):
            return f"The records hold numbers that are none, at {_place(r)}."
    seeds = {r["point"]["seed"] for r in kept.methods(records)}
    if len(seeds) < 2:
        return "Only one seed was measured."
    for r in kept.methods(records):
        samples = np.asarray(r.get("seconds", ()), np.float64)
        if not np.all((samples > 0) & np.isfinite(samples)):
            return f"A time is not above zero or not finite, at {_place(r)}."
    for group, ratios in kept.slowdown(records).items():
        if min(ratios) < 0.5 and max(ratios) > 2:
            place = f"T = {short_count(group[-1])}, D = {group[1]}, gain {group[2]:g}"
            return (
                f"Times contradict each other, at {place}: {min(ratios):.2g} to {max(ratios):.2g} "
                "times as long as step by step, by the seed."
            )
    return ""


def _wrong(records: Sequence[Record], tried: Sequence[Record]) -> str:
    """What speaks for the claim: no convergence where errors shrink, or none that is right."""
    for r in tried:
        if forgets(r) and not r["converged"]:
            return (
                f"Newton's iteration did not converge at {_place(r)}, exponent "
                f"{r['exponent']:.2f}, in {r['iterations']} iterations."
            )
        if r["converged"] and not r["error"] <= r.get("error_bound", float("inf")):
            return (
                f"Newton's iteration says that it converged at {_place(r)} and is off by "
                f"{r['error']:.1e}, above its bound of {r['error_bound']:.1e}."
            )
        if forgets(r) and r["iterations"] > FEW * r["point"]["length"] and _long(r):
            return (
                f"Newton's iteration took {r['iterations']} iterations at {_place(r)}, exponent "
                f"{r['exponent']:.2f}."
            )
    # Seeds together: the largest error of one trajectory is a matter of luck.
    for rows in kept.groups(r for r in kept.methods(records) if r in tried).values():
        if not all(map(forgets, rows)):
            continue
        error = max(r["error"] for r in rows)
        own = max(r["sequential_error"] for r in rows)
        limit = 2 * own + 4 * ROUNDING * max(r["largest"] for r in rows)
        if error > limit:
            return (
                f"Newton's iteration is off by {error:.1e} at {_place(rows[0])}, step by step by "
                f"{own:.1e}."
            )
    return ""


def _long(record: Record) -> bool:
    """Whether T is large beside the logarithm of it."""
    return record["point"]["length"] >= 256


def _best(records: Sequence[Record], quiet: Sequence[Record]) -> tuple[str, str]:
    """What was found at the longest length where errors shrink, and what it costs in time."""
    mine = [r for r in quiet if r["point"]["part"] == "methods"] or list(quiet)
    length = max(r["point"]["length"] for r in mine)
    longest = kept.groups(r for r in mine if r["point"]["length"] == length).values()
    # Of those with most seeds the one that forgets most slowly: the hardest.
    rows = max(longest, key=lambda rows: (len(rows), kept.median(rows, "exponent")))
    error, own = (max(r[key] for r in rows) for key in ("error", "sequential_error"))
    seeds = f" (medians of {len(rows)} seeds)" if len(rows) > 1 else ""
    text = (
        f"{_times(kept.median(rows, 'iterations'))} in place of {length:,} steps at exponent "
        f"{kept.median(rows, 'exponent'):.2f}{seeds}, off by at most "
        f"{error:.1e} from float64, step by step by {own:.1e}; all {len(quiet)} trajectories that "
        "forget were found, to rounding."
    )
    ratios = kept.slowdown(records)
    quiet_groups = {kept.recurrence(r) for r in quiet}
    known = {group: np.median(values) for group, values in ratios.items() if group in quiet_groups}
    if not known:
        return text, "It was not timed."
    group = min(known, key=lambda group: known[group])
    ratio = known[group]
    pace = f"{factor(1 / ratio)}x faster" if ratio < 1 else f"{factor(ratio)}x slower"
    place = f"T = {short_count(group[-1])}, D = {group[1]}"
    return text, f"In time, at best, it is {pace} than step by step on this device ({place})."


def _where_not(tried: Sequence[Record], lost: Sequence[Record], slow: Sequence[Record]) -> str:
    """Where errors grow."""
    parts = []
    if lost:
        length = max(r["point"]["length"] for r in lost)
        parts.append(
            f"{len(lost)} did not converge in {max(r['iterations'] for r in lost)} iterations "
            f"(T up to {short_count(length)}), and said so"
        )
    if slow:
        parts.append(
            f"{len(slow)} did in {_range([r['iterations'] for r in slow])} iterations for "
            f"{max(r['point']['length'] for r in slow):,} steps"
        )
    text = f"Where errors grow (exponent above {kept.GROWS:g}) {', '.join(parts)}."
    near = [r for r in tried if kept.FORGETS < r["exponent"] < kept.GROWS]
    if near:
        done = [r for r in near if r["converged"]]
        text += f" Between them {len(done)} of {len(near)} converged"
        if done:
            worst = max(r["error"] / max(r["sequential_error"], ROUNDING) for r in done)
            text += f", off by up to {worst:.2g} times the loop's error"
        text += "."
    between = [r for r in tried if stretched(r) and not r["converged"]]
    if between:
        worst = min(between, key=lambda r: r["exponent"])
        text += (
            f" A negative exponent alone is not enough: at {worst['exponent']:.2f} it gave up "
            f"where a distance grows {np.exp(worst['overshoot']):.0e} times along one stretch."
        )
    return text


def _count(record: Record) -> str:
    return f"{_times(record['iterations'])} at {_place(record)}, exponent {record['exponent']:.2f}"


def _times(count: float) -> str:
    return f"{count:g} iteration{'s' if count != 1 else ''}"


def _place(record: Record) -> str:
    point = record["point"]
    return (
        f"T = {short_count(point['length'])}, D = {point['width']}, gain {point['gain']:g}, "
        f"seed {point['seed']}"
    )


def _value(quiet: Sequence[Record]) -> str:
    length = max(r["point"]["length"] for r in quiet)
    rows = [r for r in quiet if r["point"]["length"] == length]
    return f"{_range([r['iterations'] for r in rows])} iterations for {length:,} steps"


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def _settled(outcome: Outcome, text: str, value: str = "") -> Verdict:
    return Verdict("with tanh, serial evaluation is unavoidable", outcome, text, 7, value)
