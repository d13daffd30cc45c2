import sys

import numpy as np
import pytest

from rnnscan.tasks import digits

load_digits = pytest.importorskip("sklearn.datasets").load_digits


def parts(data):
    return (data.train, data.validation, data.test)


def rows_of(data):
    return np.concatenate([part.x.reshape(len(part), 64) for part in parts(data)])


def test_every_scan_is_in_exactly_one_part_with_its_label():
    scans, data = load_digits(), digits("pixels")
    x, y = rows_of(data), np.concatenate([part.y for part in parts(data)])
    order, expected = np.lexsort(x.T), np.lexsort(scans.data.T)
    np.testing.assert_array_equal(16 * x[order], scans.data[expected])
    np.testing.assert_array_equal(y[order], scans.target[expected])


def test_shapes_types_and_range():
    for reading, shape in [("pixels", (64, 1)), ("rows", (8, 8))]:
        for part in parts(digits(reading)):
            assert part.x.shape == (len(part), *shape)
            assert part.x.dtype == np.float32
            assert part.y.dtype == np.int32
        x = rows_of(digits(reading))
        assert (x.min(), x.max()) == (0, 1)


def test_both_readings_have_the_same_split_and_order_of_pixels():
    for pixels, rows in zip(parts(digits("pixels")), parts(digits("rows")), strict=True):
        np.testing.assert_array_equal(pixels.x.reshape(-1, 8, 8), rows.x)
        np.testing.assert_array_equal(pixels.y, rows.y)


def test_every_class_is_in_proportion_and_classes_are_mixed():
    data = digits(validation=0.1, test=0.3)
    total = sum(np.bincount(part.y) for part in parts(data))
    for part, fraction in zip(parts(data), (0.6, 0.1, 0.3), strict=True):
        assert np.abs(np.bincount(part.y) - fraction * total).max() <= 1
        assert len(set(part.y[:30])) > 5


def test_the_split_depends_on_the_seed_alone():
    np.testing.assert_array_equal(digits(seed=3).test.x, digits(seed=3).test.x)
    assert not np.array_equal(digits(seed=3).test.y, digits(seed=4).test.y)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reading": "columns"}, "reading = 'columns'; should be one of pixels, rows"),
        ({"test": 0.0}, "test = 0.0"),
        ({"validation": 0.5, "test": 0.5}, "validation = 0.5, test = 0.5"),
        ({"validation": 0.001}, "without the class 0"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        digits(**arguments)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"rnnscan\[experiments\]"):
        digits()
