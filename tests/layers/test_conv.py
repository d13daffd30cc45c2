"""The causal convolution against a loop, against torch, and how many weights it has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.layers import CausalConv1D
from tests.layers.cases import assert_close, draw
from tests.layers.differences import gradient_by_differences

OPTIONS = {
    "plain": {"width": 3},
    "dilated": {"width": 2, "dilation": 3, "bias": False},
    "groups": {"width": 2, "groups": 2},
    "depthwise": {"width": 3, "groups": 4, "dilation": 2},
    "several_each": {"width": 2, "groups": 4, "outputs": 8},
    "one_wide": {"width": 1},
}


def make(dtype, outputs=4, **options):
    return CausalConv1D.init(jax.random.key(0), 4, outputs, dtype=dtype, **options)


def by_definition(p, layer):
    """y_t = b + sum_k W_k x_{t - k * dilation}, group by group."""
    window = np.concatenate([p["state"], p["x"]])
    w, reach = p["w"], layer.reach
    y = np.zeros((len(p["x"]), layer.output_size))
    per_out, per_in = layer.output_size // layer.groups, layer.input_size // layer.groups
    for t in range(len(y)):
        for o in range(layer.output_size):
            first = o // per_out * per_in
            for k in range(layer.width):
                seen = window[reach + t - k * layer.dilation]
                y[t, o] += w[k, o] @ seen[first : first + per_in]
        y[t] += p.get("b", 0)
    return y, window[len(window) - reach :]


@pytest.mark.parametrize(
    ("option", "steps", "x64"),
    [
        *((option, 5, True) for option in OPTIONS),
        *((option, 1, True) for option in ("plain", "dilated")),  # fewer than the window reaches
        *((option, 5, False) for option in ("plain", "depthwise")),
    ],
    indirect=["x64"],
)
def test_equals_a_loop_with_all_gradients(option, steps, x64):
    dtype = jnp.float64 if x64 else jnp.float32
    layer = make(dtype, **OPTIONS[option])
    x, state = draw(steps, 4, dtype=dtype), draw(layer.reach, 4, seed=2, dtype=dtype)
    dy = draw(steps, layer.output_size, seed=3, dtype=dtype)
    dlast = draw(layer.reach, 4, seed=4, dtype=dtype)

    @jax.jit
    def run(layer, x, state):
        out, backward = jax.vjp(lambda f, *a: f(*a), layer, x, state)
        return out, *backward((dy, dlast))

    out, of_layer, of_x, of_state = run(layer, x, state)
    arrays = {"w": layer.w, "b": layer.b, "x": x, "state": state}
    arrays = {k: np.asarray(v, np.float64) for k, v in arrays.items() if v is not None}
    dy, dlast = (np.asarray(d, np.float64) for d in (dy, dlast))
    expected = tuple(a.astype(dtype) for a in by_definition(arrays, layer))
    assert_close(out, expected, 1e-13 if x64 else 1e-6)

    def value(p):
        y, last = by_definition(p, layer)
        return np.sum(y * dy) + np.sum(last * dlast)

    found = {"w": of_layer.w, "b": of_layer.b, "x": of_x, "state": of_state}
    gradients = gradient_by_differences(value, arrays)
    found = {k: found[k] for k in gradients}
    expected = {k: g.astype(dtype) for k, g in gradients.items()}
    assert_close(found, expected, 1e-8 if x64 else 2e-6)


@pytest.mark.parametrize("option", OPTIONS)
def test_equals_torch_with_zeros_on_the_left(option):
    torch = pytest.importorskip("torch")
    with jax.enable_x64(True):
        layer = make(jnp.float64, **OPTIONS[option])
        x, dy = draw(2, 7, 4, dtype=jnp.float64), draw(2, 7, layer.output_size, seed=3)
        dy = dy.astype(jnp.float64)

        @jax.jit
        def run(layer, x):
            y, backward = jax.vjp(lambda layer, x: layer(x)[0], layer, x)
            return y, *backward(dy)

        y, of_layer, of_x = run(layer, x)
        theirs = torch.nn.Conv1d(
            4,
            layer.output_size,
            layer.width,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=layer.b is not None,
            dtype=torch.float64,
        )

        def flipped(w):  # (outputs, inputs / groups, width), the oldest input first
            return np.transpose(np.asarray(w), (1, 2, 0))[..., ::-1].copy()

        theirs.weight.data = torch.tensor(flipped(layer.w))
        if layer.b is not None:
            theirs.bias.data = torch.tensor(np.asarray(layer.b))
        given = torch.tensor(np.asarray(x), requires_grad=True)
        padded = torch.nn.functional.pad(given.mT, (layer.reach, 0))
        out = theirs(padded).mT
        out.backward(torch.tensor(np.asarray(dy)))
        assert_close(np.asarray(y), out.detach().numpy(), 1e-13)
        assert_close(np.asarray(of_x), given.grad.numpy(), 1e-13)
        assert_close(flipped(of_layer.w), theirs.weight.grad.numpy(), 1e-13)
        if layer.b is not None:
            assert_close(np.asarray(of_layer.b), theirs.bias.grad.numpy(), 1e-13)


def test_the_weights_of_the_article_and_their_number():
    def count(**options):
        layer = jax.eval_shape(lambda: CausalConv1D.init(jax.random.key(0), 100, 128, **options))
        return sum(leaf.size for leaf in jax.tree.leaves(layer))

    assert count(width=3, bias=False) == 38_400
    assert count(width=3) == 38_528
    assert count(width=3, dilation=7, groups=4, bias=False) == 9_600


def test_init_draws_as_torch_does():
    layer = CausalConv1D.init(jax.random.key(0), 50, 100, width=4, groups=2)
    for leaf in jax.tree.leaves(layer):
        leaf = np.asarray(leaf)
        assert np.abs(leaf).max() <= 0.1  # 1 / sqrt(4 * 50 / 2)
        assert abs(leaf.std() * 3**0.5 / 0.1 - 1) < 4 / leaf.size**0.5


def test_the_backward_pass_keeps_the_window_once():
    layer = make(jnp.float32, outputs=8, width=5)
    _, backward = jax.vjp(lambda layer, x: layer(x)[0], layer, draw(200, 4))
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.size >= 200]
    assert [leaf.shape for leaf in kept] == [(204, 4)]


WRONG = {
    "width": ({"width": 0}, r"width: expected an integer >= 1, got 0"),
    "dilation": ({"dilation": 1.5}, r"dilation: expected an integer >= 1, got 1\.5"),
    "groups": ({"groups": 3}, r"groups: .* divisor of input_size = 4 and output_size = 4, got 3"),
    "dtype": ({"dtype": jnp.int32}, r"dtype: .*floating dtype, got int32"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_init_refuses(wrong):
    options, message = WRONG[wrong]
    with pytest.raises((ValueError, TypeError), match=message):
        CausalConv1D.init(jax.random.key(0), 4, 4, **options)


def test_halves_are_computed_in_float32():
    layer, x = make(jnp.bfloat16, width=4, groups=4), draw(2, 20, 4, dtype=jnp.bfloat16)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layer)
    y, last = layer(x)
    y_wide, last_wide = wide(x.astype(jnp.float32))
    np.testing.assert_array_equal(y, y_wide.astype(jnp.bfloat16), strict=True)
    np.testing.assert_array_equal(last, last_wide.astype(jnp.bfloat16), strict=True)


def test_no_steps_and_no_sequences_of_a_grouped_convolution():
    layer = CausalConv1D.init(jax.random.key(0), 4, 6, groups=2)
    for shape in ((2, 0, 4), (0, 2, 4)):
        y, _ = layer(jnp.zeros(shape))
        assert y.shape == (*shape[:-1], 6)
    assert layer.step(jnp.zeros((0, 4)))[0].shape == (0, 6)
