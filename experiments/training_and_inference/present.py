"""Figures, tables and the verdict of `training_and_inference`, from its records alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import figures
from experiments.harness.experiment import Record, Summary, Table, Verdict
from experiments.harness.figures import factor, number, short_bytes, short_count, short_seconds
from experiments.harness.kinds import KINDS
from experiments.harness.records import by, distinct, median, select, unsound
from experiments.training_and_inference.contenders import CLASSIFY, GENERATE, PROGRAMS, TRAIN

ATTENTION, PLAIN = "CausalSelfAttention", "RNN"
TITLES = {
    TRAIN: "A training step",
    CLASSIFY: "A classified sequence",
    GENERATE: "A generated token, after T steps",
}
_PER = {TRAIN: "time of a step", CLASSIFY: "time of a sequence", GENERATE: "time of a token"}


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    done = _done(records)
    if not done:
        return {}
    programs = [program for program in PROGRAMS if select(done, program=program)]
    figure, (panels,) = figures.new_figure(1, len(programs), size=(4.7 * len(programs), 5.4))
    for axes, program in zip(panels, programs, strict=True):
        mine = select(done, program=program)
        for layer in distinct(mine, "layer"):
            rows = by(select(mine, layer=layer), "length")
            figures.draw_band(
                axes,
                list(rows),
                [[s / r["tokens"] for s in r["seconds"] if s > 0] for r in rows.values()],
                label=layer,
                **figures.line_style(select(mine, layer=layer)[0]["kind"]),
            )
        figures.length_axis(axes, map(_length, mine))
        figures.seconds_axis(axes, _PER[program])
        axes.set_title(TITLES[program])
    figures.legend_below(figure)
    first = done[0]
    batch = max(record["batch"] for record in done)
    figure.set_label(
        f"Time against length, {first['features']} features, {first['hidden']} units; a training "
        f"step has a batch of {batch}, else one sequence. Medians and quartiles."
    )
    return {"time": figure}


def summary(records: Sequence[Record]) -> Summary:
    done = _done(records)
    tables = [_time_table(done, program) for program in PROGRAMS if select(done, program=program)]
    if done:
        tables.append(_memory_table(done))
    return Summary((_verdict(done),), tuple(tables))


def span(kind: str, length: int) -> int:
    """Steps of a forward pass over the sequence that wait for one another, or levels of a tree."""
    if KINDS[kind].linear and length > 1:
        return math.ceil(2 * math.log2(length))
    return length if KINDS[kind].recurrent else 1


def _done(records: Sequence[Record]) -> list[Record]:
    return select(records, counts=True)


def _seconds(record: Record) -> float:
    return median(record) / record["tokens"]


def _first(records: Sequence[Record], program: str, kind: str) -> list[Record]:
    """Of a program and of the first layer of a kind, the shortest first."""
    mine = select(records, program=program, kind=kind)
    return sorted(select(mine, layer=mine[0]["layer"]), key=_length) if mine else []


def _length(record: Record) -> int:
    return record["point"]["length"]


def _slope(by_length: dict[int, float]) -> float:
    """Of log time against log length, over the longer half; nan where there is none."""
    lengths = sorted(by_length)
    lengths = lengths[len(lengths) // 2 - 1 :] if len(lengths) > 2 else lengths
    seconds = np.array([by_length[n] for n in lengths])
    if len(lengths) < 2 or not (np.isfinite(seconds) & (seconds > 0)).all():
        return math.nan
    return float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0])


def _verdict(records: Sequence[Record]) -> Verdict:
    claim = "generation is serial for all; in classification attention reads in one pass"
    mine = {(p, k): _first(records, p, k) for p in (CLASSIFY, GENERATE) for k in (PLAIN, ATTENTION)}
    if not all(mine.values()):
        text = f"needs {PLAIN} and {ATTENTION}, classifying and generating"
        return Verdict(claim, "open", text, 10)
    if flaw := unsound([r for rows in mine.values() for r in rows], "seconds", above=0):
        return Verdict(claim, "open", flaw, 10)
    times = {key: {_length(r): _seconds(r) for r in rows} for key, rows in mine.items()}
    rnn, attention = times[CLASSIFY, PLAIN], times[CLASSIFY, ATTENTION]
    token, query = times[GENERATE, PLAIN], times[GENERATE, ATTENTION]
    both = sorted(rnn.keys() & attention.keys())
    if len(both) < 2 or len(token.keys() & query.keys()) < 2:
        return Verdict(claim, "open", "needs two lengths at least", 10)
    longest, shortest = both[-1], min(token.keys() & query.keys())
    ratio = attention[longest] / rnn[longest]
    text = (
        f"To classify {longest:,} steps the RNN has {span(PLAIN, longest):,} that wait for each "
        f"other, attention {span(ATTENTION, longest)}; its time grows as "
        f"T^{_slope(rnn):.2f}, attention's as T^{_slope(attention):.2f}, and "
        f"at {longest:,} attention takes {factor(ratio)} times the RNN's. A token costs the RNN "
        f"{short_seconds(token[max(token)])} after {max(token):,} "
        f"steps, {factor(token[max(token)] / token[shortest])} times that after {shortest}; "
        f"attention {short_seconds(query[max(query)])}, "
        f"{factor(query[max(query)] / query[shortest])} times."
    )
    # One pass is an advantage only where there are units to do it side by side.
    value = f"attention {factor(ratio)} times the RNN, T = {short_count(longest)}"
    if ratio < 1:
        return Verdict(claim, "confirmed", text, 10, value)
    slower = next(n for n in both if attention[n] >= rnn[n])
    text += f" One pass is no shorter here: attention is slower from T = {slower:,} on."
    return Verdict(claim, "refined", text, 10, value)


def _time_table(records: Sequence[Record], program: str) -> Table:
    mine = select(records, program=program)
    lengths = sorted(set(map(_length, mine)))
    rows = []
    for layer in distinct(mine, "layer"):
        found = {n: _seconds(r) for n, r in by(select(mine, layer=layer), "length").items()}
        cells = (short_seconds(found.get(n, math.nan)) for n in lengths)
        rows.append((layer, *cells, number(_slope(found), ".2f")))
    return Table(
        f"{TITLES[program]}: {_PER[program]}",
        ("layer", *(f"T = {short_count(n)}" for n in lengths), "grows as T^"),
        tuple(rows),
        note="Medians. Last column: slope over the longer half of the lengths.",
    )


def _memory_table(records: Sequence[Record]) -> Table:
    longest = max(map(_length, records))
    mine = select(records, length=longest)
    rows = []
    for layer in distinct(mine, "layer"):
        found = by(select(mine, layer=layer), "program")
        temporary = {program: r["temporary_bytes"] for program, r in found.items()}
        cells = [short_bytes(temporary.get(program, math.nan)) for program in PROGRAMS]
        state = short_bytes(found[GENERATE]["state_bytes"]) if GENERATE in found else "–"
        parameters = next(iter(found.values()))["parameters"]
        rows.append((layer, number(parameters, ","), *cells, state))
    return Table(
        f"Memory at T = {longest:,}: temporaries of each program, and the state of one sequence",
        ("layer", "parameters", *PROGRAMS, "state"),
        tuple(rows),
        brief=False,
    )
