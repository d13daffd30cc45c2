"""The closed form of a linear RNN, and all ways to evaluate it: work, span, error and time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from matplotlib.figure import Figure

from experiments.closed_form import matrices, present, reference, work
from experiments.closed_form.contenders import contender, make_task
from experiments.closed_form.work import BOTH, FORWARD, METHODS
from experiments.harness import limits
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.figures import short_bytes, short_count, short_seconds
from experiments.harness.progress import say
from experiments.harness.timing import Contender, compare
from rnnscan import LinearRNN, explain_matrix_scan, matrix_scan

CLAIM = (
    "Claim 6, the closed form: without the activation h_t = W^t h_0 + sum_k W^(t-k) W_ih x_k, so "
    "all h_t can be computed at once. The literal formula against the layer, and work, span, error "
    "and time of every method."
)


class Config(BaseConfig):
    """What to compare: the formula, errors for bad eigenvectors, times for widths and lengths."""

    literal_widths: tuple[pydantic.PositiveInt, ...] = (4, 32)
    literal_lengths: tuple[pydantic.PositiveInt, ...] = (64, 256)
    conditions: tuple[Annotated[float, pydantic.Field(ge=1)], ...] = pydantic.Field(
        (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 65536.0, 1e9),
        description="of the eigenvectors; beyond 2^21 the matrix has too few of them",
    )
    condition_length: pydantic.PositiveInt = 1024
    condition_seeds: pydantic.PositiveInt = 3
    widths: tuple[pydantic.PositiveInt, ...] = (4, 32, 128)
    lengths: tuple[pydantic.PositiveInt, ...] = (64, 256, 1024, 4096, 16384)
    directions: tuple[Literal["forward", "forward+backward"], ...] = (FORWARD, BOTH)
    seed: pydantic.NonNegativeInt = 0
    rounds: int = pydantic.Field(9, ge=3, description="samples of each contender")
    sample_seconds: pydantic.PositiveFloat = 1e-3
    budget_seconds: pydantic.PositiveFloat = 0.5
    product_size: int = pydantic.Field(512, ge=16, description="of the matrices timed as limit")
    max_bytes: pydantic.PositiveInt = 2 * 2**30
    max_seconds: pydantic.PositiveFloat = 0.5

    @pydantic.model_validator(mode="after")
    def _distinct(self) -> Config:
        for name in ("literal_widths", "literal_lengths", "conditions", "widths", "lengths"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} should hold no value twice")
        return self


def plan(config: Config) -> list[Point]:
    """The formula, then errors, then times: one point for each width, length and direction."""
    literal = itertools.product(config.literal_widths, config.literal_lengths)
    timed = itertools.product(sorted(config.widths), sorted(config.lengths), config.directions)
    return [
        *({"measure": "literal", "width": width, "length": length} for width, length in literal),
        *({"measure": "condition", "condition": value} for value in config.conditions),
        *(
            {"measure": "time", "direction": direction, "width": width, "length": length}
            for width, length, direction in timed
        ),
    ]


def describe(point: Point) -> str:
    if point["measure"] == "condition":
        return f"eigenvectors of condition {point['condition']:g}"
    what = point.get("direction", "the literal closed form")
    return f"{what}, n = {point['width']}, T = {short_count(point['length'])}"


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """One record for each method of a point, and at timed points one for each kernel that says how
    fast the machine is."""
    runners = {"literal": _run_literal, "condition": _run_condition, "time": _run_time}
    for point in plan(config) if points is None else points:
        yield from runners[point["measure"]](config, point)


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    return present.plot(records)


def summary(records: Sequence[Record]) -> Summary:
    return present.summary(records)


def _run_literal(config: Config, point: Point) -> Iterator[Record]:
    """The formula as it is written, and the layer by every method, both in float64."""
    width, length = point["width"], point["length"]
    rng = np.random.default_rng((config.seed, width, length))
    x, state = rng.normal(size=(length, width)), rng.normal(size=width)
    with jax.enable_x64(True):
        key = jax.random.key(config.seed)
        layer = LinearRNN.init(key, width, width, bias=False, dtype=jnp.float64)
        W, W_ih = np.asarray(layer.w_hh), np.asarray(layer.w_ih)
        found = {method: np.asarray(layer(x, state, method=method)[0]) for method in METHODS}
    expected = reference.literal(W, x @ W_ih.T, state)
    values, vectors = np.linalg.eig(W)
    # Powers carry their roundings through products, and the sums carry them on: twice 1 / (1 - r).
    tolerance = 4 * 2.0**-53 * width / (1 - np.abs(values).max()) ** 2
    for method in METHODS:
        enlarged = np.linalg.cond(vectors) if method == "diagonal" else 1.0
        error = reference.relative_error(found[method], expected)
        yield {
            "point": point,
            "method": method,
            "error": error,
            "tolerance": float(tolerance * enlarged),
            "counts": bool(error <= tolerance * enlarged),
        }


def _run_condition(config: Config, point: Point) -> Iterator[Record]:
    """Errors in float32 where the eigenvectors are as bad as asked, and what a caller is told."""
    rng = np.random.default_rng(config.seed)
    size = (config.condition_length, matrices.PAIRED_WIDTH)
    u, h0 = rng.standard_normal(size, np.float32), np.zeros(size[1], np.float32)

    for seed in range(config.condition_seeds):
        W = matrices.coupled_pairs(point["condition"], seed)
        expected = reference.evaluate(W, u, h0)["h"]
        rows = {row.method: row for row in explain_matrix_scan(W, u, h0)}
        for method, h in _every_method(W, u, h0).items():
            yield {
                "point": point,
                "method": method,
                "seed": seed,
                "error": reference.relative_error(np.asarray(h), expected),
                "condition": rows["diagonal"].condition,
                "available": rows[method].available,
                "reason": rows[method].reason,
            }


@jax.jit
def _every_method(W: jax.Array, u: jax.Array, h0: jax.Array) -> dict[str, jax.Array]:
    """W is traced: `diagonal` cannot look at it, and does what it can."""
    return {method: matrix_scan(W, u, h0, method=method) for method in METHODS}


def _run_time(config: Config, point: Point) -> Iterator[Record]:
    direction, width, length = point["direction"], point["width"], point["length"]
    task = make_task(length, width, config.seed)
    contenders: list[Contender] = []
    for method in METHODS:
        refusal = _too_large(config, method, direction, length, width)
        if refusal:
            yield {"point": point, "method": method, **refusal}
        else:
            contenders.append(contender(task, method, direction))
    least = work.least(direction, length, width)
    with _one_lapack_thread():
        timings = compare(
            contenders + limits.contenders(least.bytes, config.product_size),
            rounds=config.rounds,
            sample_seconds=config.sample_seconds,
            budget_seconds=config.budget_seconds,
            watch=say,
        )
    machine = limits.measured(timings, least.bytes, config.product_size)
    for timing in timings:
        record: Record = {"point": point, "contender": timing.name, **timing.as_record()}
        if timing.name in METHODS:
            cost = work.cost(timing.name, length, width)
            record |= {
                "method": timing.name,
                "work": cost.work,
                "span": cost.span,
                "condition": task.condition,
                "bandwidth": machine.bandwidth,
                "flop_rate": machine.flop_rate,
                "limit_seconds": machine.seconds(least),
                "limited_by": machine.bound(least),
            }
        yield record


def _one_lapack_thread() -> Any:
    """LAPACK's own threads wait for the cores that XLA's threads hold, and these for them.

    On two cores the eigenvectors of a 32 x 32 matrix then took 17 ms where they take 0.2.
    """
    import scipy.linalg  # noqa: F401  (loads the library that XLA calls)
    import threadpoolctl

    return threadpoolctl.threadpool_limits(limits=1, user_api="blas")


def _too_large(
    config: Config, method: str, direction: str, length: int, width: int
) -> dict[str, str | float]:
    """Why not to try it, with the prediction; empty where it fits the memory and the patience."""
    needed = work.predicted_bytes(method, direction, length, width)
    products = 2 * work.predicted_multiplications(method, direction, length, width)
    # Many small products do not run at the rate of a large one.
    seconds = products / limits.flop_rate(min(width, config.product_size), count=64)
    if method == "sequential":
        seconds += (2 if direction == BOTH else 1) * length * limits.step_seconds()
    available = min(config.max_bytes, limits.memory_bytes() * 3 // 4)
    if needed > available:
        reason = f"would need {short_bytes(needed)} of {short_bytes(available)}"
    elif seconds > config.max_seconds:
        reason = f"would take {short_seconds(seconds)} of {short_seconds(config.max_seconds)}"
    else:
        return {}
    name = f"{method}, {direction}, n = {width}, T = {short_count(length)}"
    return {
        "skipped": f"{name}: {reason} (predicted)",
        "predicted_bytes": needed,
        "predicted_seconds": seconds,
    }
