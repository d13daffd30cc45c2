import re
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

pytest.importorskip("optax")
pytest.importorskip("sklearn")

from experiments.digits import classifier, experiment, measure
from experiments.harness import config as harness_config
from experiments.harness import sequence_models
from experiments.harness.figures import STYLE
from experiments.harness.kinds import KINDS
from experiments.harness.layer_options import Dense, Diagonal
from experiments.harness.training import parameter_count
from rnnscan.tasks import Split

FOLDER = Path(experiment.__file__).parent
RNN = Dense(name="RNN", kind="RNN", recurrent="orthogonal", gain=1.0)
LINEAR = Dense(name="LinearRNN", kind="LinearRNN", recurrent="orthogonal", gain=1.0)
LRU = Diagonal(name="LRU", kind="LRU", r_min=0.9)
SETTLED, BRIEF = [2.0, 0.6, 0.5, 0.5], [2.0, 1.6, 1.4, 1.2]  # losses of trainings
SMALL = {
    "layers": [RNN.model_dump(), LRU.model_dump()],
    "readings": ["rows"],
    "seeds": 1,
    "parameters": 700,
    "outputs": 12,
    "probes": 4,
    "training": {"epochs": 8, "batch_size": 64, "learning_rate": 0.01},
}


def resolve(**changes):
    return harness_config.validate(experiment.Config, {**SMALL, **changes})


@pytest.fixture(scope="module")
def records():
    return list(experiment.run(resolve()))


def model_of(config, features=1, head="linear"):
    return classifier.init(
        config, jax.random.key(0), features=features, hidden=6, outputs=5, head=head
    )


def test_every_layer_learns_to_read_rows(records):
    assert [record["point"] for record in records] == experiment.plan(resolve())
    for record in records:
        assert 0.7 < record["test_accuracy"] <= 1
        assert record["validation_accuracy"][0] < 0.4
        assert max(record["validation_accuracy"]) > 0.75
        assert record["parameters"] <= 700
        assert len(record["step_seconds"]) == 8
        assert record["compile_seconds"] > 0
        assert len(record["input_after"]) == 8
        assert record["input_before"][0] == 0


def test_a_point_depends_on_no_other(records):
    (alone,) = experiment.run(resolve(), [records[1]["point"]])
    assert alone["test_accuracy"] == records[1]["test_accuracy"]
    np.testing.assert_array_equal(alone["input_after"], records[1]["input_after"])
    assert alone["compile_seconds"] == 0  # nor does it compile what the process has compiled


@pytest.mark.parametrize("config", [RNN, LRU], ids=lambda config: config.name)
def test_reach_is_the_gradient_of_the_loss(config):
    """Against differences of the loss in float64."""
    model = model_of(config)
    x, y = np.random.default_rng(1).uniform(size=(1, 12, 1)), np.asarray([3])
    got = measure.reach(model, Split(x.astype(np.float32), y))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), model)
        shifts = 1e-5 * np.eye(12)[:, :, None]
        moved = jnp.asarray(np.stack([x[0] + shifts, x[0] - shifts]))
        of_each = jax.jit(jax.vmap(jax.vmap(lambda x: classifier.loss(wide, x[None], y)[0])))
        up, down = np.asarray(of_each(moved))
    expected = np.log(np.abs(up - down) / 2e-5)[::-1]
    np.testing.assert_allclose(got, expected - expected[0], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("config", [RNN, LINEAR, LRU], ids=lambda config: config.name)
def test_the_widest_layer_within_a_budget(config):
    sizes = {"features": 1, "outputs": 16, "head": "linear"}

    def parameters(hidden):
        return parameter_count(
            jax.eval_shape(
                lambda key: classifier.init(config, key, hidden=hidden, **sizes), jax.random.key(0)
            )
        )

    def bare(hidden):
        return lambda key: classifier.init(config, key, hidden=hidden, **sizes)

    hidden = sequence_models.largest(bare, 1000, name=config.name)
    assert parameters(hidden) <= 1000 < parameters(hidden + 1)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_budget_too_small_is_refused_for_all_layers_before_anything_runs(depth):
    with pytest.raises(harness_config.ConfigError) as caught:
        experiment.plan(resolve(parameters=20, depth=depth))
    assert len(caught.value.faults) == 2
    for name, fault in zip(("RNN", "LRU"), caught.value.faults, strict=True):
        assert re.search(rf"parameters = 20: should be at least \d+, which {name} has", fault)


def test_blocks_take_every_kind_and_a_bare_layer_must_have_a_state():
    layers = [{"name": kind, "kind": kind} for kind in KINDS]
    config = resolve(layers=layers, depth=2, parameters=8000)
    for layer in config.layers:
        step, make = experiment._maker(config, layer, "rows")
        width = sequence_models.largest(make, 8000, step=step, name=layer.name)
        model = jax.eval_shape(make(width), jax.random.key(0))
        assert width % 4 == 0
        assert 4000 < parameter_count(model) <= 8000
        x = jax.ShapeDtypeStruct((3, 8, 8), jnp.float32)
        logits, _ = jax.eval_shape(lambda model, x: model(x), model, x)
        assert logits.shape == (3, 10)
    with pytest.raises(
        harness_config.ConfigError,
        match=r'"MLP": has no recurrent state; digits with depth = 0 needs',
    ):
        resolve(layers=layers)


def test_blocks_are_trained_and_measured():
    layers = [{"name": "attention", "kind": "CausalSelfAttention"}]
    changes = {"depth": 1, "parameters": 800, "training": {"epochs": 1}}
    (record,) = experiment.run(resolve(layers=layers, **changes))
    assert (record["depth"], record["read"]) == (1, "last")
    assert np.isfinite(record["input_after"]).all()


def test_every_figure_and_table_of_any_subset(records):
    pixels = [
        {
            **record,
            "point": {**record["point"], "reading": "pixels"},
            "length": 64,
            **{f"input_{when}": list(-0.1 * np.arange(64)) for when in ("before", "after")},
        }
        for record in records
    ]
    with mpl.rc_context(STYLE):
        assert set(experiment.plot(records)) == {"accuracy", "reach"}
        assert set(experiment.plot(pixels + records)) == {"accuracy", "reach", "pixels"}
        for subset in ([], records[:1], pixels[:1], pixels[1:] + records[:1]):
            for figure in experiment.plot(subset).values():
                figure.canvas.draw()
            experiment.summary(subset)
    assert all(verdict.outcome == "open" for verdict in experiment.summary([]).verdicts)
    assert len(experiment.summary(pixels + records).tables) == 4


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [(-30.0, -20.0, "confirmed"), (-30.0, -1.0, "refined"), (-1.0, -1.0, "refuted")],
)
def test_the_verdict_on_memory_follows_the_first_pixel(records, before, after, outcome):
    assert remembering(records, before, after).outcome == outcome


def remembering(records, before, after, **changes):
    plain = {
        **records[0],
        "train_loss": SETTLED,
        "point": {"reading": "pixels", "layer": "plain", "seed": 0},
        "init": "W_hh torch, gain 0.577",
        "length": 64,
        "input_before": [0.0, before],
        "input_after": [0.0, after],
    }
    other = {**plain, "point": {**plain["point"], "layer": "other"}, "init": "W_hh orthogonal"}
    return experiment.summary([plain | changes, other]).verdicts[1]


@pytest.mark.parametrize(
    ("before", "after", "losses", "outcome", "said"),
    [
        (-30.0, -20.0, BRIEF, "open", "trained too briefly: plain"),
        (-30.0, -1.0, BRIEF, "refined", "one seed"),
        (-30.0, -np.inf, SETTLED, "confirmed", "ends at 0;"),
        (-30.0, np.nan, SETTLED, "open", "not a number: plain"),
        (-30.0, -20.0, [2.0, np.nan], "open", "diverged: plain"),
        (np.nan, -1.0, SETTLED, "open", "not a number: plain"),
    ],
)
def test_nothing_flips_the_verdict_on_memory(records, before, after, losses, outcome, said):
    verdict = remembering(records, before, after, train_loss=losses)
    assert verdict.outcome == outcome
    assert said in verdict.text
    assert "nan" not in verdict.text


DOUBTFUL = [
    ({"train_loss": [2.0, 1.6, 1.4, 1.2]}, "trained too briefly: RNN; LRU."),
    ({"train_loss": [2.3]}, "trained too briefly: RNN; LRU."),
    ({"train_loss": [2.3, 2.3, 2.3, 2.3]}, "trained too briefly: RNN; LRU."),
    ({"train_loss": [2.0, np.nan]}, "diverged: RNN; LRU."),
    ({"train_loss": [40.0, 9.0, 9.0, 9.0]}, "diverged: RNN; LRU."),
    ({"train_loss": []}, "diverged: RNN; LRU."),
    ({"test_accuracy": np.nan}, "not a number: RNN; LRU."),
]


@pytest.mark.parametrize(("changes", "why"), DOUBTFUL)
@pytest.mark.parametrize("depth", [0, 2])
def test_no_refutation_rests_on_trainings_that_say_nothing(records, depth, changes, why):
    made = {"depth": depth, "length": 64, "test_accuracy": 0.5, "train_loss": SETTLED}
    settled = [record | made for record in records]
    assert experiment.summary(settled).verdicts[0].outcome == "refuted"
    said = experiment.summary([record | changes for record in settled])
    assert (said.verdicts[0].outcome, said.verdicts[0].text) == ("open", why)
    assert "nan" not in str(said.tables)


def test_what_learned_enough_stands_beside_what_diverged(records):
    good = records[0] | {"test_accuracy": 0.96, "train_loss": BRIEF}
    wild = records[1] | {"test_accuracy": np.nan, "train_loss": [np.nan]}
    (first, _) = experiment.summary([good, wild]).verdicts
    assert (first.outcome, first.value) == ("confirmed", "96.0 % of test scans")
    assert "linear readout, one seed; 8 steps of one row: 96.0 % (RNN)" in first.text


def test_a_spread_needs_two_seeds(records):
    first = records[0] | {"depth": 2, "length": 64, "test_accuracy": 0.96}
    second = first | {"point": {**first["point"], "seed": 1}, "test_accuracy": 0.98}
    one, two = experiment.summary([first]), experiment.summary([first, second])
    assert one.verdicts[0].value == one.tables[0].rows[0][5] + " %" == "96.0 %"
    assert "(one seed)" in one.verdicts[0].text
    assert two.verdicts[0].value == two.tables[0].rows[0][5] + " %" == "97.0 ± 1.4 %"


def test_the_verdict_on_the_classifier_follows_its_accuracy(records):
    poor = [{**record, "test_accuracy": 0.3, "train_loss": SETTLED} for record in records]
    good = [{**record, "test_accuracy": 0.95} for record in records]
    assert experiment.summary(poor).verdicts[0].outcome == "refuted"
    assert experiment.summary(good).verdicts[0].outcome == "confirmed"


def test_the_verdict_on_mixers_is_of_the_one_that_validates_best(records):
    def verdict(*scores):
        found = [
            {**r, "depth": 2, "length": 64, "validation_accuracy": [score], "test_accuracy": test}
            | {"train_loss": SETTLED}
            for r, (score, test) in zip(records, scores, strict=True)
        ]
        (said,) = experiment.summary(found).verdicts
        return said.outcome, said.text

    assert verdict((0.98, 0.96), (0.97, 0.5))[0] == "confirmed"
    outcome, text = verdict((0.97, 0.99), (0.98, 0.9))
    assert outcome == "refuted"
    assert text.startswith("LRU, the recurrent mixer that validates best: 90.0")
    blocks = [{**records[0], "depth": 2, "length": 8}]
    assert experiment.summary(blocks).verdicts[0].outcome == "open"


@pytest.mark.parametrize("name", ["default", "mixers", "small"])
def test_shipped_configs_are_valid(name):
    file = harness_config.read(FOLDER / "configs" / f"{name}.toml")
    assert file.experiment == "digits"
    assert file.takes
    assert experiment.plan(harness_config.resolve(experiment.Config, file.values))


def test_every_fault_of_a_config_is_reported_at_once():
    with pytest.raises(harness_config.ConfigError) as caught:
        resolve(
            readings=["pixels", "pixels"],
            head="cubic",
            training={"epochs": 0, "warmup": 1.0},
            layers=[],
        )
    for words in ("readings", "head", "training.epochs", "training.warmup", "layers"):
        assert words in str(caught.value)
