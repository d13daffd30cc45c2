"""The PyTorch example: stored numbers, a classifier, and times where torch is there."""

import numpy as np
import pytest

from experiments.harness.training import Training
from experiments.torch_example import contenders, experiment, reference
from tests.experiments.spoil import INF, NAN, assert_nothing_flips, said

CONFIG = experiment.Config(live=1, seeds=1, training=Training(epochs=2))


KEYS = ("value_error", "gradient_error")


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
    assert outcome(11, test_accuracy=0.3) == "open"
    assert outcome(11, test_accuracy=0.95, last_is_in_y=False) == "refuted"
    assert {v.outcome for v in experiment.summary([]).verdicts} == {"open"}


def test_without_torch_what_needs_it_is_left_out(monkeypatch):
    monkeypatch.setattr(reference, "available", lambda: False)
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


def by_hand():
    """Records of a good run, the smallest there are."""
    errors = {"value_error": 1e-14, "gradient_error": 1e-14, "torch": "2.9", "configurations": 1}
    shapes = {"y_shape": [2, 5, 20], "last_shape": [1, 2, 20], "last_is_in_y": True}
    example, speed = {"study": "example", "layer": "RNN"}, {"study": "speed", "layer": "GRU"}
    speed |= {"shape": [6, 2, 3, 5], "direction": "forward"}
    found = [{"point": example, "dtype": d, **errors, **shapes} for d in experiment.DTYPES]
    trained = {"parameters": 810, "hidden": 20, "test_size": 359, "test_accuracy": 0.9}
    found += [{"point": {"study": "classifier", "seed": s}, **trained} for s in (0, 1)]
    timed = {"counts": True, "flops": 1e6}
    return found + [
        {"point": speed, "contender": name, "seconds": [s, 1.1 * s, 1.2 * s], **timed}
        for name, s in (("rnnscan", 1e-3), ("torch", 2e-3), ("limit", 1e-4))
    ]


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize(
    ("field", "claims"),
    [
        ("value_error", ["torch.nn.RNN", "example"]),
        ("gradient_error", ["torch.nn.RNN", "example"]),
        ("test_accuracy", ["example"]),
        ("seconds", ["no longer"]),
        ("flops", []),
    ],
)
def test_a_wrong_number_flips_nothing(field, claims, value):
    assert [v.outcome for v in said(experiment, by_hand())] == ["confirmed"] * 3
    assert_nothing_flips(experiment, by_hand(), field, value, claims, draw=field == "seconds")


@pytest.mark.parametrize(("field", "value"), [("seconds", 0.0), ("seconds", []), ("counts", False)])
def test_a_wrong_time_flips_nothing(field, value):
    assert_nothing_flips(experiment, by_hand(), field, value, ["no longer"], draw=True)


def test_any_subset_has_verdicts():
    for some in range(len(by_hand())):
        for verdict in said(experiment, by_hand()[:some]) + said(experiment, by_hand()[some:]):
            assert verdict.outcome in ("open", "confirmed")


def test_a_classifier_trained_too_briefly_refutes_nothing():
    brief = [r | {"test_accuracy": 0.3} if "test_accuracy" in r else r for r in by_hand()]
    verdict = said(experiment, brief)[1]
    assert (verdict.outcome, verdict.number) == ("open", 11)
    assert "Trained too briefly" in verdict.text
    assert "(one seed)" in said(experiment, brief[:3])[1].text


def test_the_worst_of_random_ones_may_be_none(monkeypatch):
    errors = iter([0.1, NAN, 0.2, 0.1, 0.2, 0.3])
    for module, name, fake in (
        (reference, "available", lambda: True),
        (reference, "reference", lambda seed, **case: {}),
        (experiment.importlib.metadata, "version", lambda name: "2.9"),
        (experiment, "_compared", lambda *_: dict.fromkeys(KEYS, next(errors))),
    ):
        monkeypatch.setattr(module, name, fake)
    config = experiment.Config(live=3)
    single, double = experiment.run(config, [{"study": "random", "layer": "RNN"}])
    assert [single[key] for key in KEYS] == [0.2, 0.2]
    assert np.isnan([double[key] for key in KEYS]).all()


def test_a_nan_is_not_lost_in_a_maximum():
    good, bad = np.ones(3), np.array([1.0, np.nan, 1.0])
    expected = {"y": good, "last": good, "grad/a": good, "grad/b": good}
    for key in expected:
        found = reference.errors(expected | {key: bad}, expected)
        assert np.isnan(found).sum() == 1
    assert not contenders._check([good, bad], [good, good], 1).passed
