"""What holds for every layer: streaming, splitting, causality, lengths, batches, transformations.

Compiling takes nearly all of the time here, so a test gathers what it compares in one jit.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnscan.layers import GRU, LRU, LSTM, RNN, CausalConv1D, LinearRNN
from tests.layers.cases import (
    BOTH_WAYS,
    FEATURES,
    LAYERS,
    TREES,
    assert_close,
    draw,
    draw_state,
    make,
    one_of,
)

every_layer = pytest.mark.parametrize("name", LAYERS)
every_method = pytest.mark.parametrize("name", [*LAYERS, *TREES])
one_way = pytest.mark.parametrize("name", [n for n in (*LAYERS, *TREES) if n not in BOTH_WAYS])


@one_way
def test_stepping_equals_calling_and_two_calls_equal_one(name):
    layer, x = make(name), draw(2, 5, FEATURES)
    state = draw_state(layer, (2,))

    step, now, ys = jax.jit(lambda x_t, now: layer.step(x_t, now)), state, []
    for x_t in np.asarray(x).swapaxes(0, 1):
        y, now = step(x_t, now)
        ys.append(y)
    assert step._cache_size() == 1  # the state keeps its structure, shapes and dtypes

    @jax.jit
    def compare(layer, x, state):
        first, middle = layer(x[:, :1], state)  # for no steps see below
        second, last = layer(x[:, 1:], middle)
        return layer(x, state), (jnp.concatenate([first, second], 1), last)

    whole, parts = compare(layer, x, state)
    assert_close((np.stack(ys, 1), now), whole, note="steps")
    assert_close(parts, whole, note="two calls")


@every_layer
@pytest.mark.parametrize("given", [False, True], ids=["from_zeros", "from_state"])
def test_no_steps_return_the_state(name, given):
    layer = make(name)
    state = draw_state(layer, (2,))
    y, last = layer(jnp.zeros((2, 0, FEATURES)), state if given else None, [0, 0])
    expected = state if given else jax.tree.map(jnp.zeros_like, state)
    jax.tree.map(np.testing.assert_array_equal, last, expected)
    assert y.shape == (2, 0, layer.output_size)


@one_way
def test_no_output_depends_on_later_inputs(name):
    layer, x = jax.jit(make(name)), draw(2, 6, FEATURES)
    y, _ = layer(x)
    for t in (1, 4):
        np.testing.assert_array_equal(layer(x.at[:, t:].set(jnp.nan))[0][:, :t], y[:, :t])


@every_method
def test_any_batch_axes(name):
    layer, x = make(name), draw(2, 3, 4, FEATURES)
    state = draw_state(layer, (2, 3))
    lengths = np.array([[4, 0, 2], [1, 4, 3]])
    run = jax.jit(layer)
    state, (y, last) = jax.tree.map(np.asarray, (state, run(x, state, lengths)))
    x = np.asarray(x)
    for i in np.ndindex(2, 3):  # no batch axis at all
        single = run(x[i], one_of(layer, state, i), lengths[i])
        assert_close((y[i], one_of(layer, last, i)), single, note=i)


def loss(layer, x, state, lengths, dy, dlast):
    """<dy, y> + Re <dlast, last>, without the integers in a state; dlast may be one number."""
    y, last = layer(x, state, lengths)
    if not isinstance(dlast, tuple) and jnp.ndim(dlast) == 0:
        dlast = jax.tree.map(lambda _: dlast, last)
    pairs = zip(jax.tree.leaves(dlast), jax.tree.leaves(last), strict=True)
    parts = [jnp.sum(jnp.real(d * s)) for d, s in pairs if jnp.issubdtype(s.dtype, jnp.inexact)]
    return jnp.sum(dy * y) + sum(parts)


@every_method
def test_padding_equals_separate_calls(name):
    layer, lengths, steps = make(name), [3, 0], 4
    x, state = draw(2, steps, FEATURES), draw_state(layer, (2,))
    y, last = jax.eval_shape(layer, x, state)
    dy, dlast = draw(*y.shape, seed=3), draw_state(layer, (2,), seed=4)
    valid = np.arange(steps)[None, :, None] < np.array(lengths)[:, None, None]

    def run(layer, x, state, lengths, dy, dlast):
        of_loss = jax.grad(loss, (0, 1, 2), allow_int=True)
        gradient = of_loss(layer, x, state, lengths, dy, dlast)
        return *layer(x, state, lengths), *gradient

    def alone(i, n, layer, x, state, dy, dlast):
        first, d_end = (one_of(layer, s, (i,)) for s in (state, dlast))
        return run(layer, x[i, :n], first, None, dy[i, :n], d_end)

    @jax.jit
    def every(layer, x, state, dy, dlast):
        # No numbers in the input, and in what comes back through the output
        none = jnp.array([jnp.nan, jnp.inf, -3e38, -jnp.inf])[None, :, None]
        x_nan, dy_nan = (jnp.where(valid, a, none) for a in (x, dy))
        padded = run(layer, x_nan, state, lengths, dy_nan, dlast)
        return padded, [alone(i, n, layer, x, state, dy, dlast) for i, n in enumerate(lengths)]

    padded, singles = every(layer, x, state, dy, dlast)
    y, last, d_layer, d_x, d_state = jax.tree.map(np.asarray, padded)
    np.testing.assert_array_equal(np.where(valid, 0, y), 0)
    np.testing.assert_array_equal(np.where(valid, 0, d_x), 0)
    for i, n in enumerate(lengths):
        end, d_first = (one_of(layer, s, (i,)) for s in (last, d_state))
        own = singles[i]
        assert_close((y[i, :n], end, d_x[i, :n], d_first), (*own[:2], *own[3:]), note=i)
    of_layers = [jax.tree.map(np.asarray, own[2]) for own in singles]
    assert_close(d_layer, jax.tree.map(np.add, *of_layers))


@pytest.mark.parametrize("name", ["relu", "linear", "linear_tree"])
def test_a_state_that_would_overflow_in_the_padding_stays_out_of_the_gradients(name):
    def quadruple(key, shape, dtype):
        return 4 * jnp.eye(*shape, dtype=dtype)

    key = jax.random.key(0)
    if name == "relu":
        layer = RNN.init(key, FEATURES, 4, nonlinearity="relu", recurrent_init=quadruple)
    else:
        method = "associative" if name == "linear_tree" else "auto"
        layer = LinearRNN.init(key, FEATURES, 4, method=method, recurrent_init=quadruple)
    x = jnp.abs(draw(60, FEATURES))
    gradient = jax.jit(jax.grad(lambda layer, x, n: jnp.sum(layer(x, None, n)[1])))
    tail = 100 if name != "linear_tree" else 60  # products of W alone overflow in a tree
    x = jnp.abs(draw(tail, FEATURES))
    assert_close(gradient(layer, x, 3), gradient(layer, x[:3], None))


@every_layer
def test_traced_lengths_are_clipped(name):
    layer, x = make(name), draw(3, 4, FEATURES)
    wrong = [np.array([-3, 99, 2], np.int8)]
    if name == "gru":  # the lengths of all layers are clipped in one place
        wrong.append(np.array([0, 99, 2], np.uint32))

    @jax.jit
    def run(*wrong):
        return layer(x, None, [0, 4, 2]), [layer(x, None, lengths) for lengths in wrong]

    expected, clipped = run(*wrong)
    for found in clipped:
        assert_close(found, expected)


# Made of parts that another layer of the list has: reverse over reverse is tried there.
OF_PARTS = ("lstm_both", "gru_both", "min_lstm", "mamba", "conv_depthwise")


@every_layer
def test_derivatives_of_both_modes_and_orders(name):
    with jax.enable_x64(True):
        layer = make(name, jnp.float64)
        x = draw(2, 4, FEATURES, dtype=jnp.float64)
        point = (layer, x, jax.tree.map(jnp.real, draw_state(layer, (2,))))
        leaves, structure = jax.tree.flatten(point)
        direction = structure.unflatten(
            [
                draw(*leaf.shape, seed=i, dtype=leaf.dtype)
                if jnp.issubdtype(leaf.dtype, jnp.inexact)
                else None  # an integer stays
                for i, leaf in enumerate(leaves)
            ]
        )

        dlast = jnp.exp(0.3j) if isinstance(layer, LRU) else 0.7

        def along(s):
            moved = structure.unflatten(
                [
                    p if v is None else p + s * v
                    for p, v in zip(leaves, structure.flatten_up_to(direction), strict=True)
                ]
            )
            return loss(*moved, [4, 2], 1 + jnp.arange(4.0)[None, :, None], dlast)

        def with_slope(f):
            return lambda s: jax.jvp(f, (s,), (jnp.ones_like(s),))

        @jax.jit
        def values(s):
            value, forward = with_slope(along)(s)
            reverse, over_reverse = with_slope(jax.grad(along))(s)
            orders = [value, value, forward, reverse, over_reverse]
            if name not in OF_PARTS:
                orders.append(jax.grad(jax.grad(along))(s))
            return jnp.stack(orders)

        step = 1e-5
        above, here, below = (np.asarray(values(np.float64(s))) for s in (step, 0.0, -step))
    slopes = (above - below)[: len(here) - 2] / (2 * step)
    np.testing.assert_allclose(here[2:], slopes, rtol=1e-7)


@every_layer
def test_vmap_over_layer_input_and_state(name):
    pair = [make(name), LAYERS[name](jax.random.key(7), dtype=jnp.float32)]
    x = draw(2, 2, 4, FEATURES)
    states = [draw_state(pair[0], (2,)), draw_state(pair[0], (2,), seed=5)]
    stack = functools.partial(jax.tree.map, lambda *leaves: np.stack(leaves))

    def run(layer, x, state, loss=loss):
        value = jax.value_and_grad(loss, (0, 1, 2), allow_int=True)
        return value(layer, x, state, None, 1.0, 1.0)

    # An ensemble: two layers as one pytree of stacked weights; remade in the backward pass.
    remade = functools.partial(run, loss=jax.checkpoint(loss))
    both = jax.jit(jax.vmap(remade))(stack(*pair), x, stack(*states))
    one, x = jax.jit(run), np.asarray(x)
    single = [one(*arguments) for arguments in zip(pair, x, states, strict=True)]
    assert_close(both, stack(*single), tolerance=1e-5)


@every_layer
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_shard_map_over_the_batch(name, padded):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    layer, x = make(name), draw(2, 4, FEATURES)
    lengths = jnp.array([4, 1]) if padded else None
    split = jax.sharding.PartitionSpec("data")

    def run(layer, x, lengths):
        return layer(x, lengths=lengths)[0]

    specs = (jax.sharding.PartitionSpec(), split, split)
    sharded = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=split)
    # Whether it shards is a question of types: what varies over the mesh, and what does not.
    gradient = jax.eval_shape(jax.grad(lambda layer: sharded(layer, x, lengths).sum()), layer)
    shapes = ([leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (gradient, layer))
    assert next(shapes) == next(shapes)


@every_layer
def test_an_optimiser_takes_the_layer_as_it_is(name):
    layer, x = make(name), draw(4, 5, FEATURES)
    target = draw(*jax.eval_shape(layer, x)[0].shape, seed=2)
    optimiser = optax.adam(1e-2)

    @jax.jit
    def train(layer, optimiser_state):
        error, gradient = jax.value_and_grad(lambda f: jnp.mean((f(x)[0] - target) ** 2))(layer)
        updates, optimiser_state = optimiser.update(gradient, optimiser_state)
        return error, optax.apply_updates(layer, updates), optimiser_state

    with jax.numpy_dtype_promotion("standard"):  # as adam needs
        optimiser_state = optimiser.init(layer)
        errors = []
        for _ in range(50):
            error, layer, optimiser_state = train(layer, optimiser_state)
            errors.append(error)
    assert type(layer) is type(make(name))
    assert errors[-1] < 0.95 * errors[0]


@every_layer
def test_dtypes_follow_the_arguments(name, x64):
    dtype = np.dtype("float64" if x64 else "float32")
    layer, x = make(name, dtype), np.zeros((2, 4, FEATURES), dtype)
    state = draw_state(layer, (2,))

    def dtypes(tree):
        return jax.tree.map(lambda leaf: leaf.dtype, tree)

    y, last = jax.eval_shape(lambda: layer(x, state))
    assert (y.dtype, dtypes(last)) == (dtype, dtypes(state))
    assert y.shape == (2, 4, layer.output_size)
    if x64:
        narrow = x.astype(np.float32)
        with pytest.raises(jax.dtypes.TypePromotionError):
            layer(narrow)
        with jax.numpy_dtype_promotion("standard"):
            assert jax.eval_shape(layer, narrow)[0].dtype == dtype
            y, last = jax.eval_shape(lambda: make(name, np.float32)(narrow, state))
            assert (y.dtype, dtypes(last)) == (dtype, dtypes(state))


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("rnn", "bfloat16"),
        ("rnn", "float16"),
        ("lstm", "bfloat16"),
        ("gru", "bfloat16"),
        ("linear", "bfloat16"),
        ("lru", "bfloat16"),
    ],
)
def test_halves_are_computed_in_float32(name, half):
    half = jnp.dtype(half)
    x = draw(2, 40, FEATURES, dtype=half)
    layer = jax.tree.map(lambda leaf: leaf.astype(half), make(name))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layer)
    y, last = layer(x)
    y_wide, last_wide = wide(x.astype(jnp.float32))
    np.testing.assert_array_equal(y, y_wide.astype(half), strict=True)
    # A complex state has no half to be rounded to.
    handed_on = jnp.complex64 if isinstance(layer, LRU) else half
    same = functools.partial(np.testing.assert_array_equal, strict=True)
    jax.tree.map(lambda a, b: same(a, b.astype(handed_on)), last, last_wide)
    assert jax.eval_shape(layer, x, last)[0].dtype == half


def test_halves_are_made_by_init():
    for layer in (RNN, LSTM, GRU, LinearRNN):
        made = jax.eval_shape(lambda key, f=layer: f.init(key, 2, 3, dtype="bfloat16"), KEY)
        assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.bfloat16)}


KEY = jax.random.key(0)
X = jnp.zeros((2, 5, FEATURES))
WRONG = {
    "features": (lambda f: f(jnp.zeros((2, 5, 4))), r"x: .*\(\.\.\., time, 3\), got \(2, 5, 4\)"),
    "no_time": (lambda f: f(jnp.zeros(3)), r"x: .*\(\.\.\., time, 3\), got \(3,\)"),
    "integers": (lambda f: f(jnp.zeros((2, 5, 3), int)), r"x: .*floating dtype, got int"),
    "complex": (lambda f: f(X.astype(complex)), r"x: .*real floating dtype, got complex"),
    "state": (lambda f: f(X, jnp.zeros((2, 9))), r"state: expected .*got .*(\(2, 9\)|Array)"),
    "state_dtype": (
        lambda f: f(X, jnp.zeros((2, 4), int)),
        r"state: .* got (int|one array|a .*Array)|state: expected shape",
    ),
    "long": (lambda f: f(X, None, [5, 6]), r"lengths: expected values in 0\.\.5.* got 6"),
    "negative": (lambda f: f(X, None, [-1, 5]), r"lengths: expected values in 0\.\.5.* got -1"),
    "jitted": (lambda f: jax.jit(lambda x: f(x, None, [5, 6]))(X), r"lengths: .* got 6"),
    "lengths_shape": (lambda f: f(X, None, [5]), r"lengths: expected shape \(2,\).* got \(1,\)"),
    "lengths_dtype": (lambda f: f(X, None, [5.0, 2.0]), r"lengths: expected integers, got float"),
    "step": (lambda f: f.step(jnp.zeros((2, 4))), r"x_t: expected shape \(\.\.\., 3\)|step: "),
    "step_state": (lambda f: f.step(X[0], jnp.zeros(2)), r"state: .* got .*(\(2,\)|Array)|step: "),
}


@every_layer
@pytest.mark.parametrize("wrong", WRONG)
def test_errors_name_the_argument(name, wrong):
    call, message = WRONG[wrong]
    with pytest.raises((ValueError, TypeError), match=message):
        call(make(name))


NO_METHOD = ("attention", "conv", "conv_depthwise")


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in NO_METHOD])
def test_an_unknown_method_is_refused_when_it_is_named(name):
    layer, message = make(name), r"method: got 'no_such', expected one of 'auto', '"
    owner = getattr(layer, "ssm", layer)  # of a Mamba
    for call in (
        lambda: LAYERS[name](KEY, method="no_such"),
        lambda: dataclasses.replace(owner, method="no_such"),
        lambda: layer(X, method="no_such"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_from_torch_takes_a_method():
    weights = {"weight_ih_l0": np.ones((4, 3)), "weight_hh_l0": np.eye(4)}
    assert RNN.from_torch(weights, "relu", method="scan").method == "scan"
    with pytest.raises(ValueError, match="method: got 'no_such'"):
        RNN.from_torch(weights, method="no_such")


@pytest.mark.parametrize("cls", [RNN, LSTM, GRU])
def test_the_methods_of_cells_agree(cls):
    layer, x = cls.init(KEY, FEATURES, 4, method="scan"), draw(2, 7, FEATURES)
    assert_close(jax.jit(layer)(x), jax.jit(lambda x: layer(x, method="auto"))(x))


def test_all_steps_at_once_equal_one_after_another():
    """Layer upon layer in both directions, padded and packed: values, gradients, certificates."""
    layer = RNN.init(KEY, FEATURES, 4, num_layers=2, bidirectional=True)
    x, reset = draw(3, 7, FEATURES), np.arange(21).reshape(3, 7) % 5 == 3

    def run(method):
        @jax.jit
        def gradients(layer, x):
            def loss(layer, x):
                y, state, found = layer.with_convergence(x, None, [7, 4, 0], reset, method=method)
                return jnp.sum(jnp.sin(y)) + jnp.sum(state**2), (y, state, found)

            return jax.grad(loss, (0, 1), has_aux=True)(layer, x)

        found, (y, state, convergence) = gradients(layer, x)
        assert convergence.converged.shape == (4, 3)
        assert convergence.converged.all()
        return (found, y, state), convergence

    (newton, found), (scan, _) = run("newton"), run("scan")
    assert_close(newton, scan)
    assert (found.iterations[:, 0] > 0).all()
    assert_close(newton[1:], layer(x, None, [7, 4, 0], reset, method="newton"))


# Those whose products are not all by `affine.product`.
PRODUCTS = {
    "selective_ssm": LAYERS["selective_ssm"],
    "attention": LAYERS["attention"],
    "conv_groups": lambda key: CausalConv1D.init(key, 4, 4, groups=2),
    "lru": LAYERS["lru"],
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_caller_chooses_the_precision_of_products(name):
    layer = PRODUCTS[name](KEY)
    x = jnp.zeros((2, 5, layer.input_size))
    gradient = jax.grad(lambda layer, x: jnp.sum(layer(x)[0]), (0, 1))

    def program():
        return jax.jit(lambda *a: gradient(*a)).lower(layer, x).as_text()

    # Each product has two operands, and so names its precision twice.
    text = program()
    assert text.count("HIGHEST") == 2 * text.count("dot_general") > 0
    with jax.default_matmul_precision("default"):
        text = program()
    assert text.count("dot_general") > 0
    assert "HIGHEST" not in text


@pytest.mark.parametrize("layer", [RNN, LSTM, GRU, LinearRNN, LRU])
def test_init_refuses_sizes_and_dtypes(layer):
    with pytest.raises(ValueError, match=r"hidden_size: expected an integer >= 1, got 0"):
        layer.init(KEY, 3, 0)
    with pytest.raises(ValueError, match=r"input_size: expected an integer >= 1, got 2\.0"):
        layer.init(KEY, 2.0, 3)
    for dtype, got in ((jnp.int32, "int32"), (None, "None"), ("float23", "'float23'")):
        with pytest.raises(TypeError, match=rf"dtype: .*floating dtype, got {got}"):
            layer.init(KEY, 2, 3, dtype=dtype)
    for dtype in (jnp.float64, "float64"):
        with pytest.raises(TypeError, match=r"dtype: got float64, which needs .*jax_enable_x64"):
            layer.init(KEY, 2, 3, dtype=dtype)


def test_doubles_of_numpy_are_taken_as_jax_takes_them(x64):
    """Rounded where there are no doubles, without a warning; so is Python's `float`."""
    layer = RNN.init(KEY, 2, 3, dtype=float)
    loaded = RNN.from_torch({"weight_ih_l0": np.ones((3, 2)), "weight_hh_l0": np.ones((3, 3))})
    y, _ = layer(np.ones((1, 2)), np.ones((1, 3)))
    dtypes = {y.dtype, loaded(np.ones((1, 2)))[0].dtype, layer.cells[0][0].w_ih.dtype}
    assert dtypes == {jnp.dtype("float64" if x64 else "float32")}
