"""Matrices to test with: ordinary ones, and non-normal ones whose eigenvectors are as bad as asked.

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

import numpy as np

PAIRED_WIDTH = 16
_LARGEST_GAP = 0.3828125  # half a step of the eigenvalues off, so that none are equal
# Eigenvalues in steps of 2^-6 and gaps in steps of 2^-20 keep all entries exact in float32.
_EIGENVALUE_STEP, _GAP_STEP = 2.0**-6, 2.0**-20


def ordinary(width: int, seed: int) -> np.ndarray:
    """Uniform in (-1/sqrt(n), 1/sqrt(n)), as a `LinearRNN` begins: spectral radius about 0.58."""
    bound = width**-0.5
    rng = np.random.default_rng((seed, width))
    return rng.uniform(-bound, bound, (width, width)).astype(np.float32)


def coupled_pairs(condition: float, seed: int) -> np.ndarray:
    """16 x 16 float32: eight coupled pairs of eigenvalues in [-0.5, 0.9).

    Args:
      condition: of the eigenvectors: 1 (a symmetric matrix) or more.
    """
    if not condition >= 1:
        raise ValueError(f"condition: got {condition}, expected 1 or more")
    coupling, gap = 0.0, _LARGEST_GAP
    if condition > 1:
        ratio = 2 / (condition - 1 / condition)
        coupling = min(1.0, _LARGEST_GAP / ratio)
        gap = round(ratio * coupling / _GAP_STEP) * _GAP_STEP
    count = PAIRED_WIDTH // 2
    steps = np.arange(-0.5, 0.5, _EIGENVALUE_STEP)
    first = np.random.default_rng(seed).choice(steps, count, replace=False)
    blocks = np.diag(np.stack([first, first + gap], axis=1).reshape(-1))
    pairs = 2 * np.arange(count)
    blocks[pairs, pairs + 1] = coupling
    return (_hadamard() @ blocks @ _hadamard().T).astype(np.float32)


@functools.cache
def _hadamard() -> np.ndarray:
    """Orthogonal, by Sylvester's construction."""
    matrix = np.ones((1, 1))
    while len(matrix) < PAIRED_WIDTH:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(PAIRED_WIDTH)
