"""Trains a pytree of parameters: optax, one compiled program an epoch, the best epoch kept.

Plain functions. The steps of an epoch are one `lax.scan`, so that a time per step holds no
dispatch; tracing and compiling are timed apart, and the clock stops when the epoch's whole
output is there.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from pydantic import Field

from experiments.harness import progress
from experiments.harness.config import Config

Model = Any
# (model, x, y) -> (mean loss, mean accuracy) of a batch
Loss = Callable[[Model, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class Training(Config):
    """The budget and the optimiser: Adam, gradients clipped, the rate warmed up and then cosine to
    0.

    Args:
      epochs: passes over the training set.
      batch_size: sequences a step; what is left over at an epoch's end is left out of that epoch.
      learning_rate: at its peak.
      clip_norm: the largest global norm of a gradient; a longer one is scaled down to it.
      warmup: the part of all steps over which the rate rises from 0.
      weight_decay: decoupled (AdamW); 0 is plain Adam.
    """

    epochs: int = Field(default=50, gt=0)
    batch_size: int = Field(default=64, gt=0)
    learning_rate: float = Field(default=3e-3, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)


@dataclass(frozen=True)
class Trained:
    """What training gave.

    Attributes:
      model: the parameters of the best epoch: highest validation accuracy, then lowest loss; or
        lowest validation loss, where that was asked for.
      best_epoch: its number; 0 is the untrained model.
      train_loss, train_accuracy: per epoch, averaged over its steps as they were taken.
      validation_loss, validation_accuracy: after each epoch, the untrained model first.
      compile_seconds: tracing, lowering and compiling; 0 where an earlier call had compiled it.
      epoch_seconds: each epoch's steps alone, without validation.
      steps: per epoch.
    """

    model: Model
    best_epoch: int
    train_loss: tuple[float, ...]
    train_accuracy: tuple[float, ...]
    validation_loss: tuple[float, ...]
    validation_accuracy: tuple[float, ...]
    compile_seconds: float
    epoch_seconds: tuple[float, ...]
    steps: int

    @property
    def step_seconds(self) -> np.ndarray:
        """Seconds of one training step, one sample per epoch."""
        return np.asarray(self.epoch_seconds) / self.steps


def train(
    model: Model,
    loss: Loss,
    training: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    config: Training,
    seed: int,
    best_by: Literal["accuracy", "loss"] = "accuracy",
) -> Trained:
    """Minimises `loss` over the training set and keeps the epoch that validates best.

    Args:
      model: a pytree of float arrays; not changed.
      loss: `(model, x, y) -> (mean loss, mean accuracy)`; a function at module level, since the
        compiled program is kept for the next call with the same loss, config and shapes.
      training, validation: (x, y), sequences first.
      config: the budget.
      seed: of the order of the sequences.
      best_by: what says which epoch is best; "loss" where the probabilities are what is learned.

    Raises:
      ValueError: if the training set holds less than one batch.
    """
    count = len(training[1])
    if config.batch_size > count:
        raise ValueError(
            f"training.batch_size = {config.batch_size}: should be at most {count}, "
            "the number of training sequences"
        )
    steps = count // config.batch_size
    optimiser = _optimiser(config, steps)
    training, validation = jax.device_put((training, validation))
    carry = (model, optimiser.init(model))
    order = np.random.default_rng(seed)

    def batches() -> jax.Array:
        drawn = order.permutation(count)[: steps * config.batch_size]
        return jnp.asarray(drawn.reshape(steps, config.batch_size), jnp.int32)

    # Frozen, hence hashable, which the checker does not see through pydantic.
    hashable: Any = config
    programs = _compile(loss, hashable, *map(_Shapes.of, (carry, training, validation)))
    compile_seconds = programs.seconds if programs.fresh() else 0.0

    def validate(model: Model) -> tuple[float, float]:
        found, accuracy = programs.evaluate(model, *validation)
        return float(found), float(accuracy)

    def score(found: float, accuracy: float) -> tuple[float, ...]:
        return (accuracy, -found) if best_by == "accuracy" else (-found,)

    first = validate(model)
    history: list[tuple[float, float, float, float]] = []
    seconds: list[float] = []
    best, best_score, best_epoch = model, score(*first), 0
    for epoch in range(1, config.epochs + 1):
        drawn = jax.block_until_ready(batches())
        start = time.perf_counter()
        carry, (losses, accuracies) = jax.block_until_ready(programs.epoch(carry, training, drawn))
        seconds.append(time.perf_counter() - start)
        found, accuracy = validate(carry[0])
        history.append((float(losses.mean()), float(accuracies.mean()), found, accuracy))
        if score(found, accuracy) > best_score:  # nan is never better
            best, best_score, best_epoch = carry[0], score(found, accuracy), epoch
        shown = f"{accuracy:.1%}" if best_by == "accuracy" else f"{found:.3f}"
        progress.say(f"epoch {epoch} of {config.epochs}, validation {best_by} {shown}")
    train_loss, train_accuracy, validation_loss, validation_accuracy = zip(*history, strict=True)
    return Trained(
        model=best,
        best_epoch=best_epoch,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        validation_loss=(first[0], *validation_loss),
        validation_accuracy=(first[1], *validation_accuracy),
        compile_seconds=compile_seconds,
        epoch_seconds=tuple(seconds),
        steps=steps,
    )


def classification_loss(logits: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy in nats and mean accuracy of logits (batch, classes) for labels (batch,).

    >>> import jax.numpy as jnp
    >>> loss, accuracy = classification_loss(jnp.zeros((4, 10)), jnp.arange(4))
    >>> print(f"{loss:.4f}")                               # ln 10
    2.3026
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return loss, (logits.argmax(axis=-1) == y).astype(logits.dtype).mean()


def parameter_count(model: Model) -> int:
    """How many numbers there are to learn."""
    return sum(leaf.size for leaf in jax.tree.leaves(model))


def _optimiser(config: Training, steps: int) -> optax.GradientTransformation:
    total = steps * config.epochs
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, round(config.warmup * total), total
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(rate, weight_decay=config.weight_decay),
    )


@dataclass(frozen=True)
class _Shapes:
    """Structure, shapes and dtypes of a pytree, as a key."""

    structure: Any
    leaves: tuple[Any, ...]

    @classmethod
    def of(cls, tree: Any) -> _Shapes:
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves))

    def tree(self) -> Any:
        return jax.tree.unflatten(self.structure, self.leaves)


@dataclass
class _Programs:
    epoch: Callable[..., Any]
    evaluate: Callable[..., Any]
    seconds: float
    used: bool = False

    def fresh(self) -> bool:
        """True the first time it is asked."""
        first, self.used = not self.used, True
        return first


@functools.lru_cache(maxsize=8)
def _compile(
    loss: Loss, config: Training, carry: _Shapes, training: _Shapes, validation: _Shapes
) -> _Programs:
    steps = training.leaves[1].shape[0] // config.batch_size
    optimiser = _optimiser(config, steps)

    def step(carry, chosen, x, y):
        model, state = carry
        (found, accuracy), gradient = jax.value_and_grad(loss, has_aux=True)(
            model, x[chosen], y[chosen]
        )
        with jax.numpy_dtype_promotion("standard"):  # optax counts on it
            updates, state = optimiser.update(gradient, state, model)
        return (optax.apply_updates(model, updates), state), (found, accuracy)

    def epoch(carry, training, batches):
        x, y = training
        return lax.scan(lambda carry, chosen: step(carry, chosen, x, y), carry, batches)

    batches = jax.ShapeDtypeStruct((steps, config.batch_size), jnp.int32)
    start = time.perf_counter()
    compiled_epoch = jax.jit(epoch).lower(carry.tree(), training.tree(), batches).compile()
    seconds = time.perf_counter() - start
    model, _ = carry.tree()
    compiled_evaluate = jax.jit(loss).lower(model, *validation.tree()).compile()
    return _Programs(compiled_epoch, compiled_evaluate, seconds)
