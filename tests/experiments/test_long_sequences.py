"""Real sequences of 1,460 steps: networks are trained and tested, the verdict follows."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from experiments.harness import config as harness_config
from experiments.long_sequences import experiment
from experiments.long_sequences.baselines import nearest, nearest_sorted
from rnnscan.tasks.acsf1 import CARRIERS

pytestmark = pytest.mark.skipif(
    not any(importlib.util.find_spec(package) for package in CARRIERS),
    reason=f"needs {' or '.join(CARRIERS)}, which carry the recordings",
)
VALUES = {
    "layers": [
        {"name": "GRU", "kind": "GRU"},
        {"name": "attention", "kind": "CausalSelfAttention"},
    ],
    "length": 12,
    "parameters": 1200,
    "depth": 1,
    "seeds": 1,
    "training": {"epochs": 3, "batch_size": 16, "learning_rate": 0.01},
}


def resolve(**changes):
    return harness_config.validate(experiment.Config, VALUES | changes)


@pytest.fixture(scope="module")
def records():
    return list(experiment.run(resolve()))


def test_a_record_says_how_it_was_trained_and_tested(records):
    assert [r["point"] for r in records] == experiment.plan(resolve())
    for record in records:
        assert 600 < record["parameters"] <= 1200
        assert record["train_loss"][-1] < record["train_loss"][0]
        assert len(record["validation_loss"]) == 4
        assert record["test_accuracy"] * 100 == pytest.approx(round(record["test_accuracy"] * 100))
        assert np.isfinite(record["test_loss"])
        assert 0.1 < record["nearest"] < 1


def test_neighbours_against_loops():
    rng = np.random.default_rng(0)
    known = rng.standard_normal((7, 5)), rng.integers(0, 3, 7)
    asked = rng.standard_normal((9, 5)), rng.integers(0, 3, 9)

    def loop(change):
        right = 0
        for u, v in zip(*asked, strict=True):
            distances = [np.linalg.norm(change(u) - change(x)) for x in known[0]]
            right += known[1][np.argmin(distances)] == v
        return right / 9

    assert nearest(known, asked) == pytest.approx(loop(lambda x: x))
    assert nearest_sorted(known, asked) == pytest.approx(loop(np.sort))


@pytest.mark.parametrize(
    ("recurrent", "attention", "length", "outcome"),
    [
        (0.5, 0.8, 1460, "confirmed"),
        (0.8, 0.5, 1460, "refuted"),
        (0.7, 0.72, 1460, "refined"),
        (0.5, 0.8, 999, "open"),
    ],
)
def test_the_verdict_follows_the_accuracies(records, recurrent, attention, length, outcome):
    verdict = judged(records, recurrent, attention, length=length)
    assert verdict.outcome == outcome


def judged(records, recurrent, attention, **changes):
    accuracy = {"GRU": recurrent, "attention": attention}
    settled = {"length": 1460, "train_loss": SETTLED, "validation_accuracy": [0.1, 0.5, 0.5, 0.5]}
    changed = [
        {**r, **settled, "test_accuracy": accuracy[r["point"]["layer"]], **changes} for r in records
    ]
    said = experiment.summary(changed)
    assert "nan" not in str(said)
    return said.verdicts[0]


SETTLED, BRIEF = [2.1, 1.0, 0.9, 0.8], [2.1, 1.8, 1.5, 1.2]
RISING = [0.1, 0.2, 0.3, 0.5]


@pytest.mark.parametrize(
    ("recurrent", "attention", "changes", "outcome", "said"),
    [
        (0.5, 0.8, {"train_loss": BRIEF}, "confirmed", "one seed"),
        (0.8, 0.5, {"train_loss": BRIEF}, "open", "trained too briefly: attention."),
        (0.7, 0.72, {"train_loss": BRIEF}, "open", "trained too briefly: attention."),
        (0.8, 0.5, {"train_loss": [2.4, 2.3, 2.3]}, "open", "trained too briefly: attention."),
        (0.8, 0.5, {"train_loss": [2.2]}, "open", "trained too briefly: attention."),
        (0.7, 0.62, {"validation_accuracy": RISING}, "open", "trained too briefly: attention."),
        (0.5, 0.8, {"train_loss": [2.2, np.nan]}, "open", "diverged: GRU."),
        (0.5, 0.8, {"train_loss": [2.2, 90.0]}, "open", "diverged: GRU."),
        (0.5, np.nan, {}, "open", "not a number: attention."),
        (np.nan, 0.8, {}, "open", "not a number: GRU."),
    ],
)
def test_nothing_flips_the_verdict(records, recurrent, attention, changes, outcome, said):
    verdict = judged(records, recurrent, attention, **changes)
    assert verdict.outcome == outcome
    assert said in verdict.text


def test_a_training_that_diverged_is_called_so(records):
    wild = {**records[0], "train_loss": [np.nan] * 3}
    assert experiment.summary([wild]).tables[0].rows[0][3] == "diverged"


def test_figures_and_tables_of_any_subset(records):
    for subset in ([], records[:1], records[1:], records):
        drawn = experiment.plot(subset)
        assert set(drawn) == ({"learning"} if subset else set())
        for figure in drawn.values():
            figure.canvas.draw()
        assert len(experiment.summary(subset).tables) == bool(subset)
    assert experiment.summary(records[:1]).verdicts[0].outcome == "open"


@pytest.mark.parametrize("name", ["default", "small"])
def test_shipped_configs_are_valid(name):
    file = harness_config.read(Path(experiment.__file__).parent / "configs" / f"{name}.toml")
    assert (file.experiment, bool(file.takes)) == ("long_sequences", True)
    config = harness_config.resolve(experiment.Config, file.values)
    assert experiment.plan(config)
    assert config.length == 1460


def test_bad_values_are_named_at_once():
    with pytest.raises(harness_config.ConfigError) as caught:
        resolve(length=1461, read="every", layers=VALUES["layers"][:1] * 2)
    for words in ("length = 1461", "read = 'every'", "['GRU'] appear more than once"):
        assert words in str(caught.value).replace('"', "'")
