"""The programs that compete: each layer by each method, forward alone or with its backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.harness.timing import Check, Contender
from experiments.wallclock import reference
from rnnscan.layers.linear_rnn import LinearRNN
from rnnscan.layers.lru import LRU
from rnnscan.layers.rnn import RNN

FORWARD, BOTH = "forward", "forward+backward"
# The tanh RNN has no method to choose: `lax.scan`, one step after another.
WAYS = (
    ("RNN", "sequential"),
    ("LinearRNN", "sequential"),
    ("LinearRNN", "associative"),
    ("LRU", "sequential"),
    ("LRU", "associative"),
)


@dataclass(frozen=True)
class Task:
    """Layers and inputs of one length; the same numbers whichever method evaluates them.

    x and g (the cotangent of y) are (batch, length, width), float32; expected[layer] is what
    `reference.evaluate` makes of them.
    """

    layers: dict[str, Any]
    expected: dict[str, tuple[reference.Arrays, float]]
    x: np.ndarray
    g: np.ndarray


@functools.lru_cache(maxsize=1)  # both directions of a length follow one another
def make_task(batch: int, length: int, width: int, seed: int) -> Task:
    """Layers of `width` inputs, states and outputs, and white noise to run them on."""
    keys = jax.random.split(jax.random.key(seed), 3)
    layers = {
        "RNN": RNN.init(keys[0], width, width),
        "LinearRNN": LinearRNN.init(keys[1], width, width),
        # A ring that ends below 1: the farther a state reaches, the farther rounding errors do.
        "LRU": LRU.init(keys[2], width, width, r_max=0.99),
    }
    rng = np.random.default_rng((seed, length))
    x, g = (rng.standard_normal((batch, length, width), np.float32) for _ in range(2))
    expected = {name: reference.evaluate(layer, x, g) for name, layer in layers.items()}
    return Task(layers, expected, x, g)


def contender(task: Task, layer: str, method: str, direction: str) -> Contender:
    """The program of a layer by a method, with the check of everything it returns."""
    arguments = (task.layers[layer], task.x) + ((task.g,) if direction == BOTH else ())
    expected, radius = task.expected[layer]
    check = functools.partial(_check, expected=expected, size=task.x.shape, radius=radius)
    return Contender(f"{layer} {method}", program(layer, method, direction), arguments, check)


def program(layer: str, method: str, direction: str) -> Callable[..., Any]:
    """(layer, x) -> y; with the backward pass (layer, x, g) -> y, dlayer, dx."""
    options = {} if layer == "RNN" else {"method": method}

    def forward(layer: Any, x: jax.Array) -> jax.Array:
        return layer(x, **options)[0]

    def both(layer: Any, x: jax.Array, g: jax.Array) -> tuple[jax.Array, Any, jax.Array]:
        y, pullback = jax.vjp(forward, layer, x)
        return y, *pullback(g)

    return forward if direction == FORWARD else both


def _check(
    output: Any, expected: reference.Arrays, size: tuple[int, int, int], radius: float
) -> Check:
    """The largest relative error, in the 2-norm, over y and every gradient there is."""
    if isinstance(output, tuple):
        y, dlayer, dx = output
        found = {"y": y, "x": dx, **reference.parameters(dlayer)}
    else:
        found = {"y": output}
    errors = [_relative_error(np.asarray(found[name]), expected[name]) for name in found]
    limit = tolerance(size, radius, backward=isinstance(output, tuple))
    return Check(float(np.max(errors)), limit, "float64, step by step")


def _relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    error = np.linalg.norm(found - expected)
    return float(error / np.linalg.norm(expected)) if error else 0.0


def tolerance(size: tuple[int, int, int], radius: float, backward: bool) -> float:
    """How far float32 may be from float64, relative, in the 2-norm.

    Errors of a sum of N terms are independent roundings and grow as u sqrt(N), with u = 2^-24.
    A step sums `width` products; the gradient of a weight sums over batch * length besides. The
    recurrence carries an error on, by 1 / (1 - radius) in all for eigenvalues up to radius. At most
    a third of that was seen.
    """
    batch, length, width = size
    roots = width**0.5 + ((batch * length) ** 0.5 if backward else 0.0)
    return 2.0**-24 * roots / (1 - min(radius, 0.999))
