"""The PyTorch example: stored numbers, a classifier, and times where torch is there."""

import pytest

from experiments.harness.training import Training
from experiments.torch_example import experiment, torch_reference

CONFIG = experiment.Config(live=1, seeds=1, training=Training(epochs=2))


def of_study(study, config=CONFIG):
    points = [point for point in experiment.plan(config) if point["study"] == study]
    return list(experiment.run(config, points))


@pytest.fixture(scope="module")
def records():
    return of_study("example") + of_study("classifier")


def test_the_example_has_the_shapes_and_numbers_of_torch(records):
    plain = [r for r in records if r["point"] == {"study": "example", "layer": "RNN"}]
    assert [r["dtype"] for r in plain] == ["float32", "float64"]
    for record in plain:
        assert (record["y_shape"], record["last_shape"]) == ([2, 5, 20], [1, 2, 20])
        assert record["last_is_in_y"]
    assert plain[0]["value_error"] <= 1e-6
    assert plain[1]["value_error"] <= 1e-12
    assert {r["point"].get("layer") for r in records} == {"RNN", "LSTM", "GRU", None}


def test_verdicts_follow_the_records(records):
    equality, example = experiment.summary(records).verdicts
    assert (equality.number, equality.outcome) == (1, "confirmed")
    assert example.number == 11

    def outcome(number, **changes):
        found = [r | {k: v for k, v in changes.items() if k in r} for r in records]
        said = {v.number: v.outcome for v in experiment.summary(found).verdicts}
        return said[number]

    assert outcome(1, gradient_error=1e-3) == "refuted"
    assert outcome(11, test_accuracy=0.95) == "confirmed"
    assert outcome(11, test_accuracy=0.3) == "refuted"
    assert outcome(11, test_accuracy=0.95, last_is_in_y=False) == "refuted"
    assert {v.outcome for v in experiment.summary([]).verdicts} == {"open"}


def test_without_torch_what_needs_it_is_left_out(monkeypatch):
    monkeypatch.setattr(torch_reference, "available", lambda: False)
    shape = experiment.Shape(length=4, batch=2, inputs=3, hidden=5)
    config = CONFIG.model_copy(update={"speed": (shape,)})
    for study in ("random", "speed"):
        found = of_study(study, config)
        assert all("torch is not installed" in record["skipped"] for record in found)
    assert len(found) == 6  # three layers, two directions


def test_times_against_torch():
    pytest.importorskip("torch")
    shape = experiment.Shape(length=6, batch=2, inputs=3, hidden=5)
    changes = {"speed": (shape,), "rounds": 3, "sample_seconds": 1e-5, "product_size": 16}
    found = of_study("speed", CONFIG.model_copy(update=changes))
    assert {r["contender"] for r in found} >= {"rnnscan", "torch"}
    assert all(record["counts"] for record in found), found
    said = experiment.summary(found).verdicts[-1]
    assert "torch's time in" in said.text
    assert set(experiment.plot(found)) == {"speed"}
