"""Predicted iterations beside measured ones, recurrence by recurrence."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.harness.experiment import Record
from experiments.nonlinear_parallel import records as kept
from experiments.nonlinear_parallel.predicted import predicted_iterations

WITHIN = 1.5


# A prediction takes up to seconds, and a report asks for it three times.
_predicted = functools.lru_cache(maxsize=None)(predicted_iterations)


class Compared(NamedTuple):
    """One recurrence, its seeds together.

    `measured`: the median; inf where most seeds did not converge. `most`: iterations allowed.
    """

    gain: float
    input_scale: float
    width: int
    length: int
    exponent: float
    predicted: float
    measured: float
    low: float
    high: float
    most: int

    @property
    def right(self) -> bool:
        """Within a factor, or neither converges in as many as were allowed."""
        if not np.isfinite(self.measured):
            return self.predicted >= min(self.most, self.length) / WITHIN
        return self.measured / WITHIN <= self.predicted <= self.measured * WITHIN


def compared(records: Sequence[Record]) -> list[Compared]:
    """Every tanh RNN on which Newton's iteration was tried."""
    found = []
    mine = [r for r in kept.newton(records) if r["point"]["cell"] == "rnn"]
    for (_, width, gain, scale, length), rows in kept.groups(mine).items():
        predicted = _predicted(gain, scale, width, length)
        counts = [r["iterations"] if r["converged"] else float("inf") for r in rows]
        found.append(
            Compared(
                gain,
                scale,
                width,
                length,
                kept.median(rows, "exponent"),
                predicted,
                float(np.median(counts)),
                min(counts),
                max(counts),
                max(r["most"] for r in rows),
            )
        )
    return found
