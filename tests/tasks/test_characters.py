import hashlib
import itertools
import math

import numpy as np
import pytest

from rnnscan.tasks import python_reference
from rnnscan.tasks.characters import bigram_bits, unigram_bits, windows, without_copies


@pytest.fixture(scope="module")
def data():
    return python_reference()


def test_the_parts_are_the_text_in_its_order(data):
    text = "".join(data.decode(part) for part in (data.train, data.validation, data.test))
    assert len(text) == len(data)
    assert hashlib.sha256(text.encode()).hexdigest() == data.sha256
    assert data.vocabulary == "".join(sorted(set(text)))
    assert abs(len(data.test) / len(data) - 0.05) < 1e-4
    assert abs(len(data.validation) / len(data) - 0.05) < 1e-4
    np.testing.assert_array_equal(data.encode(text[:1000]), data.train[:1000])
    assert data.train.dtype == data.encode("x").dtype == np.int32


def test_it_is_english_about_python_and_says_little_twice(data):
    text = data.decode(data.train)
    assert text.startswith('The "assert" statement')
    assert text.count(" the ") > 2000
    long = [" ".join(p.split()) for p in text.split("\n\n")]
    long = [paragraph for paragraph in long if len(paragraph) >= 40]
    assert len(set(long)) == len(long) > 1000


def test_copies_stay_in_the_longest_topic_and_short_paragraphs_anywhere():
    copy = "the same words, in one topic and\n   in another one"
    topics = {
        "z": f"Z\n\n\n{copy}\n\nExample:\n\nmore",
        "a": f"A\n\n{copy.replace('   ', '')}\n\nExample:",
    }
    assert without_copies(topics) == f"A\n\nExample:\n\nZ\n\n{copy}\n\nExample:\n\nmore\n"


def test_windows_cover_all_and_targets_come_next():
    tokens = np.arange(23)
    x, y = windows(tokens, 5)
    assert x.shape == y.shape == (4, 5)
    np.testing.assert_array_equal(x.ravel(), tokens[:20])
    np.testing.assert_array_equal(y, x + 1)
    assert windows(np.arange(6), 5)[0].shape == (1, 5)
    for length in (0, 6):
        with pytest.raises(ValueError, match=f"length = {length}: should be 1 to 5"):
            windows(np.arange(6), length)


def test_bits_of_simple_predictors_against_loops():
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 4, 60) ** 2 % 5, rng.integers(0, 5, 20)
    singles = [(1 + list(train).count(c)) / 65 for c in range(5)]
    assert unigram_bits(train, test, 5) == pytest.approx(
        -sum(math.log2(singles[c]) for c in test) / 20
    )
    pairs = list(itertools.pairwise(train))
    bits = 0.0
    for b, c in itertools.pairwise(test):
        before = sum(pair[0] == b for pair in pairs)
        bits -= math.log2((pairs.count((b, c)) + 5 * singles[c]) / (before + 5))
    assert bigram_bits(train, test, 5) == pytest.approx(bits / 19)


def test_trivial_predictors_of_the_text(data):
    count = len(data.vocabulary)
    unigram, bigram = (
        predict(data.train, data.test, count) for predict in (unigram_bits, bigram_bits)
    )
    assert 3.1 < bigram < 3.5 < 4.4 < unigram < 4.8 < math.log2(count) < 6.8


@pytest.mark.parametrize("fractions", [(0.0, 0.1), (0.5, 0.5), (1e-9, 0.1)])
def test_fractions_that_leave_a_part_empty_are_named(fractions):
    validation, test = fractions
    with pytest.raises(ValueError, match=f"validation = {validation}, test = {test}"):
        python_reference(validation=validation, test=test)


def test_an_unknown_character_is_named(data):
    with pytest.raises(ValueError, match="'漢'"):
        data.encode("a漢")
