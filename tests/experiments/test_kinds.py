"""The table of layers: every one of rnnscan, each told apart, each made by a config."""

import inspect
import itertools

import jax
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from experiments.harness.kinds import KINDS, cost, kind_of
from experiments.harness.layer_configs import build, by_default, describe_init
from rnnscan import layers

NO_LAYERS = {"SequenceModel", "KeyValueCache"}  # a network of layers, and a state


def test_every_layer_is_in_the_table():
    exported = {name for name, value in vars(layers).items() if isinstance(value, type)}
    assert set(KINDS) == exported - NO_LAYERS
    assert all(getattr(layers, name) is kind.layer for name, kind in KINDS.items())


def test_no_two_layers_look_alike():
    assert len({kind.marker for kind in KINDS.values()}) == len(KINDS)
    for one, other in itertools.combinations(KINDS.values(), 2):
        apart = np.linalg.norm(_lab(one.color) - _lab(other.color))
        assert apart > 20, f"{one.name} and {other.name} differ by {apart:.0f} in CIELAB"


def _lab(colour):
    """CIELAB, in which 2 is a difference that one just sees."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("name", KINDS)
def test_a_config_makes_every_layer_and_its_facts_are_so(name):
    kind = KINDS[name]
    config = by_default(name)
    assert describe_init(config)

    def made(hidden):
        sizes = {"input_size": 6, "hidden": hidden, "length": 5}
        return jax.eval_shape(lambda: build(config, jax.random.key(0), **sizes))

    layer = made(16)
    assert kind_of(layer) is kind
    shapes, wider = (jax.tree.map(lambda leaf: leaf.shape, made(size)) for size in (16, 32))
    assert kind.as_wide_as_input == (jax.tree.leaves(shapes) == jax.tree.leaves(wider))
    x = jax.ShapeDtypeStruct((3, 5, 6), "float32")
    y, state = jax.eval_shape(lambda layer, x: layer(x), layer, x)
    assert kind.one_output == (y.shape[1] == 1)
    assert kind.attends == ("context" in kind.options.model_fields)
    assert kind.between
    assert kind.complex_state == any(leaf.dtype.kind == "c" for leaf in jax.tree.leaves(state))
    assert not kind.linear or "method" in inspect.signature(kind.layer.__call__).parameters
    each = cost(layer, 3, 5)
    assert 0 < each.words[0] < each.words[1]
    assert min(each.flops, each.held) > 0


@pytest.mark.parametrize("kind", ["MinGRU", "MinLSTM"])
@pytest.mark.parametrize(("bias", "words"), [(2.0, "0.762"), (-2.0, "-0.762"), (None, "0")])
def test_signed_decays_begin_where_the_config_says(kind, bias, words):
    """2 sigmoid(2) - 1 = 0.762, whatever x is where a bias alone speaks."""
    config = by_default(kind, decay_bias=bias, signed=True)
    assert describe_init(config) == f"signed decays near {words}"
    layer = build(config, jax.random.key(0), input_size=3, hidden=400)
    assert layer.signed
    assert not build(by_default(kind), jax.random.key(0), input_size=3, hidden=4).signed

    def last(h):
        return layer.step(np.zeros(3, np.float32), h)[0]

    h = np.ones(400, np.float32)
    decays = last(h) - last(np.zeros_like(h))
    near = 1e-6 if bias else 0.04  # the mean of 400 that are drawn
    assert abs(decays.mean() - float(words)) < near + 1e-3


@pytest.mark.parametrize("kind", ["SelectiveSSM", "Mamba"])
@pytest.mark.parametrize("signed", [False, True])
def test_steps_and_signs_of_a_state_space_are_those_of_the_config(kind, signed):
    """Without input the entry n of a state is left with a = exp(-n dt) of itself, or 2 a - 1."""
    config = by_default(kind, dt_min=0.5, dt_max=0.5, signed=signed)
    assert describe_init(config) == ("signed " if signed else "") + "steps [0.5, 0.5]"
    layer = build(config, jax.random.key(0), input_size=3, hidden=3)
    ssm = KINDS[kind].state_space(layer)
    ones = np.ones((ssm.input_size, 16), np.float32)
    _, left = ssm.step(np.zeros(ssm.input_size, np.float32), ones)
    decay = np.exp(-0.5 * np.arange(1, 17))
    expected = ones * (2 * decay - 1 if signed else decay)
    np.testing.assert_allclose(left, expected, rtol=1e-4, atol=1e-6)


def test_what_is_no_layer_has_no_costs():
    with pytest.raises(TypeError, match="layer: got int, expected one of rnnscan"):
        cost(3, 1, 1)
