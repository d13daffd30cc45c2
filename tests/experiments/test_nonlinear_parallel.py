"""`nonlinear_parallel`: the recurrences and their truth, tiny runs, and what their records mean."""

import copy
import json

import jax
import numpy as np
import pytest

from experiments.harness import registry
from experiments.harness.config import ConfigError, resolve
from experiments.nonlinear_parallel import (
    asides,
    cells,
    experiment,
    phase_picture,
    prediction,
    present,
    programs,
    reference,
)
from experiments.nonlinear_parallel import records as kept
from experiments.nonlinear_parallel.training import WAYS
from rnnscan import GRU, LSTM
from tests.experiments.spoil import INF, NAN, assert_nothing_flips, said

TINY = {
    "max_iterations": 16,
    "budget_seconds": 1e-3,
    "sample_seconds": 1e-6,
    "cases": [{"length": 24, "width": 2, "gains": [0.9], "seeds": 2, "methods": ["newton"]}],
    "phase": {"length": 24, "width": 2, "gains": [0.5, 0.9], "input_scales": [0.5, 1.0]},
    "fewest": {"series": [{"cell": "rnn", "width": 2, "gain": 0.5}], "lengths": [24], "seeds": 1},
    "training": {"steps": 2, "seeds": 1, "hidden": 2, "batch_size": 2},
}


def config(**changes):
    return resolve(experiment.Config, TINY | changes, [])


# The recurrences


@pytest.mark.parametrize("name", list(cells.CELLS))
def test_the_reference_is_the_recurrence(name):
    """NumPy by hand against the pure function of JAX, both in float64."""
    task = cells.draw(name, 8, 0.9, 0.7, 12, seed=3)
    truth = reference.trajectory(name, task)
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: np.asarray(leaf, np.float64), (task.params, task.h0, task.xs)
        )
        states = programs._loop(name, *wide)
    np.testing.assert_allclose(cells.flat(states), truth, rtol=0, atol=1e-14)
    assert truth.shape == (12, sum(np.prod(s) for s in cells.CELLS[name].shapes(8)))


@pytest.mark.parametrize(("name", "layer"), [("gru", GRU), ("lstm", LSTM)])
def test_the_cells_are_those_of_the_layers(name, layer):
    """Which are torch's: same weights, same states."""
    task = cells.draw(name, 4, 1.0, 1.0, 9, seed=0)
    names = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0", "b_ih": "bias_ih_l0"}
    names["b_hh"] = "bias_hh_l0"
    made = layer.from_torch({names[key]: value for key, value in task.params.items()})
    y, _ = made(task.xs, method="scan")
    np.testing.assert_allclose(reference.trajectory(name, task)[:, :4], y, atol=1e-6)


def test_draws_are_shared_over_gains_scales_and_lengths():
    one, other = (cells.draw("rnn", 4, *given, seed=1) for given in ((1.0, 1.0, 8), (2.0, 0.5, 16)))
    np.testing.assert_array_equal(2 * one.params["W"], other.params["W"])
    np.testing.assert_array_equal(one.xs, 2 * other.xs[:8])


def test_growth_by_hand():
    """h = tanh(w h) at rest at 0: a distance is multiplied by w each step."""
    params = {"W": np.array([[0.5]], np.float32)}
    task = cells.Task(params, np.zeros(1, np.float32), np.zeros((50, 1), np.float32))
    states = reference.trajectory("rnn", task)
    growth = reference.growth("rnn", task, states)
    assert growth.exponent == pytest.approx(np.log(0.5), abs=1e-6)
    assert growth.overshoot == 0
    params["W"] *= 3
    growth = reference.growth("rnn", task, states)
    assert growth.exponent == pytest.approx(np.log(1.5), abs=1e-6)
    assert growth.overshoot == pytest.approx(50 * np.log(1.5), abs=1e-4)


# A run


def test_every_part_is_measured_and_presented(monkeypatch):
    monkeypatch.setattr(prediction, "_predicted", lambda *_: 3.0)
    records = list(experiment.run(config()))
    # As the harness gives them back: from JSON.
    records = json.loads(json.dumps(records, default=lambda it: np.asarray(it).tolist()))
    parts = [record["point"]["part"] for record in records]
    assert list(dict.fromkeys(parts)) == ["methods", "phase", "fewest", "training"]
    for record in kept.newton(records):
        assert record["converged"]
        assert record["counts"]
        assert record["error"] < 1e-6
        assert record["exponent"] < -0.1
        assert min(record["seconds"]) > 0
    for record in kept.methods(records, "newton"):
        assert record["error"] <= record["error_bound"]
        assert 0 < record["iterations"] < 8
    (count,) = kept.of_part(records, "fewest")
    assert 0 < count["fewest"] == len(count["errors"]) - 1
    assert count["errors"][-1] <= 1e-4 < count["errors"][-2]
    trained = kept.of_part(records, "training")
    assert [r["way"] for r in trained] == list(WAYS)
    truth, *others = (np.array(r["losses"]) for r in trained)
    for other in others:
        np.testing.assert_allclose(other, truth, rtol=1e-5)

    assert list(present.plot(records)) == ["methods", "phase", "fewest", "predicted", "training"]
    summary = present.summary(records)
    assert summary.verdicts[0].outcome == "refuted"  # nothing grows in this run
    assert "Only recurrences that forget" in summary.verdicts[0].text
    others = next(table for table in summary.tables if "others report" in table.title)
    assert {row[2] for row in others.rows if "DEER" in row[0]} == {"not measured yet"}


def test_what_is_too_large_is_not_tried(monkeypatch):
    from experiments.nonlinear_parallel import measure

    monkeypatch.setattr(measure.limits, "memory_bytes", lambda: 100)
    monkeypatch.setattr(programs, "timed", lambda *_: pytest.fail("was tried"))
    found = list(experiment.run(config(phase={}, fewest={}, training=None)))
    assert all("would need" in r["skipped"] and r["predicted_bytes"] > 0 for r in found)
    assert present.summary(found).verdicts[0].outcome == "open"


# Verdicts


def newton(seed, exponent=-0.4, length=1024, gain=0.9, **changes):
    point = {"part": "methods", "cell": "rnn", "length": length, "width": 32, "gain": gain}
    point |= {"input_scale": 0.5, "seed": seed}
    record = {"point": point, "method": "newton", "exponent": exponent, "overshoot": 1.0}
    record |= {"sequential_error": 2e-7, "largest": 0.9, "platform": "cpu", "most": 64}
    record |= {"converged": True, "iterations": 5, "residual": 2.0, "error": 3e-7}
    record |= {"error_bound": 4e-6, "seconds": [1e-2] * 3, "repeats": 1, "counts": True}
    return record | {"compile_seconds": 1.0, "temporary_bytes": 1.0} | changes


def loop(seed, **changes):
    changes = {"method": "lax.scan", "seconds": [1e-3] * 3, **changes}
    return newton(seed, **changes)


def lost(seed, **changes):
    given = {"exponent": 0.2, "gain": 2.5, "converged": False, "iterations": 64, "seconds": []}
    given |= {"error": float("inf"), "residual": float("inf"), "counts": False}
    return newton(seed, **given | changes)


GOOD = [it(seed) for seed in (0, 1) for it in (loop, newton)]
CHAOS = [lost(seed) for seed in (0, 1)]


@pytest.mark.parametrize(
    ("records", "outcome", "text"),
    [
        ([], "open", "not measured yet"),
        (GOOD[:2], "open", "Only one seed"),
        (CHAOS, "open", "No recurrence with an exponent below"),
        ([*GOOD, newton(2, exponent=NAN)], "open", "numbers that are none"),
        ([*GOOD, newton(2, error=NAN)], "open", "numbers that are none"),
        ([*GOOD, newton(2, sequential_error=NAN)], "open", "numbers that are none"),
        ([*GOOD, newton(2, iterations=None)], "open", "numbers that are none"),
        ([*GOOD, newton(2, seconds=[0.0, 1.0])], "open", "not above zero"),
        ([*GOOD, newton(2, seconds=[NAN])], "open", "not above zero"),
        ([*GOOD, loop(2), newton(2, seconds=[1e-4])], "open", "Times contradict each other"),
        ([*GOOD, *CHAOS], "refined", "5 iterations in place of 1,024 steps at exponent -0.40"),
        ([*GOOD, *CHAOS], "refined", "10x slower than step by step on this device"),
        ([*GOOD, *CHAOS], "refined", "2 did not converge in 64 iterations"),
        (GOOD, "refuted", "Only recurrences that forget"),
        ([*GOOD, newton(0, exponent=0.3, gain=3.0)], "refuted", "Where errors grow too"),
        (
            [*GOOD, newton(0, exponent=0.3, gain=3.0, iterations=700)],
            "refined",
            "1 did in 700 iterations for 1,024 steps",
        ),
        ([*GOOD, *CHAOS, lost(2, exponent=-0.4)], "confirmed", "did not converge at T = 1k"),
        ([*GOOD, *CHAOS, newton(2, iterations=600)], "confirmed", "took 600 iterations"),
        ([*GOOD, *CHAOS, newton(2, error=2e-6)], "confirmed", "off by 2.0e-06"),
        ([*GOOD, *CHAOS, newton(2, error=1e-4)], "confirmed", "above its bound of 4.0e-06"),
        (
            [*GOOD, *CHAOS, newton(2, exponent=-0.01, gain=1.7, error=1e-4)],
            "confirmed",
            "above its bound",
        ),
        (
            [*GOOD, *CHAOS, lost(2, exponent=-0.1), newton(3, exponent=-0.1, error=1e-6)],
            "refined",
            "Between them 1 of 2 converged, off by up to 5 times the loop's error",
        ),
        (
            [*GOOD, *CHAOS, lost(2, exponent=-0.3, overshoot=11.5)],
            "refined",
            "at -0.30 it gave up where a distance grows 1e+05 times",
        ),
    ],
)
def test_claim_7_follows_from_the_records(records, outcome, text):
    verdict = present.summary(records).verdicts[0]
    assert (verdict.outcome, verdict.number) == (outcome, 7)
    assert text in verdict.text
    if outcome in ("refined", "refuted"):
        assert "iterations for 1,024 steps" in verdict.value


def count(fewest, length, seed=0, cell="rnn", **changes):
    point = {"part": "fewest", "cell": cell, "width": 8, "gain": 0.9, "input_scale": 0.5}
    point |= {"length": length, "seed": seed}
    record = {"point": point, "title": cell, "fewest": fewest, "errors": [1.0, 1e-5], "near": 1e-4}
    return record | {"most": 64, "exponent": -0.3} | changes


def counts(short, long, cell="rnn"):
    return [count(k, n, s, cell) for k, n in ((short, 64), (long, 4096)) for s in (0, 1)]


@pytest.mark.parametrize(
    ("records", "outcome"),
    [
        (counts(3, 4), "confirmed"),
        (counts(3, 9), "refuted"),
        (counts(3, None), "refuted"),
        ([*counts(3, 3), *counts(3, 9, "gru")], "refined"),
        ([*counts(3, 3), count(3, 64, cell="gru")], "open"),
        (counts(3, 3)[:2], "open"),
        (counts(3, 3)[::2], "open"),
        ([*counts(3, 3), count(3, 64, 2, exponent=NAN)], "open"),
    ],
)
def test_whether_the_fewest_grow(records, outcome):
    verdict = asides.fewest(records)
    assert (verdict.outcome, verdict.number) == (outcome, None)


def trained(shift=1e-6, own=1e-6, converged=1.0, seeds=(0, 1)):
    shifts = dict(zip(WAYS, (0.0, own, shift), strict=True))
    return [
        {
            "point": {"part": "training", "way": way, "seed": seed},
            "way": way,
            "losses": [2.0 + shifts[way]] * 3,
            "converged": [1.0, converged, 1.0],
            "iterations": [4, 5, 4],
            "length": 64,
            "hidden": 4,
        }
        for seed in seeds
        for way in WAYS
    ]


@pytest.mark.parametrize(
    ("records", "outcome"),
    [
        (trained(), "confirmed"),
        (trained(shift=1e-3), "refuted"),
        (trained(converged=0.0), "refined"),
        (trained(shift=NAN), "open"),
        (trained(seeds=(0,)), "open"),
        (trained()[:-1], "open"),
    ],
)
def test_whether_training_is_the_same(records, outcome):
    verdict = asides.training(records)
    assert (verdict.outcome, verdict.number) == (outcome, None)


def grid():
    """Of a phase diagram: two gains, two scales, one point not converged."""
    found = []
    for gain, scale in ((0.5, 0.5), (0.5, 1.0), (2.5, 0.5), (2.5, 1.0)):
        record = (lost if (gain, scale) == (2.5, 0.5) else newton)(0, gain=gain)
        point = record["point"] | {"part": "phase", "input_scale": scale}
        found.append({**record, "point": point, "sequential_seconds": [1e-3]})
    return found


@pytest.mark.parametrize(
    ("some", "figures"),
    [
        ([*GOOD, *CHAOS], ["methods", "predicted"]),
        (GOOD[:1], []),
        (CHAOS[:1], ["methods"]),
        (grid(), ["phase", "predicted"]),
        (grid()[:3], ["predicted"]),
        (counts(3, None), ["fewest"]),
        (trained(), ["training"]),
        (trained()[:2], []),
        ([{"point": newton(0)["point"], "skipped": "too large", "predicted_bytes": 1}], []),
    ],
)
def test_any_subset_is_presented(monkeypatch, some, figures):
    monkeypatch.setattr(prediction, "_predicted", lambda *_: 5.0)
    assert list(present.plot(some)) == figures
    assert present.summary(some).verdicts[0].number == 7


def test_the_theory_is_compared(monkeypatch):
    def predicted(gain, *_):
        return float("inf") if gain > 2 else 5.0 * gain

    monkeypatch.setattr(prediction, "_predicted", predicted)
    good = [newton(seed, gain=gain) for seed in (0, 1) for gain in (0.8, 0.9, 1.0, 1.1)]
    found = present.summary([*good, *CHAOS])
    assert found.verdicts[-1].outcome == "confirmed"
    assert "predicted" in present.plot(good)
    wrong = [newton(seed, gain=gain, iterations=50) for seed in (0, 1) for gain in (0.7, 1.2, 1.3)]
    assert asides.prediction([*good, *CHAOS, *wrong]).outcome == "refined"
    assert asides.prediction([*wrong, *CHAOS]).outcome == "open"  # too few
    assert asides.prediction([]) is None


def test_where_it_pays():
    record = newton(0)
    assert phase_picture.pays_by_span(record)
    assert not phase_picture.pays_by_span(record | {"iterations": 103})
    assert not phase_picture.pays_by_span(lost(0))
    assert phase_picture.pace(record | {"sequential_seconds": [1e-3]}) == pytest.approx(10)
    assert np.isnan(phase_picture.pace(lost(0)))


# Configs


@pytest.mark.parametrize("name", ["default", "small", "rehearsal", "gpu"])
def test_configs_are_valid(name):
    (file,) = [f for f in registry.configs("nonlinear_parallel") if f.path.stem == name]
    points = experiment.plan(resolve(experiment.Config, file.values, []))
    assert len({json.dumps(point) for point in points}) == len(points)
    assert all(experiment.describe(point) for point in points)


def test_the_gpu_measures_what_others_report():
    (file,) = [f for f in registry.configs("nonlinear_parallel") if f.path.stem == "gpu"]
    cases = resolve(experiment.Config, file.values, []).cases
    shapes = {(case.cell, case.width, case.length) for case in cases}
    assert shapes >= {("rnn", 32, 65536), ("gru", 1, 100_000)}


def test_bad_configs_are_told():
    with pytest.raises(ConfigError, match="multiple of 4"):
        config(fewest={"series": [{"cell": "matrix", "width": 6}]})
    changed = copy.deepcopy(TINY)
    changed["cases"][0]["methods"] = ["newtown"]
    with pytest.raises(ConfigError, match="newtown"):
        resolve(experiment.Config, changed, [])


# What flips nothing


def drawn(monkeypatch):
    def predicted(gain, scale, *_):
        return INF if gain > 2 and scale < 1 else 5.0

    monkeypatch.setattr(prediction, "_predicted", predicted)
    many = [
        it(seed, gain=g) for g in (0.8, 1.0, 1.1, 1.2) for seed in (0, 1) for it in (loop, newton)
    ]
    return [*GOOD, *many, *CHAOS, *grid(), *counts(3, 4), *trained()]


SERIAL, FEWEST, MEAN_FIELD, TRAINING = "serial", "K*(T)", "mean field", "training with"


@pytest.mark.parametrize(
    ("field", "values", "claims"),
    [
        ("exponent", [NAN, INF], [SERIAL, FEWEST, MEAN_FIELD]),
        ("overshoot", [NAN, INF], [SERIAL, MEAN_FIELD]),
        ("sequential_error", [NAN, INF], [SERIAL]),
        ("largest", [NAN, INF], [SERIAL]),
        ("iterations", [NAN, INF, None], [SERIAL, MEAN_FIELD, TRAINING]),
        ("error_bound", [NAN], [SERIAL]),
        ("seconds", [NAN, INF, 0.0], [SERIAL]),
        ("sequential_seconds", [NAN, INF, 0.0, []], []),
        ("compile_seconds", [NAN], []),
        ("temporary_bytes", [NAN], []),
        ("counts", [False], []),
        ("fewest", [NAN, INF], [FEWEST]),
        ("errors", [[NAN], [INF], []], [FEWEST]),
        ("losses", [NAN, INF, []], [TRAINING]),
        ("converged", [NAN], [TRAINING]),
    ],
)
def test_a_wrong_number_flips_nothing(monkeypatch, field, values, claims):
    records = drawn(monkeypatch)
    outcomes = [v.outcome for v in said(experiment, records)]
    assert outcomes == ["refined", "confirmed", "confirmed", "confirmed"]
    for value in values:
        assert_nothing_flips(
            experiment, records, field, value, claims, draw=value in (values[0], INF)
        )


def test_the_error_of_what_converged_is_a_number():
    for value in (NAN, INF):
        assert present.summary([*GOOD, newton(2, error=value)]).verdicts[0].outcome == "open"
    assert present.summary([*GOOD, newton(2, exponent=-INF)]).verdicts[0].outcome == "refuted"


def test_an_interrupted_run_leaves_it_open():
    assert asides.fewest(counts(3, 4)[:-1]).outcome == "open"
    assert asides.training([*trained()[:-1], trained()[-1] | {"losses": [2.0]}]).outcome == "open"
    grown = [r | {"losses": [2.0, 9.0, 40.0]} for r in trained()]
    assert "diverged" in asides.training(grown).text
