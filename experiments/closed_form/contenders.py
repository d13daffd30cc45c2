"""The programs that compete: `matrix_scan` by every method, forward or with its backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.closed_form import matrices, reference
from experiments.closed_form.work import BOTH
from experiments.harness.timing import Check, Contender
from rnnscan.scan import MatrixMethodName, matrix_scan


@dataclass(frozen=True)
class Task:
    """A matrix and drives of one width and length, float32, and what should come out.

    condition: of the eigenvectors of W. radius: of its eigenvalues.
    """

    W: np.ndarray  # (n, n)
    u: np.ndarray  # (T, n)
    h0: np.ndarray  # (n,)
    g: np.ndarray  # (T, n), the cotangent of h
    expected: reference.Arrays
    condition: float
    radius: float


@functools.lru_cache(maxsize=1)  # both directions of a length follow one another
def make_task(length: int, width: int, seed: int) -> Task:
    """White noise through an ordinary matrix."""
    W = matrices.ordinary(width, seed)
    rng = np.random.default_rng((seed, length, width))
    u, g = (rng.standard_normal((length, width), np.float32) for _ in range(2))
    h0 = rng.standard_normal(width, np.float32)
    values, vectors = np.linalg.eig(W.astype(np.float64))
    return Task(
        W=W,
        u=u,
        h0=h0,
        g=g,
        expected=reference.evaluate(W, u, h0, g),
        condition=float(np.linalg.cond(vectors)),
        radius=float(np.abs(values).max()),
    )


def contender(task: Task, method: MatrixMethodName, direction: str) -> Contender:
    """The program of a method, with the check of everything it returns."""
    arguments = (task.W, task.u, task.h0) + ((task.g,) if direction == BOTH else ())
    limit = tolerance(task, method, direction)
    check = functools.partial(_check, expected=task.expected, tolerance=limit)
    return Contender(method, program(method, direction), arguments, check)


def program(method: MatrixMethodName, direction: str) -> Callable[..., Any]:
    """(W, u, h0) -> h; with the backward pass (W, u, h0, g) -> h, dW, du, dh0."""

    def forward(W: jax.Array, u: jax.Array, h0: jax.Array) -> jax.Array:
        return matrix_scan(W, u, h0, method=method)

    def both(W: jax.Array, u: jax.Array, h0: jax.Array, g: jax.Array) -> tuple[jax.Array, ...]:
        h, pullback = jax.vjp(forward, W, u, h0)
        return h, *pullback(g)

    return both if direction == BOTH else forward


def tolerance(task: Task, method: str, direction: str) -> float:
    """How far float32 may be from float64, relative, in the 2-norm.

    A step sums n products, whose roundings are independent: u sqrt(n) with u = 2^-24; the gradient
    of W sums over T besides. The recurrence carries an error on, by 1 / (1 - radius) in all. By way
    of eigenvectors each rounding is enlarged by their condition number.
    """
    length, width = task.u.shape
    roots = width**0.5 + (length**0.5 if direction == BOTH else 0.0)
    enlarged = task.condition if method == "diagonal" else 1.0
    return 2.0**-24 * roots * enlarged / (1 - min(task.radius, 0.999))


def _check(output: Any, expected: reference.Arrays, tolerance: float) -> Check:
    """The largest relative error over h and every gradient there is."""
    arrays = output if isinstance(output, tuple) else (output,)
    names = ("h", "W", "u", "h0")[: len(arrays)]
    errors = [
        reference.relative_error(np.asarray(array), expected[name])
        for name, array in zip(names, arrays, strict=True)
    ]
    return Check(float(np.max(errors)), tolerance, "float64, step by step")
