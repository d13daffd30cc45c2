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
from experiments.harness.figures import STYLE
from experiments.harness.layer_configs import Dense, Diagonal
from experiments.harness.training import parameter_count
from rnnscan.tasks import Split

FOLDER = Path(experiment.__file__).parent
RNN = Dense(name="RNN", kind="RNN", recurrent="orthogonal", gain=1.0)
LINEAR = Dense(name="LinearRNN", kind="LinearRNN", recurrent="orthogonal", gain=1.0)
LRU = Diagonal(name="LRU", kind="LRU", r_min=0.9)
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
        assert len(record["state_after"]) == 9
        assert len(record["input_after"]) == 8
        assert record["state_before"][0] == record["input_before"][0] == 0


def test_a_point_depends_on_no_other(records):
    (alone,) = experiment.run(resolve(), [records[1]["point"]])
    assert alone["test_accuracy"] == records[1]["test_accuracy"]
    np.testing.assert_array_equal(alone["state_after"], records[1]["state_after"])
    assert alone["compile_seconds"] == 0  # nor does it compile what the process has compiled


@pytest.mark.parametrize(
    ("config", "features", "head"),
    [(RNN, 1, "linear"), (LINEAR, 1, "mlp"), (LRU, 1, "linear"), (LRU, 5, "mlp")],
)
def test_the_last_state_says_all_that_the_sequence_does(config, features, head):
    """With 5 features, as many as outputs, an LRU's skip is a vector."""
    model = model_of(config, features, head)
    x = jax.random.normal(jax.random.key(1), (9, features))
    state = measure.last_state(model.layer, x)
    np.testing.assert_allclose(model.read_state(state, x[-1]), model(x), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("config", [RNN, LRU], ids=lambda config: config.name)
def test_reach_is_the_gradient_of_the_loss(config):
    model = model_of(config)
    x = jax.random.uniform(jax.random.key(1), (1, 12, 1))
    y = jnp.asarray([3])
    got = measure.reach(model, Split(np.asarray(x), np.asarray(y)))
    gradient = jax.grad(lambda x: classifier.loss(model, x, y)[0])(x)[0, ::-1, 0]
    expected = np.log(np.abs(gradient))
    # From lag 1 on, since an LRU's last input also reaches the loss beside the state.
    np.testing.assert_allclose(
        got["input"][1:] - got["input"][1], expected[1:] - expected[1], rtol=1e-3, atol=2e-3
    )


@pytest.mark.parametrize("config", [RNN, LINEAR, LRU], ids=lambda config: config.name)
def test_the_widest_layer_within_a_budget(config):
    sizes = {"features": 1, "outputs": 16, "head": "linear"}

    def parameters(hidden):
        return parameter_count(
            jax.eval_shape(
                lambda key: classifier.init(config, key, hidden=hidden, **sizes), jax.random.key(0)
            )
        )

    hidden = classifier.widest(config, 1000, **sizes)
    assert parameters(hidden) <= 1000 < parameters(hidden + 1)


def test_a_budget_too_small_is_named():
    with pytest.raises(ValueError, match=r"parameters = 50: should be at least \d+ for LRU"):
        classifier.widest(LRU, 50, features=1, outputs=64, head="linear")


def test_every_figure_and_table_of_any_subset(records):
    pixels = [
        {
            **record,
            "point": {**record["point"], "reading": "pixels"},
            "length": 64,
            **{f"state_{when}": list(-0.1 * np.arange(65)) for when in ("before", "after")},
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
    plain = {
        **records[0],
        "point": {"reading": "pixels", "layer": "plain", "seed": 0},
        "init": "W_hh torch, gain 0.577",
        "length": 64,
        "input_before": [0.0, before],
        "input_after": [0.0, after],
    }
    other = {**plain, "point": {**plain["point"], "layer": "other"}, "init": "W_hh orthogonal"}
    assert experiment.summary([plain, other]).verdicts[1].outcome == outcome


def test_the_verdict_on_the_classifier_follows_its_accuracy(records):
    poor = [{**record, "test_accuracy": 0.3} for record in records]
    good = [{**record, "test_accuracy": 0.95} for record in records]
    assert experiment.summary(poor).verdicts[0].outcome == "refuted"
    assert experiment.summary(good).verdicts[0].outcome == "confirmed"


@pytest.mark.parametrize("name", ["default", "small"])
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
