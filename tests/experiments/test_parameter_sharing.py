"""Counts of parameters, and the verdict that follows from them."""

import pytest

from experiments.parameter_sharing import experiment, present
from tests.experiments.spoil import INF, NAN, assert_nothing_flips, said


@pytest.fixture(scope="module")
def records():
    return list(experiment.run(experiment.Config(lengths=(10, 1000))))


def test_the_counts_are_those_of_the_article(records):
    found = {
        r["point"]["layer"]: r["parameters"] for r in records if r["point"]["study"] == "article"
    }
    assert found == {"MLP": 128_000, "CausalConv1D": 38_400, "RNN": 29_184}
    (biases,) = (r["parameters"] for r in records if r["point"]["study"] == "biases")
    assert biases == 29_440


def test_only_the_fully_connected_net_grows(records):
    counts = present._growth(records)
    assert {kind for kind, by in counts.items() if by[10] != by[1000]} == {"MLP"}
    assert counts["MLP"] == {10: 128_128, 1000: 12_800_128}


def test_the_verdict_is_computed(records):
    (verdict,) = experiment.summary(records).verdicts
    assert (verdict.outcome, verdict.number) == ("confirmed", 2)
    assert "128,000" in verdict.text

    def changed(kind, count):
        return [
            {**r, "parameters": count}
            if r["point"]["layer"] == kind and r["point"].get("length") == 1000
            else r
            for r in records
        ]

    (verdict,) = experiment.summary(changed("GRU", 1)).verdicts
    assert verdict.outcome == "refuted"
    (verdict,) = experiment.summary([r for r in records if r["point"]["layer"] != "MLP"]).verdicts
    assert verdict.outcome == "open"


def test_it_draws_what_there_is(records):
    assert set(experiment.plot(records)) == {"growth"}
    assert experiment.plot([]) == {}


@pytest.mark.parametrize("value", [NAN, INF, 0])
def test_a_wrong_count_flips_nothing(records, value):
    few = [r for r in records if r["point"]["layer"] in present.ARTICLE]
    assert_nothing_flips(experiment, few, "parameters", value, ["parameter sharing"], draw=True)


def test_one_length_is_no_growth(records):
    short = [r for r in records if r["length"] == 10]
    assert [v.outcome for v in said(experiment, short)] == ["open"]
    assert [v.outcome for v in said(experiment, records[:-1])] == ["open"]  # interrupted
