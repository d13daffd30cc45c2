"""What experiments share that time checked contenders beside what the machine can do at best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pydantic
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from experiments.harness import colours, figures, limits
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Record, Table
from experiments.harness.figures import factor, number, short_bytes, short_count, short_seconds
from experiments.harness.limits import NOISE, Work
from experiments.harness.progress import say
from experiments.harness.records import array, by, median, select
from experiments.harness.timing import Check, Contender, Timing, prepare, sample

FORWARD, BOTH = "forward", "forward+backward"
_AGAIN = 2  # times at most


class Config(BaseConfig):
    """How long to time, and what not to try."""

    rounds: int = pydantic.Field(9, ge=3, description="samples of each contender")
    sample_seconds: pydantic.PositiveFloat = 1e-3
    budget_seconds: pydantic.PositiveFloat = 1.0
    max_bytes: pydantic.PositiveInt = 2 * 2**30


# Measuring.


def too_large(
    config: Config, name: str, needed: int, seconds: float = 0.0, patience: float = math.inf
) -> Record:
    """Why not to try it, with the prediction; empty where it fits the memory and the patience."""
    available = min(config.max_bytes, limits.memory_bytes() * 3 // 4)
    if needed > available:
        reason = f"would need {short_bytes(needed)} of {short_bytes(available)}"
    elif seconds > patience:
        reason = f"would take {short_seconds(seconds)} of {short_seconds(patience)}"
    else:
        return {}
    return refused(name, reason, needed, seconds)


def refused(name: str, reason: str, needed: int, seconds: float) -> Record:
    """What a record says of what is not tried."""
    said = f"{name}: {reason} (predicted)"
    return {"skipped": said, "predicted_bytes": needed, "predicted_seconds": seconds}


def timed(
    config: Config,
    contenders: Sequence[Contender],
    share: Callable[[Sequence[Timing]], float],
    *,
    in_loop: bool | None = None,
    noise: float = NOISE,
) -> list[Timing]:
    """Compiles, checks and times contenders, among them what measures the limit.

    Where the largest share of the limit that one reached contradicts itself, all are timed again,
    and the measurement that contradicts itself least is kept.

    Args:
      config: says how long.
      contenders: everyone.
      share: the largest, of what was timed and is right.
      in_loop: see `timing.prepare`.
      noise: see `limits.contradicts`.
    """
    ready = prepare(
        contenders,
        rounds=config.rounds,
        sample_seconds=config.sample_seconds,
        budget_seconds=config.budget_seconds,
        in_loop=in_loop,
        watch=say,
    )
    timings = sample(ready, watch=say)
    for _ in range(_AGAIN):
        if not limits.contradicts(share(timings), noise):
            break
        timings = min(timings, sample(ready, watch=say), key=share)
    return timings


def beside_limit(
    config: Config,
    contenders: Sequence[Contender],
    least: Mapping[str, Work],
    total_bytes: float,
    product_size: int,
) -> list[tuple[Timing, Record]]:
    """Times contenders beside the machine's limit; with each what its record keeps of the limit.

    Args:
      config: says how long.
      contenders: without those that measure the limit.
      least: what cannot be avoided, of those that are held against the limit.
      total_bytes, product_size: see `limits.contenders`.
    """

    def machine(timings: Sequence[Timing]) -> limits.Limits:
        return limits.measured(timings, total_bytes, product_size)

    def share(timings: Sequence[Timing]) -> float:
        found = machine(timings)
        return max(
            (
                found.seconds(least[timing.name]) / timing.median
                for timing in timings
                if timing.counts and timing.name in least
            ),
            default=0.0,
        )

    everyone = [*contenders, *limits.contenders(total_bytes, product_size)]
    timings = timed(config, everyone, share)
    found = machine(timings)
    return [(it, found.as_record(least[it.name]) if it.name in least else {}) for it in timings]


def with_gradients(forward: Callable[..., Any]) -> Callable[..., Any]:
    """(*arguments, g) -> the output, and the gradients of sum(g * output)."""

    def both(*arguments: Any) -> tuple[Any, ...]:
        output, pullback = jax.vjp(forward, *arguments[:-1])
        return output, *pullback(arguments[-1])

    return both


def judged(found: Mapping[str, Any], expected: Mapping[str, np.ndarray], tolerance: float) -> Check:
    """The largest relative error of arrays, by their names."""
    errors = [relative_error(np.asarray(array), expected[name]) for name, array in found.items()]
    return Check(float(np.max(errors)), tolerance, "float64, step by step")


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """In the 2-norm; nan stays nan, and an exact zero is no error."""
    error = np.linalg.norm(np.asarray(found) - expected)
    return float(error / np.linalg.norm(expected)) if error else 0.0


# What records say.


def counted(records: Iterable[Record]) -> list[Record]:
    """What was timed and whose result was right; a time that is nan or zero is none."""
    return [r for r in records if r.get("counts") and "seconds" in r and 0 < median(r) < math.inf]


def share(record: Record) -> float:
    """Of the machine's limit that was reached; 1 is the limit."""
    return record["limit_seconds"] / median(record)


def percent(value: float) -> str:
    """A share in percent.

    >>> percent(0.3123), percent(1.02), percent(float("nan"))
    ('31 %', '102 %', '–')
    """
    return factor(100 * value) + " %" * math.isfinite(value)


def doubt(
    records: Sequence[Record],
    share: Callable[[Record], float] = share,
    noise: float = NOISE,
) -> str:
    """Why no verdict may rest on these, in a sentence; empty where one may."""
    for record in records:
        if limits.contradicts(share(record), noise):
            name = record.get("contender") or record["method"]
            return (
                f"{name[:1].upper()}{name[1:]} is above this machine's limit, which was "
                "mismeasured on a busy machine; run it again when nothing else runs."
            )
    return single(records)


def single(records: Iterable[Record]) -> str:
    """Why these do not say whether one is faster, in a sentence; empty where they do."""
    if all(len(record["seconds"]) > 1 for record in records):
        return ""
    return "A single sample says nothing of the noise; take more rounds."


def left_out(count: int) -> str:
    """One more sentence, where there is something to say."""
    return f" {count} left out: above this machine's limit, mismeasured." if count else ""


def worst(records: Iterable[Record]) -> Record:
    """The largest error as a share of what is tolerated; no number is the largest."""

    def size(record: Record) -> tuple[bool, float]:
        found = record["error"] / record["tolerance"]
        return math.isnan(found), found

    return max(records, key=size)


# Figures and tables.


def title(direction: str) -> str:
    return direction.replace("+", " + ")


def draw_limit(axes: Axes, found: Mapping[int, float], linestyle: Any = (0, (1, 1.5))) -> None:
    """The machine's limit in seconds, by length."""
    x = sorted(found)
    line = {"color": colours.GREY, "linestyle": linestyle, "label": "limit of the machine"}
    axes.plot(x, [found[length] for length in x], **line)


def series(records: Sequence[Record], methods: Iterable[str]) -> dict[str, list[Record]]:
    """The records of every method there is, by length."""
    found = {name: list(by(select(records, method=name), "length").values()) for name in methods}
    return {name: rows for name, rows in found.items() if rows}


def draw_times(axes: Axes, found: Mapping[str, Sequence[Record]], looks: Mapping[str, Any]) -> None:
    """Medians and quartiles against length, and the machine's limit."""
    limit: dict[int, float] = {}
    for method, rows in found.items():
        lengths = [row["point"]["length"] for row in rows]
        figures.draw_band(axes, lengths, [row["seconds"] for row in rows], **looks[method])
        limit |= {row["point"]["length"]: row["limit_seconds"] for row in rows}
    draw_limit(axes, limit)
    figures.seconds_axis(axes, "time")


def draw_shares(
    axes: Axes, found: Mapping[str, Sequence[Record]], looks: Mapping[str, Any]
) -> None:
    for method, rows in found.items():
        shares = [100 * share(row) for row in rows]
        axes.plot(array(rows, "length"), shares, **looks[method])
    percent_axis(axes)


def length_table(
    name: str,
    found: Mapping[str, Sequence[Record]],
    lengths: Sequence[int],
    cell: Callable[[Record], str],
) -> Table:
    """A row for each of some contenders, with a dash where one was not timed."""
    rows = []
    for label, records in found.items():
        here = by(records, "length")
        rows.append((label, *(cell(here[n]) if n in here else "–" for n in lengths)))
    heads = ("", *(f"T = {short_count(n)}" for n in lengths))
    return Table(name, heads, tuple(rows), brief=False)


def percent_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("share of the limit reached")


def error(value: float) -> str:
    return number(value, ".1e")


def errors(record: Record) -> tuple[str, str]:
    """How far off a result is, and how far it may be."""
    return error(record["error"]), error(record["tolerance"])


def wrong_table(
    records: Iterable[Record],
    columns: tuple[str, ...],
    cells: Callable[[Record], tuple[str, ...]],
) -> tuple[Table, ...]:
    """What was timed in vain; nothing where everything was right."""
    rows = tuple(cells(record) for record in records if record.get("counts") is False)
    note = "These times appear in no figure and no other table."
    return (Table("Not counted: the result was wrong", columns, rows, note),) if rows else ()
