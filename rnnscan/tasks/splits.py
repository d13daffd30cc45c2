"""Labelled sequences, and a split of them that holds every class in proportion."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """Sequences and their labels.

    Attributes:
      x: (count, T, features) float32.
      y: (count,) int32, the class.
    """

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)


def stratified(y: np.ndarray, fractions: tuple[float, ...], seed: int) -> list[np.ndarray]:
    """Indices in shuffled order: one part for each fraction of every class, and the rest."""
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(fractions) + 1)]
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        stops = np.round(np.cumsum(fractions) * len(members)).astype(int)
        for part, piece in zip(parts, np.split(members, stops), strict=True):
            if not len(piece):
                raise ValueError(f"fractions {fractions}: leave a part without the class {label}")
            part.append(piece)
    return [rng.permutation(np.concatenate(part)) for part in parts]
