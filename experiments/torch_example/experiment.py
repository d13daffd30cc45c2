"""The article's PyTorch example: the same shapes and numbers, a real classifier, and the time."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
import pydantic
from matplotlib.figure import Figure

from experiments.digits import classifier
from experiments.harness import limits
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Point, Record, Summary
from experiments.harness.layer_options import Dense
from experiments.harness.progress import say
from experiments.harness.race import BOTH, FORWARD
from experiments.harness.timing import compare
from experiments.harness.training import Training, parameter_count, train
from experiments.torch_example import present
from experiments.torch_example import reference as torch_side
from experiments.torch_example.contenders import OURS, TORCH, contenders, flops
from rnnscan.tasks import digits

CLAIM = (
    "Claims 1 and 11: a tanh RNN is h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), as PyTorch "
    "has it; output holds every step's state, h_n the last, and a linear layer on that classifies."
)
NO_TORCH = "torch is not installed here"
DTYPES = ("float32", "float64")


class Shape(BaseConfig):
    """Sequences and a layer to time."""

    length: pydantic.PositiveInt
    batch: pydantic.PositiveInt
    inputs: pydantic.PositiveInt
    hidden: pydantic.PositiveInt


class Config(BaseConfig):
    """What to compare, how long to train, and what to time (where torch is installed)."""

    live: pydantic.NonNegativeInt = pydantic.Field(
        12, description="random configurations of each layer, compared where torch is installed"
    )
    seeds: pydantic.PositiveInt = 3
    hidden: pydantic.PositiveInt = 20
    training: Training = Training(epochs=30)
    speed: tuple[Shape, ...] = ()
    directions: tuple[Literal["forward", "forward+backward"], ...] = (FORWARD, BOTH)
    rounds: int = pydantic.Field(9, ge=3, description="samples of each contender")
    sample_seconds: pydantic.PositiveFloat = 2e-3
    budget_seconds: pydantic.PositiveFloat = 4.0
    product_size: int = pydantic.Field(1024, ge=16, description="of the matrices timed as limit")

    @pydantic.field_validator("speed")
    @classmethod
    def _distinct(cls, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        if len(set(shapes)) < len(shapes):
            raise ValueError("should not name a shape twice")
        return shapes


def plan(config: Config) -> list[Point]:
    """The stored example, random ones, the classifier, and the times."""
    points: list[Point] = [{"study": "example", "layer": layer} for layer in torch_side.LAYERS]
    if config.live:
        points += [{"study": "random", "layer": layer} for layer in torch_side.LAYERS]
    points += [{"study": "classifier", "seed": seed} for seed in range(config.seeds)]
    return points + [
        {"study": "speed", "layer": layer, "shape": list(vars(shape).values()), "direction": way}
        for shape in config.speed
        for layer in torch_side.LAYERS
        for way in config.directions
    ]


def describe(point: Point) -> str:
    if point["study"] == "speed":
        return f"time of {point['layer']} {tuple(point['shape'])}, {point['direction']}"
    return " ".join(str(value) for value in point.values())


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    """A record for each precision of an example, each classifier, each contender."""
    studies = {"example": _example, "random": _random, "classifier": _classifier, "speed": _speed}
    for point in plan(config) if points is None else points:
        for record in studies[point["study"]](config, point):
            yield {"point": point, **record}


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    return present.plot(records)


def summary(records: Sequence[Record]) -> Summary:
    return present.summary(records)


def _compared(case: dict[str, Any], expected: torch_side.Arrays, dtype: str) -> dict[str, Any]:
    with jax.enable_x64(dtype == "float64"):
        found = torch_side.computed(case, expected, np.dtype(dtype))
    of_values, of_gradients = torch_side.errors(found, expected)
    return {
        "dtype": dtype,
        "value_error": of_values,
        "gradient_error": of_gradients,
        "y_shape": list(found["y"].shape),
        "last_shape": list(found["last"].shape),
        # h_n against the last step of output: the same numbers, not close ones.
        "last_is_in_y": bool(np.array_equal(_h(case, found["last"])[-1], found["y"][..., -1, :])),
    }


def _h(case: dict[str, Any], last: np.ndarray) -> np.ndarray:
    return last[0] if case.get("layer") == "LSTM" else last


def _example(config: Config, point: Point) -> Iterator[Record]:
    del config
    version, cases, references = torch_side.stored()
    name = point["layer"]
    for dtype in DTYPES:
        compared = _compared(cases[name], references[name], dtype)
        yield {"torch": version, "configurations": 1, **compared}


def _random(config: Config, point: Point) -> Iterator[Record]:
    if not torch_side.available():
        yield {"skipped": f"random {point['layer']}s: {NO_TORCH}", "predicted_bytes": 0}
        return
    found: dict[str, list[tuple[float, float]]] = {dtype: [] for dtype in DTYPES}
    for seed in range(config.live):
        say(f"configuration {seed + 1} of {config.live}")
        case = random_case(point["layer"], seed)
        expected = torch_side.reference(seed, **case)
        for dtype in DTYPES:
            compared = _compared(case, expected, dtype)
            found[dtype].append((compared["value_error"], compared["gradient_error"]))
    for dtype, errors in found.items():
        of_values, of_gradients = np.max(errors, axis=0)  # keeps a nan
        yield {
            "torch": importlib.metadata.version("torch"),
            "configurations": config.live,
            "dtype": dtype,
            "value_error": float(of_values),
            "gradient_error": float(of_gradients),
        }


def random_case(layer: str, seed: int) -> dict[str, Any]:
    """Sizes and options of a layer and its sequences."""
    rng = np.random.default_rng(seed)
    batch = int(rng.integers(1, 5))
    time = int(rng.integers(1, 40))
    case: dict[str, Any] = {
        "layer": layer,
        "input_size": int(rng.integers(1, 12)),
        "hidden_size": int(rng.integers(2, 24)),
        "num_layers": int(rng.integers(1, 4)),
        "batch": batch,
        "time": time,
        **{key: bool(rng.integers(2)) for key in ("bidirectional", "bias", "state")},
    }
    if rng.integers(2):
        case["lengths"] = [int(n) for n in rng.integers(1, time + 1, batch)]
    return case


def _classifier(config: Config, point: Point) -> Iterator[Record]:
    data = digits("rows")
    model = classifier.init(
        Dense(name="RNN", kind="RNN"),
        jax.random.key(point["seed"]),
        features=8,
        hidden=config.hidden,
        outputs=10,
        head="linear",
    )
    trained = train(
        model,
        classifier.loss,
        (data.train.x, data.train.y),
        (data.validation.x, data.validation.y),
        config.training,
        point["seed"],
    )
    logits, _ = trained.model(data.test.x)
    yield {
        "parameters": parameter_count(model),
        "hidden": config.hidden,
        "sequence_shape": list(data.train.x.shape[1:]),
        "test_size": len(data.test),
        "test_accuracy": float(np.mean(np.argmax(np.asarray(logits), -1) == data.test.y)),
    }


def _speed(config: Config, point: Point) -> Iterator[Record]:
    if not torch_side.available():
        yield {"skipped": f"{describe(point)}: {NO_TORCH}", "predicted_bytes": 0}
        return
    shape, way = tuple(point["shape"]), point["direction"]
    timings = compare(
        [*contenders(point["layer"], shape, way), limits.product(config.product_size)],
        rounds=config.rounds,
        sample_seconds=config.sample_seconds,
        budget_seconds=config.budget_seconds,
        in_loop=False,
        watch=say,
    )
    for timing in timings:
        record: Record = {"contender": timing.name, **timing.as_record()}
        if timing.name in (OURS, TORCH):
            record["flops"] = flops(point["layer"], shape, way)
        else:
            record["flops"] = 2 * config.product_size**3
        yield record
