"""What a layer keeps for its backward pass: its input and its states, nothing else as large."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.layers.cases import FEATURES, draw, make

TIME, BATCH, HIDDEN = 500, 8, 4


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize(("name", "states"), [("rnn", 2), ("linear", 1), ("lru", 1)])
def test_the_backward_pass_keeps_the_states_alone(name, states, padded):
    layer, x = make(name), draw(BATCH, TIME, FEATURES)
    lengths = np.full(BATCH, TIME - 1) if padded else None
    y, backward = jax.vjp(lambda layer, x: layer(x, lengths=lengths)[0], layer, x)
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.size >= TIME]
    h = [leaf for leaf in kept if leaf.shape[-1] == HIDDEN]
    flags = [leaf for leaf in kept if leaf.dtype == bool]
    inputs = [leaf for leaf in kept if leaf.shape[-1] == FEATURES]
    assert (len(h), len(inputs)) == (states, 1)
    assert len(kept) == len(h) + len(flags) + len(inputs)
    assert all(leaf.size == BATCH * TIME for leaf in flags)  # one a step
    assert jnp.isfinite(y).all()
