"""How near `linear_scan` comes to the speed of memory, by every method, beside others' scans."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
import pydantic

from experiments.harness import device, limits, predictions, race
from experiments.harness.experiment import Point, Record
from experiments.harness.figures import short_count
from experiments.harness.progress import say
from experiments.harness.timing import Contender, Timing
from experiments.scan_limits import contenders, peers, present, work
from experiments.scan_limits.predictions import NOISE, least_seconds
from experiments.scan_limits.shapes import BOTH, BY_NAME, DIRECTIONS, SHAPES, Shape
from rnnscan.scan.cost import Cost

CLAIM = (
    "linear_scan is as fast as memory: its time, by every method, over the time of streaming the "
    "same bytes, beside the scans of JAX and of other packages; accuracy; compile time against T."
)
TIME, COMPILE = "time", "compile"


class Config(race.Config):
    """What to time, on which shapes, and what to compile, at which lengths."""

    shapes: tuple[str, ...] = tuple(shape.name for shape in SHAPES)
    directions: tuple[Literal["forward", "forward+backward"], ...] = DIRECTIONS
    contenders: tuple[str, ...] = pydantic.Field((), description="only these; all where empty")
    peers: bool = pydantic.Field(True, description="time other packages too, where installed")
    seed: pydantic.NonNegativeInt = 0
    rounds: int = pydantic.Field(11, ge=3, description="samples of each contender")
    sample_seconds: pydantic.PositiveFloat = 2e-3
    loop_bytes: pydantic.NonNegativeInt = pydantic.Field(
        32 * 2**20, description="arrays up to this size are timed inside a compiled loop"
    )
    max_bytes: pydantic.PositiveInt = 8 * 2**30
    max_seconds: pydantic.PositiveFloat = 15.0
    compile_lengths: tuple[pydantic.PositiveInt, ...] = tuple(2**k for k in range(4, 21, 4))
    compile_dtypes: tuple[Literal["float32", "complex64"], ...] = ("float32", "complex64")
    compile_inner: pydantic.PositiveInt = 16
    compile_rounds: pydantic.PositiveInt = 3
    compile_budget_seconds: pydantic.PositiveFloat = 1.0
    compile_tree_length: pydantic.PositiveInt = pydantic.Field(
        2**20, description="trees are compiled up to this length"
    )

    @pydantic.field_validator("shapes")
    @classmethod
    def _known(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [value for value in values if value not in BY_NAME]
        if unknown:
            raise ValueError(f"no such shape: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
        return values

    @pydantic.field_validator("contenders")
    @classmethod
    def _known_contenders(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        known = [*contenders.every_name(), *(peer.name for peer in peers.PEERS)]
        unknown = [value for value in values if value not in known]
        if unknown:
            raise ValueError(f"none is called {', '.join(unknown)}; there are {', '.join(known)}")
        return values

    def competes(self, name: str) -> bool:
        return not self.contenders or name in self.contenders

    @pydantic.field_validator(
        "shapes", "contenders", "directions", "compile_lengths", "compile_dtypes"
    )
    @classmethod
    def _distinct(cls, values: tuple) -> tuple:
        if len(set(values)) < len(values):
            raise ValueError("should have none twice")
        return values

    @pydantic.model_validator(mode="after")
    def _something(self) -> Config:
        if not self.directions or not (
            self.shapes or (self.compile_lengths and self.compile_dtypes)
        ):
            raise ValueError(
                "nothing to measure: there should be a direction, and a shape or length"
            )
        return self


def plan(config: Config) -> list[Point]:
    """A point for each shape and direction, whose contenders are timed side by side; then one for
    each length, dtype and direction to compile for."""
    timed = [
        {"measure": TIME, "shape": name, "direction": direction}
        for name in config.shapes
        for direction in config.directions
    ]
    compiled = [
        {"measure": COMPILE, "length": length, "dtype": dtype, "direction": direction}
        for dtype in config.compile_dtypes
        for direction in config.directions
        for length in sorted(config.compile_lengths)
    ]
    return timed + compiled


def describe(point: Point) -> str:
    if point["measure"] == TIME:
        return f"{point['shape']}, {point['direction']}"
    return f"compiling {point['direction']}, {point['dtype']}, T = {short_count(point['length'])}"


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One record for each contender of a point, and one for each kernel that streams."""
    for point in plan(config) if points is None else points:
        yield from (_time if point["measure"] == TIME else _compile)(config, point)


plot, summary = present.plot, present.summary


@dataclass(frozen=True)
class _Candidate:
    """Who could compete, the bytes it will hold, and how it is made for a task and a direction, or
    what goes wrong then; or what is missing here."""

    name: str
    kind: str
    held: int
    make: Callable[[contenders.Task, str], Contender | str]
    version: str = ""
    missing: str = ""


def _time(config: Config, point: Point) -> Iterator[Record]:
    shape, direction = BY_NAME[point["shape"]], point["direction"]
    task = contenders.make_task(shape, config.seed)
    chosen: list[Contender] = []
    facts: dict[str, _Candidate] = {}
    for it in _candidates(config, shape, direction):
        refusal = _refusal(config, it, shape, direction)
        if refusal:
            yield {"point": point, "contender": it.name, "kind": it.kind, **refusal}
            continue
        say(f"preparing {it.name}")
        made = it.make(task, direction)
        if isinstance(made, str):
            said = f"{it.name}: {made}"
            yield {"point": point, "contender": it.name, "kind": it.kind, "skipped": said}
            continue
        chosen.append(made)
        facts[it.name] = it
    words, in_loop = shape.words(direction), shape.nbytes <= config.loop_bytes
    streams = limits.streams(_streamed_shape(shape))
    timings, machine = timed(config, shape, direction, chosen, streams, in_loop)
    stream_seconds = limits.stream_seconds(timings) * words / 3
    for timing in timings:
        record: Record = {"point": point, "contender": timing.name, **timing.as_record()}
        if timing.name in facts:
            record |= {
                "kind": facts[timing.name].kind,
                "version": facts[timing.name].version,
                "size": shape.size,
                "lanes": shape.lanes,
                "words": words,
                "bytes": shape.nbytes * words,
                "stream_seconds": stream_seconds,
                "ratio": timing.median / stream_seconds,
                "asked": shape.asked(direction),
                **predictions.kept(machine),
            }
            if timing.name == contenders.AUTO:
                taken = [name for name, auto in contenders.methods(shape).items() if auto]
                record["auto_takes"] = taken[0] if taken else ""
        yield record


def timed(
    config: race.Config,
    shape: Shape,
    direction: str,
    chosen: Sequence[Contender],
    streams: Sequence[Contender],
    in_loop: bool,
) -> tuple[list[Timing], Cost]:
    """Times contenders beside streams of a shape; and the seconds of one of each in this run."""

    def machine(timings: Sequence[Timing]) -> Cost:
        return device.each(limits.stream_seconds(timings), shape.nbytes, by_call=not in_loop)

    def share(timings: Sequence[Timing]) -> float:
        least = least_seconds(shape, direction, machine(timings))
        mine = [it for it in timings if it.counts and not limits.is_stream(it)]
        return max((least / it.median for it in mine), default=0.0)

    timings = race.timed(config, [*chosen, *streams], share, in_loop=in_loop, noise=NOISE)
    return timings, machine(timings)


def _candidates(config: Config, shape: Shape, direction: str) -> Iterator[_Candidate]:
    """Everyone who could compete."""
    for name in filter(config.competes, contenders.names(shape)):
        kind = "method" if name.startswith("linear_scan") else "jax"
        held = work.predicted_bytes(name, shape, direction)
        yield _Candidate(name, kind, held, functools.partial(contenders.contender, name))
    for peer in peers.of(shape) if config.peers else ():
        if config.competes(peer.name):
            held = peer.predicted_bytes(shape, direction)
            yield _Candidate(peer.name, "peer", held, peer.tried, peer.version, peer.why_not)


def _streamed_shape(shape: Shape) -> tuple[int, ...]:
    """float32 arrays of the same bytes: a complex number is two."""
    numbers = np.dtype(shape.dtype).itemsize // 4
    return (*shape.b_shape[:-1], numbers * shape.inner)


def _refusal(config: Config, it: _Candidate, shape: Shape, direction: str) -> Record:
    """Why not to try it."""
    if it.missing:
        return {"skipped": f"{it.name}: {it.missing}"}
    seconds = work.predicted_seconds(it.name, shape, direction, it.held, limits.step_seconds())
    name = f"{it.name}, {shape.name}, {direction}"
    return race.too_large(config, name, it.held, seconds, config.max_seconds)


def _compile(config: Config, point: Point) -> Iterator[Record]:
    """Lowering and compiling alone: nothing is run, and no array is made."""
    _warm_up()
    shape = Shape(1, point["length"], config.compile_inner, dtype=point["dtype"])
    direction = point["direction"]
    for name in filter(config.competes, contenders.names(shape)):
        if name in work.TREES and shape.length > config.compile_tree_length:
            held = work.predicted_bytes(name, shape, direction)
            most = short_count(config.compile_tree_length)
            reason = f"{name}, {describe(point)}: trees are compiled up to T = {most}"
            yield {"point": point, "contender": name, "skipped": reason, "predicted_bytes": held}
            continue
        say(f"compiling {name}")
        seconds: list[float] = []
        while len(seconds) < config.compile_rounds and sum(seconds) < config.compile_budget_seconds:
            seconds.append(_compile_seconds(name, shape, direction))
        yield {"point": point, "contender": name, "compile_seconds": seconds}


def _compile_seconds(name: str, shape: Shape, direction: str) -> float:
    array = jax.ShapeDtypeStruct(shape.b_shape, shape.dtype)
    program = contenders.program(name, direction)

    def unseen(*operands: jax.Array) -> object:  # no cache has the trace of a new function
        return program(*operands)

    start = time.perf_counter()
    jax.jit(unseen).lower(*[array] * (3 if direction == BOTH else 2)).compile()
    return time.perf_counter() - start


@functools.cache
def _warm_up() -> None:
    """The first program of a process pays for starting the compiler."""
    for direction in DIRECTIONS:
        _compile_seconds(contenders.SCAN, Shape(1, 2, 2), direction)
