"""The programs that compete on one shape: `linear_scan` by every method, and JAX's own scans.

All take (a, b), or (a, b, g) where the backward pass belongs to it, in the layout of the shape, and
give h, or (h, da, db) with g the cotangent of h. What a program needs otherwise, time in front for
instance, it makes itself, and is timed with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.harness.race import with_gradients
from experiments.harness.timing import Check, Contender
from experiments.scan_limits import reference
from experiments.scan_limits.shapes import BOTH, Shape
from rnnscan import explain_linear_scan, linear_scan
from rnnscan.scan import Platform, linear_table

AUTO = "linear_scan auto"
SCAN, ASSOCIATIVE = "lax.scan", "lax.associative_scan"


@dataclass(frozen=True)
class Task:
    """The numbers of one shape, the same for every contender, and what should come out.

    a is uniform in (0.9, 1), with a uniform phase where it is complex: states remember some twenty
    steps, and errors reach as far. b and g are standard normal.
    """

    shape: Shape
    a: np.ndarray
    b: np.ndarray
    g: np.ndarray
    expected: reference.Expected

    @functools.cached_property
    def arguments(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """a, b and g on the device, once for all contenders."""
        return jax.block_until_ready(
            (jnp.asarray(self.a), jnp.asarray(self.b), jnp.asarray(self.g))
        )

    def check(self, output: Any) -> Check:
        """The largest error over h and the gradients, as a share of what rounding explains."""
        outputs = output if isinstance(output, tuple) else (output,)
        shares = [
            self.expected.share(name, np.asarray(found))
            for name, found in zip(reference.NAMES, outputs, strict=False)
        ]
        # nan is the worst.
        return Check(float(np.max(shares)), 1.0, "float64, step by step; share of the bound")


@functools.lru_cache(maxsize=1)  # both directions of a shape follow one another
def make_task(shape: Shape, seed: int) -> Task:
    rng = np.random.default_rng((seed, *shape.b_shape))
    wide = shape.dtype == "complex64"

    def normal() -> np.ndarray:
        x = rng.standard_normal((*shape.b_shape, 2) if wide else shape.b_shape, np.float32)
        return x.view(np.complex64)[..., 0] if wide else x

    a = rng.uniform(0.9, 1.0, shape.a_shape)
    if wide:
        a = a * np.exp(2j * np.pi * rng.uniform(size=shape.a_shape))
    a, b, g = a.astype(shape.dtype), normal(), normal()
    return Task(shape, a, b, g, reference.evaluate(a, b, g))


def methods(shape: Shape, platform: Platform | None = None) -> dict[str, bool]:
    """The methods of `linear_scan` that can serve this shape, and whether `auto` takes them."""
    a, b = (jax.ShapeDtypeStruct(size, shape.dtype) for size in (shape.a_shape, shape.b_shape))
    rows = explain_linear_scan(a, b, axis=1, platform=platform)
    return {row.method: row.chosen for row in rows if row.available}


def every_name() -> list[str]:
    """Who may compete in JAX, here or elsewhere."""
    return [AUTO, *(f"linear_scan {method}" for method in linear_table.names), SCAN, ASSOCIATIVE]


def names(shape: Shape) -> list[str]:
    """Who competes in JAX."""
    return [AUTO, *(f"linear_scan {method}" for method in methods(shape)), SCAN, ASSOCIATIVE]


def contender(name: str, task: Task, direction: str) -> Contender:
    arguments = task.arguments if direction == BOTH else task.arguments[:2]
    return Contender(name, program(name, direction), arguments, task.check)


def program(name: str, direction: str) -> Callable[..., Any]:
    """(a, b) -> h; with the backward pass (a, b, g) -> h, da, db."""
    forward = _forward(name)
    return with_gradients(forward) if direction == BOTH else forward


def _forward(name: str) -> Callable[..., Any]:
    if name == SCAN:
        return plain_scan
    if name == ASSOCIATIVE:
        return plain_associative_scan
    method: Any = name.removeprefix("linear_scan ")
    return functools.partial(linear_scan, axis=1, method=method)


def plain_scan(a: jax.Array, b: jax.Array) -> jax.Array:
    """As one writes it without this package: time in front, and back again."""
    if a.ndim == 1:

        def constant(h: jax.Array, b_t: jax.Array) -> tuple[jax.Array, jax.Array]:
            h = a[None, :] * h + b_t
            return h, h

        b = jnp.moveaxis(b, 1, 0)
        return jnp.moveaxis(lax.scan(constant, jnp.zeros_like(b[0]), b)[1], 0, 1)

    def step(h: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a_t, b_t = now
        h = a_t * h + b_t
        return h, h

    a, b = jnp.moveaxis(a, 1, 0), jnp.moveaxis(b, 1, 0)
    return jnp.moveaxis(lax.scan(step, jnp.zeros_like(b[0]), (a, b))[1], 0, 1)


def plain_associative_scan(a: jax.Array, b: jax.Array) -> jax.Array:
    """The tree of JAX; it wants every decay spelled out."""

    def compose(earlier: tuple, later: tuple) -> tuple:
        (a1, b1), (a2, b2) = earlier, later
        return a2 * a1, a2 * b1 + b2

    return lax.associative_scan(compose, (jnp.broadcast_to(a, b.shape), b), axis=1)[1]
