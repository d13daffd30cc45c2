"""Figure, tables and verdict of `any_length`, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.harness import figures
from experiments.harness.experiment import Record, Summary, Table, Verdict
from experiments.harness.figures import short_bytes, short_count, short_seconds

_SAME = 1e-4  # relative: chunks against a whole, float32, hundreds of dependent roundings
ATTENTION, PLAIN = "CausalSelfAttention", "RNN"


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    windows, streams = _of(records, "window"), _of(records, "stream")
    if not windows and not streams:
        return {}
    figure, (panels,) = figures.new_figure(1, 3, size=(13.4, 4.9))
    left, middle, right = panels
    for kind in _kinds(streams):
        mine = [record for record in streams if record["point"]["layer"] == kind]
        look = figures.line_style(kind)
        lengths = [record["length"] for record in mine]
        left.plot(lengths, [record["state_bytes"] for record in mine], label=kind, **look)
    left.set_xscale("log")
    figures.bytes_axis(left, "state carried from step to step")
    left.set_title("Streamed, one object")
    left.set_xlabel("steps so far")
    for kind in _kinds(windows):
        mine = [record for record in windows if record["point"]["layer"] == kind]
        look = figures.line_style(kind)
        lengths = [record["length"] for record in mine]
        middle.plot(lengths, [np.median(r["seconds"]) for r in mine], label=kind, **look)
        right.plot(lengths, [r["temporary_bytes"] + r["state_bytes"] for r in mine], **look)
    lengths = sorted({record["length"] for record in windows})
    if lengths:
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
    return [r for r in records if r["point"]["study"] == study and "skipped" not in r]


def _kinds(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["point"]["layer"] for record in records))


def _slope(records: Sequence[Record], kind: str) -> float:
    """Of log time against log length, over the three longest windows.

    The shortest time of each: what delays a sample is not the length.
    """
    mine = sorted(
        (r["length"], float(np.min(r["seconds"]))) for r in records if r["point"]["layer"] == kind
    )[-3:]
    if len(mine) < 2:
        return float("nan")
    lengths, seconds = np.log(np.array(mine)).T
    return float(np.polyfit(lengths, seconds, 1)[0])


def _verdict(records: Sequence[Record]) -> Verdict:
    claim = "any length: the same weights, in constant state memory"
    streams, windows, limits = (_of(records, s) for s in ("stream", "window", "limit"))
    if not streams or not limits or not {ATTENTION, PLAIN} <= {*_kinds(windows)}:
        return Verdict(claim, "open", "needs streams, windows and the fully connected net", 3)
    recurrences = [record for record in streams if record["context"] is None]
    longest = max(record["length"] for record in recurrences)
    constant = all(
        len({r["state_bytes"] for r in recurrences if r["point"]["layer"] == kind}) == 1
        for kind in _kinds(recurrences)
    )
    right = all(
        record["finite"] and (record["error"] is None or record["error"] <= _SAME)
        for record in streams
    )
    refused = [record for record in limits if record["length"] != record["made_for"]]
    hard = all(record["refusal"] for record in refused) and len(refused) < len(limits)
    largest = max(recurrences, key=lambda record: record["state_bytes"])
    slope, plain = _slope(windows, ATTENTION), _slope(windows, PLAIN)
    text = (
        f"{len(_kinds(recurrences))} layers ran {longest:,} steps with the weights that ran "
        f"{min(r['length'] for r in streams):,}, carrying {short_bytes(largest['state_bytes'])} at "
        f"most ({largest['point']['layer']}). The fully connected net refuses every length but its "
        f"own. Attention to the whole window: time grows as T^{slope:.2f} (RNN: T^{plain:.2f}) and "
        "its cache as T."
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
    for kind in _kinds(streams):
        mine = [record for record in streams if record["point"]["layer"] == kind]
        last = max(mine, key=lambda record: record["length"])
        errors = [record["error"] for record in mine if record["error"] is not None]
        sizes = {record["state_bytes"] for record in mine}
        rows.append(
            (
                kind if last["context"] is None else f"{kind}, window {last['context']}",
                " to ".join(short_bytes(size) for size in sorted(sizes)),
                short_seconds(last["seconds"] / last["length"]),
                f"{max(errors):.0e}" if errors else "–",
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
            short_seconds(float(np.median(record["seconds"]))),
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
