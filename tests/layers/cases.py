"""The layers that every law is tried on, and what the tests compare with."""

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan.layers import LRU, RNN, LinearRNN

FEATURES = 3

LAYERS = {
    "rnn": lambda key, **kw: RNN.init(key, FEATURES, 4, num_layers=2, **kw),
    "bidirectional": lambda key, **kw: RNN.init(
        key, FEATURES, 4, bidirectional=True, bias=False, nonlinearity="relu", **kw
    ),
    "linear": lambda key, **kw: LinearRNN.init(key, FEATURES, 4, **kw),
    "lru": lambda key, **kw: LRU.init(key, FEATURES, 4, r_min=0.5, **kw),
}
# The same by another method, and the options left over: for the laws that a method could break.
TREES = {
    "linear_tree": lambda key, **kw: LinearRNN.init(
        key, FEATURES, 4, bias=False, method="associative", **kw
    ),
    "lru_tree": lambda key, **kw: LRU.init(key, FEATURES, 4, 2, method="associative", **kw),
}


def make(name, dtype=jnp.float32):
    return (LAYERS | TREES)[name](jax.random.key(0), dtype=dtype)


def draw(*shape, seed=1, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def draw_state(layer, batch, seed=2):
    """A state with the shape and dtype that `layer` returns for sequences of this batch shape."""
    dtype = jax.tree.leaves(layer)[0].dtype
    _, state = jax.eval_shape(layer, jax.ShapeDtypeStruct((*batch, 1, FEATURES), dtype))
    real, imaginary = (draw(*state.shape, seed=seed + i, dtype=dtype) for i in (0, 1))
    return jax.lax.complex(real, imaginary) if jnp.iscomplexobj(state) else real


def assert_close(actual, desired, tolerance=2e-6, note=""):
    """Equal structure, shapes and dtypes, and values within tolerance * the largest desired one."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired), note
    pairs = zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(desired), strict=True)
    for (path, a), d in pairs:
        a, d = np.asarray(a), np.asarray(d)
        where = f"{note} {jax.tree_util.keystr(path)}"
        assert (a.shape, a.dtype) == (d.shape, d.dtype), where
        if a.size:
            scale = max(np.abs(d).max(), np.finfo(d.dtype).tiny)
            error = np.abs(a - d).max() / scale
            assert error <= tolerance, (
                f"{where}: {error:.2e} of the largest value > {tolerance:.0e}"
            )
