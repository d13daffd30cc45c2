"""The fully connected net against NumPy, its hard limit, and how its weights grow."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.layers import MLP
from tests.layers.cases import assert_close, draw
from tests.layers.differences import gradient_by_differences

KEY = jax.random.key(0)


def by_definition(p, x):
    h = p["w_in"] @ x.ravel() + p.get("b_in", 0)
    y = np.array([z * (1 + math.erf(z / 2**0.5)) / 2 for z in h])  # gelu
    return y if "w_out" not in p else p["w_out"] @ y + p.get("b_out", 0)


@pytest.mark.parametrize(("outputs", "bias"), [(None, False), (2, True)])
def test_equals_its_definition_with_all_gradients(outputs, bias, x64):
    dtype = jnp.float64 if x64 else jnp.float32
    layer = MLP.init(KEY, 3, 5, outputs, length=4, bias=bias, dtype=dtype)
    x, lengths = draw(2, 4, 3, dtype=dtype), [4, 2]
    dy = draw(2, 1, layer.output_size, seed=3, dtype=dtype)
    given = x.at[1, 2:].set(jnp.nan)  # padding

    @jax.jit
    def run(layer, x):
        y, backward = jax.vjp(lambda layer, x: layer(x, None, lengths)[0], layer, x)
        return y, *backward(dy)

    y, of_layer, of_x = run(layer, given)
    names = [
        name for name in ("w_in", "b_in", "w_out", "b_out") if getattr(layer, name) is not None
    ]
    arrays = {name: np.asarray(getattr(layer, name), np.float64) for name in names}
    arrays["x"] = np.array(x, np.float64)
    arrays["x"][1, 2:] = 0
    g = np.asarray(dy, np.float64)

    def both(p):
        return np.stack([by_definition(p, one)[None] for one in p["x"]])

    assert_close(y, both(arrays).astype(dtype), 1e-14 if x64 else 1e-6)
    expected = gradient_by_differences(lambda p: np.sum(both(p) * g), arrays)
    expected["x"][1, 2:] = 0
    found = {name: getattr(of_layer, name) for name in names} | {"x": of_x}
    expected = {name: value.astype(dtype) for name, value in expected.items()}
    assert_close(found, expected, 1e-8 if x64 else 2e-6)


def test_stepping_slides_the_window():
    layer, x = MLP.init(KEY, 3, 4, 2, length=4), draw(2, 7, 3)

    @jax.jit
    def run(layer, x):
        state, ys = None, []
        for t in range(7):
            y, state = layer.step(x[:, t], state)
            ys.append(y)
        before = jnp.concatenate([jnp.zeros((2, 3, 3)), x], 1)
        windows = [layer(before[:, t : t + 4]) for t in range(7)]
        return (jnp.stack(ys, 1), state), windows

    (y, state), windows = run(layer, x)
    assert_close(y, jnp.concatenate([y for y, _ in windows], 1), 1e-6)
    np.testing.assert_array_equal(state, x[:, 3:])
    np.testing.assert_array_equal(windows[-1][1], x[:, 3:])


def test_any_batch_axes_and_what_came_before_is_pushed_out():
    layer, x = MLP.init(KEY, 3, 4, length=2), draw(2, 3, 2, 3)
    y, window = layer(x, draw(2, 3, 2, 3, seed=9))
    assert (y.shape, window.shape) == ((2, 3, 1, 4), x.shape)
    assert_close(layer(x[1, 2]), (y[1, 2], window[1, 2]), 1e-6)


def test_any_other_length_is_refused():
    layer = MLP.init(KEY, 3, 4, length=5)
    for steps in (0, 4, 6):
        message = rf"x: expected exactly 5 steps, the hard limit .*got {steps}; pad or cut"
        with pytest.raises(ValueError, match=message):
            layer(jnp.zeros((2, steps, 3)))


def test_the_weights_of_the_article_and_how_they_grow():
    def count(length, **options):
        layer = jax.eval_shape(lambda: MLP.init(KEY, 100, 128, length=length, **options))
        return sum(leaf.size for leaf in jax.tree.leaves(layer))

    assert count(10, bias=False) == 128_000
    assert count(10) == 128_128
    assert count(10_000, bias=False) == 128_000_000


def test_init_draws_as_torch_does():
    layer = MLP.init(KEY, 25, 100, 50, length=4)
    for leaf in jax.tree.leaves(layer):
        leaf = np.asarray(leaf)
        assert np.abs(leaf).max() <= 0.1  # 1 / sqrt(4 * 25) and 1 / sqrt(100)
        assert abs(leaf.std() * 3**0.5 / 0.1 - 1) < 4 / leaf.size**0.5


def test_halves_are_computed_in_float32():
    layer = MLP.init(KEY, 3, 64, 2, length=9, dtype=jnp.bfloat16)
    wide, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layer), draw(9, 3)
    x = x.astype(jnp.bfloat16)
    y, window = layer(x)
    expected = wide(x.astype(jnp.float32))[0].astype(jnp.bfloat16)
    np.testing.assert_array_equal(y, expected, strict=True)
    assert window.dtype == jnp.bfloat16


WRONG = {
    "length": (lambda: MLP.init(KEY, 3, 4, length=0), r"length: expected an integer >= 1, got 0"),
    "outputs": (lambda: MLP.init(KEY, 3, 4, 0, length=2), r"output_size: .* >= 1, got 0"),
    "features": (lambda: LAYER(jnp.zeros((2, 5, 4))), r"x: .*\(\.\.\., time, 3\), got \(2, 5, 4\)"),
    "state": (lambda: LAYER(X, X[:, 1:]), r"state: expected shape \(2, 5, 3\), got \(2, 4, 3\)"),
    "lengths": (lambda: LAYER(X, None, [5, 6]), r"lengths: expected values in 0\.\.5.* got 6"),
    "step": (lambda: LAYER.step(jnp.zeros(4)), r"x_t: expected shape \(\.\.\., 3\), got \(4,\)"),
}
X, LAYER = jnp.zeros((2, 5, 3)), MLP.init(KEY, 3, 4, length=5)


@pytest.mark.parametrize("wrong", WRONG)
def test_errors_name_the_argument(wrong):
    call, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        call()


def test_an_empty_batch():
    layer = MLP.init(jax.random.key(0), 3, 4, 2, length=5)
    assert layer(jnp.zeros((0, 5, 3)), lengths=[])[0].shape == (0, 1, 2)
    assert layer.step(jnp.zeros((0, 3)))[0].shape == (0, 2)
