"""The layers that every law is tried on, and what the tests compare with."""

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan.layers import (
    GRU,
    LRU,
    LSTM,
    RNN,
    CausalConv1D,
    CausalSelfAttention,
    KeyValueCache,
    LinearRNN,
    Mamba,
    MinGRU,
    MinLSTM,
    SelectiveSSM,
)

FEATURES = 3

LAYERS = {
    "rnn": lambda key, **kw: RNN.init(key, FEATURES, 4, num_layers=2, **kw),
    "bidirectional": lambda key, **kw: RNN.init(
        key, FEATURES, 4, bidirectional=True, bias=False, nonlinearity="relu", **kw
    ),
    "lstm": lambda key, **kw: LSTM.init(key, FEATURES, 4, **kw),
    "lstm_both": lambda key, **kw: LSTM.init(
        key, FEATURES, 4, bidirectional=True, bias=False, **kw
    ),
    "gru": lambda key, **kw: GRU.init(key, FEATURES, 4, num_layers=2, **kw),
    "gru_both": lambda key, **kw: GRU.init(key, FEATURES, 4, bidirectional=True, bias=False, **kw),
    "linear": lambda key, **kw: LinearRNN.init(key, FEATURES, 4, **kw),
    "lru": lambda key, **kw: LRU.init(key, FEATURES, 4, r_min=0.5, **kw),
    "min_gru": lambda key, **kw: MinGRU.init(key, FEATURES, 4, **kw),
    "min_lstm": lambda key, **kw: MinLSTM.init(key, FEATURES, 4, bias=False, **kw),
    "selective_ssm": lambda key, **kw: SelectiveSSM.init(
        key, FEATURES, state_size=4, stretch=2, **kw
    ),
    "mamba": lambda key, **kw: Mamba.init(key, FEATURES, state_size=4, **kw),
    "attention": lambda key, **kw: CausalSelfAttention.init(
        key, FEATURES, 4, num_heads=2, context=4, **kw
    ),
    "conv": lambda key, **kw: CausalConv1D.init(key, FEATURES, 4, dilation=2, **kw),
    "conv_depthwise": lambda key, **kw: CausalConv1D.init(
        key, FEATURES, FEATURES, width=2, groups=FEATURES, bias=False, **kw
    ),
}
BOTH_WAYS = ("bidirectional", "lstm_both", "gru_both")
LAYERS_FIRST = (RNN, LSTM, GRU)  # their states have the layers in front of the batch
# The same by another method, and the options left over: for the laws that a method could break.
TREES = {
    "linear_tree": lambda key, **kw: LinearRNN.init(
        key, FEATURES, 4, bias=False, method="associative", **kw
    ),
    "selective_ssm_tree": lambda key, **kw: SelectiveSSM.init(
        key, FEATURES, state_size=4, discretisation="zoh", method="associative", **kw
    ),
    "min_gru_signed": lambda key, **kw: MinGRU.init(
        key, FEATURES, 4, signed=True, method="associative", **kw
    ),
    "lru_tree": lambda key, **kw: LRU.init(key, FEATURES, 4, 2, method="associative", **kw),
}


def make(name, dtype=jnp.float32):
    return (LAYERS | TREES)[name](jax.random.key(0), dtype=dtype)


def draw(*shape, seed=1, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def draw_state(layer, batch, seed=2):
    """A state with the structure, shapes and dtypes that `layer` returns for this batch shape."""
    dtype = jax.tree.leaves(layer)[0].dtype
    _, state = jax.eval_shape(layer, jax.ShapeDtypeStruct((*batch, 1, FEATURES), dtype))
    if isinstance(state, KeyValueCache):  # one that steps have filled
        _, cache = layer(draw(*batch, 3, FEATURES, seed=seed, dtype=dtype))
        return cache
    leaves, structure = jax.tree.flatten(state)
    drawn = []
    for i, leaf in enumerate(leaves):
        real, imaginary = (draw(*leaf.shape, seed=seed + 2 * i + j, dtype=dtype) for j in (0, 1))
        is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
        drawn.append(jax.lax.complex(real, imaginary) if is_complex else real)
    return structure.unflatten(drawn)


def one_of(layer, state, index):
    """The state of one sequence of a batch."""
    first = isinstance(layer, LAYERS_FIRST)
    return jax.tree.map(lambda leaf: leaf[:, *index] if first else leaf[index], state)


def assert_close(actual, desired, tolerance=2e-6, note=""):
    """Equal structure, shapes and dtypes, and values within tolerance * the largest desired one."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired), note
    pairs = zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(desired), strict=True)
    for (path, a), d in pairs:
        a, d = np.asarray(a), np.asarray(d)
        where = f"{note} {jax.tree_util.keystr(path)}"
        if d.dtype == jax.dtypes.float0:  # the gradient of an integer
            continue
        assert (a.shape, a.dtype) == (d.shape, d.dtype), where
        if a.size and not np.issubdtype(d.dtype, np.inexact):
            np.testing.assert_array_equal(a, d, where)
        elif a.size:
            scale = max(np.abs(d).max(), np.finfo(d.dtype).tiny)
            error = np.abs(a - d).max() / scale
            assert error <= tolerance, (
                f"{where}: {error:.2e} of the largest value > {tolerance:.0e}"
            )
