"""`machine`, and predictions beside measurements in every experiment that has them."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.harness import device, limits, predictions, registry, run_folder
from experiments.harness.kinds import KINDS
from experiments.machine import experiment, present
from experiments.wallclock import costs
from experiments.wallclock.contenders import ways
from rnnscan.scan import linear_table
from rnnscan.scan.cost import Cost

RESULTS = Path(__file__).parents[2] / "results"
EACH = {"launches": 1e-6, "steps": 0.0, "bytes": 1e-9, "fresh": 0.0, "elements": 0.0, "lines": 0.0}


@pytest.fixture(scope="module")
def records():
    file = registry.find_config("experiments/machine/configs/rehearsal.toml")
    config = experiment.Config.model_validate_json(
        json.dumps({k: v for k, v in file.values.items()} | {"lengths": [4, 64]})
    )
    return list(experiment.run(config))


def test_every_limit_is_measured_and_every_method_predicted(records):
    by = {}
    for record in records:
        by.setdefault(record["point"]["measure"], []).append(record)
    assert {r["in_loop"] for r in by["stream"]} == {True, False}
    assert all(r["bandwidth"] > 1e6 for r in by["stream"])
    assert all(r["flop_rate"] > 1e6 for r in by["product"])
    values = {r["contender"]: r["value"] for r in by["each"]}
    assert 0 < values["launch"] < 1e-2
    assert 0 <= values["step"] < 1e-3
    assert values["memory"] == limits.memory_bytes()
    timed = present._predictions(records)
    assert {it.name for it in timed} >= {"sequential", "associative", "blocked"}
    assert all(it.predicted > 0 and it.record["counts"] for it in timed)


def test_what_is_shown_copes_with_any_part_of_the_records(records):
    summary = experiment.summary(records)
    assert summary.tables[0].title.startswith("Limits")
    assert list(experiment.plot(records)) == ["bandwidth", "crossovers"]
    for part in ([], records[:1], [r for r in records if r["point"]["measure"] == "time"]):
        experiment.plot(part)
        experiment.summary(part)
    assert experiment.summary([]).verdicts[0].outcome == "open"
    assert experiment.summary([]).tables == ()


def test_what_is_too_large_is_not_tried(monkeypatch):
    config = experiment.Config(lanes=(16,), lengths=(64,), max_bytes=1000)
    monkeypatch.setattr(limits, "memory_bytes", lambda: 4 * 2**20)
    for point in experiment.plan(config):
        if point["measure"] == "time" or point.get("bytes", 0) > 2**22:
            (record,) = experiment.run(config, [point])
            assert record["predicted_bytes"] > 1000
            assert "skipped" in record


def made_up(name, measured, predicted, point="here"):
    """Counts nothing but bytes: seconds are their number times 1e-9."""
    record = {
        "point": {"at": point},
        "contender": name,
        "counts": True,
        "seconds": [measured] * 3,
        "device": {**EACH, "flops": 0.0},
        "bytes": predicted / 1e-9,
    }
    (found,) = predictions.made([record], lambda r: Cost(bytes=r["bytes"]), lambda _: name)
    assert found.predicted == pytest.approx(predicted)
    return found


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        ([(1.0, 1.4), (2.0, 1.5)], "confirmed"),
        ([(1.0, 1.6), (2.0, 3.1)], "refined"),  # far off, and yet the best is chosen
        ([(1.0, 1.4), (1.4, 1.3)], "refined"),  # near, and yet the worse is chosen
        ([(1.0, 3.0), (2.0, 1.0)], "refuted"),
    ],
)
def test_a_verdict_wants_near_times_and_good_choices(found, outcome):
    made = [made_up(f"method {i}", *times) for i, times in enumerate(found)]
    verdict = predictions.verdict(made, lambda record: record["point"]["at"])
    assert verdict.outcome == outcome
    (table,) = predictions.tables(made)
    assert [row[1] for row in table.rows] == ["1", "1"]
    assert set(predictions.figure(made, lambda _: {"marker": "o"})) == {"prediction"}


def test_no_prediction_is_held_against_what_contradicts_itself(records):
    """Times far below the speed of memory, no times, no limits."""
    nan = float("nan")
    timed = [r for r in records if r["point"]["measure"] == "time" and "device" in r]
    device = timed[0]["device"]
    for change, text in (
        ({"seconds": [1e-12] * 3}, "mismeasured"),
        ({"seconds": [1.0]}, "single sample"),
        ({"seconds": [nan] * 3}, "Nothing"),
        ({"seconds": [0.0] * 3}, "Nothing"),
        ({"device": {**device, "bytes": nan}}, "Nothing"),
    ):
        spoilt = [{**record, **change} for record in timed]
        experiment.plot(spoilt)
        (verdict,) = experiment.summary(spoilt).verdicts
        assert verdict.outcome == "open"
        assert text in verdict.text
    names = {"bandwidth", "flop_rate", "value"}
    spoilt = [r | dict.fromkeys(names & r.keys(), nan) for r in records if r["contender"] != "kind"]
    experiment.plot(spoilt)
    assert "nan" not in str(experiment.summary(spoilt))


def test_rivals_are_compared_at_one_point_alone():
    made = [made_up("a", 1.0, 1.0, "here"), made_up("b", 9.0, 0.5, "there")]
    assert predictions.worst_choice(made, lambda record: record["point"]["at"]) == (1.0, None)


def test_what_is_wrong_or_not_counted_is_not_predicted():
    right = made_up("a", 1.0, 1.0).record
    for record in ({**right, "counts": False}, {k: v for k, v in right.items() if k != "device"}):
        assert predictions.made([record], lambda _: Cost(bytes=1), lambda _: "a") == []
    assert predictions.made([right], lambda _: None, lambda _: "a") == []


def test_a_call_pays_for_fresh_memory_and_a_loop_does_not(monkeypatch):
    monkeypatch.setattr(device, "fresh_words", lambda: 3.0)
    monkeypatch.setattr(device, "launch_seconds", lambda: 0.0)
    large = 1e8
    looped = device.each(0.3, large, by_call=False)
    called = device.each(0.6, large, by_call=True)
    assert looped.fresh == 0
    assert looped.bytes == pytest.approx(called.bytes) == pytest.approx(1e-9)
    assert called.fresh == pytest.approx(3e-9)
    # Streaming is predicted to take what it took; small arrays are kept for the next call.
    assert 3 * large * called.bytes + large * called.fresh == pytest.approx(0.6)
    assert device.each(3e-3, 1e6, by_call=True) == device.each(3e-3, 1e6, by_call=False)


def kept():
    """Runs on CPUs in results/ that have predictions."""
    for path in sorted(RESULTS.glob("*/*/results.jsonl")):
        folder = run_folder.find(path.parent)
        on_cpu = folder.environment["device"]["platform"] == "cpu"
        if on_cpu and folder.experiment in ("scan_limits", "wallclock"):
            yield pytest.param(folder, id=path.parent.name)


@pytest.mark.parametrize("folder", list(kept()))
def test_predictions_hold_for_what_was_measured(folder):
    """The counts were set on CPUs; what another device refutes is kept as it is."""
    found = experiment_of(folder).summary(folder.records()).verdicts[-1]
    assert found.claim.startswith("time is predicted within 1.5 times")
    assert found.outcome == "confirmed", found.text


def experiment_of(folder):
    return registry.load(folder.experiment)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_layer_is_counted_by_every_method(kind, platform):
    config = {"name": kind, "kind": kind}
    layer = costs._shapes(json.dumps(config), 8, 64)
    methods = ("sequential", "associative") if KINDS[kind].linear else ways(kind, ())
    for method in methods:
        call = costs.Call(layer, method, 2, 64, platform)
        forward, both = (costs.counted(call, backward) for backward in (False, True))
        for cost in (forward, both):
            assert min(dataclasses.astuple(cost)) >= 0
            assert cost.bytes > 0
        assert both.flops > forward.flops
        longer = costs.counted(call._replace(length=256), False)
        assert longer.flops > 3 * forward.flops or kind == "MLP"


@pytest.mark.parametrize("kind", ["SelectiveSSM", "Mamba"])
def test_the_native_kernel_of_a_state_space_moves_no_states(kind):
    layer = costs._shapes(json.dumps({"name": kind, "kind": kind}), 8, 1024)
    for backward in (False, True):
        kernel, chain = (
            costs.counted(costs.Call(layer, method, 2, 1024, "cpu"), backward)
            for method in ("native", "sequential")
        )
        states = 4 * 2 * 1024 * KINDS[kind].state_space(layer).input_size * 16  # bytes
        assert chain.bytes - kernel.bytes > 2 * states
        assert 0 < kernel.elements < chain.elements
        assert kernel.steps == 0


def test_auto_is_the_method_that_it_takes_and_is_no_rival_of_itself():
    layer = costs._shapes(json.dumps({"name": "a", "kind": "LRU"}), 8, 64)
    takes = costs.taken(layer, "auto", 2, 64)
    assert takes in linear_table.names
    assert costs.taken(layer, "sequential", 2, 64) == "sequential"
    point = {"length": 64}
    record = {"point": point, "layer": "a", "method": "auto", "takes": "native"}
    others = [{**record, "method": name, "takes": name} for name in ("sequential", "native")]
    assert costs.distinct([record, *others]) == others
    assert costs.distinct([record, others[0]]) == [record, others[0]]
