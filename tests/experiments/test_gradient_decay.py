import math
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

pytest.importorskip("pydantic")

from jax.flatten_util import ravel_pytree

from experiments.gradient_decay import closed_forms, decay_figures, experiment, measure
from experiments.gradient_decay import records as choose
from experiments.harness import config as harness_config
from experiments.harness.figures import STYLE
from experiments.harness.kinds import KINDS, Recurrence
from experiments.harness.layer_configs import build, by_default
from experiments.harness.layer_options import Attention, Convolution, Dense
from experiments.harness.reach import log_norms, output_log_norms
from rnnscan import LSTM
from rnnscan.gradients import theory
from tests.experiments.spoil import INF, NAN, assert_nothing_flips, said

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
        {"name": "LSTM torch", "kind": "LSTM"},
        {"name": "LSTM 3", "kind": "LSTM", "forget_bias": 3.0},
        {"name": "GRU torch", "kind": "GRU"},
        {"name": "minGRU", "kind": "MinGRU"},
        {"name": "minLSTM", "kind": "MinLSTM", "decay_bias": 1.0},
        {"name": "minGRU signed", "kind": "MinGRU", "decay_bias": -2.0, "signed": True},
        {"name": "S6", "kind": "SelectiveSSM", "dt_max": 0.5},
        {"name": "Mamba", "kind": "Mamba"},
        {"name": "S6 signed", "kind": "SelectiveSSM", "dt_max": 0.5, "signed": True},
        {"name": "Mamba signed", "kind": "Mamba", "signed": True},
        {"name": "attention", "kind": "CausalSelfAttention"},
        {"name": "convolution", "kind": "CausalConv1D"},
        {"name": "MLP", "kind": "MLP"},
    ],
    "gains": {"values": [0.5, 2.0], "length": 32},
}
NAMED = {layer["kind"] for layer in SMALL["layers"]}
SMALL["layers"] += [{"name": kind, "kind": kind} for kind in KINDS if kind not in NAMED]


def resolve(**changes):
    return harness_config.validate(experiment.Config, {**SMALL, **changes})


@pytest.fixture(scope="module")
def records():
    return list(experiment.run(resolve()))


def of(records, **wanted):
    return [r for r in records if all(r["point"].get(k) == v for k, v in wanted.items())]


def test_every_point_is_measured_with_every_seed(records):
    points = experiment.plan(resolve())
    assert len(points) == len(SMALL["layers"]) + 2
    for point in points:
        assert [record["seed"] for record in records if record["point"] == point] == [0, 1, 2]


def test_every_kind_has_the_curves_that_it_can_have(records):
    decay = of(records, study="decay")
    assert {record["kind"] for record in decay} == set(KINDS)
    for record in decay:
        assert (record["state"] is not None) == KINDS[record["kind"]].recurrent
        assert len(record["input"]["norms"]) == len(record["lags"]) - 1
        first = 1 if record["kind"] == "CausalSelfAttention" else 0
        assert record["input"]["norms"][first] == 0
        assert not np.isnan(record["input"]["norms"]).any()
        if record["state"] is not None:
            assert np.isfinite(record["state"]["norms"]).all()
            assert record["state"]["norms"][0] == 0


def test_a_point_depends_on_no_other(records):
    point = {"study": "decay", "layer": "RNN 0.9", "length": 32}
    alone = list(experiment.run(resolve(), [point]))
    for one, other in zip(alone, of(records, **point), strict=True):
        np.testing.assert_array_equal(one["state"]["norms"], other["state"]["norms"])
        assert one["state"]["half_life"] == other["state"]["half_life"]


def test_an_orthogonal_matrix_has_its_gain_at_every_lag(records):
    for record in of(records, layer="orthogonal", length=32):
        expected = np.log(0.8) * record["lags"]
        np.testing.assert_allclose(record["state"]["norms"], expected, atol=1e-3)
        np.testing.assert_allclose(record["input"]["norms"], expected[:-1], atol=1e-3)
        half_life = np.log(2) / -np.log(0.8)
        assert record["state"]["half_life"] == pytest.approx(half_life, rel=1e-3)
        assert record["state"]["theory_half_life"] == pytest.approx(half_life, rel=1e-6)
        assert record["state"]["law"] == "exponential"


@pytest.mark.parametrize(
    ("layer", "fields", "falls"),
    [
        *((name, ("state", "input"), True) for name in ("RNN torch", "RNN 0.9", "ring")),
        *((name, ("state", "input"), True) for name in ("LSTM torch", "GRU torch")),
        *((name, ("state",), True) for name in ("minGRU", "minLSTM", "minGRU signed")),
        *((name, ("state",), False) for name in ("S6", "Mamba", "S6 signed", "Mamba signed")),
        *((name, ("input",), False) for name in ("attention", "convolution", "MLP")),
    ],
)
def test_closed_forms_are_near_the_measurement(records, layer, fields, falls):
    """At a width of 32, while k² is below it: the mean of three seeds, in units of ln."""
    mine = of(records, layer=layer, length=32)
    for field in fields:
        curve = mine[0][field]
        early = (mine[0]["lags"] <= 5)[: len(curve["norms"])] & np.isfinite(curve["theory"])
        assert early.sum() >= 3
        measured = np.mean([record[field]["norms"][early] for record in mine], 0)
        assert np.abs(measured - curve["theory"][early]).max() < 0.3
        assert not falls or measured.min() < -0.75  # so that the bound says something


def test_nothing_is_drawn_where_no_closed_form_holds(records):
    sizes = {"hidden": 128, "input_size": 8}
    lags = np.arange(20)
    usual = Dense(name="a", kind="LSTM")
    assert closed_forms.expected(usual, lags, input_std=1.0, **sizes).state is not None
    assert closed_forms.expected(usual, lags, input_std=20.0, **sizes).state is None
    (panel, *_), counts = decay_figures.by_group(of(records, layer="LSTM 3")).axes, {}
    for line in panel.lines:
        counts[line.get_label()] = len(line.get_xdata())
    assert counts["LSTM 3"] > 0
    assert counts["closed form"] == 0  # the entry of the legend, and no other in black
    black = [line for line in panel.lines if line.get_color() == "black"]
    assert [line.get_label() for line in black] == ["closed form"]


def test_a_leak_beside_a_gaussian_matrix():
    """(leak + W)^k: 1, l² + g², l⁴ + 4 l² g² + g⁴, and one draw of a wide matrix."""
    leak, gain = 0.6, 0.3
    squares = np.exp(2 * closed_forms.leaky_log_norm(np.arange(3), leak, gain))
    expected = [1, leak**2 + gain**2, leak**4 + 4 * leak**2 * gain**2 + gain**4]
    np.testing.assert_allclose(squares, expected, rtol=1e-12)
    n = 400
    w = leak * np.eye(n) + gain / math.sqrt(n) * np.random.default_rng(0).standard_normal((n, n))
    drawn = np.log(np.linalg.norm(np.linalg.matrix_power(w, 12)) / math.sqrt(n))
    assert drawn == pytest.approx(closed_forms.leaky_log_norm(np.array([12]), leak, gain), abs=0.05)


@pytest.mark.parametrize("kind", ["MinGRU", "MinLSTM"])
def test_decays_that_only_the_input_moves_have_the_mean_square_of_the_closed_form(kind):
    """Of 500 units and 2000 inputs: the mean over units of (E decay²)^k, signed decays and not."""
    x = np.random.default_rng(0).standard_normal((2000, 8), np.float32)
    ones, lags = np.ones((2000, 500), np.float32), np.array([1, 2])
    for signed, bias in ((False, None), (True, None), (True, -1.0)):
        config = by_default(kind, signed=signed, decay_bias=bias)
        layer = build(config, jax.random.key(0), input_size=8, hidden=500)
        decays = np.asarray(layer.step(x, ones)[0] - layer.step(x, 0 * ones)[0], np.float64)
        assert (decays.min() < -0.1) == signed
        squares = np.square(decays).mean(0)
        found = [math.log((squares**k).mean()) / 2 for k in lags]
        form = closed_forms.expected(config, lags, hidden=500, input_size=8, input_std=1.0)
        np.testing.assert_allclose(form.state, found, rtol=0.04)
        np.testing.assert_array_equal(form.input, form.state)


def test_windows_have_closed_forms_with_ends():
    sizes = {"hidden": 8, "input_size": 2, "input_std": 1.0}
    dilated = Convolution(name="a", kind="CausalConv1D", width=3, dilation=2)
    near = Attention(name="b", kind="CausalSelfAttention", context=3)
    gone = -np.inf
    for config, expected in (
        (dilated, [0, gone, 0, gone, 0, gone, gone]),
        (near, [np.nan, 0, 0, gone, gone, gone, gone]),
    ):
        form = closed_forms.expected(config, np.arange(7), **sizes)
        assert form.state is None
        np.testing.assert_array_equal(form.input, expected)


@pytest.mark.parametrize(
    "config",
    [
        Convolution(name="a", kind="CausalConv1D", width=3),
        Attention(name="b", kind="CausalSelfAttention", num_heads=2),
    ],
)
def test_the_gradient_of_an_output_is_a_row_of_the_jacobian(config):
    keys = jax.random.split(jax.random.key(0), 3)
    layer = build(config, keys[0], input_size=3, hidden=4, length=6)
    x = jax.random.normal(keys[1], (6, 3))
    rows = jax.random.normal(keys[2], (2, layer.output_size))

    @jax.jit
    def both(x):
        return jax.jacrev(lambda x: layer(x)[0][-1])(x), output_log_norms(layer, x, rows)

    dense, log_norms = (np.asarray(part, np.float64) for part in both(x))
    gradients, norms = np.einsum("po,otf->ptf", np.asarray(rows), dense), np.exp(log_norms)
    expected = np.sqrt(np.square(gradients).sum((0, 2)))[::-1]
    np.testing.assert_allclose(norms, expected, rtol=2e-5, atol=1e-12)
    assert (norms[3:] == 0).all() == isinstance(config, Convolution)


def test_norms_of_a_state_of_several_arrays_are_those_of_the_dense_product():
    """(h, c) of an LSTM in float64, against the product of whole Jacobians."""
    with jax.enable_x64(True):
        layer = LSTM.init(jax.random.key(0), 2, 3, dtype=jnp.float64)
        x = jax.random.normal(jax.random.key(1), (7, 2), jnp.float64)
        norms = jax.jit(log_norms)(layer, x)
        _, state = layer.step(x[0])
        h, back = ravel_pytree(jax.tree.map(jnp.zeros_like, state))

        @jax.jit
        def jacobians(h, x_t):
            def step(h, x_t):
                return ravel_pytree(layer.step(x_t, back(h))[1])[0]

            return step(h, x_t), *jax.jacfwd(step, (0, 1))(h, x_t)

        by_h, by_x = [], []
        for x_t in x:
            h, *both = jacobians(h, x_t)
            by_h.append(np.asarray(both[0]))
            by_x.append(np.asarray(both[1]))
    product, of_state, of_input = np.eye(6), [1.0], []
    for a, b in zip(by_h[::-1], by_x[::-1], strict=True):
        of_input.append(np.linalg.norm(product @ b) / math.sqrt(6))
        product = product @ a
        of_state.append(np.linalg.norm(product) / math.sqrt(6))
    np.testing.assert_allclose(norms.state, np.log(of_state), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(norms.input, np.log(of_input), rtol=1e-9, atol=1e-9)


def test_a_curve_that_falls_to_zero_has_a_horizon_and_no_law():
    window = np.where(np.arange(20) < 3, 0.0, -np.inf)
    numbers = measure.numbers(window, 1e-3, 8)
    assert (numbers["half_life"], numbers["horizon"], numbers["law"]) == (3, 3, None)
    assert measure.share_of_newest(window, 2) == pytest.approx(2 / 3)
    assert measure.share_of_newest(np.zeros(100), 12) == pytest.approx(0.12)


def test_seeds_and_layers_differ(records):
    curves = [tuple(r["input"]["norms"]) for r in of(records, study="decay")]
    assert len(set(curves)) >= len(curves) - 4  # the orthogonal ones agree, and the windows


def test_more_gain_reaches_further(records):
    rates = {gain: [r["state"]["rate"] for r in of(records, gain=gain)] for gain in (0.5, 2.0)}
    assert min(rates[0.5]) > 0.5 > 0 > max(rates[2.0])
    for gain in rates:
        record = of(records, gain=gain)[0]
        drive = closed_forms.drive_std(hidden=32, input_size=4, input_std=1.0)
        assert record["theory_exponent"] == theory.driven_tanh(gain, drive).exponent


def test_drive_is_that_of_a_real_layer():
    from rnnscan import RNN

    layer = RNN.init(jax.random.key(0), 50, 400)
    (cell,) = layer.cells[0]
    x = 3.0 * np.random.default_rng(0).standard_normal((200, 50))
    drive = x @ np.asarray(cell.w_ih, np.float64).T + np.asarray(cell.b_ih + cell.b_hh)
    expected = closed_forms.drive_std(hidden=400, input_size=50, input_std=3.0)
    assert drive.std() == pytest.approx(expected, rel=0.02)


def test_every_figure_and_table_of_any_subset(records):
    decay = of(records, study="decay")
    short = {**decay[0], "point": {**decay[0]["point"], "length": 16}}  # drawn as a ring
    without_state = [record for record in decay if record["state"] is None]
    deep = [{**r, "state": {**r["state"], "float32_lag": 30.0}} for r in decay[:3]]
    with mpl.rc_context({**STYLE, "figure.dpi": 50}):
        assert set(experiment.plot([short, *records])) == {"decay", "input", "gain"}
        assert set(experiment.plot(deep)) == {"decay", "input", "full_range"}
        for subset in ([], decay[:1], without_state, deep, records[-1:], [short, *records]):
            for figure in experiment.plot(subset).values():
                figure.canvas.draw()
            summary = experiment.summary(subset)
            assert all(verdict.text for verdict in summary.verdicts)
            assert "nan" not in str(summary)
    assert all(v.outcome == "open" for v in experiment.summary([]).verdicts)
    titles = [table.title for table in experiment.summary(records).tables]
    assert len(titles) == 4
    assert "T = 32" in titles[0]
    (table,) = experiment.summary(without_state).tables
    assert len(table.rows) == sum(not kind.recurrent for kind in KINDS.values())


def test_a_panel_tells_its_layers_apart(records):
    with mpl.rc_context(STYLE):
        figure = decay_figures.by_group(of(records, study="decay"))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [how.value for how in Recurrence]
    for axes in figure.axes:
        lines = [line for line in axes.lines if line.get_label() in choose.layers(records[:-6])]
        assert len({line.get_marker() for line in lines}) == len(lines) > 0


def test_numbers_in_words():
    assert [choose.fraction(eps) for eps in (1e-3, 0.01, 0.3)] == ["1/1000", "1/100", "0.3"]
    assert choose.with_interval(np.full(4, np.inf), 64) == "> 64"
    assert choose.with_interval(np.array([11.8, 11.8, 12.04]), 64) == "11.8 [11.8, 12.0]"


def plain_record(horizon, layer="tanh", kind="RNN", seed=0):
    """A layer with torch's weights that decays exponentially down to 1e-3 at `horizon`."""
    lags, rate = np.arange(65), math.log(1000) / horizon
    curve = {
        "fit_lags": 64,
        "half_life": math.log(2) / rate,
        "horizon": horizon if horizon <= 64 else math.inf,
        "float32_lag": math.inf,
        "rate": rate,
        "law": "exponential",
        "norms": list(-rate * lags),
        "theory": list(-rate * lags),
        "theory_half_life": math.log(2) / rate,
    }
    return {
        "point": {"study": "decay", "layer": layer, "length": 64},
        "seed": seed,
        "kind": kind,
        "init": "W_hh torch",
        "plain": True,
        "eps": 1e-3,
        "lags": list(lags),
        "state": curve,
        "input": {**curve, "norms": curve["norms"][:-1], "share_of_newest": 0.9},
    }


def dozen(*records):
    return experiment.summary(records).verdicts[0]


@pytest.mark.parametrize(
    ("horizon", "outcome"), [(12.0, "confirmed"), (3.0, "refuted"), (60.0, "refuted")]
)
def test_the_verdict_follows_the_horizon(horizon, outcome):
    verdict, closed = experiment.summary([plain_record(horizon)]).verdicts
    assert verdict.outcome == outcome
    assert verdict.number == 4
    assert closed.outcome == "confirmed"
    kept = 100 * 1000 ** (-12 / horizon)
    assert f"{kept:.2g} %" in verdict.text or f"{kept:.3g} %" in verdict.text
    assert verdict.value == f"1/1000 after {choose.steps(horizon)} steps"


def test_a_sequence_too_short_to_forget_refutes_nothing():
    short, gated = plain_record(99.0), plain_record(99.0, "gated", "LSTM")
    assert said(experiment, [short, gated])[0].outcome == "refuted"  # 64 steps are five dozen
    short["point"]["length"] = 16
    verdict = said(experiment, [short, gated])[0]
    assert (verdict.outcome, verdict.text.endswith("needs longer ones")) == ("open", True)


def test_the_value_has_its_interval():
    records = [plain_record(horizon, seed=i) for i, horizon in enumerate((11.0, 12.0, 13.0))]
    assert dozen(*records).value == "1/1000 after 12.0 [11.0, 13.0] steps"


def test_the_verdict_is_refined_by_an_rnn_that_reaches_further():
    verdict = dozen(plain_record(12.0), {**plain_record(40.0, "better"), "plain": False})
    assert verdict.outcome == "refined"
    assert "better (40.0)" in verdict.text


def test_the_verdict_weighs_what_gates_do_at_their_usual_start():
    """They were made to reach further: where they do, the claim stands as it is."""
    helped = dozen(
        plain_record(12.0), plain_record(48.0, "a", "LSTM"), plain_record(99.0, "b", "GRU")
    )
    assert helped.outcome == "confirmed"
    assert "LSTM takes 48.0 and GRU takes > 64 steps, 4 and more than 5.3 times" in helped.text
    biased = {**plain_record(40.0, "with bias", "LSTM"), "plain": False}
    alike = dozen(plain_record(12.0), plain_record(13.2, "a", "LSTM"), biased)
    assert alike.outcome == "refined"
    assert "1.1 times as many; more than twice as many: with bias (40.0)." in alike.text


def test_a_wrong_closed_form_is_not_confirmed():
    record = plain_record(12.0)
    record["state"]["theory"] = list(0.5 * np.array(record["state"]["norms"]))
    assert experiment.summary([record]).verdicts[1].outcome == "refined"


@pytest.mark.parametrize("name", ["default", "small"])
def test_shipped_configs_are_valid(name):
    file = harness_config.read(FOLDER / "configs" / f"{name}.toml")
    assert file.experiment == "gradient_decay"
    assert file.takes
    config = harness_config.resolve(experiment.Config, file.values)
    assert experiment.plan(config)
    usual = {(layer.kind, getattr(layer, "forget_bias", None)) for layer in config.layers}
    assert {("RNN", None), ("LSTM", None), ("GRU", None), ("CausalSelfAttention", None)} <= usual
    how = {KINDS[layer.kind].recurrence for layer in config.layers}
    assert name == "small" or how == set(Recurrence)


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


def with_gains(*horizons):
    """Two seeds of a tanh RNN, an LSTM, and a study of gains."""
    decay = [plain_record(12.0), plain_record(13.0, seed=1), plain_record(48.0, "a", "LSTM")]
    sizes = {"hidden": 32, "input_size": 4, "input_std": 1.0, "drive_std": 0.3, "eps": 1e-3}
    gains = [
        {
            "point": {"study": "gain", "gain": 0.5 * (n + 1), "input_std": 1.0},
            "seed": 0,
            "length": 64,
            **sizes,
            "state": {**plain_record(horizon)["state"], "law": None},
            "theory_exponent": -0.1,
        }
        for n, horizon in enumerate(horizons)
    ]
    for record in decay:
        record["input"]["theory"] = record["input"]["theory"][:-1]
    return [r | sizes for r in decay] + gains


@pytest.mark.parametrize(
    ("field", "values", "claims"),
    [
        ("horizon", [NAN, 0.0, -INF], ["dozen"]),
        ("half_life", [NAN, 0.0], ["dozen"]),
        ("norms", [NAN, INF], ["dozen"]),
        ("theory", [NAN], []),
        ("rate", [NAN], []),
        ("float32_lag", [NAN, 30.0], []),
        ("theory_half_life", [NAN], []),
        ("share_of_newest", [NAN], []),
        ("theory_exponent", [NAN], []),
    ],
)
def test_a_wrong_number_flips_nothing(monkeypatch, field, values, claims):
    monkeypatch.setattr(choose, "bootstrap_interval", lambda found: (min(found), max(found)))
    for value in values:
        records = with_gains(10.0, 30.0)
        assert dozen(*records).outcome == "refined"
        assert_nothing_flips(experiment, records, field, value, claims, draw=value is values[0])


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_no_closed_form_is_held_against_what_is_none(value):
    record = plain_record(12.0)
    for of in ("state", "input"):
        record[of]["norms"][3] = value
    verdict = said(experiment, [record])[1]
    assert verdict.outcome == "open"
    record["state"]["theory"] = [NAN] * 65
    assert said(experiment, [record])[1].text == "no records with a closed form yet"


def test_one_seed_has_no_interval():
    verdict = said(experiment, [plain_record(12.0)])[0]
    assert "[" not in verdict.value
    notes = [table.note for table in experiment.summary([plain_record(12.0)]).tables]
    assert all("One seed" in note and "interval" not in note for note in notes)
