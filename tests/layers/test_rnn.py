"""RNN beyond the laws and beyond torch: its numbers of weights, its initialisation, its program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.layers import RNN


def test_the_weights_of_the_article_and_their_number():
    # 128 * (100 + 128) weights, and two bias vectors of 128 where the formula with one has one.
    def count(**kwargs):
        layer = jax.eval_shape(lambda: RNN.init(jax.random.key(0), 100, 128, **kwargs))
        return sum(leaf.size for leaf in jax.tree.leaves(layer))

    assert count(bias=False) == 29_184
    assert count() == 29_440


def test_unknown_nonlinearity():
    with pytest.raises(ValueError, match=r"nonlinearity: expected 'tanh' or 'relu', got 'sin'"):
        RNN.init(jax.random.key(0), 3, 4, nonlinearity="sin")
    with pytest.raises(ValueError, match=r"nonlinearity: .* got 'gelu'"):
        RNN.from_torch({"weight_ih_l0": np.eye(4), "weight_hh_l0": np.eye(4)}, nonlinearity="gelu")


def test_init_draws_as_torch_does():
    layer = RNN.init(jax.random.key(0), 50, 100, num_layers=2, bidirectional=True)
    for leaf in jax.tree.leaves(layer):
        leaf = np.asarray(leaf)
        assert np.abs(leaf).max() <= 0.1  # uniform(-1/sqrt(100), 1/sqrt(100))
        assert abs(leaf.std() * 3**0.5 / 0.1 - 1) < 4 / leaf.size**0.5
    starts = {tuple(np.asarray(leaf).ravel()[:2]) for leaf in jax.tree.leaves(layer)}
    assert len(starts) == len(jax.tree.leaves(layer))  # nothing is drawn twice


def test_recurrent_init_draws_the_recurrent_matrices_alone():
    key = jax.random.key(0)
    kwargs = {"num_layers": 2, "bidirectional": True}
    plain = RNN.init(key, 3, 4, **kwargs)
    layer = RNN.init(key, 3, 4, recurrent_init=jax.nn.initializers.orthogonal(), **kwargs)
    for before, after in zip(sum(plain.cells, ()), sum(layer.cells, ()), strict=True):
        product = jnp.matmul(after.w_hh, after.w_hh.T, precision="highest")
        np.testing.assert_allclose(product, np.eye(4), atol=1e-6)
        np.testing.assert_array_equal(after.w_ih, before.w_ih)


def test_stepping_in_both_directions_is_refused():
    layer = RNN.init(jax.random.key(0), 3, 4, bidirectional=True)
    with pytest.raises(ValueError, match=r"step: expected .* one direction, got bidirectional"):
        layer.step(jnp.zeros(3))


def test_the_time_of_compiling_does_not_grow_with_length():
    layer = jax.eval_shape(lambda: RNN.init(jax.random.key(0), 3, 4))
    gradient = jax.jit(jax.grad(lambda layer, x: jnp.sum(layer(x)[0])))
    sizes = {
        len(gradient.lower(layer, jax.ShapeDtypeStruct((time, 3), jnp.float32)).as_text())
        for time in (2000, 9000)
    }
    assert len(sizes) == 1
