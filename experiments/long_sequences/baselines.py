"""Classifiers that learn nothing: what a network has to beat before its score means something."""

from __future__ import annotations

import numpy as np

Labelled = tuple[np.ndarray, np.ndarray]  # sequences (count, T) and their classes


def nearest(known: Labelled, asked: Labelled) -> float:
    """Accuracy of the class of the nearest known sequence, by Euclidean distance.

    >>> x, y = np.array([[0.0, 1.0], [4.0, 4.0]]), np.array([0, 1])
    >>> nearest((x, y), (x + 0.5, y))
    1.0
    """
    (x, y), (u, v) = known, asked
    squares = (u**2).sum(1)[:, None] + (x**2).sum(1)[None] - 2 * u @ x.T
    return float((y[squares.argmin(axis=1)] == v).mean())


def nearest_sorted(known: Labelled, asked: Labelled) -> float:
    """The same between sorted sequences: which values occur, and nothing of their order."""
    return nearest(*((np.sort(x, axis=1), y) for x, y in (known, asked)))
