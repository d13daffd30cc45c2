"""Typical mistakes with layers: each is refused where it is made, and the message says the cure."""

import copy
import dataclasses
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import (
    GRU,
    LRU,
    LSTM,
    MLP,
    RNN,
    CausalConv1D,
    CausalSelfAttention,
    LinearRNN,
    Mamba,
    MinGRU,
    MinLSTM,
    SelectiveSSM,
    SequenceModel,
)
from tests.layers.cases import FEATURES, LAYERS, make

KEY = jax.random.key(0)
INITS = {  # of every layer, by a key
    **LAYERS,
    "mlp": lambda key: MLP.init(key, 3, 4, length=2),
    "model": lambda key: SequenceModel.init(
        key, lambda key, width: MinGRU.init(key, width, 2), width=4, depth=1, outputs=2, tokens=9
    ),
}


@pytest.mark.parametrize("name", INITS)
def test_every_init_wants_one_key(name):
    for wrong, message in (
        (0, r"as jax\.random\.key\(0\) makes it, got 0"),
        (None, "got None"),
        (np.random.default_rng(0), "got a Generator"),
        (np.zeros(2), "got an array of float64"),
        (jax.random.split(KEY), r"expected one key, got \(2,\) of them"),
        (jax.random.split(jax.random.PRNGKey(0), 3), r"expected one key, got \(3,\) of them"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^key: .*{message}"):
            INITS[name](wrong)


def test_keys_of_both_kinds_make_the_same_layer():
    raw = jax.random.PRNGKey(0)
    expected = LinearRNN.init(KEY, 3, 4)
    for key in (raw, np.asarray(raw)):
        made = LinearRNN.init(key, 3, 4)
        jax.tree.map(np.testing.assert_array_equal, made, expected)
    shapes = jax.eval_shape(jax.vmap(lambda key: GRU.init(key, 3, 4)), jax.random.split(KEY, 5))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(shapes)} == {5}


CLASSES = (
    *(GRU, LRU, LSTM, MLP, RNN, CausalConv1D, CausalSelfAttention, LinearRNN, Mamba, MinGRU),
    *(MinLSTM, SelectiveSSM, SequenceModel),
)


@pytest.mark.parametrize("layer", CLASSES)
def test_a_constructor_that_is_given_sizes_names_init(layer):
    message = rf"^{layer.__name__}: .* to draw them, {layer.__name__}\.init\(jax\.random\.key\(0\)"
    for wrong in (
        lambda: layer(3, 16),
        lambda: layer(KEY, 3, 16),
        lambda: layer(KEY),
        lambda: layer(input_size=3, hidden_size=4),
    ):
        with pytest.raises(TypeError, match=message):
            wrong()


def test_copies_and_trees_of_layers_hold_what_they_like():
    for layer in (make("lru"), make("gru"), make("mamba"), INITS["model"](KEY)):
        leaves, structure = jax.tree.flatten(layer)
        for other in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert jax.tree.structure(other) == structure
            jax.tree.map(np.testing.assert_array_equal, other, layer)
        numbers = jax.tree.map(lambda leaf: leaf.size, layer)
        assert jax.tree.leaves(numbers) == [leaf.size for leaf in leaves]
        structure.unflatten([object()] * len(leaves))
    assert dataclasses.replace(make("lru"), nu_log=3).nu_log == 3

    class Own(GRU):  # with a constructor of its own
        def __init__(self, size):
            super().__init__(make("gru").cells)
            object.__setattr__(self, "size", size)

    assert Own(3).size == 3


class Own:
    output_size = 4


class Stateless(NamedTuple):
    scale: jax.Array
    output_size = 4

    def __call__(self, x, state=None, lengths=None):
        return x * self.scale[None, None], state


def model_of(mixer, **kwargs):
    size = {"width": 4, "depth": 1, "outputs": 2, "tokens": 9} | kwargs
    return SequenceModel.init(KEY, mixer, **size)


X, STEP = jnp.ones((2, 5, FEATURES)), jnp.ones((2, FEATURES))
DONE = np.zeros((2, 5), bool)
TOO_MANY = r"^x_t: expected one step, of shape \(2, 3\) as the state says, got \(2, 5, 3\): a time"
BY_NAME = r"^state: expected .*; lengths are given by name, as lengths="
A_FUNCTION = r"^mixer: expected a function \(key, width\) that makes a layer, for instance lambda"
WRONG = {
    "mixer_made": (lambda: model_of(make("gru")), A_FUNCTION + ".*got a layer, made already"),
    "mixer_named": (lambda: model_of("gru"), A_FUNCTION + ".*got 'gru'"),
    "mixer_init": (lambda: model_of(GRU.init), A_FUNCTION + ".*other arguments: .*hidden_size"),
    "mixer_of_one": (lambda: model_of(lambda width: None), A_FUNCTION + ".*other arguments: too"),
    "mixer_none": (lambda: model_of(lambda key, width: None), A_FUNCTION + ".*returns None"),
    "mixer_class": (lambda: model_of(lambda key, width: GRU), A_FUNCTION + ".*the class GRU"),
    "mixer_width": (
        lambda: model_of(lambda key, width: GRU.init(key, 5, width)),
        r"^mixer: expected a layer of 4 input features, the width, got a GRU of 5",
    ),
    "dtype": (lambda: GRU.init(KEY, 3, 4, dtype="flaot32"), r"^dtype: .* got 'flaot32'"),
    "none": (lambda: make("gru")(None), r"^x: expected an array, got None"),
    "ragged": (lambda: make("gru")([[[1.0] * 3], []]), r"^x: expected an array, got a list: "),
    "ragged_tokens": (lambda: INITS["model"](KEY)([[1, 2], [3]]), r"^x: expected an array of int"),
    "initial_state": (
        lambda: INITS["model"](KEY).initial_state(2),
        r"^batch: expected the batch axes, \(2,\) say, got 2",
    ),
    "time_first": (
        lambda: make("gru")(jnp.ones((5, 2, FEATURES)), lengths=[5, 2]),
        r"^lengths: expected shape \(5,\), the axes of x before time, .* got \(2,\)",
    ),
    "done_as_state": (lambda: make("gru").step(STEP, DONE[:, 0]), r"^state: .*got bool; .*a reset"),
    "done_as_a_pair": (lambda: make("lstm")(X, DONE), r"^state: expected a pair .*so is a reset"),
    "lengths_as_a_pair": (lambda: make("lstm")(X, [5, 3]), BY_NAME),
    "done_as_lengths": (
        lambda: make("gru")(X, None, DONE),
        r"^lengths: .*bool; a reset is given by",
    ),
    "reset_of_time": (lambda: make("gru")(X, reset=DONE.T), r"^reset: .*; reset.T would broadcast"),
    "keys_of_torch": (lambda: GRU.from_torch({1: 2.0}), r"^from_torch: expected names as keys"),
    "mixer_no_pytree": (lambda: model_of(lambda key, width: Own()), r"^mixer: expected .* pytree"),
    "mixer_no_reset": (
        lambda: model_of(lambda key, width: Stateless(jnp.ones(4)))([[1]], reset=[True]),
        r"^reset: the mixer Stateless takes none",
    ),
    "model_lengths": (lambda: INITS["model"](KEY)([[1, 2]], [2]), BY_NAME),
    "model_lengths_array": (lambda: INITS["model"](KEY)([[1, 2]], np.array([2])), BY_NAME),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_message_says_the_cure(wrong):
    call, message = WRONG[wrong]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("name", LAYERS)
def test_lengths_in_the_place_of_the_state_and_a_step_with_a_time_axis(name):
    layer = make(name)
    for lengths in ([5, 2], np.array([5, 2])):
        with pytest.raises((TypeError, ValueError), match=BY_NAME):
            layer(X, lengths)
    if not getattr(layer, "bidirectional", False):
        state = jax.eval_shape(layer.step, STEP)[1]
        state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
        with pytest.raises(ValueError, match=TOO_MANY):
            layer.step(X, state)
