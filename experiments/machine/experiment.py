"""What a machine can do at best, and what follows: how long each method takes, and where they
cross."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import jax
import pydantic

from experiments.harness import device, limits, predictions, race
from experiments.harness.experiment import Point, Record
from experiments.harness.figures import short_bytes, short_count
from experiments.harness.progress import say
from experiments.harness.timing import compare
from experiments.machine import present
from experiments.scan_limits import contenders
from experiments.scan_limits.experiment import timed
from experiments.scan_limits.shapes import DIRECTIONS, Shape

CLAIM = (
    "What this machine can do at best: bandwidth by size, products of matrices, a launch, a step "
    "of a loop; and that these alone say how long each method of linear_scan takes, and from "
    "which length on one overtakes another."
)
STREAM, PRODUCT, EACH, TIME = "stream", "product", "each", "time"


class Config(race.Config):
    """Sizes at which the machine is measured, and the scans that are predicted from it."""

    stream_bytes: tuple[pydantic.PositiveInt, ...] = (2**18, 2**22, 2**26, 2**28)
    product_sizes: tuple[pydantic.PositiveInt, ...] = (32, 128, 512, 1024)
    lanes: tuple[pydantic.PositiveInt, ...] = (16, 1024)
    lengths: tuple[pydantic.PositiveInt, ...] = (8, 64, 512, 4096, 32768)
    directions: tuple[Literal["forward", "forward+backward"], ...] = DIRECTIONS
    seed: pydantic.NonNegativeInt = 0
    rounds: int = pydantic.Field(7, ge=3, description="samples of each contender")
    budget_seconds: pydantic.PositiveFloat = 0.5

    @pydantic.field_validator("stream_bytes", "product_sizes", "lanes", "lengths", "directions")
    @classmethod
    def _distinct(cls, values: tuple) -> tuple:
        if len(set(values)) < len(values):
            raise ValueError("should have none twice")
        return values


def plan(config: Config) -> list[Point]:
    """The machine first; then a point for each width, length and direction."""
    machine: list[Point] = [{"measure": STREAM, "bytes": size} for size in config.stream_bytes]
    machine += [{"measure": PRODUCT, "size": size} for size in config.product_sizes]
    return [
        *machine,
        {"measure": EACH},
        *(
            {"measure": TIME, "lanes": lanes, "length": length, "direction": direction}
            for lanes in config.lanes
            for direction in config.directions
            for length in sorted(config.lengths)
        ),
    ]


def describe(point: Point) -> str:
    if point["measure"] == STREAM:
        return f"streaming {short_bytes(point['bytes'])}"
    if point["measure"] == PRODUCT:
        return f"products of {point['size']} x {point['size']}"
    if point["measure"] == EACH:
        return "a launch, a step, a line"
    return f"{point['lanes']} lanes, T = {short_count(point['length'])}, {point['direction']}"


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """A record for each contender of a point, or for each limit."""
    measures = {STREAM: _stream, PRODUCT: _product, EACH: _each, TIME: _time}
    for point in plan(config) if points is None else points:
        yield from measures[point["measure"]](config, point)


plot, summary = present.plot, present.summary


def _stream(config: Config, point: Point) -> Iterator[Record]:
    """Three arrays of so many bytes together, in a loop and by call."""
    if point["bytes"] > limits.memory_bytes() * 3 // 4:
        said = f"streaming {short_bytes(point['bytes'])}: more than there is"
        yield {"point": point, "skipped": said, "predicted_bytes": point["bytes"]}
        return
    size = max(1, point["bytes"] // (3 * 4))
    for in_loop in (True, False):
        timings = compare(
            limits.streams((size,)),
            rounds=config.rounds,
            sample_seconds=config.sample_seconds,
            budget_seconds=config.budget_seconds / 3,
            in_loop=in_loop,
        )
        for timing in timings:
            record = {"point": point, "contender": timing.name, **timing.as_record()}
            yield record | {
                "in_loop": in_loop,
                "bandwidth": 3 * 4 * size / timing.median,
            }


def _product(config: Config, point: Point) -> Iterator[Record]:
    size = point["size"]
    count = max(1, (512 // size) ** 2)  # as many numbers as one of 512
    (timing,) = compare(
        [limits.product(size, count)],
        rounds=config.rounds,
        sample_seconds=config.sample_seconds,
        budget_seconds=config.budget_seconds,
    )
    record = {"point": point, "contender": timing.name, **timing.as_record()}
    yield record | {
        "count": count,
        "flop_rate": 2 * count * size**3 / timing.median,
    }


def _each(config: Config, point: Point) -> Iterator[Record]:
    """What `device.py` measures, and a call from Python of what takes no time."""
    step, element = device.step_and_element_seconds()
    found = {
        "launch": device.launch_seconds(),
        "step": step,
        "element": element,
        "line": device.line_seconds(),
        "fresh words": device.fresh_words(),
        "call": device.call_seconds(),
    }
    for name, value in found.items():
        yield {"point": point, "contender": name, "value": value}
    memory = limits.memory_bytes()
    yield {"point": point, "contender": "memory", "value": memory}
    yield {"point": point, "contender": "kind", "value": jax.devices()[0].device_kind}


def _time(config: Config, point: Point) -> Iterator[Record]:
    shape, direction = Shape(1, point["length"], point["lanes"]), point["direction"]
    rivals = [f"linear_scan {method}" for method in contenders.methods(shape)]
    if refusal := race.too_large(config, describe(point), 24 * shape.nbytes):
        yield {"point": point, **refusal}
        return
    say("reference")
    task = contenders.make_task(shape, config.seed)
    chosen = [contenders.contender(name, task, direction) for name in rivals]
    streams = limits.streams(shape.b_shape)
    timings, each = timed(config, shape, direction, chosen, streams, in_loop=True)
    for timing in timings:
        record: Record = {"point": point, "contender": timing.name, **timing.as_record()}
        if timing.name in rivals:
            record |= predictions.kept(each)
        yield record
