"""Associative recall: pairs of a key and a value first, then each key asks for its value."""

from dataclasses import dataclass

import numpy as np

BLANK = 0
NOT_ASKED = -1


@dataclass(frozen=True)
class Recall:
    """Sequences of tokens and what they ask for.

    Attributes:
      x: (count, T) int32 tokens: blank 0, then keys, then values.
      y: (count, T) int32: the value asked for at this step, -1 where nothing is asked.
      distance: (count, T) int32: steps back to that value, 0 where nothing is asked.
      vocabulary: how many tokens there are.
    """

    x: np.ndarray
    y: np.ndarray
    distance: np.ndarray
    vocabulary: int

    def __len__(self) -> int:
        return len(self.x)

    @property
    def values(self) -> int:
        """How many values there are: one guessed at random is right once in so many times."""
        return self.vocabulary - 1 - (self.vocabulary - 1) // 2


def associative_recall(
    count: int, *, length: int = 64, pairs: int = 4, vocabulary: int = 64, seed: int = 0
) -> Recall:
    """Sequences `k_1 v_1 ... k_D v_D`, then blanks in which each key returns once, at random.

        x = 5 40 | 9 33 | 0 0 9 0 5 0 ...        asked at the 9: 33, at the second 5: 40

    Keys are 1 ... (V-1) // 2, no two alike in a sequence; values are the tokens above, and may
    repeat. The steps at which keys return are drawn uniformly from those behind the pairs, so that
    distances spread over the whole length.

    A model that knows nothing has the loss ln(number of values) and is right once in as many times;
    one that knows the values of its sequence, but not which belongs to which key, has ln D.

    Args:
      count: sequences. length: T. pairs: D. vocabulary: V, the blank included.
      seed: of all draws; the same on every machine.

    Raises:
      ValueError: where the keys do not suffice for the pairs, or the steps for the questions.

    Cost: count * T numbers and as many draws.

    Source: Arora et al., "Zoology: measuring and improving recall in efficient language models"
    (2023), section 3 and appendix A, with gaps that are uniform instead of a power law.

    >>> data = associative_recall(1000, length=32, pairs=3, vocabulary=16)
    >>> data.x.shape, int((data.y >= 0).sum()), data.values
    ((1000, 32), 3000, 8)
    """
    keys = (vocabulary - 1) // 2
    if not 1 <= pairs <= keys:
        raise ValueError(
            f"pairs = {pairs}: should be 1 to {keys}, the keys of a vocabulary of {vocabulary}"
        )
    if length < 3 * pairs:
        raise ValueError(
            f"length = {length}: should be at least {3 * pairs}, {pairs} pairs and their questions"
        )
    rng = np.random.default_rng(seed)

    def distinct(options: int) -> np.ndarray:
        """(count, pairs) different numbers below `options` in each row."""
        return np.argsort(rng.random((count, options)), axis=1)[:, :pairs]

    key, value = 1 + distinct(keys), rng.integers(1 + keys, vocabulary, (count, pairs))
    asked_at = 2 * pairs + distinct(length - 2 * pairs)
    x = np.full((count, length), BLANK, np.int32)
    y = np.full((count, length), NOT_ASKED, np.int32)
    distance = np.zeros((count, length), np.int32)
    row = np.arange(count)[:, None]
    x[:, : 2 * pairs : 2], x[:, 1 : 2 * pairs : 2] = key, value
    x[row, asked_at] = key
    y[row, asked_at] = value
    distance[row, asked_at] = asked_at - (2 * np.arange(pairs) + 1)
    return Recall(x, y, distance, vocabulary)
