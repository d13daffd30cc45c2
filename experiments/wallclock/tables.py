"""The tables of `wallclock`: times, and in the report what else each program costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experiments.harness import race
from experiments.harness.experiment import Record, Table
from experiments.harness.figures import factor, short_bytes, short_count, short_seconds
from experiments.harness.race import percent, title
from experiments.harness.records import by, distinct, select
from experiments.wallclock.records import counted, lengths, seconds, series

_OTHERS = (
    ("Share of the machine's limit", race.share, percent),
    ("Compile time", lambda record: record["compile_seconds"], short_seconds),
    ("Peak temporary memory", lambda record: record["temporary_bytes"], short_bytes),
    (
        "Largest relative error against float64",
        lambda record: record["error"],
        race.error,
    ),
)


def tables(records: Sequence[Record]) -> tuple[Table, ...]:
    good = counted(records)
    directions = distinct(good, "direction")
    made = [_time_table(select(good, direction=direction), direction) for direction in directions]
    for name, value, text in _OTHERS:
        for direction in directions:
            rows = select(good, direction=direction)
            made.append(_plain_table(rows, f"{name}, {title(direction)}", value, text))
    made += _peer_tables(records)
    skipped = [record for record in records if "predicted_bytes" in record and "skipped" in record]
    if skipped:
        made.append(_skipped_table(skipped))
    columns = ("contender", "relative error", "tolerance")
    return (*made, *race.wrong_table(records, columns, _wrong))


def _some(lengths: list[int], most: int = 5) -> list[int]:
    """Not more lengths than a table has room for, the ends always among them."""
    if len(lengths) <= most:
        return lengths
    picks = np.unique(np.linspace(0, len(lengths) - 1, most).round().astype(int))
    return [lengths[pick] for pick in picks]


def _time_table(rows: list[Record], direction: str) -> Table:
    """Times, and the share of the limit at the longest length that a contender was timed at."""
    table = _plain_table(rows, "", seconds, short_seconds)
    shares = [percent(race.share(records[-1])) for records in series(rows)]
    return Table(
        f"Time per sequence, {title(direction)} "
        f"(batch {rows[0]['batch']}, width {rows[0]['width']})",
        (*table.columns, "of the limit"),
        tuple((*row, reached) for row, reached in zip(table.rows, shares, strict=True)),
        note="Share of the limit at the longest of a row. – : left out as too large."
        if any("–" in row for row in table.rows)
        else "Share of the limit at the longest.",
    )


def _plain_table(
    rows: list[Record],
    name: str,
    value: Callable[[Record], float],
    text: Callable[[float], str],
) -> Table:
    shown = _some(lengths(rows))
    body = []
    for records in series(rows):
        found = by(records, "length")
        cells = [text(value(found[n])) if n in found else "–" for n in shown]
        body.append((records[0]["contender"], *cells))
    heads = ("", *(f"T = {short_count(n)}" for n in shown))
    return Table(name, heads, tuple(body), brief=False)


def _peer_tables(records: Sequence[Record]) -> list[Table]:
    """Our times over those of other packages, a table for each direction and length."""
    found = [record for record in records if record.get("counts") and "peer" in record]
    missing = distinct([r for r in records if "peer" in r and "skipped" in r], "skipped")
    note = "; ".join(missing)
    made = []
    for direction in distinct(found, "direction"):
        for length in lengths(select(found, direction=direction)):
            theirs = select(found, direction=direction, length=length)
            ours = select(counted(records), direction=direction, length=length)
            first = ("time per sequence", *(short_seconds(seconds(record)) for record in theirs))
            rows = [(r["contender"], *(_over(r, record) for record in theirs)) for r in ours]
            title_ = f"{title(direction)}, T = {short_count(length)}"
            made.append(
                Table(
                    f"Beside other libraries, {title_}: our time over theirs (quartiles)",
                    ("", *(record["contender"] for record in theirs)),
                    (first, *rows),
                    note=note,
                )
            )
    if missing and not made:
        rows = tuple((text,) for text in missing)
        made.append(Table("Other libraries that were not timed", ("",), rows, brief=False))
    return made


def _over(ours: Record, theirs: Record) -> str:
    """`1.5 (1.4 to 1.6)`: of medians, and of quartiles that are farthest apart."""
    (low, median, high), (least, middle, most) = (
        np.quantile(record["seconds"], [0.25, 0.5, 0.75]) for record in (ours, theirs)
    )
    return f"{factor(median / middle)} ({factor(low / most)} to {factor(high / least)})"


def _skipped_table(records: Sequence[Record]) -> Table:
    rows = tuple((record["skipped"], short_bytes(record["predicted_bytes"])) for record in records)
    return Table("Left out as too large", ("contender", "bytes predicted"), rows, brief=False)


def _wrong(record: Record) -> tuple[str, ...]:
    name = "{contender}, {point[direction]}, T = {point[length]}".format_map(record)
    return name, *race.errors(record)
