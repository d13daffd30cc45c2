"""The Mamba block against a float64 loop over its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.layers import Mamba
from tests.layers.cases import assert_close, draw


def silu(v):
    return v / (1 + np.exp(-v))


def by_definition(layer, x, window, h):
    """One step after another, channel for channel, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), layer)
    rank, size = layer.ssm.dt_rank, layer.ssm.state_size
    y = []
    for x_t in x:
        u, z = np.split(p.w_in @ x_t, 2)
        window = np.concatenate([window, u[None]])
        taps = p.conv.w[:, :, 0]  # taps[k] reads k steps back
        v = silu(p.conv.b + sum(taps[k] * window[-1 - k] for k in range(len(taps))))
        window = window[1:]
        r, b, c = np.split(p.ssm.w_x @ v, [rank, rank + size])
        dt = np.log1p(np.exp(p.ssm.w_dt @ r + p.ssm.b_dt))
        decay = np.exp(-dt[:, None] * np.exp(p.ssm.a_log))
        decay = 2 * decay - 1 if layer.ssm.signed else decay
        h = decay * h + np.outer(dt * v, b)
        y.append(p.w_out @ ((h @ c + p.ssm.d * v) * silu(z)))
    return np.array(y), (window, h)


@pytest.mark.parametrize(
    ("method", "width", "expand", "signed", "x64"),
    [
        ("auto", 4, 2, False, True),
        ("associative", 1, 1, True, True),
        ("sequential", 3, 3, False, True),
        ("auto", 4, 2, False, False),
        ("auto", 4, 2, True, False),
    ],
    indirect=["x64"],
)
def test_equals_its_sequential_definition(method, width, expand, signed, x64):
    dtype = np.float64 if x64 else np.float32
    options = {"conv_width": width, "expand": expand, "state_size": 4, "dt_max": 1.0}
    options["signed"] = signed
    layer = Mamba.init(jax.random.key(0), 5, method=method, dtype=dtype, **options)
    inner = 5 * expand
    x = draw(33, 5, dtype=dtype)
    state = draw(width - 1, inner, seed=2, dtype=dtype), draw(inner, 4, seed=3, dtype=dtype)
    expected = by_definition(layer, *(np.asarray(v, np.float64) for v in (x, *state)))
    expected = jax.tree.map(lambda v: v.astype(dtype), expected)
    assert_close(jax.jit(layer)(x, state), expected, 1e-13 if x64 else 2e-6)


def test_equals_a_block_of_torch_modules_in_every_gradient():
    """The published modules: Linear, Conv1d padded on both sides and cut, softplus, SiLU."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    with jax.enable_x64(True):
        layer = Mamba.init(jax.random.key(0), 6, state_size=5, dt_max=1.0, dtype=np.float64)
        x = draw(2, 19, 6, dtype=np.float64)
        dy = draw(2, 19, 6, seed=2, dtype=np.float64)
        y, backward = jax.vjp(lambda layer, x: layer(x)[0], layer, x)
        d_layer, d_x = backward(dy)

    leaves, structure = jax.tree.flatten((layer, x))
    leaves = [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in leaves]
    block, tokens = structure.unflatten(leaves)
    channels, size = block.ssm.a_log.shape
    u, z = functional.linear(tokens, block.w_in).transpose(1, 2).chunk(2, dim=1)
    taps = block.conv.w.permute(1, 2, 0).flip(2)  # torch's last tap reads the present
    v = functional.conv1d(u, taps, block.conv.b, padding=3, groups=channels)[..., :19]
    v = functional.silu(v)
    projected = functional.linear(v.transpose(1, 2), block.ssm.w_x)
    r, b, c = projected.split([layer.ssm.dt_rank, size, size], dim=-1)
    dt = functional.softplus(functional.linear(r, block.ssm.w_dt, block.ssm.b_dt))
    a, h, outputs = -block.ssm.a_log.exp(), torch.zeros(2, channels, size, dtype=v.dtype), []
    for t in range(19):
        decay = torch.exp(torch.einsum("bc,cn->bcn", dt[:, t], a))
        h = decay * h + torch.einsum("bc,bn,bc->bcn", dt[:, t], b[:, t], v[..., t])
        outputs.append(torch.einsum("bcn,bn->bc", h, c[:, t]) + block.ssm.d * v[..., t])
    out = functional.linear(
        torch.stack(outputs, 1) * functional.silu(z.transpose(1, 2)), block.w_out
    )
    out.backward(torch.tensor(np.asarray(dy)))

    assert_close(y, out.detach().numpy(), 1e-13)
    found = jax.tree.leaves((d_layer, d_x))
    for gradient, leaf in zip(found, leaves, strict=True):
        assert_close(gradient, leaf.grad.numpy(), 1e-12)


def test_every_gradient_is_the_difference_of_the_definition():
    """One number of every array at a time: central differences of the float64 loop."""
    with jax.enable_x64(True):
        layer = Mamba.init(jax.random.key(0), 3, state_size=2, dt_max=1.0, dtype=np.float64)
        x = draw(6, 3, dtype=np.float64)
        state = draw(3, 6, seed=2, dtype=np.float64), draw(6, 2, seed=3, dtype=np.float64)
        dy = np.asarray(draw(6, 3, seed=4, dtype=np.float64))
        leaves, structure = jax.tree.flatten((layer, x, *state))
        leaves = [np.array(leaf) for leaf in leaves]

        @jax.jit
        @jax.grad
        def gradient(args):
            y, _ = args[0](args[1], args[2:])
            return jnp.sum(dy * y)

        # Done before the arrays, which it may read where they are, are changed.
        found = jax.block_until_ready(jax.tree.leaves(gradient(structure.unflatten(leaves))))
        eps = 1e-5
        for leaf, slope in zip(leaves, found, strict=True):
            index = tuple(n // 2 for n in leaf.shape)
            values = []
            for sign in (1, -1):
                kept = leaf[index]
                leaf[index] = kept + sign * eps
                values.append(np.sum(dy * by_definition(*structure.unflatten(leaves))[0]))
                leaf[index] = kept
            difference = (values[0] - values[1]) / (2 * eps)
            np.testing.assert_allclose(slope[index], difference, rtol=1e-7, atol=1e-9)


def test_sizes_and_ranges_of_the_published_block():
    layer = Mamba.init(jax.random.key(0), 40)
    assert (layer.input_size, layer.output_size) == (40, 40)
    assert (layer.inner_size, layer.state_size) == (80, 16)
    assert layer.ssm.dt_rank == 3  # of the block's 40 inputs, not of the 80 channels
    assert layer.conv.w.shape == (4, 80, 1)
    bounds = {"w_in": 40**-0.5, "w_out": 80**-0.5}
    for name, bound in bounds.items():
        w = np.asarray(getattr(layer, name))
        assert np.abs(w).max() <= bound
        assert abs(w.std() * 3**0.5 / bound - 1) < 4 / w.size**0.5
    assert np.abs(layer.conv.w).max() <= 0.5
    dt = np.logaddexp(np.asarray(layer.ssm.b_dt, np.float64), 0)
    assert 1e-3 * (1 - 1e-5) <= dt.min() <= dt.max() <= 0.1 * (1 + 1e-5)


X = jnp.zeros((2, 5, 3))
WINDOW, H = jnp.zeros((2, 3, 6)), jnp.zeros((2, 6, 4))
WRONG_CALLS = {
    "not_a_pair": (H, r"state: expected a pair \(window, h\) .*\(2, 3, 6\).*\(2, 6, 4\).* got one"),
    "three": ((H, H, H), r"state: expected a pair .* got a tuple of 3"),
    "window": ((H, H), r"state: expected shape \(2, 3, 6\), got \(2, 6, 4\)"),
    "h": ((WINDOW, WINDOW), r"state: expected shape \(2, 6, 4\), got \(2, 3, 6\)"),
    "integers": ((WINDOW, H.astype(int)), r"state: expected a real floating dtype, got int32"),
}


@pytest.mark.parametrize("wrong", WRONG_CALLS)
def test_states_that_are_refused(wrong):
    state, message = WRONG_CALLS[wrong]
    layer = Mamba.init(jax.random.key(0), 3, state_size=4)
    for call in (lambda: layer(X, state), lambda: layer.step(X[:, 0], state)):
        with pytest.raises((ValueError, TypeError), match=message):
            call()


WRONG = {
    "inputs": ({"input_size": 0}, r"input_size: expected an integer >= 1, got 0"),
    "expand": ({"expand": 1.5}, r"expand: expected an integer >= 1, got 1\.5"),
    "width": ({"conv_width": 0}, r"conv_width: expected an integer >= 1, got 0"),
    "steps": ({"dt_min": 1.0}, r"dt_min, dt_max: expected 0 < dt_min <= dt_max, got dt_min=1\.0"),
    "rank": ({"dt_rank": -1}, r"dt_rank: expected an integer >= 1, got -1"),
    "dtype": ({"dtype": jnp.int32}, r"dtype: expected a real floating dtype, got int32"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_init_refuses(wrong):
    kwargs, message = WRONG[wrong]
    with pytest.raises((ValueError, TypeError), match=message):
        Mamba.init(jax.random.key(0), **({"input_size": 3} | kwargs))


def test_halves_are_computed_in_float32():
    half = jnp.dtype(jnp.bfloat16)
    layer = Mamba.init(jax.random.key(0), 3, state_size=4, dtype=half)
    assert {leaf.dtype for leaf in jax.tree.leaves(layer)} == {half}
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layer)
    x = draw(40, 3, dtype=half)
    pairs = zip(*map(jax.tree.leaves, (layer(x), wide(x.astype(jnp.float32)))), strict=True)
    for value, expected in pairs:
        np.testing.assert_array_equal(value, expected.astype(half), strict=True)
