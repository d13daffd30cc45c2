"""A language model of characters: bits on a stream, what is written, the verdict."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("optax")

from experiments.characters import experiment, model
from experiments.harness.config import ConfigError, resolve
from experiments.harness.sequence_models import make

VALUES = {
    "layers": [
        {"name": "RNN", "kind": "RNN"},
        {"name": "attention", "kind": "CausalSelfAttention", "num_heads": 2, "context": 6},
    ],
    "length": 8,
    "characters": 400,
    "parameters": 6000,
    "depth": 1,
    "prompt": "The for",
    "sample_length": 12,
    "rounds": 3,
    "training": {"epochs": 2, "batch_size": 16},
}
PROMPT = np.array([1, 4, 2, 0, 3], np.int32)
LENGTH = 7  # of a window, longer than attention's context


CONFIG = experiment.Config.model_validate_json(json.dumps(VALUES))


@functools.cache
def made(name):
    (layer,) = (layer for layer in CONFIG.layers if layer.name == name)
    return make(layer, jax.random.key(3), width=8, depth=2, length=LENGTH, tokens=5, outputs=5)


@functools.cache
def after_the_prompt():
    logits, state = made("attention")(PROMPT)
    return logits[-1], state


@functools.partial(jax.jit, static_argnames="count")
def go_on(logits, state, seed, temperature, count=40):
    key = jax.random.key(seed)
    return model.go_on(made("attention"), logits, state, key, temperature, count=count)


def write(seed, temperature):
    return np.asarray(go_on(*after_the_prompt(), seed, temperature)[0])


@pytest.fixture(scope="module")
def records():
    return list(experiment.run(CONFIG))


def test_a_record_says_what_was_learned_written_and_how_fast(records):
    assert [r["point"] for r in records] == experiment.plan(CONFIG)
    for record in records:
        assert record["parameters"] <= 6000
        assert record["vocabulary"] == len(experiment.text(400).vocabulary) > 95
        assert record["sha256"] == experiment.text(None).sha256
        assert record["train_size"] == record["test_size"] == 400
        assert len(record["validation_loss"]) == len(record["train_loss"]) + 1 == 3
        assert record["best_epoch"] == np.argmin(record["validation_loss"])
        trivial = record["trivial_bits"]
        assert trivial["uniform"] == pytest.approx(math.log2(record["vocabulary"]))
        assert trivial["bigram"] < trivial["unigram"] < trivial["uniform"]
        assert 2 < record["test_bits"] < 12
        assert 2 < record["test_bits_windowed"] < 12
        assert record["test_bits"] != record["test_bits_windowed"]
        assert len(record["sample"]) == 12
        assert record["counts"]
        assert 0 < record["step_error"] < experiment.TOLERANCE / 10
        per_second = 16 * 8 / np.median(record["step_seconds"])
        assert record["trained_per_second"] == pytest.approx(per_second)
        assert len(record["write_seconds"]) == 3
        per_second = 12 / np.median(record["write_seconds"])
        assert record["written_per_second"] == pytest.approx(per_second)


def test_the_text_can_be_cut_short():
    full, part = experiment.text(None), experiment.text(50)
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(part, name), getattr(full, name)[:50])
    assert len(full) > 300_000


@pytest.mark.parametrize("name", ["RNN", "attention"])
def test_bits_are_those_of_single_steps_in_float64(name):
    """Three windows and a rest, which is left out: as a stream, and each window anew."""
    tokens = np.random.default_rng(0).integers(0, 5, 3 * LENGTH + 4).astype(np.int32)
    small = made(name)
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, leaf.dtype.name.replace("32", "64")), small
        )
        step = jax.jit(lambda token, state: wide.step(token, state))

        def bits(begin_anew):
            found = []
            for t in range(3 * LENGTH):
                if t == 0 or (begin_anew and t % LENGTH == 0):
                    state = wide.initial_state()
                logits, state = step(jnp.asarray(tokens[t]), state)
                logits = np.asarray(logits)
                assert logits.dtype == np.float64
                found.append(np.log2(np.exp(logits).sum()) - logits[tokens[t + 1]] / np.log(2))
            return np.mean(found)

        expected = bits(begin_anew=False), bits(begin_anew=True)
    assert abs(expected[0] - expected[1]) > 1e-3  # it does matter
    assert model.streamed_bits(small, tokens, LENGTH) == pytest.approx(expected[0], rel=1e-5)
    assert model.windowed_bits(small, tokens, LENGTH) == pytest.approx(expected[1], rel=1e-5)


def test_the_loss_is_the_bits_of_a_window_in_nats():
    small = made("RNN")
    tokens = np.random.default_rng(1).integers(0, 5, 4 * LENGTH + 1).astype(np.int32)
    x, y = model.windows(tokens, LENGTH)
    found, right = model.loss(small, x, y)
    bits = model.windowed_bits(small, tokens, LENGTH)
    assert float(found) == pytest.approx(bits * math.log(2), rel=1e-6)
    likeliest = np.asarray(small(x)[0]).argmax(-1)
    assert float(right) == pytest.approx((likeliest == y).mean())


def test_what_is_written_depends_on_the_seed_alone():
    first = write(0, 1.0)
    np.testing.assert_array_equal(first, write(0, 1.0))
    assert (first != write(1, 1.0)).any()
    assert first.shape == (40,)


def test_cold_writing_takes_the_likeliest_token_and_hot_any():
    """Against a call on the text, which is longer than attention's context."""
    cold = write(0, 1e-6)
    logits, _ = made("attention")(np.concatenate([PROMPT, cold[:-1]]))
    np.testing.assert_array_equal(cold, np.asarray(logits)[len(PROMPT) - 1 :].argmax(-1))
    assert len(set(cold)) > 1
    hot = np.concatenate([write(seed, 1e6) for seed in range(25)])
    assert np.bincount(hot, minlength=5).min() > 150  # of about 200


def test_wrong_steps_show_in_the_error_of_a_step():
    attention, prompt = made("attention"), jnp.asarray(PROMPT)
    logits, state = after_the_prompt()
    right = go_on(logits, state, 0, 1.0)
    assert model.step_error(attention, prompt, *right) < 1e-5
    forgotten = go_on(logits, attention.initial_state(), 0, 1.0)
    assert model.step_error(attention, prompt, *forgotten) > 10 * experiment.TOLERANCE


SETTLED, BRIEF = [2.0, 1.5, 1.5, 1.5], [3.0, 2.8, 2.4, 2.0]  # nats, as trainings lose them


def judged(records, *above, losses=SETTLED):
    """Of the RNN, attention and a third, so many bits above bigrams; one seed."""
    bigram = records[0]["trivial_bits"]["bigram"]
    third = {**records[0], "kind": "CausalConv1D", "point": {"layer": "third", "seed": 0}}
    histories = {"train_loss": losses, "validation_loss": [4.0, *losses]}
    changed = [
        {**record, **histories, "test_bits": bigram + more}
        for record, more in zip([*records, third], above, strict=False)
    ]
    said = experiment.summary(changed)
    assert "nan" not in str(said)
    (verdict,) = said.verdicts
    assert verdict.number is None
    return verdict


def test_the_verdict_follows_the_bits(records):
    bigram = records[0]["trivial_bits"]["bigram"]
    verdict = functools.partial(judged, records)

    assert verdict(-1, -0.5, -0.1).outcome == "confirmed"
    assert verdict(-1, -0.5, 0.1).outcome == "refined"
    assert verdict(1, 0.5, 0).outcome == "refuted"
    assert verdict().outcome == "open"
    said = verdict(-0.5, -1, 0.1).text
    assert f"best is attention, {bigram - 1:.2f}" in said
    assert f"Best recurrence: RNN, {bigram - 0.5:.2f}; attention: {bigram - 1:.2f}" in said
    assert "recurrence" not in verdict(-1).text
    assert verdict(math.nan, -1, -1).outcome == "refined"
    assert "best is attention" in verdict(math.nan, -1).text


@pytest.mark.parametrize(
    ("above", "losses", "outcome", "said"),
    [
        ((-1, -0.5, -0.1), BRIEF, "confirmed", "One seed."),
        ((-1, -0.5, 0.1), BRIEF, "open", "trained too briefly: third."),
        ((1, 1, 1), BRIEF, "open", "trained too briefly: RNN; attention; third."),
        ((1, 1, 1), [2.0], "open", "trained too briefly: RNN; attention; third."),
        ((0.1,), [2.0, 1.6, 1.5, 1.3], "open", "trained too briefly: RNN."),
        ((1,), [3.8, 3.8, 3.8], "open", "trained too briefly: RNN."),
        ((-1,), [2.0, math.nan], "open", "diverged: RNN."),
        ((-1,), [2.0, 9.0], "open", "diverged: RNN."),
        ((math.nan, math.inf), SETTLED, "open", "not a number: RNN. not a number: attention."),
        ((math.nan, 1), SETTLED, "open", "not a number: RNN."),
        ((math.nan, -1), SETTLED, "refined", "1 of 2"),
    ],
)
def test_nothing_flips_the_verdict(records, above, losses, outcome, said):
    verdict = judged(records, *above, losses=losses)
    assert verdict.outcome == outcome
    assert said in verdict.text


def test_figures_and_tables_cope_with_any_subset(records):
    assert experiment.plot([]) == {}
    assert experiment.summary([]).tables == ()
    unchecked = {**records[0], "counts": False, "step_error": math.nan}
    grown = {**records[0], "test_bits": math.nan}
    for some in (records[:1], records[1:], [unchecked], [grown, records[1]], records):
        figures = experiment.plot(some)
        assert set(figures) == {"learning", "speed"}
        for figure in figures.values():
            figure.draw_without_rendering()
        numbers, *texts = experiment.summary(some).tables
        assert len(numbers.rows) == len(texts) == len(some)
    dash = experiment.summary([unchecked]).tables[0].rows[0][-1]
    assert dash == "–"


def test_written_text_keeps_its_lines_and_spaces(records):
    record = {**records[0], "prompt": "for x", "sample": " in xs:\n    y\n\n" + 30 * "more "}
    (_, text) = experiment.summary([record]).tables
    *lines, long, rest = (cell for (cell,) in text.rows)
    assert lines == ["for x in xs:", 4 * "\u00a0" + "y", "\u00a0"]
    assert (long, rest) == (20 * "more ", 10 * "more ")
    assert not text.brief


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"layers": [{"name": "net", "kind": "MLP"}]}, r"layers.*one output for a whole sequence"),
        ({"prompt": "für"}, r"prompt.*\['ü'\], which the vocabulary has not"),
        ({"prompt": ""}, r"prompt"),
        ({"temperature": 0.0}, r"temperature.*greater than 0"),
        ({"length": 400}, r"length = 400: should be below 400"),
        ({"characters": 1}, r"characters"),
    ],
)
def test_faults_are_named_before_anything_runs(changes, fault):
    with pytest.raises(ConfigError, match=fault):
        resolve(experiment.Config, VALUES | changes)
