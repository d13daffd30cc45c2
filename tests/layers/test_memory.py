"""What a layer keeps for its backward pass: its input, its states, and gates where it has any."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.layers.cases import FEATURES, draw, make

TIME, BATCH, HIDDEN = 500, 8, 4


@pytest.mark.parametrize("given", ["nothing", "lengths", "reset"])
@pytest.mark.parametrize(
    ("name", "states", "gates"),  # of all layers; gates: i f g o of an LSTM, r z n q of a GRU
    [("rnn", 2, 0), ("lstm", 2, 1), ("gru", 2, 2), ("linear", 1, 0), ("lru", 1, 0)],
)
def test_the_backward_pass_keeps_the_states_alone(name, states, gates, given):
    layer, x = make(name), draw(BATCH, TIME, FEATURES)
    every = {"lengths": np.full(BATCH, TIME - 1), "reset": np.arange(TIME) % 9 == 0}
    options = {name: value for name, value in every.items() if name == given}
    y, backward = jax.vjp(lambda layer, x: layer(x, **options)[0], layer, x)
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.size >= TIME]
    h = [leaf for leaf in kept if leaf.shape[-1] == HIDDEN]
    flags = [leaf for leaf in kept if leaf.dtype == bool]
    inputs = [leaf for leaf in kept if leaf.shape[-1] == FEATURES]
    of_gates = [leaf for leaf in kept if leaf.shape[-1] == 4 * HIDDEN]
    assert (len(h), len(of_gates), len(inputs)) == (states, gates, 1)
    assert len(kept) == len(h) + len(of_gates) + len(flags) + len(inputs)
    assert all(leaf.size == BATCH * TIME for leaf in flags)  # one a step
    assert jnp.isfinite(y).all()
