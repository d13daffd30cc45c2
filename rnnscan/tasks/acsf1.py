"""Power drawn by household appliances: 200 real sequences of 1,460 steps, ten kinds of them."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rnnscan.tasks.splits import Split, stratified

LENGTH = 1460
CLASSES = (
    *("mobile phone", "coffee machine", "computer", "fridge or freezer", "hi-fi"),
    *("lamp", "laptop", "microwave oven", "printer", "television"),
)
CARRIERS = ("sktime", "aeon")  # either package has the files, at the same place within it


@dataclass(frozen=True)
class Appliances:
    """A dataset in three parts; tune on `validation`, and look at `test` once.

    Each sequence has mean 0 and variance 1; y counts along `CLASSES`.
    """

    train: Split
    validation: Split
    test: Split


def acsf1(*, validation: float = 0.2, seed: int = 0) -> Appliances:
    """ACSF1: which of ten kinds of appliance drew this power?

    T = 1,460 steps of 1 feature. 100 sequences for testing, as published; of the 100 for training,
    `validation` of each class is held out, the same on every machine for the same seed. Both halves
    have ten sequences of every class.

    What is known of it, and sets a result in proportion:

        guessing                                                10 % right
        nearest neighbour, Euclidean                            54 %
        the same after sorting each sequence's values           81 %

    So most of the answer is in which values occur, and needs no order. Of the order the plainest
    feature is a period of 4: each sequence interleaves four measured quantities (autocorrelation at
    lag 4 is 0.73 to 1.00 in the median of each class, at lags 1 to 3 negative).

    Args:
      validation: the fraction of each class held out of training.
      seed: of which ones.

    Raises:
      ModuleNotFoundError: without sktime and aeon, one of which carries the recordings.
      ValueError: for a fraction that leaves a part empty.

    Cost: nothing is fetched and neither package is imported: two files of 1.7 MB are read, which
    takes 0.1 s.

    Source: Gisler, Ridi, Zufferey, Abou Khaled & Hennebert, "Appliance consumption signature
    database and recognition test protocols" (2013); as edited by Schäfer & Leser, "Fast and
    accurate time series classification with WEASEL" (2017), for the UCR archive.

    >>> data = acsf1()
    >>> data.train.x.shape, len(data.validation), len(data.test)
    ((80, 1460, 1), 20, 100)
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation = {validation}: should be between 0 and 1")
    folder = _folder()
    x, y = _read(folder / "ACSF1_TRAIN.ts")
    held_out, rest = stratified(y, (validation,), seed)
    test = Split(*_read(folder / "ACSF1_TEST.ts"))
    return Appliances(Split(x[rest], y[rest]), Split(x[held_out], y[held_out]), test)


def _folder() -> Path:
    for package in CARRIERS:
        found = importlib.util.find_spec(package)
        for place in (found.submodule_search_locations or ()) if found else ():
            folder = Path(place) / "datasets" / "data" / "ACSF1"
            if folder.is_dir():
                return folder
    raise ModuleNotFoundError(
        f"acsf1 needs {' or '.join(CARRIERS)}, which carry the recordings: "
        "pip install 'rnnscan[data]'"
    )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a .ts file: comments (#), a header (@), then `value,value,...:label` a line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.rsplit(":", 1) for line in lines if line and line[0] not in "#@"]
    x = np.array([values.split(",") for values, _ in rows], np.float64)
    return x.astype(np.float32)[..., None], np.array([label for _, label in rows], np.int32)
