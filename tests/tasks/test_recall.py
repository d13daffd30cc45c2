"""Associative recall: every answer is in its sequence, where the task says."""

import numpy as np
import pytest

from rnnscan.tasks import associative_recall
from rnnscan.tasks.recall import BLANK, NOT_ASKED


def test_each_answer_follows_from_the_sequence():
    data = associative_recall(50, length=24, pairs=4, vocabulary=15, seed=3)
    keys, first_value = range(1, 8), 8
    for x, y, distance in zip(data.x, data.y, data.distance, strict=True):
        told = dict(zip(x[:8:2], x[1:8:2], strict=True))
        assert len(told) == 4
        assert set(told) <= set(keys)
        assert all(first_value <= v < 15 for v in told.values())
        asked = np.flatnonzero(y != NOT_ASKED)
        assert sorted(x[asked]) == sorted(told)  # each key once
        assert all(y[t] == told[x[t]] == x[t - distance[t]] for t in asked)
        assert (x[8:][y[8:] == NOT_ASKED] == BLANK).all()
        assert (distance[y == NOT_ASKED] == 0).all()


def test_distances_spread_and_values_are_uniform():
    data = associative_recall(4000, length=40, pairs=2, vocabulary=9)
    found = data.distance[data.distance > 0]
    assert (found.min(), found.max()) == (1, 38)
    counts = np.bincount(data.y[data.y >= 0], minlength=9)[5:]
    assert data.values == 4
    assert np.abs(counts / counts.sum() - 0.25).max() < 0.02  # four deviations


def test_the_seed_decides():
    one, same, other = (associative_recall(5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.x, same.x)
    assert (one.x != other.x).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 9, "vocabulary": 16}, "pairs = 9: should be 1 to 7"),
        ({"pairs": 0}, "pairs = 0: should be 1 to"),
        ({"pairs": 4, "length": 11}, "length = 11: should be at least 12"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        associative_recall(3, **options)
