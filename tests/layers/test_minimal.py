"""The minimal layers against float64 loops and their gradients written by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.layer_parts.minimal import positive_part, signed_decay
from rnnscan.layers import MinGRU, MinLSTM
from tests.layers.cases import assert_close, draw

LAYERS = {"gru": MinGRU, "lstm": MinLSTM}


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def weights(layer):
    """(W, b) of each gate, then of the candidate, in float64."""
    w = np.split(np.asarray(layer.w, np.float64), layer.blocks)
    if layer.b is None:
        return [(part, np.zeros(len(part))) for part in w]
    return list(zip(w, np.split(np.asarray(layer.b, np.float64), layer.blocks), strict=True))


def by_definition(layer, x, h, dy, dlast):
    """y, the last state, and the gradients of <dy, y> + <dlast, last>, step after step."""
    parts = weights(layer)
    steps = []
    for x_t in x:
        *gates, c = (w @ x_t + b for w, b in parts)
        candidate = np.where(c >= 0, c + 0.5, sigmoid(c))
        gates = [sigmoid(gate) for gate in gates]
        p = gates[0] if len(gates) == 1 else gates[1] / sum(gates)
        keep, take = 1 - p, p
        if layer.signed:
            keep = 2 * keep - 1
            take = 1 - abs(keep)
        before, h = h, keep * h + take * candidate
        steps.append((x_t, before, gates, c, candidate, take, keep, h))

    d_w, d_b = ([np.zeros_like(p[i]) for p in parts] for i in (0, 1))
    d_x, dh = [], dlast
    for (x_t, before, gates, c, candidate, take, keep, _), dy_t in zip(
        reversed(steps), reversed(dy), strict=True
    ):
        dh = dh + dy_t
        if layer.signed:  # keep = 1 - 2 p, take = 1 - |keep|
            d_p = -2 * dh * (before - np.sign(keep) * candidate)
        else:  # keep = 1 - p, take = p
            d_p = dh * (candidate - before)
        dc = dh * take * np.where(c >= 0, 1, candidate * (1 - candidate))
        if len(gates) == 1:
            before_sigmoid = [d_p * gates[0] * (1 - gates[0])]
        else:
            f, i = gates
            ratio = d_p * f * i / (f + i) ** 2
            before_sigmoid = [-ratio * (1 - f), ratio * (1 - i)]
        d_x_t = 0
        for n, d in enumerate([*before_sigmoid, dc]):
            d_w[n] += np.outer(d, x_t)
            d_b[n] += d
            d_x_t = d_x_t + parts[n][0].T @ d
        d_x.append(d_x_t)
        dh = dh * keep
    y = np.array([step[-1] for step in steps])
    return (y, h), (np.concatenate(d_w), np.concatenate(d_b), np.array(d_x[::-1]), dh)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("method", "options", "x64"),
    [
        ("auto", {}, True),
        ("associative", {"bias": False}, True),
        ("auto", {}, False),
        ("auto", {"signed": True}, True),
        ("associative", {"signed": True, "bias": False}, True),
        ("auto", {"signed": True}, False),
    ],
    indirect=["x64"],
)
def test_equals_its_sequential_definition(kind, method, options, x64):
    dtype = np.float64 if x64 else np.float32
    layer = LAYERS[kind].init(jax.random.key(0), 3, 5, method=method, dtype=dtype, **options)
    given = [draw(*shape, seed=i, dtype=dtype) for i, shape in enumerate([(33, 3), (5,)])]
    given += [draw(*shape, seed=i, dtype=dtype) for i, shape in enumerate([(33, 5), (5,)], 2)]
    x, state, dy, dlast = given

    @jax.jit
    def run(layer, x, state):
        out, backward = jax.vjp(lambda *args: args[0](*args[1:]), layer, x, state)
        return out, backward((dy, dlast))

    out, (d_layer, d_x, d_state) = run(layer, x, state)
    turned = (out[0][:-1] > 0) & (out[0][1:] < 0)
    assert turned.any() == layer.signed
    expected, (d_w, d_b, *rest) = by_definition(layer, *(np.asarray(a, np.float64) for a in given))
    assert_close(out, tuple(v.astype(dtype) for v in expected), 1e-13 if x64 else 2e-6)
    biases = () if layer.b is None else (d_layer.b,)
    gradients = (d_layer.w, *biases, d_x, d_state)
    wanted = tuple(v.astype(dtype) for v in (d_w, *([d_b] if biases else []), *rest))
    assert_close(gradients, wanted, 1e-12 if x64 else 1e-5)


def test_the_candidate_and_its_slope_on_both_sides_of_zero():
    points = jnp.array([-1e4, -50.0, -1.0, -0.0, 0.0, 1.0, 1e30])
    value, slope = jax.vmap(jax.value_and_grad(positive_part))(points)
    low = sigmoid(-1.0)
    np.testing.assert_allclose(value, [0, np.exp(-50), low, 0.5, 0.5, 1.5, 1e30], rtol=2e-6)
    np.testing.assert_allclose(slope, [0, np.exp(-50), low * (1 - low), 1, 1, 1, 1], rtol=2e-6)


def test_gates_that_are_both_too_small_for_a_number_are_still_normalised():
    """f' = f / (f + i) with f = exp(-300), i = exp(-301): 0 / 0 in float32."""
    rows = jnp.array([-300.0, -301.0, 2.0])
    x, state = jnp.ones((1, 1)), jnp.array([10.0])

    def last(rows):
        return MinLSTM(jnp.zeros((3, 1)), rows)(x, state)[1][0]

    y, d_b = jax.value_and_grad(last)(rows)
    keep = sigmoid(1.0)
    np.testing.assert_allclose(y, keep * 10 + (1 - keep) * 2.5, rtol=1e-6)
    slope = keep * (1 - keep) * (10 - 2.5)
    np.testing.assert_allclose(d_b, [slope, -slope, 1 - keep], rtol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_saturated_gates_hold_or_replace_the_state(kind):
    make = LAYERS[kind]
    gates = 1 if kind == "gru" else 2
    x = draw(50, 1)
    for hold in (True, False):
        # z = sigmoid(-90) or sigmoid(90); f = 1 with i = exp(-90), or the other way round
        first = -90.0 if hold else 90.0
        rows = jnp.array([first] if gates == 1 else [-first, first])
        layer = make(
            jnp.concatenate([jnp.zeros((gates, 1)), jnp.ones((1, 1))]), jnp.append(rows, 0.0)
        )
        y, state = layer(x, jnp.array([3.0]))
        expected = jnp.full((50, 1), 3.0) if hold else positive_part(x)
        np.testing.assert_allclose(y, expected, rtol=1e-6)
        np.testing.assert_array_equal(state, y[-1])


@pytest.mark.parametrize("kind", LAYERS)
def test_states_are_positive_and_means_of_candidates(kind):
    layer = LAYERS[kind].init(jax.random.key(1), 3, 16)
    y, _ = layer(draw(4, 200, 3))
    largest = positive_part(jnp.abs(layer.w[-16:]).sum(1).max() * 5)
    assert (y > 0).all()
    assert (y < largest).all()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("scale", [1.0, 10.0, 1000.0])
def test_signed_states_are_bounded(kind, scale):
    """Gates open at random, the more shut the larger the scale: |h| <= max(|h_0|, g)."""
    layer = LAYERS[kind].init(jax.random.key(1), 3, 16, signed=True)
    gates = 16 * (layer.blocks - 1)
    layer = replace(layer, w=layer.w.at[:gates].multiply(scale))
    x = draw(4, 300, 3)
    candidate = positive_part(x @ layer.w[-16:].T + layer.b[None, None, -16:])
    for state in (jnp.zeros((4, 16)), -3 * candidate.max() * jnp.ones((4, 16))):
        y, _ = layer(x, state)
        largest = jnp.maximum(abs(state).max(), candidate.max())
        assert (abs(y) <= largest * (1 + 300 * 2e-7)).all()  # roundings of 300 steps
        assert (y < 0).any()
        assert (y > 0).any()


def signed_pieces(logit):
    """a, 1 - |a| and their slopes, in float64 from exponentials that are small."""
    e = np.exp(-np.abs(np.asarray(logit, np.float64)))
    a, slope = -np.sign(logit) * (1 - e) / (1 + e), -2 * e / (1 + e) ** 2
    return (a, 2 * e / (1 + e)), (slope, -np.sign(a) * slope)


def test_the_signed_decay_keeps_its_digits_on_both_ends():
    """1 - |a| = 4e-9 at |l| = 20, where a is +-1 in float32; a = -l/2 near 0."""
    logits = np.array([-85, -20, -3, -0.1, -1e-3, 1e-3, 0.1, 3, 20, 85], np.float32)
    values, slopes = jax.jvp(signed_decay, (logits,), (jnp.ones_like(logits),))
    expected = signed_pieces(logits)
    for part, wanted in zip((*values, *slopes), (*expected[0], *expected[1]), strict=True):
        np.testing.assert_allclose(part, wanted, rtol=1e-6)


def test_the_signed_decay_at_its_kink():
    """At l = 0 the state is replaced; the slope of 1 - |a| is the mean of those beside it."""
    (a, share), (d_a, d_share) = jax.jvp(signed_decay, (jnp.zeros(2),), (jnp.ones(2),))
    for part, wanted in ((a, 0), (share, 1), (d_a, -0.5), (d_share, 0)):
        np.testing.assert_array_equal(part, wanted)
    x = draw(7, 3)
    layer = MinGRU(jnp.concatenate([jnp.zeros((2, 3)), jnp.ones((2, 3))]), None, signed=True)
    y, backward = jax.vjp(lambda layer: layer(x, jnp.full(2, 5.0))[0], layer)
    np.testing.assert_array_equal(y, jnp.broadcast_to(positive_part(x.sum(1)[:, None]), (7, 2)))
    (gradient,) = backward(jnp.ones_like(y))
    before = np.concatenate([[[5.0] * 2], y[:-1]])
    np.testing.assert_allclose(gradient.w[:2], -0.5 * before.T @ x, rtol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_signed_logits_that_are_huge_are_finite_with_their_gradients(kind):
    """a = +-1 to the last digit: the state is held, and turned at each step where l is positive."""
    make, gates = LAYERS[kind], {"gru": 1, "lstm": 2}[kind]
    w = jnp.zeros((gates + 1, 1)).at[gates - 1].set(1e3)  # of z or i
    x = jnp.array([1.0, 1.0, -1.0, 1.0])[:, None]
    rows = jnp.zeros(gates + 1)

    def states(w, rows, x, h):
        return make(w, rows, signed=True)(x, h)[0]

    y, backward = jax.vjp(states, w, rows, x, jnp.array([3.0]))
    gradients = backward(jnp.ones_like(y))
    if kind == "gru":
        np.testing.assert_array_equal(y[:, 0], [-3, 3, 3, -3])
    assert all(np.isfinite(leaf).all() for leaf in (y, *gradients))
    hessian = jax.hessian(lambda x: states(w, rows, x, jnp.array([3.0])).sum())(x)
    assert np.isfinite(hessian).all()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("signed", [False, True])
def test_the_backward_pass_keeps_the_products_and_the_states(kind, signed):
    layer, x = LAYERS[kind].init(jax.random.key(0), 3, 5, signed=signed), draw(2, 500, 3)
    _, backward = jax.vjp(lambda layer, x: layer(x, lengths=[500, 499])[0], layer, x)
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.size >= 500]
    widths = sorted(leaf.shape[-1] for leaf in kept if leaf.dtype != bool)
    assert widths == [3, 5, 5 * layer.blocks]


@pytest.mark.parametrize("kind", LAYERS)
def test_init_is_uniform_and_all_its_own(kind):
    layer = LAYERS[kind].init(jax.random.key(0), 25, 100)
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(layer)])
    assert np.abs(values).max() <= 0.2  # uniform in +-1/sqrt(25)
    assert abs(values.std() * 3**0.5 / 0.2 - 1) < 4 / values.size**0.5
    assert len(np.unique(values)) > 0.99 * values.size
    assert layer.hidden_size == layer.output_size == 100
    assert layer.input_size == 25
    assert LAYERS[kind].init(jax.random.key(0), 25, 100, bias=False).b is None


@pytest.mark.parametrize("kind", LAYERS)
def test_what_is_refused(kind):
    make, key = LAYERS[kind].init, jax.random.key(0)
    with pytest.raises(ValueError, match=r"hidden_size: expected an integer >= 1, got 0"):
        make(key, 3, 0)
    with pytest.raises(TypeError, match=r"dtype: .*floating dtype, got int32"):
        make(key, 3, 4, dtype=jnp.int32)
    for wrong, got in ((1, "1"), (None, "None"), ("yes", "'yes'"), (jnp.array(True), "an array")):
        with pytest.raises(TypeError, match=rf"^signed: expected True or False, got {got}"):
            make(key, 3, 4, signed=wrong)
    with pytest.raises(TypeError, match=r"^signed: expected True or False"):
        LAYERS[kind](make(key, 3, 4).w, None, signed=0)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("half", "signed"), [("float16", False), ("bfloat16", True)])
def test_halves_are_computed_in_float32(kind, half, signed):
    half = jnp.dtype(half)
    layer = LAYERS[kind].init(jax.random.key(0), 3, 4, signed=signed, dtype=half)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layer)
    x = draw(40, 3, dtype=half)
    y, last = layer(x)
    for value, expected in zip((y, last), wide(x.astype(jnp.float32)), strict=True):
        np.testing.assert_array_equal(value, expected.astype(half), strict=True)
