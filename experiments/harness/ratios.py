"""How two sets of samples of one quantity compare: a ratio or a difference, and its interval.

The interval is that of a shift between two samples (Hodges and Lehmann): all ratios of a sample of
one to a sample of the other in order, cut where the test of Mann and Whitney would reject at 5 %.
It asks for no distribution and draws no random numbers. Fewer than four samples on both sides
cannot exclude anything at 95 %, and have no interval. The change is the median of those ratios, in
the middle of its interval. Both speak of the samples at hand: those of one process share its luck,
and two runs of the same code can differ by more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Samples = Sequence[float] | np.ndarray
_PAIRS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Contrast:
    """What one quantity is in a run, against the reference.

    Args:
      reference: the median of the reference's samples.
      other: the median of the other's.
      change: `other / reference`, or `other - reference` where samples are zero or of both signs:
        the median over all pairs of samples.
      interval: of the change, at 95 %; None where there are too few samples.
      is_ratio: whether `change` is a ratio.
    """

    reference: float
    other: float
    change: float
    interval: tuple[float, float] | None
    is_ratio: bool

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out "no change"."""
        if self.interval is None:
            return False
        low, high = self.interval
        return not low <= (1.0 if self.is_ratio else 0.0) <= high

    @property
    def size(self) -> float:
        """By which changes are put in order: the logarithm of the ratio, the difference relative to
        the larger value; inf or nan beside a number is the largest of all."""
        if np.isnan(self.change):
            return 0.0 if np.isnan(self.reference) and np.isnan(self.other) else np.inf
        if self.change == (1.0 if self.is_ratio else 0.0):
            return 0.0
        if self.is_ratio:
            with np.errstate(divide="ignore"):  # a ratio can be too small for a float
                return abs(float(np.log(self.change)))
        largest = max(abs(self.reference), abs(self.other))
        return abs(self.change) / largest if 0 < largest < np.inf else np.inf


def contrasts(pairs: Sequence[tuple[Samples, Samples]]) -> list[Contrast]:
    """A contrast for each pair (samples of the reference, samples of the other).

    >>> (found,) = contrasts([([1.0, 1.1, 0.9, 1.0, 1.05], [2.0, 2.2, 2.1, 1.9, 2.05])])
    >>> round(found.change, 2), found.differs, contrasts([([2.0], [1.0])])[0].interval
    (2.0, True, None)
    """
    found: list[Contrast | None] = [None] * len(pairs)
    alike = defaultdict(list)
    for index, (mine, yours) in enumerate(pairs):
        alike[len(mine), len(yours)].append(index)
    for (m, n), indices in alike.items():
        step = max(1, _PAIRS_AT_ONCE // (m * n))
        for start in range(0, len(indices), step):
            chunk = indices[start : start + step]
            a = np.array([pairs[index][0] for index in chunk], np.float64)
            b = np.array([pairs[index][1] for index in chunk], np.float64)
            for index, contrast in zip(chunk, _contrast(a, b), strict=True):
                found[index] = contrast
    return [contrast for contrast in found if contrast is not None]


def _contrast(a: np.ndarray, b: np.ndarray) -> list[Contrast]:
    """Of `a` (quantities, m) and `b` (quantities, n)."""
    one_sign = (np.minimum(a.min(1), b.min(1)) > 0) | (np.maximum(a.max(1), b.max(1)) < 0)
    left, right = np.median(a, axis=1), np.median(b, axis=1)
    with np.errstate(all="ignore"):
        pairs = np.where(
            one_sign[:, None, None],
            b[:, :, None] / a[:, None, :],
            b[:, :, None] - a[:, None, :],
        )
        ordered = np.sort(pairs.reshape(len(pairs), -1), axis=1)
        change = np.median(ordered, axis=1)
        # Of samples that are not finite some pairs mean nothing; the medians may.
        change = np.where(np.isnan(change), np.where(one_sign, right / left, right - left), change)
    # inf beside inf is no change; nan stays nan.
    change = np.where((left == right) & np.isinf(left), np.where(one_sign, 1.0, 0.0), change)
    cut = _cut(a.shape[1], b.shape[1])
    bounds = ordered[:, [cut - 1, -cut]] if cut else [None] * len(pairs)
    # In order, a nan stands last and would only seem to be beyond the interval.
    sound = ~np.isnan(change) & ~np.isnan(pairs).any(axis=(1, 2))
    return [
        Contrast(
            reference=float(left[row]),
            other=float(right[row]),
            change=float(change[row]),
            interval=(float(bound[0]), float(bound[1]))
            if bound is not None and sound[row]
            else None,
            is_ratio=bool(one_sign[row]),
        )
        for row, bound in enumerate(bounds)
    ]


def _cut(m: int, n: int) -> int:
    """The interval runs from the cut-th smallest of the m n pairs to the cut-th largest.

    By the normal approximation, which agrees with the exact counts to within one from 3 on.

    >>> _cut(3, 3), _cut(4, 4), _cut(20, 20)
    (0, 1, 127)
    """
    return max(0, int(m * n / 2 - 1.96 * np.sqrt(m * n * (m + n + 1) / 12)))
