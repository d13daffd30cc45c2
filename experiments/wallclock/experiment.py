"""How long tanh RNN, LinearRNN and LRU take, against length: step by step and in parallel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import pydantic
from matplotlib.figure import Figure

from experiments.harness import limits
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.figures import short_bytes, short_count, short_seconds
from experiments.harness.progress import say
from experiments.harness.timing import Contender, compare
from experiments.wallclock import present, work
from experiments.wallclock.contenders import BOTH, FORWARD, WAYS, contender, make_task

CLAIM = (
    "Claim 5, the serial bottleneck: step t waits for step t-1, so the machine idles. Time against "
    "length, step by step and parallel over time, and its distance from the machine's limit."
)


class Config(BaseConfig):
    """What to time: every layer by every method, at every length."""

    lengths: tuple[pydantic.PositiveInt, ...] = tuple(2**k for k in range(6, 16))
    directions: tuple[Literal["forward", "forward+backward"], ...] = (FORWARD, BOTH)
    batch: pydantic.PositiveInt = 8
    width: int = pydantic.Field(32, ge=2, description="features, state width and outputs")
    seed: pydantic.NonNegativeInt = 0
    rounds: int = pydantic.Field(9, ge=3, description="samples of each contender")
    sample_seconds: pydantic.PositiveFloat = 1e-3
    budget_seconds: pydantic.PositiveFloat = 2.0
    product_size: int = pydantic.Field(1024, ge=16, description="of the matrices timed as limit")
    max_bytes: pydantic.PositiveInt = 4 * 2**30
    max_seconds: pydantic.PositiveFloat = 10.0

    @pydantic.field_validator("lengths", "directions")
    @classmethod
    def _some_and_distinct(cls, values: tuple) -> tuple:
        if not values or len(set(values)) < len(values):
            raise ValueError("should be at least one value, and none twice")
        return values


def plan(config: Config) -> list[Point]:
    """One point for each length and direction: its contenders are timed side by side."""
    return [
        {"direction": direction, "length": length}
        for length in sorted(config.lengths)
        for direction in config.directions
    ]


def describe(point: Point) -> str:
    return f"{point['direction']}, T = {short_count(point['length'])}"


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One record for each contender of a point, and one for each kernel that says how fast the
    machine is."""
    for point in plan(config) if points is None else points:
        yield from _run_point(config, point)


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    return present.plot(records)


def summary(records: Sequence[Record]) -> Summary:
    return present.summary(records)


def _run_point(config: Config, point: Point) -> Iterator[Record]:
    direction, length = point["direction"], point["length"]
    task = make_task(config.batch, length, config.width, config.seed)
    ways: dict[str, tuple[str, str]] = {}
    contenders: list[Contender] = []
    for layer, method in WAYS:
        refusal = _too_large(config, layer, method, direction, length)
        if refusal:
            yield {"point": point, "contender": f"{layer} {method}", **refusal}
        else:
            contenders.append(contender(task, layer, method, direction))
            ways[contenders[-1].name] = (layer, method)
    # As many bytes as the dense layers must move: the limit at this very size, caches included.
    streamed = work.least("RNN", direction, config.batch, length, config.width).bytes
    timings = compare(
        contenders + limits.contenders(streamed, config.product_size),
        rounds=config.rounds,
        sample_seconds=config.sample_seconds,
        budget_seconds=config.budget_seconds,
        watch=say,
    )
    machine = limits.measured(timings, streamed, config.product_size)
    for timing in timings:
        record: Record = {"point": point, "contender": timing.name, **timing.as_record()}
        if timing.name in ways:
            layer, method = ways[timing.name]
            least = work.least(layer, direction, config.batch, length, config.width)
            record |= {
                "layer": layer,
                "method": method,
                "batch": config.batch,
                "width": config.width,
                "least_bytes": least.bytes,
                "least_flops": least.flops,
                "bandwidth": machine.bandwidth,
                "flop_rate": machine.flop_rate,
                "limit_seconds": machine.seconds(least),
                "limited_by": machine.bound(least),
            }
        yield record


def _too_large(
    config: Config, layer: str, method: str, direction: str, length: int
) -> dict[str, str | float]:
    """Why not to try it, with the prediction; empty where it fits the memory and the patience."""
    sizes = (config.batch, length, config.width)
    needed = work.predicted_bytes(layer, method, direction, *sizes)
    seconds = work.least(layer, direction, *sizes).flops / limits.flop_rate(config.product_size)
    if method == "sequential":
        seconds += (3 if direction == BOTH else 1) * length * limits.step_seconds()
    tree = work.composition_flops(layer, method, direction, length, config.width)
    if tree:
        seconds += tree / limits.flop_rate(config.width, count=256)
    available = min(config.max_bytes, limits.memory_bytes() * 3 // 4)
    name = f"{layer} {method}, {describe({'direction': direction, 'length': length})}"
    if needed > available:
        reason = f"would need {short_bytes(needed)} of {short_bytes(available)}"
    elif seconds > config.max_seconds:
        reason = f"would take {short_seconds(seconds)} of {short_seconds(config.max_seconds)}"
    else:
        return {}
    return {
        "skipped": f"{name}: {reason} (predicted)",
        "predicted_bytes": needed,
        "predicted_seconds": seconds,
    }
