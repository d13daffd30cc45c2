"""A `SequenceModel` around any kind of layer, as wide as a budget of parameters allows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from experiments.harness.config import ConfigError
from experiments.harness.layer_configs import LayerConfig, build
from experiments.harness.training import parameter_count
from rnnscan import SequenceModel


def make(
    config: LayerConfig, key: jax.Array, *, width: int, depth: int, length: int, **ends: Any
) -> SequenceModel:
    """Mixers as wide as the stream between them.

    length: of the sequences, for what is made for one. ends: what `SequenceModel.init` takes
    besides: outputs, tokens or input_size, and read.
    """

    def mixer(key: jax.Array, width: int) -> Any:
        return build(config, key, input_size=width, hidden=width, length=length)

    return SequenceModel.init(key, mixer, width=width, depth=depth, **ends)


def widest(config: LayerConfig, parameters: int, **sizes: Any) -> int:
    """The largest width, a multiple of 4 (attention has four heads), with no more parameters.

    >>> from experiments.harness.layer_options import Dense
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
        return _count(model(size))

    refuse_small_budget(parameters, {name: model(step)}, step)
    low, high = 1, 2  # in steps
    while count(high * step) <= parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle * step) <= parameters else (low, middle)
    return low * step


def check_budget(layers: Iterable[LayerConfig], parameters: int, **sizes: Any) -> None:
    """Raises ConfigError, with every layer that has more parameters at a width of 4. For a `plan`:
    nothing has run by then."""
    smallest = {layer.name: functools.partial(make, layer, width=4, **sizes) for layer in layers}
    refuse_small_budget(parameters, smallest, 4)


def refuse_small_budget(
    parameters: int, smallest: Mapping[str, Callable[[jax.Array], Any]], width: int
) -> None:
    """Raises ConfigError where models, made from a key at their smallest width, have more."""
    needed = {name: _count(model) for name, model in smallest.items()}
    faults = [
        f"parameters = {parameters}: should be at least {count}, which {name} has at a width of "
        f"{width}"
        for name, count in needed.items()
        if count > parameters
    ]
    if faults:
        raise ConfigError(faults)


def _count(model: Callable[[jax.Array], Any]) -> int:
    key = jax.eval_shape(jax.random.key, 0)  # no device is asked for
    return parameter_count(jax.eval_shape(model, key))
