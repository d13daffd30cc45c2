"""The shapes that are timed, and how near to streaming speed each should be: one list, which the
tests of the methods can read as well, and one of larger ones, for GPUs, which a config names.

b and h have shape (outer, T, inner) and time on axis 1. A decay is "full", of b's shape, or
"constant" in time, of shape (inner,).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

FORWARD, BOTH = "forward", "forward+backward"
DIRECTIONS = (FORWARD, BOTH)
Decay = Literal["full", "constant"]


@dataclass(frozen=True)
class Shape:
    """One problem.

    Args:
      outer, length, inner: the axes of b: what lies outside time, time, what lies inside it.
      decay: whether a has b's shape or is constant in time.
      dtype: of a, b and h.
      forward, both: the figures asked for: time over that of streaming the same bytes, forward and
        with the backward pass; None where none is asked.
    """

    outer: int
    length: int
    inner: int
    decay: Decay = "full"
    dtype: str = "float32"
    forward: float | None = None
    both: float | None = None

    @property
    def name(self) -> str:
        """`16x4096x256`, with what is unusual about it behind."""
        sizes = f"{self.outer}x{self.length}x{self.inner}"
        unusual = [self.decay] * (self.decay != "full") + [self.dtype] * (self.dtype != "float32")
        return " ".join([sizes, *unusual])

    @property
    def b_shape(self) -> tuple[int, int, int]:
        return (self.outer, self.length, self.inner)

    @property
    def a_shape(self) -> tuple[int, ...]:
        return self.b_shape if self.decay == "full" else (self.inner,)

    @property
    def lanes(self) -> int:
        """Recurrences that do not depend on each other."""
        return self.outer * self.inner

    @property
    def size(self) -> int:
        return self.lanes * self.length

    @property
    def nbytes(self) -> int:
        """Of b."""
        return self.size * np.dtype(self.dtype).itemsize

    def words(self, direction: str) -> int:
        """Numbers that no method avoids to move, for each of b.

        Forward reads a and b and writes h. Backward reads g, a and h and writes da and db. What is
        constant in time stays where it is.
        """
        forward, backward = (3, 5) if self.decay == "full" else (2, 3)
        return forward + (backward if direction == BOTH else 0)

    def asked(self, direction: str) -> float | None:
        return self.forward if direction == FORWARD else self.both


SHAPES = (
    # A few lanes and long time; one batch of many lanes; a batch of layers.
    Shape(1, 16384, 16, forward=1.3, both=1.5),
    Shape(1, 131072, 16, forward=1.3, both=1.5),
    Shape(1, 1024, 1024, forward=1.3, both=1.5),
    Shape(16, 1024, 256, forward=1.3, both=1.5),
    Shape(16, 4096, 256, forward=1.3, both=1.5),
    Shape(1, 16384, 1024, forward=1.3, both=1.5),
    # Time innermost: returns and advantages in reinforcement learning.
    Shape(256, 2048, 1, forward=2.0, both=2.5),
    Shape(4096, 128, 1, forward=2.0, both=2.5),
    # A single chain, bound by the latency of a multiplication and an addition.
    Shape(1, 1048576, 1, forward=3.0, both=3.0),
    Shape(16, 4096, 256, decay="constant", forward=1.4),
    Shape(16, 4096, 256, dtype="complex64", forward=1.4, both=1.6),
    # Small ones, where the overhead of a call counts.
    Shape(64, 128, 1),
    Shape(1, 64, 64),
)
# For GPUs, where a config names them: more than their caches hold.
GPU_SHAPES = (
    Shape(8, 4096, 1024, forward=1.3, both=1.5),
    Shape(4096, 2048, 1, forward=2.0, both=2.5),
    Shape(4, 4096, 256, dtype="complex64", forward=1.4, both=1.6),
    Shape(4, 4096, 256, decay="constant", forward=1.4),
)
BY_NAME = {shape.name: shape for shape in SHAPES + GPU_SHAPES}
