"""The training loop: it learns, keeps the best epoch, counts steps, and compiles once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("optax")

from experiments.harness.training import (
    Training,
    classification_loss,
    parameter_count,
    train,
)

TRACES = []


def loss(model, x, y):
    TRACES.append(x.shape)
    return classification_loss(jnp.matmul(x, model["w"]) + model["b"][None], y)


def points(seed, count):
    """Two clouds that a line separates."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    x = rng.standard_normal((count, 2)) + 4.0 * (2 * y - 1)[:, None]
    return x.astype(np.float32), y.astype(np.int32)


def start():
    return {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}


CONFIG = Training(epochs=6, batch_size=16, learning_rate=0.1)


def run(seed=0, config=CONFIG, training=None, validation=None):
    return train(
        start(), loss, training or points(1, 100), validation or points(2, 50), config, seed
    )


def test_learns_and_says_what_it_did():
    trained = run()
    assert trained.validation_loss[0] == pytest.approx(np.log(2), rel=1e-5)  # untrained
    assert trained.validation_loss[-1] < 0.1 < trained.validation_loss[0]
    assert max(trained.validation_accuracy) > 0.97
    assert trained.steps == 100 // 16
    assert len(trained.epoch_seconds) == len(trained.train_loss) == 6
    assert len(trained.validation_loss) == len(trained.validation_accuracy) == 7
    np.testing.assert_allclose(trained.step_seconds * trained.steps, trained.epoch_seconds)
    assert min(trained.epoch_seconds) > 0


def test_the_model_that_comes_back_is_that_of_the_best_epoch():
    trained = run()
    x, y = points(2, 50)
    found, accuracy = loss(trained.model, jnp.asarray(x), jnp.asarray(y))
    assert accuracy == max(trained.validation_accuracy)
    assert float(accuracy) == trained.validation_accuracy[trained.best_epoch]
    assert float(found) == pytest.approx(trained.validation_loss[trained.best_epoch], rel=1e-5)


def test_an_untrained_model_is_kept_where_training_only_harms():
    x, y = points(2, 50)
    trained = train(
        {"w": jnp.asarray([[-1.0, 1.0]] * 2), "b": jnp.zeros(2)},
        loss,
        (points(1, 100)[0], 1 - points(1, 100)[1]),  # the wrong way round
        (x, y),
        CONFIG,
        0,
    )
    assert trained.best_epoch == 0
    np.testing.assert_array_equal(trained.model["w"], [[-1.0, 1.0]] * 2)


def test_the_best_epoch_is_that_of_the_lowest_loss_where_that_is_asked_for():
    """Sure of itself and wrong once: the loss grows while the accuracy stays high."""
    x, y = points(2, 50)
    y = np.where(np.arange(50) == 0, 1 - y, y)
    config = CONFIG.model_copy(update={"learning_rate": 3.0})
    data = (points(1, 100), (x, y), config, 0)
    by_accuracy, by_loss = (train(start(), loss, *data, by) for by in ("accuracy", "loss"))
    losses = by_loss.validation_loss
    assert by_loss.best_epoch == np.argmin(losses)
    assert by_accuracy.best_epoch == np.argmax(by_accuracy.validation_accuracy)
    assert losses[by_loss.best_epoch] < losses[by_accuracy.best_epoch]
    found, _ = loss(by_loss.model, jnp.asarray(x), jnp.asarray(y))
    assert float(found) == pytest.approx(min(losses), rel=1e-5)


def test_nan_is_never_the_best_epoch():
    x, y = points(1, 100)
    trained = run(training=(np.full_like(x, np.nan), y))
    assert trained.best_epoch == 0
    assert np.isnan(trained.train_loss).all()


def test_the_seed_decides_and_nothing_is_compiled_again():
    first = run(seed=0)
    traced = len(TRACES)
    again, other = run(seed=0), run(seed=1)
    assert len(TRACES) == traced
    assert again.compile_seconds == other.compile_seconds == 0
    assert first.train_loss == again.train_loss
    assert first.train_loss != other.train_loss


def test_long_gradients_are_clipped():
    """Adam undoes any scale above its epsilon of 1e-8, so it is clipped to far less than that."""
    config = CONFIG.model_copy(update={"clip_norm": 1e-12})
    clipped = run(config=config).validation_loss
    assert clipped[-1] == pytest.approx(np.log(2), rel=1e-2)  # it has hardly moved


def test_a_batch_larger_than_the_training_set_is_named():
    with pytest.raises(ValueError, match=r"training.batch_size = 101: should be at most 100"):
        run(config=Training(epochs=1, batch_size=101))


def test_classification_loss_counts_and_averages():
    logits = jnp.asarray([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    found, accuracy = classification_loss(logits, jnp.asarray([0, 1, 1]))
    expected = np.mean(np.log1p(np.exp([-2.0, -3.0, 1.0])))
    assert float(found) == pytest.approx(expected, rel=1e-6)
    assert float(accuracy) == pytest.approx(2 / 3)


def test_parameter_count():
    assert parameter_count(start()) == 6
    assert parameter_count(jax.eval_shape(start)) == 6
