"""English text as a sequence of characters: Python's own reference, as every Python carries it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_COPY = 40  # characters; a shorter paragraph may well be written twice


@dataclass(frozen=True)
class Characters:
    """A text in three parts; tune on `validation`, and look at `test` once.

    Attributes:
      train, validation, test: int32 tokens, in the text's order, one part after another.
      vocabulary: the character of each token, in the order of their code points.
      sha256: of the whole text in UTF-8: it differs between versions of Python.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    vocabulary: str
    sha256: str

    def __len__(self) -> int:
        return len(self.train) + len(self.validation) + len(self.test)

    def encode(self, text: str) -> np.ndarray:
        """Characters to tokens.

        >>> data = python_reference()
        >>> data.decode(data.encode("for x in xs:"))
        'for x in xs:'
        """
        token = {character: i for i, character in enumerate(self.vocabulary)}
        unknown = sorted(set(text) - set(token))
        if unknown:
            raise ValueError(f"text: has {unknown}, which the vocabulary has not")
        return np.array([token[character] for character in text], np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """Tokens to characters, of one axis."""
        return "".join(self.vocabulary[token] for token in np.asarray(tokens))


def python_reference(*, validation: float = 0.05, test: float = 0.05) -> Characters:
    """The Python reference as `help("topics")` shows it: statements, operators, types, in English.

    The topics stand in alphabetical order, the parts are contiguous: the first 90 % for training,
    then validation, then test. Many topics hold others ("compound" has all of "while"), so that a
    fifth of the characters are a second copy, which would let a test measure what was learnt by
    heart. A paragraph of 40 characters or more is therefore kept once, in the longest topic that
    has it.

    Bits per character on `test` (Python 3.11):

        uniform over the vocabulary          6.69
        frequencies of characters            4.60
        frequencies after the one before     3.31

    Args:
      validation, test: fractions of the text.

    Raises:
      ValueError: for fractions that leave a part empty.

    Cost: nothing is fetched; 0.1 s. The text differs between versions of Python: 377,000 characters
    with 3.11, 418,000 with 3.13, 103 of them different; `sha256` tells them apart.

    Source: `pydoc_data.topics` of the standard library (PSF licence).

    >>> data = python_reference()
    >>> len(data) > 300_000, len(data.vocabulary) > 95
    (True, True)
    >>> '"while" statement' in data.decode(data.train)
    True
    """
    from pydoc_data.topics import topics

    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise ValueError(
            f"validation = {validation}, test = {test}; should be above 0 and below 1 together"
        )
    return _parts(without_copies(topics), validation, test)


def without_copies(topics: Mapping[str, str]) -> str:
    """The texts in the order of their names, each long paragraph once: in the longest text.

    >>> without_copies({"b": "B\\n\\n" + 40 * "x" + "\\n\\nend", "a": "A\\n\\n" + 40 * "x"})
    'A\\n\\nB\\n\\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\\n\\nend\\n'
    """
    seen: set[str] = set()
    kept: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        paragraphs = []
        for paragraph in re.split(r"\n(?:[ \t]*\n)+", topics[name].strip("\n")):
            words = " ".join(paragraph.split())
            if len(words) < _COPY or words not in seen:
                seen.add(words)
                paragraphs.append(paragraph)
        kept[name] = "\n\n".join(paragraphs)
    return "\n\n".join(kept[name] for name in sorted(kept) if kept[name]) + "\n"


def _parts(text: str, validation: float, test: float) -> Characters:
    vocabulary = "".join(sorted(set(text)))
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    tokens = np.unique(codes, return_inverse=True)[1].astype(np.int32)
    stops = np.round((1 - np.array([validation + test, test])) * len(tokens)).astype(int)
    first, second, third = np.split(tokens, stops)
    if not (len(first) and len(second) and len(third)):
        raise ValueError(f"validation = {validation}, test = {test}: leave a part empty")
    return Characters(first, second, third, vocabulary, hashlib.sha256(text.encode()).hexdigest())


def windows(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows side by side and, for each step, the token that comes next.

    Args:
      tokens: (count,).
      length: T of a window; what does not fill one at the end is left out.

    Returns:
      x and y, each ((count - 1) // T, T); y is x one step later, the last one the next window's
      first.

    Raises:
      ValueError: where the tokens fill no window.

    >>> windows(np.arange(8), 3)
    (array([[0, 1, 2],
           [3, 4, 5]]), array([[1, 2, 3],
           [4, 5, 6]]))
    """
    if not 1 <= length < len(tokens):
        raise ValueError(
            f"length = {length}: should be 1 to {len(tokens) - 1}, one window at least"
        )
    count = (len(tokens) - 1) // length
    used = count * length
    return tokens[:used].reshape(count, length), tokens[1 : used + 1].reshape(count, length)


def unigram_bits(train: np.ndarray, test: np.ndarray, vocabulary: int) -> float:
    """Bits per token of `test`, predicted by how often each token is in `train`.

    Counts begin at 1, so that what was never seen stays possible.

    >>> unigram_bits(np.array([0, 1, 0, 1]), np.array([0, 1, 1, 0]), 2)
    1.0
    """
    counts = 1.0 + np.bincount(train, minlength=vocabulary)
    return float(-np.log2(counts / counts.sum())[test].mean())


def bigram_bits(train: np.ndarray, test: np.ndarray, vocabulary: int) -> float:
    """Bits per token of `test` after its first, predicted from the one before.

        p(c | b) = (n(b c) + V p(c)) / (n(b) + V)

    with counts n in `train`, V the vocabulary, and p(c) as in `unigram_bits`: what follows a rare
    character is near to what follows any.

    >>> round(bigram_bits(np.tile([0, 1], 500), np.array([0, 1, 0, 1]), 2), 3)
    0.003
    """
    singles = 1.0 + np.bincount(train, minlength=vocabulary)
    pairs = np.bincount(train[:-1] * vocabulary + train[1:], minlength=vocabulary**2)
    pairs = pairs.reshape(vocabulary, vocabulary) + vocabulary * singles / singles.sum()
    p = pairs / pairs.sum(axis=1, keepdims=True)
    return float(-np.log2(p[test[:-1], test[1:]]).mean())
