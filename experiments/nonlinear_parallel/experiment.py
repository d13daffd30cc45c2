"""A tanh RNN in parallel over time, by Newton's iteration: when it is exact, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from matplotlib.figure import Figure
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.figures import short_count
from experiments.nonlinear_parallel import fewest, measure, present, training
from experiments.nonlinear_parallel.cells import CELLS, ROWS
from experiments.nonlinear_parallel.programs import METHODS
from experiments.nonlinear_parallel.training import WAYS, Training

CLAIM = (
    "Claim 7: with tanh the nesting is a black box, steps cannot be skipped, serial evaluation is "
    "unavoidable. Newton's iteration over the whole trajectory against the loop: iterations, "
    "error against float64 and time, by length, width and Lyapunov exponent."
)
METHODS_PART, PHASE, FEWEST, TRAINING = "methods", "phase", "fewest", "training"

CellName = Literal["rnn", "gru", "lstm", "matrix"]
MethodName = Literal["sequential", "newton", "quasi_newton", "chunked_newton", "damped_newton"]


def _rows(cell: str, width: int) -> None:
    if cell == "matrix" and width % ROWS:
        raise ValueError(f"width of a matrix state should be a multiple of {ROWS}")


class Case(BaseConfig):
    """Recurrences of one shape, on which methods are compared."""

    cell: CellName = "rnn"
    length: int = Field(gt=1)
    width: int = Field(gt=0)
    gains: tuple[PositiveFloat, ...] = Field(default=(1.0,), min_length=1)
    input_scale: float = Field(default=0.5, gt=0)
    seeds: int = Field(default=3, gt=0)
    methods: tuple[MethodName, ...] = Field(default=METHODS, min_length=1)
    tol: float = Field(8.0, gt=0, description="residual that is solved, in units of rounding")

    @model_validator(mode="after")
    def _fits(self) -> Case:
        _rows(self.cell, self.width)
        return self


class Phase(BaseConfig):
    """A grid of gains and input scales, of tanh RNNs of one shape; empty gains leave it out."""

    length: int = Field(default=1024, gt=1)
    width: int = Field(default=32, gt=0)
    gains: tuple[PositiveFloat, ...] = ()
    input_scales: tuple[PositiveFloat, ...] = (0.5,)
    seed: int = Field(default=0, ge=0)


class Series(BaseConfig):
    """A recurrence whose fewest iterations are counted at every length."""

    cell: CellName
    width: int = Field(gt=0)
    gain: float = Field(default=1.0, gt=0)
    input_scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Series:
        _rows(self.cell, self.width)
        return self


class Fewest(BaseConfig):
    """For which recurrences and lengths; no series leave it out."""

    series: tuple[Series, ...] = ()
    lengths: tuple[PositiveInt, ...] = (64, 512, 4096)
    seeds: int = Field(default=3, gt=0)
    near: float = Field(default=1e-4, gt=0, description="largest distance from the loop's states")
    most: int = Field(default=64, gt=0)


class Config(BaseConfig):
    """Four parts: methods on cases, a phase diagram, fewest iterations, and training."""

    cases: tuple[Case, ...] = ()
    phase: Phase = Phase()
    fewest: Fewest = Fewest()
    training: Training | None = None
    max_iterations: int = Field(default=64, gt=0, description="after which a method gives up")
    rounds: int = Field(default=3, ge=3, description="samples of each contender, taken in turns")
    sample_seconds: float = Field(default=1e-3, gt=0)
    budget_seconds: float = Field(default=0.05, gt=0)


def plan(config: Config) -> list[Point]:
    """The methods first, then the grid, the fewest iterations, and training."""
    methods: list[Point] = [
        {
            "part": METHODS_PART,
            "case": number,
            "cell": case.cell,
            "length": case.length,
            "width": case.width,
            "gain": gain,
            "input_scale": case.input_scale,
            "tol": case.tol,
            "seed": seed,
        }
        for number, case in enumerate(config.cases)
        for gain in case.gains
        for seed in range(case.seeds)
    ]
    grid: list[Point] = [
        {
            "part": PHASE,
            "cell": "rnn",
            "length": config.phase.length,
            "width": config.phase.width,
            "gain": gain,
            "input_scale": scale,
            "seed": config.phase.seed,
        }
        for gain in config.phase.gains
        for scale in config.phase.input_scales
    ]
    counts: list[Point] = [
        {"part": FEWEST, **series.model_dump(), "length": length, "seed": seed}
        for series in config.fewest.series
        for length in config.fewest.lengths
        for seed in range(config.fewest.seeds)
    ]
    seeds = range(config.training.seeds) if config.training else ()
    trained: list[Point] = [
        {"part": TRAINING, "way": way, "seed": seed} for seed in seeds for way in WAYS
    ]
    return [*methods, *grid, *counts, *trained]


def describe(point: Point) -> str:
    if point["part"] == TRAINING:
        return f"training, {point['way']}, seed {point['seed']}"
    return (
        f"{point['part']}: {CELLS[point['cell']].title}, D = {point['width']}, "
        f"T = {short_count(point['length'])}, gain {point['gain']:g}, "
        f"inputs {point['input_scale']:g}, seed {point['seed']}"
    )


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """A record for each method of a point; one for a point of the other parts."""
    timing = {
        "rounds": config.rounds,
        "sample_seconds": config.sample_seconds,
        "budget_seconds": config.budget_seconds,
    }
    most = config.max_iterations
    for point in plan(config) if points is None else points:
        if point["part"] == METHODS_PART:
            yield from measure.methods(point, config.cases[point["case"]].methods, most, **timing)
        elif point["part"] == PHASE:
            yield from measure.phase(point, most, **timing)
        elif point["part"] == FEWEST:
            yield from fewest.fewest(point, config.fewest.near, config.fewest.most)
        else:
            assert config.training is not None
            found = training.train(point["way"], config.training, point["seed"])
            yield {"point": point, **found}


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    return present.plot(records)


def summary(records: Sequence[Record]) -> Summary:
    return present.summary(records)
