"""The same weights at any length: a recurrence in constant memory, a net that refuses, a window."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from matplotlib.figure import Figure

from experiments.any_length import present
from experiments.harness import limits
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.figures import short_bytes, short_count
from experiments.harness.kinds import EACH_STEP, KINDS, check_kinds
from experiments.harness.layer_configs import build, by_default
from experiments.harness.progress import say
from experiments.harness.reach import zero_state

CLAIM = (
    "Claim 3, any length: the same weights run 10 or 10,000 steps. A fully connected net has a "
    "hard limit, a Transformer a soft one: memory and time of its window."
)


class Config(BaseConfig):
    """One layer of each kind, run at every length."""

    lengths: tuple[pydantic.PositiveInt, ...] = (10, 1000, 100_000, 1_000_000)
    windows: tuple[pydantic.PositiveInt, ...] = (256, 1024, 4096, 16_384, 1_048_576)
    windowed: tuple[str, ...] = pydantic.Field(
        ("RNN", "LRU", "CausalSelfAttention"), description="kinds that get whole windows"
    )
    features: pydantic.PositiveInt = 8
    hidden: pydantic.PositiveInt = 16
    context: int = pydantic.Field(256, gt=0, description="steps that a streaming attention sees")
    chunk: int = pydantic.Field(10_000, gt=0, description="steps handed to the layer at once")
    repeats: int = pydantic.Field(5, ge=1, description="samples of each window")
    max_seconds: pydantic.PositiveFloat = 20.0
    max_bytes: pydantic.PositiveInt = 4 * 2**30

    @pydantic.model_validator(mode="after")
    def _windowed_fit(self) -> Config:
        check_kinds("any_length", "windowed[{}]", self.windowed, EACH_STEP)
        return self

    @pydantic.field_validator("lengths", "windows", "windowed")
    @classmethod
    def _some_and_distinct(cls, values: tuple) -> tuple:
        if not values or len(set(values)) < len(values):
            raise ValueError("should be one at least, and none twice")
        return values


def plan(config: Config) -> list[Point]:
    """Each layer streamed to every length, whole windows, and what the fully connected net says."""
    points: list[Point] = [
        {"study": "stream", "layer": name} for name, kind in KINDS.items() if EACH_STEP.met(kind)
    ]
    points += [
        {"study": "window", "layer": kind, "length": length}
        for length in sorted(config.windows)
        for kind in config.windowed
    ]
    return [*points, {"study": "limit", "layer": "MLP"}]


def describe(point: Point) -> str:
    if point["study"] == "window":
        return f"{point['layer']}, a window of {short_count(point['length'])}"
    return f"{point['layer']}, {point['study']}"


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """A record for each length of a stream, each window, and the refusal."""
    studies = {"stream": _stream, "window": _window, "limit": _limit}
    for point in plan(config) if points is None else points:
        for record in studies[point["study"]](config, point):
            yield {"point": point, **record}


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    return present.plot(records)


def summary(records: Sequence[Record]) -> Summary:
    return present.summary(records)


def _layer(config: Config, kind: str, length: int, **options: Any) -> Any:
    sizes = {"input_size": config.features, "hidden": config.hidden, "length": length}
    return build(by_default(kind, **options), jax.random.key(0), **sizes)


def nbytes(tree: Any) -> int:
    """Of all arrays in a pytree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _stream(config: Config, point: Point) -> Iterator[Record]:
    """One object, one state; a sequence comes in chunks, so that memory is that of a chunk."""
    kind = point["layer"]
    options = {"context": config.context} if KINDS[kind].attends else {}
    layer = _layer(config, kind, config.context, **options)
    call = jax.jit(lambda layer, x, state: layer(x, state))
    for length in sorted(config.lengths):
        rng = np.random.default_rng(length)
        state = zero_state(layer)
        before, peak, error = nbytes(state), 0, None
        finite, chunks, done = True, 0, 0
        whole, parts = [], []
        start = time.perf_counter()
        while done < length:
            # Lengths that repeat, so that few programs are compiled; two chunks at least.
            steps = min(config.chunk, length - done, max(1, length // 2))
            x = rng.standard_normal((steps, config.features), np.float32)
            y, state = jax.block_until_ready(call(layer, x, state))
            finite = finite and bool(jnp.isfinite(y).all())
            if length <= config.chunk:
                whole.append(x)
                parts.append(np.asarray(y))
            done, chunks = done + steps, chunks + 1
            if chunks % 10 == 0:
                say(f"{done:,} of {length:,} steps")
        seconds = time.perf_counter() - start
        peak = nbytes(state)
        if whole:
            y, _ = call(layer, np.concatenate(whole), zero_state(layer))
            difference = np.abs(np.concatenate(parts) - np.asarray(y)).max()
            error = float(difference / np.abs(np.asarray(y)).max())
        yield {
            "length": length,
            "chunks": chunks,
            "seconds": seconds,
            "state_bytes_before": before,
            "state_bytes": peak,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(layer)),
            "finite": finite,
            "error": error,
            "context": config.context if options else None,
        }


def _window(config: Config, point: Point) -> Iterator[Record]:
    """The whole window at once, and its state kept for the next step: time and memory."""
    kind, length = point["layer"], point["length"]
    heads, flops = 4, 0.0
    needed = 4 * length * (config.features + 2 * config.hidden)
    if KINDS[kind].attends:  # scores of 512 queries at a time, and twice the products
        needed += 4 * heads * 512 * (length + 512) * 3
        flops = 8.0 * length * length * config.hidden
    seconds = flops / limits.flop_rate(256)
    name = describe(point)
    if needed > config.max_bytes or seconds > config.max_seconds:
        reason = f"would need {short_bytes(needed)} and {seconds:.0f} s at the least"
        yield {"skipped": f"{name}: {reason} (predicted)", "predicted_bytes": needed}
        return
    layer = _layer(config, kind, length)
    x = np.random.default_rng(0).standard_normal((length, config.features), np.float32)
    program = jax.jit(lambda layer, x: layer(x)).lower(layer, x).compile()
    memory = program.memory_analysis()
    y, state = jax.block_until_ready(program(layer, x))
    samples = []
    for _ in range(config.repeats):
        start = time.perf_counter()
        jax.block_until_ready(program(layer, x))
        samples.append(time.perf_counter() - start)
        if sum(samples) > 2.0:
            break
    yield {
        "length": length,
        "seconds": samples,
        "temporary_bytes": memory.temp_size_in_bytes if memory else float("nan"),
        "state_bytes": nbytes(state),
        "error": _error_of_last(layer, x, np.asarray(y)),
    }


def _error_of_last(layer: Any, x: np.ndarray, y: np.ndarray) -> float:
    """The last output against float64, one step after another; nan for windows too long for it."""
    if len(x) > present.CHECKED:
        return float("nan")
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), layer)
        state = zero_state(wide, dtype=jnp.float64)
        _, ys = _steps(wide, jnp.asarray(x, jnp.float64), state)
        last = np.asarray(ys[-1])
    return float(np.abs(y[-1] - last).max() / np.abs(last).max())


@functools.partial(jax.jit)
def _steps(layer: Any, x: jax.Array, state: Any) -> Any:
    def step(state: Any, x_t: jax.Array) -> Any:
        y_t, state = layer.step(x_t, state)
        return state, y_t

    return jax.lax.scan(step, state, x)


def _limit(config: Config, point: Point) -> Iterator[Record]:
    del point
    length = min(config.lengths)
    layer = _layer(config, "MLP", length)
    for steps in (length, length + 1, 10 * length):
        x = np.zeros((steps, config.features), np.float32)
        try:
            layer(x)
            refusal = None
        except ValueError as fault:
            refusal = str(fault)
        yield {"made_for": length, "length": steps, "refusal": refusal}
