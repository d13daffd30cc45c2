"""How many iterations Newton needs, from mean-field theory alone."""

from __future__ import annotations

from typing import Any


def predicted_iterations(
    gain: float, input_scale: float, width: int, length: int, dtype: Any
) -> float:
    """Of a tanh RNN; inf where errors grow."""
    raise NotImplementedError("the theory is not written yet")
