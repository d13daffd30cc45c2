"""What experiments that train layers on one budget share: a *study*.

Its config has `layers`, `parameters`, `seeds` and a `training`; its points are a layer and a seed;
its records keep how the training loss went, which says whether a training says anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from matplotlib.axes import Axes

from experiments.harness.experiment import Point, Record
from experiments.harness.gradient_figures import layer_looks
from experiments.harness.layer_configs import LayerConfig
from experiments.harness.records import array, distinct, field, seeds, select
from experiments.harness.sequence_models import check_budget, make, widest
from experiments.harness.training import Loss, Model, parameter_count, train
from rnnscan import SequenceModel

LATE = 1 / 3  # of what a loss falls below chance, in the second half of the epochs: too brief


def points(config: Any) -> list[Point]:
    """One for each trained model; layers take turns, so that a slow hour hits all."""
    return [
        {"layer": layer.name, "seed": seed}
        for seed in range(config.seeds)
        for layer in config.layers
    ]


def plan(config: Any, **sizes: Any) -> list[Point]:
    """The points, once every layer is known to fit the budget in a network of these sizes."""
    check_budget(config.layers, config.parameters, **sizes)
    return points(config)


def describe(point: Point) -> str:
    return f"{point['layer']}, seed {point['seed']}"


def layer_of(config: Any, point: Point) -> LayerConfig:
    return next(layer for layer in config.layers if layer.name == point["layer"])


def widest_model(
    config: Any, point: Point, *, key: jax.Array | None = None, **sizes: Any
) -> tuple[int, SequenceModel]:
    """The width that the budget allows, and the model before training; by default the seed's."""
    layer = layer_of(config, point)
    width = widest(layer, config.parameters, **sizes)
    key = jax.random.key(point["seed"]) if key is None else key
    return width, make(layer, key, width=width, **sizes)


Data = tuple[np.ndarray, np.ndarray]


def fit(
    config: Any,
    point: Point,
    untrained: Model,
    loss: Loss,
    training: Data,
    validation: Data,
    histories: Sequence[str],
    best_by: Literal["accuracy", "loss"] = "accuracy",
) -> tuple[Model, Record]:
    """The model of the best epoch, and the half of its record that all studies have in common.

    histories: what the record keeps of `Trained`, by name, beside its times.
    """
    data, budget = (training, validation), config.training
    trained = train(untrained, loss, *data, budget, point["seed"], best_by)
    return trained.model, {
        "point": point,
        "kind": layer_of(config, point).kind,
        "parameters": parameter_count(untrained),
        **{name: np.round(getattr(trained, name), 5) for name in histories},
        "batch_size": budget.batch_size,
        "compile_seconds": trained.compile_seconds,
        "step_seconds": trained.step_seconds,
    }


def doubt(records: Iterable[Record], chance: float, *fields: str, goal: float | None = None) -> str:
    """Why no verdict may rest on these records, in words; "" where one may.

    Never on a field that is nan or inf, nor on a training that diverged: its loss ends above where
    it began, or nowhere. And where it is a goal not reached that decides, not on a training that
    was too brief: it ends no better than guessing, or more than a third of what its loss fell below
    that came in the second half of the epochs, or as much more of that half would reach the goal.
    The rate falls to 0 with the last epoch, so that every curve is flat at its end, and only the
    whole of it tells.

    Args:
      chance: the loss of guessing, nats.
      fields: which decide; the first is the score, and what the goal is for.
      goal: that was not reached; inf where it is none of the score.

    >>> def record(*losses, **more):
    ...     validated = {"validation_accuracy": [0.1, 0.3, 0.4, 0.4]}
    ...     point = {"layer": "LRU", "seed": 0}
    ...     return {"point": point, "train_loss": losses, "score": 0.4} | validated | more
    >>> settled, brief = record(2.0, 1.1, 1.0, 0.9), record(2.0, 1.8, 1.6, 1.4)
    >>> doubt([settled], 2.3, "score", goal=0.9), doubt([brief], 2.3, "score")
    ('', '')
    >>> doubt([brief], 2.3, "score", goal=0.9)
    'trained too briefly: LRU.'
    >>> doubt([settled | {"validation_accuracy": [0.1, 0.2, 0.3, 0.5]}], 2.3, "score", goal=0.6)
    'trained too briefly: LRU.'
    >>> doubt([record(2.0, math.nan)], 2.3, "score")
    'diverged: LRU.'
    """
    found: dict[str, dict[str, None]] = {}
    for record in records:
        if why := _doubt(record, chance, fields, goal):
            found.setdefault(why, {})[record["point"]["layer"]] = None
    return " ".join(f"{why}: {'; '.join(names)}." for why, names in found.items())


def _doubt(record: Record, chance: float, fields: Sequence[str], goal: float | None) -> str:
    losses = np.asarray(record["train_loss"], float)
    end = float(losses[-1]) if len(losses) else math.nan
    began = [chance, *record.get("validation_loss", losses)[:1]]  # untrained, where that was kept
    if not end <= 1.1 * max(began):
        return "diverged"
    if not all((np.asarray(field(record, name), float) < math.inf).all() for name in fields):
        return "not a number"
    if goal is None:
        return ""
    half, validated = len(losses) // 2, record["validation_accuracy"]
    early = min([chance, *losses[:half]])
    gained = max(validated) - max(validated[: half + 1])  # the untrained model comes first
    within_reach = gained > 0 and record[fields[0]] + gained >= goal
    late = early - end > LATE * (chance - end)
    return "trained too briefly" if end > 0.99 * chance or late or within_reach else ""


def done(records: Iterable[Record], score: str = "test_accuracy") -> list[Record]:
    """Those of finished points: a point that was skipped has no score."""
    return [record for record in records if score in record]


def layers(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each layer, by its name, in the order in which they appear."""
    records = list(records)
    return {layer: select(records, layer=layer) for layer in distinct(records, "layer")}


def looks(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """A look for each layer, the same in every figure."""
    return layer_looks({layer: mine[0]["kind"] for layer, mine in layers(records).items()})


def validates_best(of: Mapping[str, Sequence[Record]]) -> str:
    """The layer whose best epochs have the highest mean accuracy in validation, so that the test
    set chooses nothing; of: the records of each."""

    def validated(layer: str) -> float:
        best = np.mean([max(record["validation_accuracy"]) for record in of[layer]])
        return float(np.nan_to_num(best, nan=-1))

    return max(of, key=validated)


def percent(share: float) -> str:
    """
    >>> percent(0.9713), percent(math.nan)
    ('97.1', '–')
    """
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def over(words: str, records: Sequence[Record]) -> str:
    """Of how many seeds a number is; of one there is no median and no range.

    >>> one, two = ({"point": {"seed": seed}} for seed in range(2))
    >>> over("median of", [one, two]), over("median of", [one])
    ('median of 2 seeds', 'one seed')
    """
    count = seeds(records)
    return count if count == "one seed" else f"{words} {count}"


def spread(values: np.ndarray, text: Callable[[float], str]) -> str:
    """Median, and the range over seeds where there are several.

    >>> spread(np.array([96.0, 97.1, 98.0]), "{:.1f}".format)
    '97.1 (96.0 to 98.0)'
    >>> spread(np.array([97.0]), "{:.1f}".format)
    '97.0'
    """
    middle = text(float(np.median(values)))
    if len(values) == 1:
        return middle
    return f"{middle} ({text(float(values.min()))} to {text(float(values.max()))})"


def mean_and_sd(values: np.ndarray, text: Callable[[float], str]) -> str:
    """Mean, and the standard deviation where there are several.

    >>> mean_and_sd(np.array([96.0, 98.0]), "{:.1f}".format), mean_and_sd(np.ones(1), str)
    ('97.0 ± 1.4', '1.0')
    """
    mean = text(float(values.mean()))
    return mean if len(values) == 1 else f"{mean} ± {text(float(values.std(ddof=1)))}"


def steps(records: Iterable[Record]) -> np.ndarray:
    """Seconds of a training step: the samples of all records."""
    return np.concatenate([np.asarray(record["step_seconds"], float) for record in records])


def draw_curves(
    axes: Axes, x: np.ndarray, curves: np.ndarray, *, alpha: float = 0.15, **style: Any
) -> None:
    """Their median, in a band that holds them all; curves: (seeds, len(x))."""
    axes.plot(x, np.median(curves, axis=0), **style)
    low, high, color = curves.min(axis=0), curves.max(axis=0), style["color"]
    axes.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)


def level(axes: Axes, height: float, label: str, *, left: bool = False, gap: float = 0) -> None:
    """A dotted line across the axes, named above its right end; or below its left one."""
    grey = "#444444"
    axes.axhline(height, color=grey, linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate(
        label,
        (0 if left else 1, height),
        xycoords=("axes fraction", "data"),
        xytext=(0, gap),
        textcoords="offset points",
        fontsize=8.5,
        color=grey,
        ha="left" if left else "right",
        va="top" if left else "bottom",
    )


def parameters(records: Sequence[Record]) -> str:
    """The least and the most that a model has.

    >>> parameters([{"point": {}, "parameters": 4960}, {"point": {}, "parameters": 3000}])
    '3,000 to 4,960'
    """
    counts = array(records, "parameters")
    return f"{counts.min():,.0f} to {counts.max():,.0f}"
