"""The programs that compete, `matrix_scan` by every method, and the matrices that they are given:
ordinary ones, and non-normal ones whose eigenvectors are as bad as asked.

A coupled pair of eigenvalues, [[l, c], [0, l + d]], has the eigenvectors (1, 0) and (c, d) /
sqrt(c^2 + d^2). With s the cosine between them, the condition number of the two is

    k = sqrt((1 + s) / (1 - s)),   so that   d / c = 2 k / (k^2 - 1)

while the matrix itself stays small and stepping through time harmless: k says how good the
eigenvectors are and nothing else. A Hadamard matrix hides the pairs: for 16 x 16 its entries are
+-1/4, so that nothing is rounded in float32. Beyond k = 2^21 the gap d is below its steps of 2^-20:
each pair is a Jordan block, which has but one eigenvector.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import hadamard

from experiments.closed_form import reference
from experiments.harness import race
from experiments.harness.race import BOTH
from experiments.harness.timing import Check, Contender
from rnnscan.scan import MatrixMethodName, matrix_scan

PAIRED_WIDTH = 16
_LARGEST_GAP = 0.3828125  # half a step of the eigenvalues off, so that none are equal
# Eigenvalues in steps of 2^-6 and gaps in steps of 2^-20 keep all entries exact in float32.
_EIGENVALUE_STEP, _GAP_STEP = 2.0**-6, 2.0**-20


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
    """White noise through a matrix as a `LinearRNN` begins with: spectral radius about 0.58."""
    bound, size = width**-0.5, (width, width)
    W = np.random.default_rng((seed, width)).uniform(-bound, bound, size).astype(np.float32)
    rng = np.random.default_rng((seed, length, width))
    u, g = (rng.standard_normal((length, width), np.float32) for _ in range(2))
    h0 = rng.standard_normal(width, np.float32)
    values, vectors = np.linalg.eig(W.astype(np.float64))
    condition, radius = float(np.linalg.cond(vectors)), float(np.abs(values).max())
    return Task(W, u, h0, g, reference.evaluate(W, u, h0, g), condition, radius)


def contender(task: Task, method: MatrixMethodName, direction: str) -> Contender:
    """The program of a method, with the check of everything it returns."""
    arguments = (task.W, task.u, task.h0) + ((task.g,) if direction == BOTH else ())
    limit = tolerance(task, method, direction)

    def check(output: Any) -> Check:
        arrays = output if isinstance(output, tuple) else (output,)
        found: dict[str, Any] = dict(zip(("h", "W", "u", "h0"), arrays, strict=False))
        return race.judged(found, task.expected, limit)

    return Contender(method, program(method, direction), arguments, check)


def program(method: MatrixMethodName, direction: str) -> Callable[..., Any]:
    """(W, u, h0) -> h; with the backward pass (W, u, h0, g) -> h, dW, du, dh0."""
    forward = functools.partial(matrix_scan, method=method)
    return race.with_gradients(forward) if direction == BOTH else forward


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


def coupled_pairs(condition: float, seed: int) -> np.ndarray:
    """16 x 16 float32: eight coupled pairs of eigenvalues in [-0.5, 0.9).

    condition: of the eigenvectors: 1 (a symmetric matrix) or more.
    """
    if not condition >= 1:
        raise ValueError(f"condition: got {condition}, expected 1 or more")
    coupling, gap = 0.0, _LARGEST_GAP
    if condition > 1:
        ratio = 2 / (condition - 1 / condition)
        coupling = min(1.0, _LARGEST_GAP / ratio)
        gap = round(ratio * coupling / _GAP_STEP) * _GAP_STEP
    steps = np.arange(-0.5, 0.5, _EIGENVALUE_STEP)
    first = np.random.default_rng(seed).choice(steps, PAIRED_WIDTH // 2, replace=False)
    blocks = np.diag(np.stack([first, first + gap], axis=1).reshape(-1))
    blocks += np.diag(np.resize([coupling, 0.0], PAIRED_WIDTH - 1), 1)
    rotation = hadamard(PAIRED_WIDTH) / np.sqrt(PAIRED_WIDTH)
    return (rotation @ blocks @ rotation.T).astype(np.float32)
