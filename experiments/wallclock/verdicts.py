"""The verdicts of `wallclock` on claims 5 and 8, from its records alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.harness import race
from experiments.harness.experiment import Record, Verdict
from experiments.harness.figures import factor, short_count, short_seconds
from experiments.harness.kinds import KINDS
from experiments.harness.race import percent, title
from experiments.harness.records import by, distinct, gain, select
from experiments.wallclock.records import counted, lengths, seconds
from experiments.wallclock.work import levels

PARALLEL = ("associative", "blocked")
# A sequential layer at half the limit of the machine would leave no bottleneck worth the name.
_BUSY = 0.5


class _Gain(NamedTuple):
    """A parallel method beside the sequential one of the same layer, at the longest length that
    both were timed at; ordered by that length, then by how many times as fast it is."""

    length: int
    times: float
    clear: bool
    sequential: Record
    parallel: Record


def waits(records: Sequence[Record]) -> Verdict:
    """Claim 5. Confirmed: the tanh RNN is far from the limit and a parallel method clearly faster
    than its sequential one. Refined: far from the limit, but none is. Refuted: near the limit."""
    claim, good = "Step t waits for t-1, so the machine idles", counted(records)
    longest = select(good, kind="RNN", length=max(lengths(good), default=0))
    if not longest:
        return Verdict(claim, "open", "No tanh RNN was timed and found right yet.", 5)
    direction = distinct(longest, "direction")[-1]
    rnn = select(longest, direction=direction)[0]
    if doubt := race.doubt([rnn, *select(good, point=rnn["point"])]):
        return Verdict(claim, "open", doubt, 5)
    length, reached = rnn["point"]["length"], min(race.share(rnn), 1.0)
    text = (
        f"{title(direction).capitalize()} at T = {short_count(length)}: the tanh RNN takes "
        f"{short_seconds(seconds(rnn) * rnn['batch'] / length)} a step and reaches "
        f"{percent(reached)} of this machine's limit ({rnn['limited_by']})."
    )
    value = f"{percent(reached)} of the limit"
    if reached >= _BUSY:
        return Verdict(claim, "refuted", f"{text} It hardly idles.", 5, value)
    linear = [record for record in good if KINDS[record["kind"]].linear]
    best = _best(select(linear, direction=direction))
    if not best:
        text += " No parallel method was timed beside it yet."
        return Verdict(claim, "open", text, 5, value)
    if doubt := race.doubt([best.sequential, best.parallel]):
        return Verdict(claim, "open", f"{text} {doubt}", 5, value)
    where = f"arallel over time at T = {short_count(best.length)}, {best.parallel['layer']}"
    if best.times <= 1:
        text += f" But p{where} (the best of them) takes {factor(1 / best.times)} times as long."
        return Verdict(claim, "refined", text, 5, value)
    if not best.clear:
        text += f" P{where} (the best of them) is no faster beyond the noise."
        return Verdict(claim, "refined", text, 5, value)
    text += f" P{where} (the best of them) is {factor(best.times)} times as fast."
    return Verdict(claim, "confirmed", text, 5, value)


def returns(records: Sequence[Record]) -> Verdict:
    """Claim 8, by the selective state-space layers. Refuted: one of their results is not that of
    the definition, step by step. Confirmed: all are, and a parallel method is clearly faster than
    the sequential one. Refined: all are, but no parallel method is faster here."""
    claim = "Mamba-like models return to linear recurrence to be parallel"
    mine = [r for r in records if "kind" in r and KINDS[r["kind"]].state_space]
    wrong = [record for record in mine if not record["counts"]]
    numbers = [record for record in wrong if math.isfinite(record["error"])]
    if numbers:
        worst = race.worst(numbers)
        text = (
            f"{worst['contender']}, {title(worst['point']['direction'])} at T = "
            f"{short_count(worst['point']['length'])}, is off from its definition, step by step in "
            f"float64, by {worst['error']:.1e}; rounding explains {worst['tolerance']:.1e}."
        )
        return Verdict(claim, "refuted", text, 8, f"error {worst['error']:.1e}")
    if wrong:
        text = f"{wrong[0]['contender']} gave no numbers to hold against its definition."
        return Verdict(claim, "open", text, 8)
    mine = counted(mine)
    direction = distinct(mine, "direction")[-1:]
    best = _best(select(mine, direction=direction[0])) if direction else None
    if not best:
        text = "No selective state-space layer was timed by a parallel and the sequential method."
        return Verdict(claim, "open", text, 8)
    if doubt := race.doubt([best.sequential, best.parallel]):
        return Verdict(claim, "open", doubt, 8)
    parallel, length = best.parallel, best.length
    layer, worst = parallel["layer"], max(mine, key=lambda record: record["error"])
    text = (
        f"{len(mine)} evaluations of {' and '.join(distinct(mine, 'layer'))} are their definition, "
        f"step by step in float64, to {worst['error']:.1e} (tolerance {worst['tolerance']:.1e}). "
        f"{title(direction[0]).capitalize()} at T = {short_count(length)}, {layer} by trees over "
        f"time: {_chain(parallel, length)}. That takes {factor(1 / best.times)} times as long as "
        "its own sequential method"
    )
    beside = select(counted(records), direction=direction[0], length=length)
    rnn, auto = select(beside, kind="RNN"), select(beside, layer=layer, method="auto")
    text += (
        f", {factor(seconds(parallel) / seconds(rnn[0]))} times as long as the tanh RNN"
        if rnn
        else ""
    )
    text += (
        f"; `auto` takes {factor(seconds(auto[0]) / seconds(parallel))} times as long"
        if auto
        else ""
    )
    value = f"{factor(best.times)} times as fast in parallel"
    if best.times > 1 and best.clear:
        return Verdict(claim, "confirmed", f"{text}.", 8, value)
    text += ". Parallel is possible, and on this machine no faster."
    return Verdict(claim, "refined", text, 8, value)


def _chain(record: Record, length: int) -> str:
    """What waits for what."""
    tree = levels(length)
    text = f"{record['span']:,} operations wait for one another instead of {length:,}"
    if record["span"] > tree:
        text += f" ({tree} in one tree; it goes by stretches that fit into a cache)"
    return text


def _best(rows: Sequence[Record]) -> _Gain | None:
    """The largest gain at the longest length."""
    gains = []
    for layer in distinct(rows, "layer"):
        slow = by(select(rows, layer=layer, method="sequential"), "length")
        for method in PARALLEL:
            fast = by(select(rows, layer=layer, method=method), "length")
            length = max(slow.keys() & fast.keys(), default=0)
            if length:
                times, clear = gain(slow[length], fast[length])
                gains.append(_Gain(length, times, clear, slow[length], fast[length]))
    return max(gains, key=lambda gain: gain[:2], default=None)
