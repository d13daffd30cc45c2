"""Recall against distance: a model is trained, tested and measured; the verdict follows."""

import json
import math

import jax
import numpy as np
import pytest

from experiments.harness.config import ConfigError, resolve
from experiments.harness.sequence_models import make
from experiments.recall import experiment, model
from rnnscan.tasks import associative_recall

VALUES = {
    "layers": [
        {"name": "RNN", "kind": "RNN"},
        {"name": "attention", "kind": "CausalSelfAttention", "num_heads": 2},
    ],
    "length": 12,
    "pairs": 2,
    "vocabulary": 8,
    "train_size": 64,
    "test_size": 32,
    "parameters": 3000,
    "depth": 1,
    "seeds": 1,
    "probes": 4,
    "bins": 3,
    "training": {"epochs": 1, "batch_size": 32},
}


def config(**changes):
    return experiment.Config.model_validate_json(json.dumps(VALUES | changes))


@pytest.fixture(scope="module")
def records():
    return list(experiment.run(config()))


def test_a_record_says_what_was_recalled_at_which_distance(records):
    assert [r["point"] for r in records] == experiment.plan(config())
    for record in records:
        assert 0 <= record["test_accuracy"] <= 1
        assert record["parameters"] <= 3000
        assert record["edges"] == [1, 5, 8, 12]
        assert len(record["accuracy"]) == len(record["gradient"]) == 3
        assert np.isfinite(record["gradient"]).all()


def test_the_gradient_is_that_of_the_answer():
    """reach against finite differences in the embedding of one token."""
    data = associative_recall(2, length=12, pairs=2, vocabulary=8)
    layer = config().layers[0]
    sizes = {"depth": 1, "length": 12, "tokens": 8, "outputs": 8}
    made = make(layer, jax.random.key(0), width=8, **sizes)
    norms = np.exp(np.asarray(model.reach(made, data.x, data.y)))
    t = int(np.flatnonzero(data.y[0] >= 0)[0])
    s = t - int(data.distance[0, t])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), made)

        def logit(shift):
            # A token of its own for this one place, its embedding moved.
            encoder = np.concatenate([wide.encoder, wide.encoder[data.x[0, s]][None] + shift])
            moved = data.x[0].copy()
            moved[s] = len(encoder) - 1
            changed = type(wide)(**{**vars(wide), "encoder": jax.numpy.asarray(encoder)})
            return np.asarray(changed(moved)[0])[t, data.y[0, t]]

        steps = 1e-5 * np.eye(8)
        slopes = [(logit(step) - logit(-step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(norms[0, t, s], np.linalg.norm(slopes), rtol=1e-4)
    later = np.arange(12) > t
    assert (norms[0, t, later] == 0).all()  # causal
    assert (norms[0, data.y[0] < 0] == 0).all()  # nothing asked


SETTLED, BRIEF = (1.2, 0.9, 0.8, 0.8), (1.3, 1.1, 0.9, 0.7)


def scored(records, attention, plain, losses=SETTLED):
    score = {"CausalSelfAttention": attention, "RNN": plain}
    return [{**r, "test_accuracy": score[r["kind"]], "train_loss": losses} for r in records]


def test_the_verdict_follows_the_accuracies(records):
    def verdict(attention, plain, **other):
        found = scored(records, attention, plain)
        if other:
            found.append(
                {**records[0], "kind": "GRU", "point": {"layer": "GRU", "seed": 0}, **other}
            )
        (said,) = experiment.summary(found).verdicts
        assert said.number == 9
        return said.outcome

    assert verdict(0.99, 0.3) == "confirmed"
    assert verdict(0.99, 0.3, test_accuracy=0.95) == "refined"
    assert verdict(0.6, 0.3) == "refuted"
    assert verdict(0.95, 0.93) == "refuted"
    assert experiment.summary(records[:1]).verdicts[0].outcome == "open"
    assert set(experiment.plot(records)) == {"recall"}


@pytest.mark.parametrize(
    ("attention", "plain", "losses", "outcome", "said"),
    [
        (0.99, 0.3, BRIEF, "confirmed", "One seed."),
        (0.6, 0.3, SETTLED, "refuted", "One seed."),
        (0.6, 0.3, BRIEF, "open", "trained too briefly: attention; RNN."),
        (0.6, 0.3, (1.3,), "open", "trained too briefly"),
        (0.99, 0.3, (1.3, math.nan), "open", "diverged"),
        (0.99, 0.3, (1.3, 9.0), "open", "diverged"),
        (math.nan, 0.3, SETTLED, "open", "not a number: attention"),
        (0.99, math.nan, SETTLED, "open", "not a number: RNN"),
    ],
)
def test_nothing_flips_the_verdict(records, attention, plain, losses, outcome, said):
    found = scored(records, attention, plain, losses)
    (verdict,) = experiment.summary(found).verdicts
    assert verdict.outcome == outcome
    assert said in verdict.text
    assert "nan" not in verdict.text + verdict.value
    (few,) = experiment.summary([]).verdicts
    assert few.outcome == "open"


def test_two_seeds_are_not_called_one_and_empty_bins_have_no_number(records):
    short = {**records[1], "context": 2, "point": {"layer": "short", "seed": 0}}
    found = scored([*records, short], 0.99, 0.3)
    more = [{**r, "point": {**r["point"], "seed": 1}, "accuracy": [math.nan] * 3} for r in found]
    said = experiment.summary([*found, *more])
    assert "seed" not in said.verdicts[0].text
    assert "nan" not in said.verdicts[0].text + str(said.tables)
    assert said.tables[0].rows[0][3] == "–"


def test_a_net_for_whole_sequences_is_refused():
    layers = [{"name": "net", "kind": "MLP"}]
    with pytest.raises(
        ConfigError, match=r'layers\[0\].kind = "MLP": has one output.*recall needs'
    ):
        resolve(experiment.Config, VALUES | {"layers": layers})
