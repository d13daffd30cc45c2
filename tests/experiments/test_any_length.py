"""One layer object at every length; what is constant, what grows and what refuses."""

import pytest

from experiments.any_length import experiment
from tests.experiments.spoil import INF, NAN, assert_nothing_flips, said

CONFIG = experiment.Config(
    lengths=(4, 50), windows=(8, 16, 2**22), context=5, chunk=20, features=3, hidden=4, repeats=1
)


def points(**wanted):
    return [
        point
        for point in experiment.plan(CONFIG)
        if all(point.get(key) in values for key, values in wanted.items())
    ]


@pytest.fixture(scope="module")
def records():
    chosen = points(study=["stream"], layer=["RNN", "LSTM", "Mamba", "CausalSelfAttention"])
    chosen += points(study=["window"], layer=["RNN", "CausalSelfAttention"]) + points(
        study=["limit"]
    )
    return list(experiment.run(CONFIG, chosen))


def test_the_state_is_constant_and_chunks_equal_a_whole(records):
    streams = [r for r in records if r["point"]["study"] == "stream"]
    assert {r["length"] for r in streams} == {4, 50}
    for kind in ("RNN", "LSTM", "Mamba", "CausalSelfAttention"):
        mine = [r for r in streams if r["point"]["layer"] == kind]
        assert len({r["state_bytes"] for r in mine}) == 1
        assert all(r["finite"] and r["state_bytes"] == r["state_bytes_before"] for r in mine)
        assert mine[0]["error"] <= 1e-6
        assert mine[1]["chunks"] > 2


def test_windows_that_are_too_large_are_not_tried(records):
    windows = [r for r in records if r["point"]["study"] == "window"]
    skipped = [r for r in windows if "skipped" in r]
    assert {r["point"]["layer"] for r in skipped} == {"CausalSelfAttention"}
    assert skipped[0]["predicted_bytes"] > 2**30
    cache = {
        r["length"]: r["state_bytes"] for r in windows if "error" in r and r["state_bytes"] > 100
    }
    assert cache[16] - cache[8] == 8 * 2 * 8 * 4  # keys and values of eight more steps


def test_the_fully_connected_net_says_why_not(records):
    by_steps = {r["length"]: r["refusal"] for r in records if r["point"]["study"] == "limit"}
    assert by_steps[4] is None
    assert "exactly 4 steps" in by_steps[5]
    assert "got 40" in by_steps[40]


def test_the_verdict_follows_the_records(records):
    (verdict,) = experiment.summary(records).verdicts
    assert verdict.number == 3
    assert verdict.outcome in ("confirmed", "refined")  # tiny windows say little of a slope
    grown = [
        {**r, "state_bytes": r["state_bytes"] + r["length"]}
        if r["point"] == {"study": "stream", "layer": "RNN"}
        else r
        for r in records
    ]
    assert experiment.summary(grown).verdicts[0].outcome == "refuted"
    assert experiment.summary([]).verdicts[0].outcome == "open"
    assert set(experiment.plot(records)) == {"memory"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("seconds", value) for value in (NAN, INF, 0.0)),
        *(("state_bytes", value) for value in (NAN, INF)),
        *(("error", value) for value in (NAN, INF)),
        ("finite", False),
    ],
)
def test_a_wrong_number_flips_nothing(records, field, value):
    assert_nothing_flips(experiment, records, field, value, ["any length"], draw=True)


def test_a_wrong_window_has_no_time(records):
    wrong = [{**r, "error": 0.1} if r["point"]["study"] == "window" else r for r in records]
    (verdict,) = said(experiment, wrong)
    assert verdict.outcome == "open"
    assert "its time is none" in verdict.text


@pytest.mark.parametrize(
    "missing",
    [
        {"study": "window", "layer": "CausalSelfAttention", "length": 16},
        {"study": "limit", "layer": "MLP"},
    ],
)
def test_a_missing_point_leaves_it_open(records, missing):
    some = [r for r in records if r["point"] != missing and r.get("length") != 2**22]
    assert [v.outcome for v in said(experiment, some)] == ["open"]
    experiment.plot(some)


def test_missing_records_leave_it_open(records):
    for gone in (lambda r: r.get("refusal"), lambda r: r.get("context", 0) is None):
        assert [v.outcome for v in said(experiment, [r for r in records if not gone(r)])] == [
            "open"
        ]
    one = [r for r in records if "context" not in r or r["length"] == 50]
    assert [v.outcome for v in said(experiment, one)] == ["open"]


def test_attention_is_judged_without_an_rnn_beside_it(records):
    plain = {"study": "window", "layer": "RNN"}
    some = [r for r in records if not plain.items() <= r["point"].items()]
    (verdict,) = said(experiment, some)
    assert verdict.outcome in ("confirmed", "refined")
    assert "(RNN" not in verdict.text


def test_a_net_that_refuses_its_own_length_is_no_net_of_any(records):
    refused = [{**r, "refusal": "no"} if "refusal" in r else r for r in records]
    assert [v.outcome for v in said(experiment, refused)] == ["refuted"]
