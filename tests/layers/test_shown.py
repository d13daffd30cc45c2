"""What a shell shows of a layer: shapes and options, whatever its leaves are."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

from rnnscan import GRU, CausalSelfAttention, Mamba, SequenceModel
from rnnscan.layer_parts.layer import Layer
from tests.layers.cases import LAYERS, make

KEY = jax.random.key(0)


class Rude:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_shows_shapes_instead_of_numbers(name):
    layer = make(name)
    text = repr(layer)
    assert text.startswith(f"{type(layer).__name__}(")
    assert "Array" not in text
    assert text.count("float32[") == len(jax.tree.leaves(layer))
    traced = []
    jax.eval_shape(lambda layer: traced.append(repr(layer)), layer)
    assert traced == [text]
    assert repr(jax.eval_shape(lambda: layer)) == text
    for leaf in (object(), None, Rude(), {"a": [Rude]}, len):
        assert type(layer).__name__ in repr(jax.tree.map(lambda _, leaf=leaf: leaf, layer))
    assert type(layer).__name__ in repr(object.__new__(type(layer)))  # without its fields


def test_layers_in_layers_are_indented():
    layer = GRU.init(KEY, 3, 4, num_layers=2, bias=False)
    cells = [
        f"Cell(w_ih=float32[12,{n}], w_hh=float32[12,4], b_ih=None, b_hh=None)" for n in (3, 4)
    ]
    lines = ["GRU(", "  cells=(", *(f"    ({cell},)," for cell in cells), "  ),"]
    assert repr(layer) == "\n".join([*lines, "  method='auto',", ")"])
    model = SequenceModel.init(
        KEY, lambda key, width: Mamba.init(key, width), width=8, depth=1, outputs=3, tokens=5
    )
    assert repr(model).count("float32[") == len(jax.tree.leaves(model))
    assert max(map(len, repr(model).splitlines())) <= 88


def test_a_layer_of_a_user_and_a_state_show_alike():
    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class Mine(Layer):
        w: jax.Array

    assert repr(Mine(jnp.ones((2, 3)))) == "Mine(w=float32[2,3])"
    layer = CausalSelfAttention.init(KEY, 8, num_heads=2, context=4)
    cache = jax.eval_shape(lambda: layer(jnp.ones((6, 8)))[1])
    text = "KeyValueCache(keys=float32[4,2,4], values=float32[4,2,4], position=int32[])"
    assert repr(cache) == text
