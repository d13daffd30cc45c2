"""Parity: whether the ones seen so far are odd in number, at every step."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parity:
    """Sequences of bits and the parity of every prefix.

    Attributes:
      x: (count, T) int32, 0 or 1.
      y: (count, T) int32: the sum of x up to this step, modulo 2.
    """

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


def parity(count: int, *, length: int = 64, seed: int = 0) -> Parity:
    """Random bits, each 0 or 1 with probability 1/2, and the parity of those up to each step.

        x = 1 0 1 1 0 ...
        y = 1 1 0 1 1 ...                        y_t = y_{t-1} xor x_t, y_{-1} = 0

    One bit is all that need be remembered, and each one in x may turn it; the label of step t
    depends on all t + 1 bits, and any t of them say nothing about it. A model that knows nothing is
    right half of the time, with the loss ln 2.

    Which recurrences can do it at any length: gates that read the state (`RNN`, `LSTM`, `GRU`), and
    of those that are linear in their state the ones with decays below 0. With decays in [0, 1] and
    finite precision none can, whatever the depth.

    Args:
      count: sequences. length: T. seed: of all draws; the same on every machine.

    Raises:
      ValueError: for a count or a length below 0.

    Cost: count * T draws, and as many additions.

    Sources: Grazzi et al., "Unlocking state-tracking in linear RNNs through negative eigenvalues"
    (2024), arXiv:2411.12537, theorem 1 and section 5.1, with a label at every step; Merrill &
    Sabharwal, "The illusion of state in state-space models" (2024), arXiv:2404.08819.

    >>> data = parity(1000, length=32)
    >>> data.x.shape, data.y[:, -1].tolist() == (data.x.sum(1) % 2).tolist()
    ((1000, 32), True)
    """
    for name, value in (("count", count), ("length", length)):
        if value < 0:
            raise ValueError(f"{name} = {value}: should be 0 or more")
    x = np.random.default_rng(seed).integers(0, 2, (count, length), np.int32)
    return Parity(x, np.cumsum(x, axis=1, dtype=np.int32) % 2)
