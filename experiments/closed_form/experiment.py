"""The closed form of a linear RNN, and all ways to evaluate it: work, span, error and time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from experiments.closed_form import present, reference, work
from experiments.closed_form.contenders import PAIRED_WIDTH, contender, coupled_pairs, make_task
from experiments.closed_form.work import METHODS
from experiments.harness import limits, race
from experiments.harness.experiment import Point, Record
from experiments.harness.figures import short_count
from experiments.harness.race import BOTH, FORWARD
from experiments.harness.timing import Contender
from rnnscan import LinearRNN, explain_matrix_scan, matrix_scan

CLAIM = (
    "Claim 6, the closed form: without the activation h_t = W^t h_0 + sum_k W^(t-k) W_ih x_k, so "
    "all h_t can be computed at once. The literal formula against the layer, and work, span, error "
    "and time of every method."
)


class Config(race.Config):
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
    budget_seconds: pydantic.PositiveFloat = 0.5
    product_size: int = pydantic.Field(512, ge=16, description="of the matrices timed as limit")
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
        *({"measure": "literal", "width": n, "length": T} for n, T in literal),
        *({"measure": "condition", "condition": value} for value in config.conditions),
        *({"measure": "time", "direction": d, "width": n, "length": T} for n, T, d in timed),
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


plot, summary = present.plot, present.summary


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
        most = float(tolerance * (np.linalg.cond(vectors) if method == "diagonal" else 1.0))
        error = race.relative_error(found[method], expected)
        record = {"point": point, "method": method, "error": error, "tolerance": most}
        yield record | {"counts": error <= most}


def _run_condition(config: Config, point: Point) -> Iterator[Record]:
    """Errors in float32 where the eigenvectors are as bad as asked, and what a caller is told."""
    rng = np.random.default_rng(config.seed)
    u = rng.standard_normal((config.condition_length, PAIRED_WIDTH), np.float32)
    h0 = np.zeros(PAIRED_WIDTH, np.float32)
    for seed in range(config.condition_seeds):
        W = coupled_pairs(point["condition"], seed)
        expected = reference.evaluate(W, u, h0)["h"]
        rows = {row.method: row for row in explain_matrix_scan(W, u, h0)}
        for method, h in _every_method(W, u, h0).items():
            record = {"point": point, "method": method, "seed": seed}
            record["error"] = race.relative_error(np.asarray(h), expected)
            record["condition"] = rows["diagonal"].condition
            yield record | {"available": rows[method].available, "reason": rows[method].reason}


@jax.jit
def _every_method(W: jax.Array, u: jax.Array, h0: jax.Array) -> dict[str, jax.Array]:
    """W is traced: `diagonal` cannot look at it, and does what it can."""
    return {method: matrix_scan(W, u, h0, method=method) for method in METHODS}


def _run_time(config: Config, point: Point) -> Iterator[Record]:
    direction, width, length = point["direction"], point["width"], point["length"]
    task = make_task(length, width, config.seed)
    contenders: list[Contender] = []
    for method in METHODS:
        if refusal := _too_large(config, method, point):
            yield {"point": point, "method": method, **refusal}
        else:
            contenders.append(contender(task, method, direction))
    least = work.least(direction, length, width)
    held: dict[str, limits.Work] = dict.fromkeys(METHODS, least)
    with _one_lapack_thread():
        timings = race.beside_limit(config, contenders, held, least.bytes, config.product_size)
    for timing, limit in timings:
        record: Record = {"point": point, "contender": timing.name, **timing.as_record(), **limit}
        if timing.name in METHODS:
            cost = work.cost(timing.name, length, width)
            record |= {"method": timing.name, "work": cost.work, "span": cost.span}
            record["condition"] = task.condition
        yield record


def _one_lapack_thread() -> Any:
    """LAPACK's own threads wait for the cores that XLA's threads hold, and these for them.

    On two cores the eigenvectors of a 32 x 32 matrix then took 17 ms where they take 0.2.
    """
    import scipy.linalg  # noqa: F401  (loads the library that XLA calls)
    import threadpoolctl

    return threadpoolctl.threadpool_limits(limits=1, user_api="blas")


def _too_large(config: Config, method: str, point: Point) -> Record:
    direction, width, length = point["direction"], point["width"], point["length"]
    products = 2 * work.predicted_multiplications(method, direction, length, width)
    # Many small products do not run at the rate of a large one.
    seconds = products / limits.flop_rate(min(width, config.product_size), count=64)
    if method == "sequential":
        seconds += (2 if direction == BOTH else 1) * length * limits.step_seconds()
    needed = work.predicted_bytes(method, direction, length, width)
    name = f"{method}, {describe(point)}"
    return race.too_large(config, name, needed, seconds, config.max_seconds)
