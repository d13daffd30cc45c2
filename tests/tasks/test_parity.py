"""Parity: every label counts the ones up to its step."""

import numpy as np
import pytest

from rnnscan.tasks import parity


def test_each_label_is_the_parity_of_its_prefix():
    data = parity(20, length=70, seed=3)
    assert len(data) == 20
    assert data.x.dtype == data.y.dtype == np.int32
    for x, y in zip(data.x.tolist(), data.y.tolist(), strict=True):
        odd = False
        for bit, label in zip(x, y, strict=True):
            odd ^= bit == 1
            assert label == odd


def test_bits_and_labels_are_even_and_no_bit_tells_its_label():
    data = parity(4000, length=32)
    deviation = 0.5 / 4000**0.5
    assert set(np.unique(data.x)) == {0, 1}
    for mean in (data.x.mean(0), data.y.mean(0), (data.x == data.y)[:, 1:].mean(0)):
        assert np.abs(mean - 0.5).max() < 4 * deviation


def test_the_seed_decides():
    one, same, other = (parity(5, seed=seed).x for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_nothing_is_a_sequence_too():
    assert parity(3, length=0).y.shape == (3, 0)
    assert parity(0).x.shape == (0, 64)


@pytest.mark.parametrize(
    ("count", "length", "message"),
    [(-1, 4, "count = -1: should be 0 or more"), (3, -2, "length = -2: should be 0 or more")],
)
def test_impossible_settings_are_refused(count, length, message):
    with pytest.raises(ValueError, match=message):
        parity(count, length=length)
