"""Figure, tables and verdict of `any_length`, from its records alone."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import figures
from experiments.harness.experiment import Record, Summary, Table, Verdict
from experiments.harness.figures import number, short_bytes, short_count, short_seconds
from experiments.harness.records import array, distinct, median, select, unsound

_SAME = 1e-4  # relative: chunks against a whole, float32, hundreds of dependent roundings
ATTENTION, PLAIN = "CausalSelfAttention", "RNN"
CHECKED = 4096  # steps of the longest window whose result is checked


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    windows, streams = _of(records, "window"), _of(records, "stream")
    if not windows and not streams:
        return {}
    figure, (panels,) = figures.new_figure(1, 3, size=(13.4, 4.9))
    left, middle, right = panels
    carried = {k: select(streams, layer=k) for k in distinct(streams, "layer")}
    turns = figures.in_turns({kind: array(mine, "state_bytes") for kind, mine in carried.items()})
    for kind, mine in carried.items():
        look = figures.line_style(kind) | turns[kind]
        left.plot(array(mine, "length"), array(mine, "state_bytes"), **look)
    # Their names stand on the lines, since several layers may share one, and below the lowest.
    of_height: dict[float, list[str]] = {}
    for kind, mine in carried.items():
        of_height.setdefault(mine[0]["state_bytes"], []).append(kind)
    for height, names in of_height.items():
        words = textwrap.fill(", ".join(names), 44)
        at = (min(distinct(streams, "length")), height)
        away, side = (-6, "top") if height == min(of_height) else (6, "bottom")
        left.annotate(words, at, (0, away), textcoords="offset points", fontsize=8.5, va=side)
    left.margins(y=0.15)
    left.set_xscale("log")
    figures.bytes_axis(left, "state carried from step to step")
    left.set_title("Streamed, one object")
    left.set_xlabel("steps so far")
    for kind in distinct(windows, "layer"):
        mine, look = select(windows, layer=kind), figures.line_style(kind)
        lengths, memory = array(mine, "length"), array(mine, "temporary_bytes")
        middle.plot(lengths, [median(record) or np.nan for record in mine], label=kind, **look)
        right.plot(lengths, memory + array(mine, "state_bytes"), **look)
    if lengths := distinct(windows, "length"):
        for axes, title in ((middle, "A whole window: time"), (right, "A whole window: memory")):
            figures.length_axis(axes, lengths, "window T")
            axes.set_title(title)
        figures.seconds_axis(middle, "time of a call")
        figures.bytes_axis(right, "temporaries and state")
    figures.legend_below(figure)
    figure.set_label(
        "Left: what each layer carries from one chunk to the next (attention: a window of fixed "
        "size). Right: whole windows at once, the state kept; attention sees all of the window."
    )
    return {"memory": figure}


def summary(records: Sequence[Record]) -> Summary:
    tables = (_stream_table(records), _window_table(records), _limit_table(records))
    return Summary((_verdict(records),), tuple(table for table in tables if table))


def _of(records: Sequence[Record], study: str) -> list[Record]:
    return [record for record in select(records, study=study) if "skipped" not in record]


def _slope(windows: Sequence[Record], kind: str) -> float:
    """Of log time against log length, over the three longest windows.

    The shortest time of each: what delays a sample is not the length.
    """
    mine = sorted((r["length"], min(r["seconds"])) for r in select(windows, layer=kind))[-3:]
    lengths, seconds = np.log(np.array(mine, np.float64)).T
    return float(np.polyfit(lengths, seconds, 1)[0])


def _flaw(
    recurrences: Sequence[Record],
    streams: Sequence[Record],
    windows: Sequence[Record],
    limits: Sequence[Record],
) -> str:
    """Why no verdict follows; empty where one does."""
    own = [record["length"] == record["made_for"] for record in limits]
    if not (recurrences and any(own) and not all(own)):
        return "needs streams, windows and the fully connected net"
    for kind in distinct(recurrences, "layer"):
        if len(select(recurrences, layer=kind)) < 2:
            return f"needs streams of two lengths at least: {kind} ran one"
    if len(select(windows, layer=ATTENTION)) < 2:
        return f"needs two windows of {ATTENTION} at least"
    for record in streams:
        if not record["finite"]:
            where = f"{record['point']['layer']} at {record['length']:,} steps"
            return f"The outputs of {where} are not finite: it diverged, draw other weights."
    compared = [record for record in streams if record["error"] is not None]
    checked = select(windows, layer=PLAIN) + select(windows, layer=ATTENTION)
    short = [record for record in checked if record["length"] <= CHECKED]
    flaw = unsound([*streams, *windows], "state_bytes") or unsound([*compared, *short], "error")
    if flaw := flaw or unsound(checked, "seconds", above=0):
        return flaw
    for record in short:
        if record["error"] > _SAME:
            where = f"{record['point']['layer']} over {record['length']:,} steps"
            return f"The window of {where} is off by {record['error']:.0e}: its time is none."
    return ""


def _verdict(records: Sequence[Record]) -> Verdict:
    claim = "any length: the same weights, in constant state memory"
    streams, windows, limits = (_of(records, s) for s in ("stream", "window", "limit"))
    recurrences = select(streams, context=None)
    if flaw := _flaw(recurrences, streams, windows, limits):
        return Verdict(claim, "open", flaw, 3)
    kinds = distinct(recurrences, "layer")
    longest = max(record["length"] for record in recurrences)
    constant = all(len(distinct(select(recurrences, layer=k), "state_bytes")) == 1 for k in kinds)
    right = all(record["error"] is None or record["error"] <= _SAME for record in streams)
    hard = all(bool(r["refusal"]) == (r["length"] != r["made_for"]) for r in limits)
    largest = max(recurrences, key=lambda record: record["state_bytes"])
    slope = _slope(windows, ATTENTION)
    several = len(select(windows, layer=PLAIN)) > 1
    beside = f" (RNN: T^{_slope(windows, PLAIN):.2f})" if several else ""
    text = (
        f"{len(kinds)} layers ran {longest:,} steps with the weights that ran "
        f"{min(r['length'] for r in streams):,}, carrying {short_bytes(largest['state_bytes'])} at "
        f"most ({largest['point']['layer']}). The fully connected net refuses every length but its "
        f"own. Attention to the whole window: time grows as T^{slope:.2f}{beside} and its cache as "
        "T."
    )
    if not (constant and right and hard):
        return Verdict(claim, "refuted", text, 3)
    value = f"{longest:,} steps in {short_bytes(largest['state_bytes'])}"
    return Verdict(claim, "confirmed" if slope > 1.4 else "refined", text, 3, value)


def _stream_table(records: Sequence[Record]) -> Table | None:
    streams = _of(records, "stream")
    if not streams:
        return None
    longest = max(record["length"] for record in streams)
    rows = []
    for kind in distinct(streams, "layer"):
        mine = select(streams, layer=kind)
        last = max(mine, key=lambda record: record["length"])
        errors = [record["error"] for record in mine if record["error"] is not None]
        rows.append(
            (
                kind if last["context"] is None else f"{kind}, window {last['context']}",
                " to ".join(short_bytes(size) for size in sorted(distinct(mine, "state_bytes"))),
                short_seconds(last["seconds"] / last["length"]),
                number(np.max(errors), ".0e") if errors else "–",
            )
        )
    return Table(
        f"One layer object, streamed to {longest:,} steps",
        ("layer", "state", "time a step", "chunks against whole"),
        tuple(rows),
        note="State: the same at every length if one size is given. Times include compiling.",
    )


def _window_table(records: Sequence[Record]) -> Table | None:
    windows = _of(records, "window")
    if not windows:
        return None
    rows = [
        (
            f"{record['point']['layer']}, T = {short_count(record['length'])}",
            short_seconds(median(record)),
            short_bytes(record["temporary_bytes"]),
            short_bytes(record["state_bytes"]),
        )
        for record in windows
    ]
    return Table(
        "Whole windows at once, one sequence",
        ("layer", "time", "temporaries", "state kept"),
        tuple(rows),
        note="Attention sees all of the window; its state is the cache of keys and values.",
    )


def _limit_table(records: Sequence[Record]) -> Table | None:
    limits = _of(records, "limit")
    if not limits:
        return None
    rows = [(f"{record['length']}", record["refusal"] or "accepted") for record in limits]
    return Table(
        f"A fully connected net made for {limits[0]['made_for']} steps",
        ("steps", "what it says"),
        tuple(rows),
        brief=False,
    )
