import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

pytest.importorskip("pydantic")

from experiments.gradient_decay import experiment, measure
from experiments.harness import config as harness_config
from experiments.harness.figures import STYLE
from rnnscan.gradients import theory

FOLDER = Path(experiment.__file__).parent
SMALL = {
    "lengths": [32],
    "hidden": 32,
    "input_size": 4,
    "seeds": 3,
    "sequences": 1,
    "fit_lags": 16,
    "layers": [
        {"name": "RNN torch", "kind": "RNN", "recurrent": "torch"},
        {"name": "RNN 0.9", "kind": "RNN", "recurrent": "gaussian", "gain": 0.9},
        {"name": "orthogonal", "kind": "LinearRNN", "recurrent": "orthogonal", "gain": 0.8},
        {"name": "ring", "kind": "LRU", "r_min": 0.5, "r_max": 0.9},
    ],
    "gains": {"values": [0.5, 2.0], "length": 32},
}


def resolve(**changes):
    return harness_config.validate(experiment.Config, {**SMALL, **changes})


@pytest.fixture(scope="module")
def records():
    return list(experiment.run(resolve()))


def of(records, **wanted):
    return [r for r in records if all(r["point"].get(k) == v for k, v in wanted.items())]


def test_every_point_is_measured_with_every_seed(records):
    points = experiment.plan(resolve())
    assert len(points) == 4 + 2
    for point in points:
        assert [record["seed"] for record in records if record["point"] == point] == [0, 1, 2]


def test_a_point_depends_on_no_other(records):
    point = {"study": "decay", "layer": "RNN 0.9", "length": 32}
    alone = list(experiment.run(resolve(), [point]))
    for one, other in zip(alone, of(records, **point), strict=True):
        np.testing.assert_array_equal(one["state"], other["state"])
        assert one["half_life"] == other["half_life"]


def test_an_orthogonal_matrix_has_its_gain_at_every_lag(records):
    for record in of(records, layer="orthogonal", length=32):
        expected = np.log(0.8) * record["lags"]
        np.testing.assert_allclose(record["state"], expected, atol=1e-3)
        np.testing.assert_allclose(record["input"], expected[:-1], atol=1e-3)
        assert record["half_life"] == pytest.approx(np.log(2) / -np.log(0.8), rel=1e-3)
        assert record["law"] == "exponential"


def test_closed_forms_are_near_the_measurement(records):
    """At a width of 32, while k² is below it: the mean of three seeds, in units of ln."""
    for layer in ("RNN torch", "RNN 0.9", "ring"):
        mine = of(records, layer=layer, length=32)
        early = mine[0]["lags"] <= 5
        for field in ("state", "input"):
            measured = np.mean([record[field][early[: len(record[field])]] for record in mine], 0)
            expected = mine[0][f"theory_{field}"][early[: len(mine[0][field])]]
            assert np.abs(measured - expected).max() < 0.3
            assert measured.min() < -0.75  # so that the bound says something


def test_seeds_and_layers_differ(records):
    curves = [tuple(r["state"]) for r in records if "state" in r and r["point"]["length"] == 32]
    assert len(set(curves)) >= len(curves) - 2  # the orthogonal ones agree


def test_more_gain_reaches_further(records):
    rates = {gain: [r["rate"] for r in of(records, gain=gain)] for gain in (0.5, 2.0)}
    assert min(rates[0.5]) > 0.5 > 0 > max(rates[2.0])
    for gain in rates:
        record = of(records, gain=gain)[0]
        drive = measure.drive_std(hidden=32, input_size=4, input_std=1.0)
        assert record["theory_exponent"] == theory.driven_tanh(gain, drive).exponent


def test_drive_is_that_of_a_real_layer():
    import jax

    from rnnscan import RNN

    layer = RNN.init(jax.random.key(0), 50, 400)
    (cell,) = layer.cells[0]
    x = 3.0 * np.random.default_rng(0).standard_normal((200, 50))
    drive = x @ np.asarray(cell.w_ih, np.float64).T + np.asarray(cell.b_ih + cell.b_hh)
    expected = measure.drive_std(hidden=400, input_size=50, input_std=3.0)
    assert drive.std() == pytest.approx(expected, rel=0.02)


def test_every_figure_and_table_of_any_subset(records):
    short = {**records[0], "point": {**records[0]["point"], "length": 16}}  # drawn as a ring
    records = [short, *records]
    with mpl.rc_context(STYLE):
        assert set(experiment.plot(records)) == {"decay", "full_range", "gain"}
        for subset in ([], records[:1], records[-1:], records[4:11]):
            for figure in experiment.plot(subset).values():
                figure.canvas.draw()
            summary = experiment.summary(subset)
            assert all(verdict.text for verdict in summary.verdicts)
    assert all(v.outcome == "open" for v in experiment.summary([]).verdicts)
    titles = [table.title for table in experiment.summary(records).tables]
    assert len(titles) == 3
    assert "T = 32" in titles[0]


def plain_record(horizon, seed=0):
    """A tanh RNN with torch's weights that decays exponentially down to 1e-3 at `horizon`."""
    lags, rate = np.arange(65), math.log(1000) / horizon
    return {
        "point": {"study": "decay", "layer": "RNN", "length": 64},
        "seed": seed,
        "kind": "RNN",
        "init": "W_hh torch",
        "plain": True,
        "eps": 1e-3,
        "fit_lags": 64,
        "half_life": math.log(2) / rate,
        "horizon": horizon if horizon <= 64 else math.inf,
        "float32_lag": math.inf,
        "rate": rate,
        "law": "exponential",
        "lags": list(lags),
        "state": list(-rate * lags),
        "theory_state": list(-rate * lags),
    }


@pytest.mark.parametrize(
    ("horizon", "outcome"), [(12.0, "confirmed"), (3.0, "refuted"), (60.0, "refuted")]
)
def test_the_verdict_follows_the_horizon(horizon, outcome):
    verdict, closed_forms = experiment.summary([plain_record(horizon)]).verdicts
    assert verdict.outcome == outcome
    assert closed_forms.outcome == "confirmed"
    kept = 100 * 1000 ** (-12 / horizon)
    assert f"{kept:.2g} %" in verdict.text or f"{kept:.3g} %" in verdict.text


def test_the_verdict_is_refined_by_a_layer_that_reaches_further():
    other = plain_record(40.0)
    other = {**other, "plain": False, "point": {**other["point"], "layer": "better"}}
    verdict = experiment.summary([plain_record(12.0), other]).verdicts[0]
    assert verdict.outcome == "refined"
    assert "better" in verdict.text


def test_a_wrong_closed_form_is_not_confirmed():
    record = plain_record(12.0)
    record["theory_state"] = list(0.5 * np.array(record["state"]))
    assert experiment.summary([record]).verdicts[1].outcome == "refined"


@pytest.mark.parametrize("name", ["default", "small"])
def test_shipped_configs_are_valid(name):
    file = harness_config.read(FOLDER / "configs" / f"{name}.toml")
    assert file.experiment == "gradient_decay"
    assert file.takes
    assert experiment.plan(harness_config.resolve(experiment.Config, file.values))


def test_every_fault_of_a_config_is_reported_at_once():
    layers = [
        {"name": "a", "kind": "RNN", "recurrent": "gaussian"},
        {"name": "b", "kind": "LRU", "r_min": 0.9, "r_max": 0.5},
        {"name": "c", "kind": "RNN", "gain": 2.0},
        {"name": "d", "kind": "Transformer"},
    ]
    with pytest.raises(harness_config.ConfigError) as caught:
        resolve(layers=layers, lengths=[8], eps=2.0, seeds=0)
    message = str(caught.value)
    for words in ("layers[0]", "r_min = 0.9", "gain = 2.0", "layers[3]", "lengths", "eps", "seeds"):
        assert words in message
    same = [SMALL["layers"][0]] * 2
    with pytest.raises(harness_config.ConfigError, match=r"RNN torch.*more than once"):
        resolve(layers=same)
