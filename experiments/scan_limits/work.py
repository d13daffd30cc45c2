"""What a program will need, roughly and generously: to leave out what is too large or too slow."""

from __future__ import annotations

import math

from experiments.scan_limits.contenders import ASSOCIATIVE, SCAN
from experiments.scan_limits.shapes import BOTH, Shape

# Arrays of b's size that are held at the peak, arguments and results included: forward, and with
# the backward pass. Plain differentiation keeps every level of a tree.
_ARRAYS = {
    "linear_scan associative": (7, 14),
    SCAN: (7, 16),
    ASSOCIATIVE: (7, 24),
}
_LEAST_ARRAYS = (4, 10)
_STEPWISE = ("linear_scan sequential", SCAN, "flax RNN")
TREES = ("linear_scan associative", ASSOCIATIVE)
# Bytes a second that any machine worth timing moves; seconds to compile a level of a tree.
_SLOW_BYTES, _LEVEL_SECONDS = 2e9, 0.1


def predicted_bytes(name: str, shape: Shape, direction: str) -> int:
    return _ARRAYS.get(name, _LEAST_ARRAYS)[direction == BOTH] * shape.nbytes


def predicted_seconds(
    name: str, shape: Shape, direction: str, held: int, step_seconds: float
) -> float:
    """One evaluation, and compiling it where that takes long.

    Args:
      name: of the contender.
      shape, direction: what it is to do.
      held: bytes, each of which is written and read about once.
      step_seconds: a step of a loop with next to nothing in it.
    """
    passes = 3 if direction == BOTH else 1
    seconds = held / _SLOW_BYTES
    if name in _STEPWISE:
        seconds += passes * shape.length * step_seconds
    if name in TREES:
        seconds += passes * _LEVEL_SECONDS * math.log2(max(2, shape.length))
    return seconds
