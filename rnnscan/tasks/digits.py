"""Handwritten digits as sequences: 1,797 real scans of 8 x 8 pixels, by the pixel or by the row."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rnnscan.tasks.splits import Split, stratified

CLASSES = 10
READINGS = {"pixels": (64, 1), "rows": (8, 8)}  # (T, features) of one scan


@dataclass(frozen=True)
class Digits:
    """A dataset in three parts; tune on `validation`, and look at `test` once.

    x is in [0, 1]: 0 is paper, 1 is ink. y is the digit.
    """

    train: Split
    validation: Split
    test: Split


def digits(
    reading: Literal["pixels", "rows"] = "pixels",
    *,
    validation: float = 0.15,
    test: float = 0.2,
    seed: int = 0,
) -> Digits:
    """Scikit-learn's handwritten digits, as sequences to classify.

        "pixels"    T = 64 steps of 1 feature: left to right, top row first
        "rows"      T = 8 steps of 8 features: one row of pixels at a time

    The split is drawn class by class, so that every part holds every digit in proportion, and it is
    the same on every machine for the same arguments. Writers are not kept apart (the scans do not
    say whose they are), so an accuracy on `test` is one for hands that were seen in training.

    Args:
      reading: "pixels" or "rows"; the scans and the split are the same.
      validation, test: fractions of each class; what remains is for training.
      seed: of the split.

    Returns:
      Digits, NumPy arrays: 1,168 / 270 / 359 sequences by default.

    Raises:
      ModuleNotFoundError: without scikit-learn, which carries the scans.
      ValueError: for another reading, or fractions that leave a part empty.

    Cost: nothing is fetched; 0.4 MB and some milliseconds.

    Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits (UCI, CC BY 4.0); its
    test part, as packed with scikit-learn.

    >>> data = digits("rows")
    >>> data.train.x.shape, data.train.y.shape, len(data.validation), len(data.test)
    ((1168, 8, 8), (1168,), 270, 359)
    """
    if reading not in READINGS:
        raise ValueError(f"reading = {reading!r}; should be one of {', '.join(READINGS)}")
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise ValueError(
            f"validation = {validation}, test = {test}; should be above 0 and below 1 together"
        )
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "digits needs scikit-learn, which carries the scans: pip install 'rnnscan[experiments]'"
        ) from error
    scans, labels = map(np.asarray, load_digits(return_X_y=True))
    x = (scans / 16).astype(np.float32).reshape(-1, *READINGS[reading])
    y = labels.astype(np.int32)
    parts = stratified(y, (test, validation), seed)
    return Digits(*(Split(x[part], y[part]) for part in reversed(parts)))
