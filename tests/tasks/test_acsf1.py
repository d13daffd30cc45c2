import importlib.util
import sys

import numpy as np
import pytest

from rnnscan.tasks import acsf1
from rnnscan.tasks.acsf1 import CARRIERS, CLASSES, LENGTH

needs_data = pytest.mark.skipif(
    not any(importlib.util.find_spec(package) for package in CARRIERS),
    reason=f"needs {' or '.join(CARRIERS)}, which carry the recordings",
)


def parts(data):
    return (data.train, data.validation, data.test)


@needs_data
def test_shapes_types_and_classes():
    data = acsf1()
    for part, of_each in zip(parts(data), (8, 2, 10), strict=True):
        assert part.x.shape == (of_each * len(CLASSES), LENGTH, 1)
        assert (part.x.dtype, part.y.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(np.bincount(part.y), [of_each] * len(CLASSES))
        np.testing.assert_allclose(part.x.mean(axis=1), 0, atol=1e-5)
        np.testing.assert_allclose(part.x.std(axis=1), 1, atol=1e-5)
    assert len(set(data.train.y[:30])) > 5  # mixed


@needs_data
def test_training_and_validation_share_nothing_and_depend_on_the_seed():
    one, same, other = acsf1(seed=1), acsf1(seed=1), acsf1(seed=2)
    both = np.concatenate([one.train.x, one.validation.x])
    assert len(np.unique(both.reshape(100, -1), axis=0)) == 100
    np.testing.assert_array_equal(one.train.x, same.train.x)
    assert not np.array_equal(one.train.x, other.train.x)
    np.testing.assert_array_equal(one.test.x, other.test.x)


@needs_data
def test_what_the_docstring_says_of_it():
    data = acsf1()
    x, u = (np.concatenate(xs)[..., 0] for xs in ([data.train.x, data.validation.x], [data.test.x]))
    y, v = np.concatenate([data.train.y, data.validation.y]), data.test.y

    def nearest(x, u):
        squares = (u**2).sum(1)[:, None] + (x**2).sum(1)[None] - 2 * u @ x.T
        return (y[squares.argmin(axis=1)] == v).mean()

    assert nearest(x, u) == pytest.approx(0.54, abs=0.02)
    assert nearest(np.sort(x, axis=1), np.sort(u, axis=1)) == pytest.approx(0.81, abs=0.02)
    by_lag = [(x[:, lag:] * x[:, :-lag]).mean(axis=1) for lag in (1, 2, 3, 4)]
    medians = np.array([[np.median(row[y == label]) for row in by_lag] for label in range(10)])
    assert medians[:, :3].max() < 0
    assert medians[:, 3].min() > 0.7


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.01])
def test_a_fraction_that_leaves_a_part_empty_is_named(fraction):
    if fraction == 0.01 and not any(map(importlib.util.find_spec, CARRIERS)):
        pytest.skip(f"needs {' or '.join(CARRIERS)}, which carry the recordings")
    with pytest.raises(ValueError, match=r"validation = |fractions \(0.01,\)"):
        acsf1(validation=fraction)


def test_without_a_package_that_has_it_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"sktime or aeon.*rnnscan\[data\]"):
        acsf1()


@needs_data
def test_reads_the_files_without_importing_their_package():
    before = set(sys.modules)
    acsf1()
    assert not {"sktime", "aeon"} & (set(sys.modules) - before)
