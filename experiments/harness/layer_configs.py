"""Layers as a config names them: one of the options of every kind in `kinds.py`, told by `kind`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

import jax
from pydantic import Field

from experiments.harness.kinds import KINDS
from experiments.harness.layer_options import Layer, Options, Sizes

if TYPE_CHECKING:
    LayerConfig = Options
else:
    _OPTIONS = dict.fromkeys(kind.options for kind in KINDS.values())
    LayerConfig = Annotated[Union[tuple(_OPTIONS)], Field(discriminator="kind")]  # noqa: UP007


def by_default(kind: str, **options: Any) -> LayerConfig:
    """A layer with the name of its kind, and its own options but for these."""
    return KINDS[kind].options(kind=kind, **options)


def check_names(layers: tuple[LayerConfig, ...]) -> tuple[LayerConfig, ...]:
    """Raises where two layers share a name; for a validator of a config."""
    names = [layer.name for layer in layers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"names {twice} appear more than once; should differ: give each layer a name "
            "(without one it has that of its kind)"
        )
    return layers


def build(
    config: LayerConfig,
    key: jax.Array,
    *,
    input_size: int,
    hidden: int,
    output_size: int | None = None,
    length: int | None = None,
) -> Layer:
    """The layer at initialisation; see `Sizes`."""
    sizes = Sizes(input_size, hidden, output_size, length)
    return config.build(KINDS[config.kind].layer.init, key, sizes)


def describe_init(config: LayerConfig) -> str:
    """The initialisation in a few words.

    >>> from experiments.harness.layer_options import Dense
    >>> describe_init(Dense(name="a", kind="RNN", recurrent="gaussian", gain=0.9))
    'W_hh gaussian, gain 0.9'
    """
    return config.describe()
