"""Figures, tables and the verdict of `training_and_inference`, from its records alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import figures
from experiments.harness.experiment import Record, Summary, Table, Verdict
from experiments.harness.figures import short_bytes, short_count, short_seconds
from experiments.harness.kinds import KINDS
from experiments.training_and_inference.programs import CLASSIFY, GENERATE, PROGRAMS, TRAIN

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
    programs = [program for program in PROGRAMS if _of(done, program)]
    figure, (panels,) = figures.new_figure(1, len(programs), size=(4.7 * len(programs), 5.4))
    for axes, program in zip(panels, programs, strict=True):
        mine = _of(done, program)
        for layer in _layers(mine):
            rows = sorted(
                (record["point"]["length"], record) for record in mine if record["layer"] == layer
            )
            figures.draw_band(
                axes,
                [length for length, _ in rows],
                [np.asarray(record["seconds"]) / record["tokens"] for _, record in rows],
                label=layer,
                **figures.line_style(rows[0][1]["kind"]),
            )
        figures.length_axis(axes, [record["point"]["length"] for record in mine])
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
    tables = [_time_table(done, program) for program in PROGRAMS if _of(done, program)]
    if done:
        tables.append(_memory_table(done))
    return Summary((_verdict(done),), tuple(tables))


def span(kind: str, length: int) -> int:
    """Steps of a forward pass over the sequence that wait for one another, or levels of a tree."""
    if KINDS[kind].linear and length > 1:
        return math.ceil(2 * math.log2(length))
    return length if KINDS[kind].recurrent else 1


def _done(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.get("counts")]


def _of(records: Sequence[Record], program: str) -> list[Record]:
    return [record for record in records if record["point"]["program"] == program]


def _layers(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["layer"] for record in records))


def _seconds(record: Record) -> float:
    return float(np.median(record["seconds"])) / record["tokens"]


def _times(records: Sequence[Record], program: str) -> dict[str, dict[int, float]]:
    """seconds[kind][length], of the first layer of a kind."""
    found: dict[str, dict[int, float]] = {}
    for record in _of(records, program):
        found.setdefault(record["kind"], {}).setdefault(record["point"]["length"], _seconds(record))
    return found


def _slope(by_length: dict[int, float]) -> float:
    """Of log time against log length, over the longer half."""
    lengths = sorted(by_length)
    lengths = lengths[len(lengths) // 2 - 1 :] if len(lengths) > 2 else lengths
    if len(lengths) < 2:
        return math.nan
    return float(np.polyfit(np.log(lengths), np.log([by_length[n] for n in lengths]), 1)[0])


def _verdict(records: Sequence[Record]) -> Verdict:
    claim = "generation is serial for all; in classification attention reads in one pass"
    classify, generate = _times(records, CLASSIFY), _times(records, GENERATE)
    needed = {ATTENTION, PLAIN}
    if not needed <= classify.keys() or not needed <= generate.keys():
        text = f"needs {PLAIN} and {ATTENTION}, classifying and generating"
        return Verdict(claim, "open", text, 10)
    longest = max(classify[PLAIN].keys() & classify[ATTENTION].keys(), default=0)
    if longest < 2 or len(classify[PLAIN]) < 2:
        return Verdict(claim, "open", "needs two lengths at least", 10)
    shortest = min(generate[PLAIN])
    state = {kind: by[max(by)] / by[shortest] for kind, by in generate.items() if shortest in by}
    ratio = classify[ATTENTION][longest] / classify[PLAIN][longest]
    text = (
        f"To classify {longest:,} steps the RNN has {span(PLAIN, longest):,} that wait for each "
        f"other, attention {span(ATTENTION, longest)}; its time grows as "
        f"T^{_slope(classify[PLAIN]):.2f}, attention's as T^{_slope(classify[ATTENTION]):.2f}, and "
        f"at {longest:,} attention takes {ratio:.2g} times the RNN's. A token costs the RNN "
        f"{short_seconds(generate[PLAIN][max(generate[PLAIN])])} after {max(generate[PLAIN]):,} "
        f"steps, {state[PLAIN]:.2g} times that after {shortest}; attention "
        f"{short_seconds(generate[ATTENTION][max(generate[ATTENTION])])}, "
        f"{state[ATTENTION]:.2g} times."
    )
    # One pass is an advantage only where there are units to do it side by side.
    value = f"attention {ratio:.2g} times the RNN, T = {short_count(longest)}"
    if ratio < 1:
        return Verdict(claim, "confirmed", text, 10, value)
    crossing = [n for n in sorted(classify[PLAIN]) if n in classify[ATTENTION]]
    slower = [n for n in crossing if classify[ATTENTION][n] > classify[PLAIN][n]]
    text += f" One pass is no shorter here: attention is slower from T = {slower[0]:,} on."
    return Verdict(claim, "refined", text, 10, value)


def _time_table(records: Sequence[Record], program: str) -> Table:
    mine = _of(records, program)
    lengths = sorted({record["point"]["length"] for record in mine})
    rows = []
    for layer in _layers(mine):
        by_length = {r["point"]["length"]: r for r in mine if r["layer"] == layer}
        cells = [short_seconds(_seconds(by_length[n])) if n in by_length else "–" for n in lengths]
        slope = _slope({n: _seconds(record) for n, record in by_length.items()})
        rows.append((layer, *cells, f"{slope:.2f}"))
    return Table(
        f"{TITLES[program]}: {_PER[program]}",
        ("layer", *(f"T = {short_count(n)}" for n in lengths), "grows as T^"),
        tuple(rows),
        note="Medians. Last column: slope over the longer half of the lengths.",
    )


def _memory_table(records: Sequence[Record]) -> Table:
    longest = max(record["point"]["length"] for record in records)
    mine = [record for record in records if record["point"]["length"] == longest]
    rows = []
    for layer in _layers(mine):
        found = {r["point"]["program"]: r for r in mine if r["layer"] == layer}
        some = next(iter(found.values()))
        cells = [
            short_bytes(found[program]["temporary_bytes"]) if program in found else "–"
            for program in PROGRAMS
        ]
        state = short_bytes(found[GENERATE]["state_bytes"]) if GENERATE in found else "–"
        rows.append((layer, f"{some['parameters']:,}", *cells, state))
    return Table(
        f"Memory at T = {longest:,}: temporaries of each program, and the state of one sequence",
        ("layer", "parameters", *PROGRAMS, "state"),
        tuple(rows),
        brief=False,
    )
