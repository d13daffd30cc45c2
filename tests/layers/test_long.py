"""Layers on more steps than an int32 counts: they lower, or say what is counted."""

import jax
import jax.numpy as jnp
import pytest

from rnnscan import MinGRU, SequenceModel
from tests.layers.cases import FEATURES, LAYERS, make

MANY = 2**32 + 3
COUNT_MORE = ("attention", "conv", "conv_depthwise", "mamba")  # steps before x too, and at resets


def specs(steps):
    """x, lengths and resets."""
    shapes = ((1, steps, FEATURES), jnp.float32), ((1,), jnp.int32), ((1, steps), jnp.bool_)
    return [jax.ShapeDtypeStruct(*given) for given in shapes]


@pytest.mark.parametrize("name", [n for n in LAYERS if n != "attention"])
def test_a_call_and_its_gradient_lower(name):
    x, _, reset = specs(MANY)

    def loss(layer, x, reset):
        results = layer(x, reset=None if name in COUNT_MORE else reset)
        return sum(jnp.sum(leaf.real) for leaf in jax.tree.leaves(results))

    found = jax.jit(jax.grad(loss, (0, 1))).lower(make(name), x, reset).out_info
    assert found[1].shape == x.shape


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_counted_says_so(name):
    layer = make(name)

    def padded(x, lengths, _):
        return layer(x, lengths=lengths)[0]

    def packed(x, _, reset):
        return layer(x, reset=reset)[0]

    if name not in COUNT_MORE:
        assert jax.eval_shape(padded, *specs(2**31 - 1)).shape[1] == 2**31 - 1
    for call in (padded, packed) if name in COUNT_MORE else (padded,):
        for steps in (2**31 - 1, 2**31, MANY) if name in COUNT_MORE else (2**31, MANY):
            with pytest.raises(ValueError, match=rf"(x|lengths|reset): got x of {steps} steps"):
                jax.eval_shape(call, *specs(steps))


def test_a_mean_is_over_all_of_them():
    """Not over the 3 that their number is in 32 bits."""
    model = SequenceModel.init(
        jax.random.key(0),
        lambda key, width: MinGRU.init(key, width, width),
        **{"width": 2, "depth": 1, "outputs": 1, "input_size": FEATURES, "read": "mean"},
    )
    x, _, reset = specs(MANY)
    text = jax.jit(lambda x: model(x)[0]).lower(x).as_text()
    assert "4.2949673E+9" in text
    with pytest.raises(ValueError, match=rf"reset: got x of {MANY} steps"):
        jax.eval_shape(lambda x, reset: model(x, reset=reset)[0], x, reset)
