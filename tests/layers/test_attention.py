"""Attention against a loop over queries, JAX's and torch's own, and what a nan may reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.layers import CausalSelfAttention, KeyValueCache, attention
from tests.layers.cases import assert_close, draw
from tests.layers.differences import gradient_by_differences

OPTIONS = {
    "rotary": {"num_heads": 2, "context": 3},
    "plain": {"num_heads": 1, "context": 100, "rotary": False, "bias": True},
    "itself": {"num_heads": 2, "context": 1, "output_size": 2},
}


def make(dtype, hidden=4, **options):
    return CausalSelfAttention.init(jax.random.key(0), 3, hidden, dtype=dtype, **options)


def weights(layer):
    """The arrays of a layer by name, in float64."""
    arrays = {name: value for name, value in vars(layer).items() if name[1] == "_"}
    return {k: np.asarray(v, np.float64) for k, v in arrays.items() if v is not None}


def turned(z, position):
    """Su et al., equation 34: the pair (i, i + d/2) is a complex number, turned by its angle."""
    half = z.shape[-1] // 2
    angle = position * 10_000.0 ** (-np.arange(half) / half)
    z = (z[..., :half] + 1j * z[..., half:]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], -1)


def by_definition(p, layer):
    """One query after another, one head after another, over the keys in its window."""
    q, k, v = (p["x"] @ p[f"w_{n}"].T + p.get(f"b_{n}", 0) for n in "qkv")
    heads = (len(q), layer.num_heads, -1)
    q, k, v = (z.reshape(heads) for z in (q, k, v))
    if layer.rotary:
        q, k = (np.array([turned(row, t) for t, row in enumerate(z)]) for z in (q, k))
    y = np.zeros_like(q)
    for t in range(len(q)):
        seen = slice(max(0, t - layer.context + 1), t + 1)
        for h in range(layer.num_heads):
            weight = np.exp(k[seen, h] @ q[t, h] / q.shape[-1] ** 0.5)
            y[t, h] = weight @ v[seen, h] / weight.sum()
    return y.reshape(len(q), -1) @ p["w_o"].T + p.get("b_o", 0)


@pytest.mark.parametrize(
    ("option", "x64"),
    [*((option, True) for option in OPTIONS), ("rotary", False)],
    indirect=["x64"],
)
def test_equals_a_loop_with_all_gradients(option, x64):
    dtype = jnp.float64 if x64 else jnp.float32
    layer, x = make(dtype, **OPTIONS[option]), draw(6, 3, dtype=dtype)
    dy = draw(6, layer.output_size, seed=3, dtype=dtype)

    @jax.jit
    def run(layer, x):
        y, backward = jax.vjp(lambda layer, x: layer(x)[0], layer, x)
        first, cache = layer(x[:4])  # and again, the last steps from a cache
        parts = jnp.concatenate([first, layer(x[4:], cache)[0]])
        return y, parts, *backward(dy)

    y, parts, of_layer, of_x = run(layer, x)
    arrays = weights(layer) | {"x": np.asarray(x, np.float64)}
    expected = by_definition(arrays, layer).astype(dtype)
    assert_close(y, expected, 1e-14 if x64 else 2e-6)
    assert_close(parts, expected, 1e-14 if x64 else 2e-6)

    g = np.asarray(dy, np.float64)
    gradients = gradient_by_differences(lambda p: np.sum(by_definition(p, layer) * g), arrays)
    found = {k: of_x if k == "x" else getattr(of_layer, k) for k in gradients}
    if "b_k" in found and not layer.rotary:
        # It adds the same to all logits of a query, which softmax drops: its gradient is zero.
        assert np.abs(found.pop("b_k")).max() <= (1e-15 if x64 else 1e-6)
        gradients.pop("b_k")
    if layer.context == 1:  # one weight, which is 1 whatever the query and the key are
        for name in ("w_q", "w_k"):
            np.testing.assert_array_equal(found.pop(name), 0)
            gradients.pop(name)
    expected = {k: v.astype(dtype) for k, v in gradients.items()}
    assert_close(found, expected, 1e-8 if x64 else 5e-6)


@pytest.mark.parametrize("context", [9, 40], ids=["window", "all"])
def test_blocks_of_queries_equal_jax_with_all_gradients(context, monkeypatch):
    """37 queries in blocks of 8, the last of which is not full, against one dense product."""
    monkeypatch.setattr(attention, "BLOCK", 8)
    q, k, v, dy = (draw(2, 37, 2, 4, seed=i) for i in range(4))

    def ours(q, k, v):
        sees = jnp.minimum(1 + jnp.arange(37, dtype=jnp.int32), context)
        return attention.attend(q, k, v, context, jnp.stack([sees, sees]))

    def theirs(q, k, v):
        with jax.default_matmul_precision("highest"):
            return jax.nn.dot_product_attention(
                q, k, v, is_causal=True, local_window_size=(context - 1, 0)
            )

    @jax.jit
    def run(*arguments):
        pairs = (jax.vjp(f, *arguments) for f in (ours, theirs))
        return [(y, backward(dy)) for y, backward in pairs]

    found, expected = run(q, k, v)
    assert_close(found, expected)


def test_equals_torch():
    torch = pytest.importorskip("torch")
    with jax.enable_x64(True):
        layer = CausalSelfAttention.init(
            jax.random.key(0), 6, num_heads=3, rotary=False, bias=True, dtype=jnp.float64
        )
        x, dy = (draw(2, 7, 6, seed=i, dtype=jnp.float64) for i in range(2))

        @jax.jit
        def run(layer, x):
            y, backward = jax.vjp(lambda layer, x: layer(x)[0], layer, x)
            return y, *backward(dy)

        y, of_layer, of_x = run(layer, x)
        theirs = torch.nn.MultiheadAttention(6, 3, batch_first=True, dtype=torch.float64)
        p = {k: torch.tensor(v) for k, v in weights(layer).items()}
        theirs.in_proj_weight.data = torch.cat([p["w_q"], p["w_k"], p["w_v"]])
        theirs.in_proj_bias.data = torch.cat([p["b_q"], p["b_k"], p["b_v"]])
        theirs.out_proj.weight.data, theirs.out_proj.bias.data = p["w_o"], p["b_o"]
        given = torch.tensor(np.asarray(x), requires_grad=True)
        hidden = torch.triu(torch.ones(7, 7, dtype=torch.bool), 1)
        out, _ = theirs(given, given, given, attn_mask=hidden, need_weights=False)
        out.backward(torch.tensor(np.asarray(dy)))
        into = jnp.concatenate([of_layer.w_q, of_layer.w_k, of_layer.w_v])
        into_bias = jnp.concatenate([of_layer.b_q, of_layer.b_k, of_layer.b_v])
        found = [y, of_x, into, into_bias, of_layer.w_o, of_layer.b_o]
        expected = [out.detach(), given.grad, theirs.in_proj_weight.grad, theirs.in_proj_bias.grad]
        expected += [theirs.out_proj.weight.grad, theirs.out_proj.bias.grad]
        assert_close(found, [e.numpy() for e in expected], 1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_reaches_the_outputs_that_see_it_and_no_other(bad):
    layer = make(jnp.float32, num_heads=2, context=3)
    x = draw(2, 9, 3)
    given = x.at[1, 4, 2].set(bad)

    @jax.jit
    def run(layer, x):
        whole, _ = layer(x)
        first, cache = layer(x[:, :5])
        return whole, jnp.concatenate([first, layer(x[:, 5:], cache)[0]], 1)

    clean, _ = run(layer, x)
    reached = np.zeros((2, 9), bool)
    reached[1, 4:7] = True
    for y in run(layer, given):
        np.testing.assert_array_equal(np.isnan(y).all(-1), reached)
        assert_close(y[~reached], clean[~reached])

    step, cache = jax.jit(lambda x_t, cache: layer.step(x_t, cache)), None
    for t in range(9):  # by and by the slot is written again
        y, cache = step(given[:, t], cache)
        np.testing.assert_array_equal(~np.isfinite(y).any(-1), reached[:, t])


def test_positions_are_exact_far_from_the_start(x64):
    dtype = jnp.float64 if x64 else jnp.float32
    x = draw(5, 1, 16, dtype=dtype)
    positions = np.array([0, 1, 999_999, 2**24 + 1, 2**31 - 1])
    found = attention.turned(x, jnp.asarray(positions, jnp.int32))
    expected = [turned(np.asarray(z, np.float64), p) for z, p in zip(x, positions, strict=True)]
    # In float64 both sides round position * rate, 2^31 * 2^-53; in float32 a turn, 2^-24 of it.
    limit = 1e-6 if x64 else 2e-6
    assert_close(found[:3], np.array(expected[:3]).astype(dtype), 1e-9 if x64 else 1e-6)
    assert_close(found, np.array(expected).astype(dtype), limit)


def test_one_compiled_step_serves_before_and_after_the_cache_is_full():
    layer, x = make(jnp.float32, num_heads=2, context=4), draw(11, 3)
    traces = 0

    @jax.jit
    def step(x_t, cache):
        nonlocal traces
        traces += 1
        return layer.step(x_t, cache)

    cache = jax.tree.map(jnp.zeros_like, layer(x[:0])[1])
    assert (cache.keys.shape, cache.position.dtype) == ((4, 2, 2), jnp.int32)
    ys = []
    for x_t in x:
        y, cache = step(x_t, cache)
        ys.append(y)
    assert traces == 1
    assert int(cache.position) == 11
    assert_close((jnp.stack(ys), cache), layer(x))


def test_memory_grows_with_the_window_and_not_with_its_square():
    """Weights of all queries at once would be 4 GiB here; 256 at a time are 64 MiB."""
    steps = 16_384
    layer = jax.eval_shape(
        lambda: CausalSelfAttention.init(jax.random.key(0), 16, num_heads=4, context=steps)
    )
    x = jax.ShapeDtypeStruct((steps, 16), jnp.float32)
    gradient = jax.jit(jax.grad(lambda layer, x: jnp.sum(layer(x)[0]), (0, 1)))
    used = gradient.lower(layer, x).compile().memory_analysis().temp_size_in_bytes
    assert 4 * 256 * steps * 4 < used < 6 * 4 * 256 * steps * 4


def test_halves_are_computed_in_float32():
    layer = make(jnp.bfloat16, num_heads=2, context=8)
    x = draw(2, 20, 3, dtype=jnp.bfloat16)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layer)
    y, cache = layer(x)
    y_wide, cache_wide = wide(x.astype(jnp.float32))
    np.testing.assert_array_equal(y, y_wide.astype(jnp.bfloat16), strict=True)
    np.testing.assert_array_equal(cache.keys, cache_wide.keys.astype(jnp.bfloat16), strict=True)


WRONG = {
    "heads": ({"num_heads": 3}, r"num_heads: expected a divisor of hidden_size = 4, got 3"),
    "odd": ({"num_heads": 4}, r"rotary: expected an even head size .* hidden_size / num_heads = 1"),
    "context": ({"context": 0}, r"context: expected an integer >= 1, got 0"),
    "outputs": ({"output_size": 0}, r"output_size: expected an integer >= 1, got 0"),
    "dtype": ({"num_heads": 2, "dtype": jnp.int32}, r"dtype: .*floating dtype, got int32"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_init_refuses(wrong):
    options, message = WRONG[wrong]
    with pytest.raises((ValueError, TypeError), match=message):
        CausalSelfAttention.init(jax.random.key(0), 4, **options)


KEYS, POSITION = jnp.zeros((2, 3, 2, 2)), jnp.zeros(2, jnp.int32)
WRONG_CACHES = {
    "keys": (KEYS[:, 1:], KEYS, POSITION, r"state\.keys: expected shape .*got \(2, 2, 2, 2\)"),
    "values": (KEYS, KEYS[:1], POSITION, r"state\.values: expected shape .*got \(1, 3, 2, 2\)"),
    "position": (KEYS, KEYS, POSITION[0], r"state\.position: expected shape \(2,\), got \(\)"),
    "dtype": (KEYS, KEYS, jnp.zeros(2), r"state\.position: expected integers, got float32"),
    "integers": (KEYS.astype(int), KEYS, POSITION, r"state\.keys: .*floating dtype, got int32"),
}


@pytest.mark.parametrize("wrong", WRONG_CACHES)
def test_a_wrong_cache_is_named(wrong):
    *cache, message = WRONG_CACHES[wrong]
    layer = make(jnp.float32, num_heads=2, context=3)
    with pytest.raises((ValueError, TypeError), match=message):
        layer(jnp.zeros((2, 5, 3)), KeyValueCache(*cache))
