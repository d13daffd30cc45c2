"""How long every layer takes, against length: step by step and in parallel over time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Literal, cast

import jax
import pydantic
from matplotlib.figure import Figure

from experiments.harness import device, limits, predictions, race
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.figures import short_count, short_seconds
from experiments.harness.layer_configs import LayerConfig, check_names
from experiments.harness.progress import say
from experiments.harness.timing import Contender
from experiments.wallclock import costs, peers, time_figures, verdicts, work
from experiments.wallclock.contenders import (
    BOTH,
    FORWARD,
    Task,
    contender,
    contender_name,
    make_layer,
    make_task,
    ways,
)
from experiments.wallclock.records import counted
from experiments.wallclock.tables import tables

CLAIM = (
    "Claim 5, the serial bottleneck: step t waits for step t-1, so the machine idles; and claim 8: "
    "Mamba returns to a linear recurrence, to be parallel. Time against length, step by step and "
    "parallel over time, and its distance from the machine's limit."
)

_MATRICES = 256  # of the layers' width, multiplied to say how fast such products are


class Config(race.Config):
    """What to time: every layer at every length, by every method where it has a choice."""

    layers: tuple[LayerConfig, ...] = pydantic.Field(min_length=1)
    methods: tuple[Literal["sequential", "associative", "blocked", "auto"], ...] = pydantic.Field(
        ("sequential", "associative", "auto"), description="of layers that have a choice"
    )
    lengths: tuple[pydantic.PositiveInt, ...] = (64, 1024, 4096, 16384)
    directions: tuple[Literal["forward", "forward+backward"], ...] = (FORWARD, BOTH)
    batch: pydantic.PositiveInt = 8
    width: int = pydantic.Field(32, ge=2, description="features, state width and outputs")
    peers: bool = pydantic.Field(False, description="time other packages too, where installed")
    seed: pydantic.NonNegativeInt = 0
    product_size: int = pydantic.Field(1024, ge=16, description="of the matrices timed as limit")
    max_bytes: pydantic.PositiveInt = 4 * 2**30
    max_seconds: pydantic.PositiveFloat = pydantic.Field(3.0, description="of one evaluation")
    max_reference_seconds: pydantic.PositiveFloat = pydantic.Field(
        20.0, description="of the float64 evaluation that judges it"
    )

    _names = pydantic.field_validator("layers")(check_names)

    @pydantic.field_validator("methods", "lengths", "directions")
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
    good = counted(records)
    predicted = costs.predictions(good)
    return time_figures.plot(good) | predictions.figure(predicted, costs.look)


def summary(records: Sequence[Record]) -> Summary:
    """The article's claims, and how near times are to what was predicted of them."""
    good = counted(records)
    predicted = costs.predictions(good)
    known = costs.distinct([record for record in good if costs.measured(record)])
    near = predictions.verdict(costs.predictions(known), costs.rivals, race.doubt)
    found = (verdicts.waits(records), verdicts.returns(records), near)
    return Summary(found, tables(records) + predictions.tables(predicted))


def _run_point(config: Config, point: Point) -> Iterator[Record]:
    direction, length = point["direction"], point["length"]
    backward = BOTH in config.directions
    own = {"length": length, "width": config.width, "seed": config.seed}
    facts: dict[str, dict[str, Any]] = {}
    contenders: list[Contender] = []
    tasks: dict[str, Task] = {}
    for layer in config.layers:
        shapes = jax.eval_shape(functools.partial(make_layer, layer, **own))
        for way in ways(layer.kind, config.methods):
            name = contender_name(layer, way)
            if refusal := _too_large(config, shapes, name, way, point):
                yield {"point": point, "contender": name, **refusal}
                continue
            say(f"reference of {layer.name}")
            frozen = cast(Hashable, layer)  # every config is
            task = make_task(frozen, **own, batch=config.batch, backward=backward)
            contenders.append(contender(task, way, direction))
            facts[name] = _facts(config, layer, shapes, way, direction, length)
            tasks[layer.name] = task
    for task in tasks.values() if config.peers else ():
        for peer, it in peers.of(task, direction):
            if isinstance(it, str):
                said = f"{peer.name}: {it}"
                yield {"point": point, "contender": peer.name, "peer": peer.name, "skipped": said}
                continue
            contenders.append(it)
            facts[it.name] = _of_peer(config, task, peer)
    # As many bytes as a dense layer must move: the limit at this very size, caches included.
    streamed = 4 * (6 if direction == BOTH else 2) * config.batch * length * config.width
    least = {
        name: limits.Work(it["least_bytes"], it["least_flops"])
        for name, it in facts.items()
        if "layer" in it
    }
    timings = race.beside_limit(config, contenders, least, streamed, config.product_size)
    streams = [timing for timing, _ in timings if limits.is_stream(timing)]
    each = device.each(
        limits.stream_seconds(streams),
        streamed / 3,
        by_call=min(timing.repeats for timing in streams) == 1,
        flop_rate=limits.flop_rate(config.width, count=_MATRICES),
    )
    for timing, limit in timings:
        record: Record = {"point": point, "contender": timing.name, **timing.as_record()}
        record |= facts.get(timing.name, {})
        if limit:
            # What repeats in a loop uses its memory again.
            fresh = each if timing.repeats == 1 else dataclasses.replace(each, fresh=0.0)
            record |= {**predictions.kept(fresh), **limit}
        yield record


def _facts(
    config: Config, layer: LayerConfig, shapes: Any, way: str, direction: str, length: int
) -> dict[str, Any]:
    """What a record says of its contender beside what was measured."""
    least = work.least(shapes, direction, config.batch, length)
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "config": layer.model_dump(mode="json"),
        "platform": jax.default_backend(),
        "takes": costs.taken(shapes, way, config.batch, length),
        "method": way,
        "batch": config.batch,
        "width": config.width,
        "span": work.span(shapes, way, config.batch, length),
        "least_bytes": least.bytes,
        "least_flops": least.flops,
    }


def _of_peer(config: Config, task: Task, peer: peers.Peer) -> dict[str, Any]:
    """The same of another package's layer; without "layer", which has those of ours alone."""
    own = {"peer": peer.name, "version": peer.version, "beside": task.config.name}
    return own | {"batch": config.batch, "width": config.width}


def _too_large(config: Config, shapes: Any, name: str, way: str, point: Point) -> Record:
    """Why not to try it, with the prediction; empty where it fits the memory and the patience."""
    direction, length = point["direction"], point["length"]
    backward, sizes = BOTH in config.directions, (config.batch, length)
    needed = work.predicted_bytes(shapes, way, direction, *sizes)
    seconds = work.predicted_seconds(shapes, way, direction, *sizes)
    judging, most = work.reference_seconds(shapes, backward, *sizes), config.max_reference_seconds
    name = f"{name}, {describe(point)}"
    refusal = race.too_large(config, name, needed, seconds, config.max_seconds)
    if not refusal and judging > most:
        reason = f"its float64 reference would take {short_seconds(judging)} of {most:g} s"
        refusal = race.refused(name, reason, needed, seconds)
    return refusal and {**refusal, "predicted_reference_seconds": judging}
