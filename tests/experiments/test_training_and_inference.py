"""Training, classifying, generating: every layer's programs are right, the verdict follows."""

import json

import numpy as np
import pytest

from experiments.harness.kinds import KINDS
from experiments.training_and_inference import experiment, present
from experiments.training_and_inference.contenders import PROGRAMS
from tests.experiments.spoil import INF, NAN, assert_nothing_flips, said

LAYERS = tuple({"name": kind, "kind": kind} for kind in KINDS)
SMALL = {"features": 4, "hidden": 8, "tokens": 3, "batch": 2, "rounds": 3, "sample_seconds": 1e-5}
SMALL |= {"budget_seconds": 0.01}


def config(kinds=KINDS, **changes):
    layers = [layer for layer in LAYERS if layer["kind"] in kinds]
    values = {"layers": layers, "lengths": [6, 12], **SMALL, **changes}
    return experiment.Config.model_validate_json(json.dumps(values))


@pytest.fixture(scope="module")
def records():
    chosen = config(("RNN", "CausalSelfAttention"), programs=["classify", "generate"])
    return list(experiment.run(chosen))


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_layer_gives_what_stepping_in_float64_gives(program):
    chosen = config(lengths=[5], programs=[program])
    if program == "train":  # some of the backward passes: the layers' own tests have them all
        chosen = config(("LSTM", "Mamba"), lengths=[5], programs=[program])
    found = list(experiment.run(chosen))
    assert [r["kind"] for r in found] == [layer.kind for layer in chosen.layers]
    for record in found:
        assert record["counts"], record
        assert record["error"] <= 1e-5


def test_points_that_are_too_large_are_not_tried():
    chosen = config(("MLP", "RNN"), lengths=[64], programs=["classify"], max_bytes=60_000)
    skipped, timed = list(experiment.run(chosen))
    assert skipped["skipped"].startswith("MLP, classify, T = 64: would need")
    assert skipped["predicted_bytes"] > 60_000
    assert timed["kind"] == "RNN"


def test_the_verdict_is_computed_from_the_times(records):
    def timed(attention):
        return [
            {
                **r,
                "tokens": 1,
                "seconds": [
                    attention(r["point"]["length"])
                    if r["kind"] == "CausalSelfAttention"
                    else 1e-6 * r["point"]["length"]
                ],
            }
            for r in records
        ]

    (verdict,) = experiment.summary(timed(lambda n: 1e-9 * n)).verdicts
    assert (verdict.number, verdict.outcome) == (10, "confirmed")
    (verdict,) = experiment.summary(timed(lambda n: 1e-6 * n**2)).verdicts
    assert verdict.outcome == "refined"
    assert "T^2.00" in verdict.text
    (verdict,) = experiment.summary([]).verdicts
    assert verdict.outcome == "open"


def test_spans_and_figures(records):
    assert [present.span(kind, 1024) for kind in ("RNN", "LRU", "CausalSelfAttention")] == [
        1024,
        20,
        1,
    ]
    assert set(experiment.plot(records)) == {"time"}
    assert all(np.isfinite(r["seconds"]).all() for r in records)


@pytest.mark.parametrize("value", [NAN, INF, 0.0, []])
def test_a_wrong_time_flips_nothing(records, value):
    assert_nothing_flips(experiment, records, "seconds", value, ["serial"], draw=True)


@pytest.mark.parametrize(("field", "value"), [("counts", False), ("temporary_bytes", NAN)])
def test_a_failed_check_flips_nothing(records, field, value):
    assert_nothing_flips(experiment, records, field, value, ["serial"] * (field == "counts"), True)


def test_any_subset_has_a_verdict(records):
    for some in range(len(records)):
        (verdict,) = said(experiment, records[:some])
        assert verdict.outcome == "open"
    one = [r for r in records if r["point"] != {"program": "generate", "length": 12}]
    (verdict,) = said(experiment, one)
    assert (verdict.outcome, verdict.text) == ("open", "needs two lengths at least")


def test_lines_of_one_layer_are_not_mixed_with_anothers(records):
    """A second RNN does not stand in where the first one failed."""
    other = [{**r, "layer": "other"} for r in records if r["kind"] == "RNN"]
    failed = [{**r, "counts": r["kind"] != "RNN" or r["point"]["length"] != 12} for r in records]
    (verdict,) = said(experiment, failed + other)
    assert verdict.outcome == "open"
