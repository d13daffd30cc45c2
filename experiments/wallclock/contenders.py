"""The programs that compete: each layer by each method, forward alone or with its backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.harness import race
from experiments.harness.kinds import KINDS
from experiments.harness.layer_configs import Layer, LayerConfig, build
from experiments.harness.race import BOTH, FORWARD
from experiments.harness.timing import Check, Contender
from experiments.wallclock import reference, stepped

# What is not linear in its state has one program: a gate or an activation that reads the state has
# to wait for it.
STEP_BY_STEP, ONE_PASS = "step by step", "one pass"


def ways(kind: str, methods: tuple[str, ...]) -> tuple[str, ...]:
    """How a kind of layer is evaluated: by `methods` where it has a choice.

    >>> ways("LRU", ("sequential", "auto")), ways("GRU", ("auto",)), ways("MLP", ("auto",))
    (('sequential', 'auto'), ('step by step',), ('one pass',))
    """
    if KINDS[kind].linear:
        return methods
    return (STEP_BY_STEP,) if KINDS[kind].recurrent else (ONE_PASS,)


def make_layer(config: LayerConfig, *, length: int, width: int, seed: int) -> Layer:
    """A layer of `width` inputs, units and outputs."""
    key = jax.random.key(seed)
    return build(config, key, input_size=width, hidden=width, length=length)


@dataclass(frozen=True)
class Task:
    """A layer and what it is run on; the same numbers whichever method evaluates them.

    x (batch, length, width) and g, the cotangent of y, are white noise, float32; `expected` is y
    and, where gradients are asked for, those of sum(g * y), in float64. `tolerances`: see
    `tolerance`, of y alone and of all.
    """

    config: LayerConfig
    layer: Layer
    x: np.ndarray
    g: np.ndarray
    expected: reference.Arrays
    carried: float


@functools.lru_cache(maxsize=len(KINDS))  # both directions of a length follow one another
def make_task(
    config: LayerConfig, *, batch: int, length: int, width: int, seed: int, backward: bool = True
) -> Task:
    """The layer on noise that all layers of this length share, evaluated in float64."""
    layer = make_layer(config, length=length, width=width, seed=seed)
    rng = np.random.default_rng((seed, length))
    x, g = (rng.standard_normal((batch, length, width), np.float32) for _ in range(2))
    g = g[:, -_outputs(layer, x) :]
    if type(layer) in reference.BY_HAND:
        expected, radius = reference.evaluate(layer, x, g)
        carried = _CARRIED if radius is None else 1 / (1 - min(radius, 0.999))
    else:
        expected, carried = stepped.evaluate(layer, x, g if backward else None), _CARRIED
    return Task(config, layer, x, g, expected, carried)


def _outputs(layer: Layer, x: np.ndarray) -> int:
    """Steps of y: those of x, or one."""
    return jax.eval_shape(lambda layer, x: layer(x)[0], layer, x).shape[1]


def contender(task: Task, way: str, direction: str) -> Contender:
    """The program of a layer in one of its ways, with the check of everything it returns."""
    arguments = (task.layer, task.x) + ((task.g,) if direction == BOTH else ())
    function = program(task.config.kind, way, direction)
    name, judge = contender_name(task.config, way), functools.partial(check, task=task)
    return Contender(name, function, arguments, judge)


def contender_name(config: LayerConfig, way: str) -> str:
    return f"{config.name}, {way}"


def program(kind: str, way: str, direction: str) -> Callable[..., Any]:
    """(layer, x) -> y; with the backward pass (layer, x, g) -> y, dlayer, dx."""
    options = {"method": way} if KINDS[kind].linear else {}

    def forward(layer: Any, x: jax.Array) -> jax.Array:
        return layer(x, **options)[0]

    return forward if direction == FORWARD else race.with_gradients(forward)


def check(output: Any, task: Task) -> Check:
    """Of what `program` gives."""
    if not isinstance(output, tuple):
        return judged({"y": output}, task)
    y, dlayer, dx = output
    return judged({"y": y, "x": dx, **reference.parameters(dlayer)}, task)


def judged(found: dict[str, Any], task: Task) -> Check:
    """The largest relative error, in the 2-norm, over y and every gradient there is."""
    limit = tolerance(task.x.shape, task.carried, backward=len(found) > 1)
    return race.judged(found, task.expected, limit)


# In a layer whose gates, exponentials and products follow one another, no eigenvalue says how far
# an error is carried on. Without this factor 1.4 times the tolerance was seen: y of an MLP, which
# is a longer sum. It was below 1.1 for all other layers, at 64 to 4,096 steps, also where decays
# began a hundred times nearer to 1. An LSTM in which small differences grow is off by far more.
_CARRIED = 8.0


def tolerance(size: tuple[int, ...], carried: float, backward: bool) -> float:
    """How far float32 may be from float64, relative, in the 2-norm.

    Errors of a sum of N terms are independent roundings and grow as u sqrt(N), with u = 2^-24.
    A step sums `width` products; the gradient of a weight sums over batch * length besides. The
    recurrence carries an error on, by 1 / (1 - radius) in all for eigenvalues up to radius: at most
    a third of that was seen. Where there is no such radius it is `_CARRIED`: at most a fifth of
    that was seen.
    """
    batch, length, width = size
    roots = width**0.5 + ((batch * length) ** 0.5 if backward else 0.0)
    return 2.0**-24 * roots * carried
