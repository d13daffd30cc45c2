"""A `SequenceModel` around any kind of layer, as wide as a budget of parameters allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from experiments.harness.layer_configs import Kind, build
from experiments.harness.training import parameter_count
from rnnscan import SequenceModel


def make(
    config: Kind, key: jax.Array, *, width: int, depth: int, length: int, **ends: Any
) -> SequenceModel:
    """Mixers as wide as the stream between them.

    length: of the sequences, for what is made for one. ends: what `SequenceModel.init` takes
    besides: outputs, tokens or input_size, and read.
    """

    def mixer(key: jax.Array, width: int) -> Any:
        return build(config, key, input_size=width, hidden=width, length=length)

    return SequenceModel.init(key, mixer, width=width, depth=depth, **ends)


def widest(config: Kind, parameters: int, **sizes: Any) -> int:
    """The largest width, a multiple of 4 (attention has four heads), with no more parameters.

    >>> from experiments.harness.layer_configs import Dense
    >>> widest(Dense(name="a", kind="GRU"), 20_000, depth=2, length=1, tokens=9, outputs=9)
    36
    """

    def model(width: int) -> Callable[[jax.Array], SequenceModel]:
        return lambda key: make(config, key, width=width, **sizes)

    return largest(model, parameters, step=4, name=config.name)


def largest(
    model: Callable[[int], Callable[[jax.Array], Any]],
    parameters: int,
    *,
    step: int = 1,
    name: str,
) -> int:
    """The largest size, a multiple of `step`, at which a model has no more than so many parameters.

    model(size) takes a key and makes the model; nothing is computed. name: of whatever does not fit
    at its smallest, for the error.
    """

    def count(size: int) -> int:
        return parameter_count(jax.eval_shape(model(size), jax.random.key(0)))

    if count(step) > parameters:
        raise ValueError(
            f"parameters = {parameters}: should be at least {count(step)}, which {name} has at a "
            f"width of {step}"
        )
    low, high = 1, 2  # in steps
    while count(high * step) <= parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle * step) <= parameters else (low, middle)
    return low * step
