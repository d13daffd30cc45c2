"""One network around any layer: against NumPy, streamed, padded, generating, trained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnscan import (
    GRU,
    LRU,
    LSTM,
    MLP,
    RNN,
    CausalConv1D,
    CausalSelfAttention,
    LinearRNN,
    Mamba,
    MinGRU,
    MinLSTM,
    SelectiveSSM,
    SequenceModel,
)
from tests.layers.cases import assert_close, draw
from tests.layers.differences import gradient_by_differences

KEY = jax.random.key(0)
TOKENS, WIDTH, OUTPUTS = 7, 4, 3
MIXERS = {  # some with as many outputs as the model is wide, some with others
    "rnn": lambda key, width, **kw: RNN.init(key, width, 5, **kw),
    "lstm": lambda key, width, **kw: LSTM.init(key, width, 5, num_layers=2, **kw),
    "gru": lambda key, width, **kw: GRU.init(key, width, width, **kw),
    "linear": lambda key, width, **kw: LinearRNN.init(key, width, width, **kw),
    "lru": lambda key, width, **kw: LRU.init(key, width, 6, **kw),
    "min_gru": lambda key, width, **kw: MinGRU.init(key, width, 5, **kw),
    "min_lstm": lambda key, width, **kw: MinLSTM.init(key, width, width, **kw),
    "selective_ssm": lambda key, width, **kw: SelectiveSSM.init(key, width, state_size=3, **kw),
    "mamba": lambda key, width, **kw: Mamba.init(key, width, state_size=3, **kw),
    "attention": lambda key, width, **kw: CausalSelfAttention.init(
        key, width, num_heads=2, context=3, **kw
    ),
    "conv": lambda key, width, **kw: CausalConv1D.init(key, width, 5, width=2, **kw),
}
BOTH_WAYS = {
    "both_ways": lambda key, width, **kw: GRU.init(key, width, 3, bidirectional=True, **kw)
}
every_mixer = pytest.mark.parametrize("name", MIXERS)


def make(name, read="every", depth=2, dtype=jnp.float32, **options):
    options = options or {"tokens": TOKENS}
    mixer = functools.partial((MIXERS | BOTH_WAYS)[name], dtype=dtype)
    size = {"width": WIDTH, "depth": depth, "outputs": OUTPUTS}
    return SequenceModel.init(KEY, mixer, **size, read=read, dtype=dtype, **options)


def draw_tokens(*shape, seed=1):
    return np.random.default_rng(seed).integers(0, TOKENS, shape).astype(np.int32)


def normed(h, scale):
    return h / np.sqrt(np.mean(h * h, axis=-1, keepdims=True) + 1e-6) * scale


def by_definition(p, x, read):
    """The model with convolutions of width 2 as mixers, for one sequence."""
    h = p["encoder"][x] if x.dtype.kind == "i" else x @ p["encoder"].T + p["encoder_bias"]
    for i in range(2):
        u = normed(h, p[f"blocks[{i}].scale"])
        before = np.concatenate([np.zeros((1, WIDTH)), u[:-1]])
        w = p[f"blocks[{i}].mixer.w"]
        y = u @ w[0].T + before @ w[1].T + p[f"blocks[{i}].mixer.b"]
        h = h + y @ p[f"blocks[{i}].back"].T
    h = normed(h, p["scale"])
    if read != "every":
        zero = np.zeros(WIDTH)
        h = zero if len(h) == 0 else h[-1] if read == "last" else h.mean(0)
    return h @ p["head"].T + p["head_bias"]


def by_name(tree):
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path).removeprefix("."): leaf for path, leaf in leaves}


@pytest.mark.parametrize(
    ("of", "read", "x64"),
    [
        *((of, read, True) for of in ("tokens", "features") for read in ("every", "last", "mean")),
        ("tokens", "last", False),
        ("features", "every", False),
    ],
    indirect=["x64"],
)
def test_equals_its_definition_with_all_gradients(of, read, x64):
    dtype = jnp.float64 if x64 else jnp.float32
    model = make(
        "conv", read, dtype=dtype, **({of: TOKENS} if of == "tokens" else {"input_size": 2})
    )
    assert None not in [block.back for block in model.blocks]
    model = jax.tree.map(lambda leaf: leaf + 0.1 * draw(*leaf.shape, dtype=dtype), model)
    x = jnp.asarray(draw_tokens(3, 4)) if of == "tokens" else draw(3, 4, 2, dtype=dtype)
    lengths = [4, 2, 0]
    dy = draw(3, *((4,) if read == "every" else ()), OUTPUTS, seed=3, dtype=dtype)

    @jax.jit
    def run(model, x):
        y, backward = jax.vjp(lambda model: model(x, None, lengths)[0], model)
        return y, *backward(dy)

    y, of_model = run(model, x)
    arrays = {name: np.asarray(leaf, np.float64) for name, leaf in by_name(model).items()}
    g, given = np.asarray(dy, np.float64), np.asarray(x)

    def reference(p):
        out = np.zeros(g.shape)
        for i, n in enumerate(lengths):
            one = by_definition(p, given[i, :n], read)
            out[(i, slice(n)) if read == "every" else i] = one
        return out

    assert_close(y, reference(arrays).astype(dtype), 1e-14 if x64 else 2e-6)
    expected = gradient_by_differences(lambda p: np.sum(reference(p) * g), arrays)
    expected = {name: value.astype(dtype) for name, value in expected.items()}
    assert_close(by_name(of_model), expected, 1e-8 if x64 else 1e-5)


@every_mixer
def test_steps_and_two_calls_equal_one_call_and_later_tokens_change_nothing(name):
    # One block each: what a second adds is the same for all.
    model, x = make(name, depth=2 if name == "gru" else 1), draw_tokens(2, 5)
    call = jax.jit(model)

    @jax.jit
    def compare(model, x):
        def one(state, x_t):
            y, state = model.step(x_t, state)
            return state, y

        # As a carry of scan, the state must keep its structure, shapes and dtypes.
        state, y = jax.lax.scan(one, model.initial_state((2,)), x.T)
        first, middle = model(x[:, :2])
        second, last = model(x[:, 2:], middle)
        parts = {
            "steps": (jnp.swapaxes(y, 0, 1), state),
            "two": (jnp.concatenate([first, second], 1), last),
        }
        return parts

    whole, parts = call(x), compare(model, jnp.asarray(x))
    later = np.arange(5) >= 3
    changed, _ = call(np.where(later, (x + 1) % TOKENS, x).astype(x.dtype))
    for way, found in parts.items():
        assert_close(found, whole, 5e-6, note=way)
    np.testing.assert_array_equal(changed[:, :3], whole[0][:, :3])
    assert not np.array_equal(changed[:, 3], whole[0][:, 3])


@pytest.mark.parametrize(
    ("name", "read", "depth"),
    [
        # A mixer's own padding is tried by the laws of layers; these differ in their state.
        *((name, "every", 1) for name in ("lru", "mamba", "attention", *BOTH_WAYS)),
        # A second block, and what is read from its steps, know nothing of the mixer.
        ("gru", "every", 2),
        ("conv", "last", 2),
        ("attention", "last", 1),
        ("both_ways", "last", 2),
    ],
)
def test_padding_equals_separate_calls_and_every_weight_has_a_gradient(name, read, depth):
    model, x = make(name, read, depth, input_size=2), draw(2, 4, 2)
    padded = x.at[1, 2:].set(jnp.nan)

    def value(model, x, lengths, weight):
        y, state = model(x, None, lengths)
        return jnp.sum(y * weight), (y, state)

    @jax.jit
    def run(model, x, padded):
        of = jax.value_and_grad(value, (0, 1), has_aux=True)
        shape = jax.eval_shape(model, x)[0].shape
        weight = jnp.cos(jnp.arange(np.prod(shape), dtype=jnp.float32)).reshape(shape)
        cut = weight[1, :2] if read == "every" else weight[1]
        return (
            of(model, padded, np.array([4, 2]), weight),
            of(model, x[0], None, weight[0]),
            of(model, x[1, :2], None, cut),
        )

    ((_, (y, _)), (of_model, of_x)), *singles = run(model, x, padded)
    for i, n in enumerate((4, 2)):
        (_, (single, _)), (_, of_single_x) = singles[i]
        assert_close(y[i, :n] if read == "every" else y[i], single, 5e-6)
        assert_close(of_x[i, :n], of_single_x, 2e-5)
    np.testing.assert_array_equal(of_x[1, 2:], 0)
    if read == "every":
        np.testing.assert_array_equal(y[1, 2:], 0)
    total = jax.tree.map(jnp.add, singles[0][1][0], singles[1][1][0])
    assert_close(of_model, total, 2e-5)
    for where, leaf in by_name(of_model).items():
        # Backwards, the last step is the first: its state is zero, and W_hh has nothing to act on.
        unused = read == "last" and where == f"blocks[{depth - 1}].mixer.cells[0][1].w_hh"
        assert (np.abs(leaf).max() == 0) == unused, where


def test_later_nan_changes_no_output_before_it():
    for name in ("gru", "attention", "conv"):
        model, x = jax.jit(make(name, input_size=2)), draw(2, 5, 2)
        y, _ = model(x.at[:, 3:].set(jnp.nan))
        np.testing.assert_array_equal(y[:, :3], model(x)[0][:, :3])
        assert np.isnan(y[:, 3]).all()


def test_last_and_every_agree_and_mean_is_theirs_only_for_one_step():
    every, last, mean = (make("gru", read) for read in ("every", "last", "mean"))
    x = draw_tokens(2, 5)
    y, _ = every(x)
    assert_close(last(x)[0], y[:, -1], 1e-6)
    assert_close(every(x, lengths=[3, 1])[0][0, 2], last(x, lengths=[3, 1])[0][0], 1e-6)
    assert_close(mean(x, lengths=[1, 1])[0], y[:, 0], 1e-6)
    y_t, _ = last.step(x[:, 0])
    assert_close(y_t, y[:, 0], 1e-6)


@pytest.mark.parametrize("read", ["last", "mean"])
def test_no_steps_read_the_bias_of_the_head(read):
    model = make("attention", read)
    model = jax.tree.map(lambda leaf: leaf + 1, model)
    y, _ = model(np.zeros((2, 0), np.int32))
    np.testing.assert_array_equal(y, np.ones((2, OUTPUTS)))
    y, _ = model(draw_tokens(2, 3), lengths=[0, 0])
    np.testing.assert_array_equal(y, np.ones((2, OUTPUTS)))


def test_any_batch_axes():
    model, x = make("attention"), draw_tokens(2, 3, 4)
    y, state = model(x, None, np.full((2, 3), 4))
    assert (y.shape, state[0].position.shape) == ((2, 3, 4, OUTPUTS), (2, 3))
    one, _ = model(x[1, 2])
    assert_close(y[1, 2], one, 2e-6)
    assert jax.eval_shape(make("attention", "last"), x)[0].shape == (2, 3, OUTPUTS)


def test_a_net_over_the_window_as_mixer():
    def mixer(key, width):
        return MLP.init(key, width, 6, length=4)

    size = {"width": WIDTH, "depth": 2, "outputs": OUTPUTS, "input_size": 2}
    model = SequenceModel.init(KEY, mixer, **size, read="last")
    y, _ = model(draw(2, 4, 2), lengths=[4, 1])
    assert y.shape == (2, OUTPUTS)
    with pytest.raises(ValueError, match=r"x: expected exactly 4 steps, .* got 5"):
        model(draw(2, 5, 2))
    with pytest.raises(ValueError, match=r"step: expected mixers that see the past alone"):
        model.step(draw(2, 2))
    with pytest.raises(ValueError, match=r'read: expected "last" or "mean" with an MLP .*"every"'):
        SequenceModel.init(KEY, mixer, **size)


@jax.tree_util.register_static
class Nothing:
    """A mixer that adds nothing: what is left is the model's own arithmetic."""

    output_size = WIDTH

    def __call__(self, x, state=None, lengths=None):
        return jnp.zeros_like(x), ()

    def __eq__(self, other):
        return isinstance(other, Nothing)

    __hash__ = object.__hash__


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_halves_are_computed_in_float32(half):
    half = jnp.dtype(half)
    nothing = Nothing()
    size = {"width": WIDTH, "depth": 2, "outputs": OUTPUTS, "input_size": 2, "read": "mean"}
    model = SequenceModel.init(KEY, lambda key, width: nothing, **size, dtype=half)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {half}
    wide, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model), draw(2, 9, 2, dtype=half)
    expected = wide(x.astype(jnp.float32))[0].astype(half)
    np.testing.assert_array_equal(model(x)[0], expected, strict=True)

    model = make("gru", dtype=half)
    y, state = jax.eval_shape(model, draw_tokens(2, 3))
    assert {y.dtype, *(leaf.dtype for leaf in jax.tree.leaves(state))} == {half}
    y, again = jax.eval_shape(model.step, draw_tokens(2), state)
    assert (y.dtype, again) == (half, state)


def test_an_optimiser_teaches_it_the_token_before():
    """Each step must say the token before: the residual path alone cannot know it."""
    model = SequenceModel.init(KEY, MIXERS["conv"], width=8, depth=1, outputs=TOKENS, tokens=TOKENS)
    optimiser = optax.adam(3e-2)

    @jax.jit
    def train(model, optimiser_state, x):
        def loss(model):
            logits = model(x)[0][:, 1:]
            return optax.softmax_cross_entropy_with_integer_labels(logits, x[:, :-1]).mean()

        value, gradient = jax.value_and_grad(loss)(model)
        updates, optimiser_state = optimiser.update(gradient, optimiser_state)
        return value, optax.apply_updates(model, updates), optimiser_state

    with jax.numpy_dtype_promotion("standard"):  # as adam needs
        optimiser_state = optimiser.init(model)
        for i in range(150):
            value, model, optimiser_state = train(
                model, optimiser_state, draw_tokens(16, 8, seed=i)
            )
    assert value < 0.1 < np.log(TOKENS)  # that of knowing nothing


def test_its_leaves_are_arrays_that_a_checkpoint_can_hold(tmp_path):
    model, x = make("attention"), draw_tokens(2, 4)
    leaves, structure = jax.tree.flatten(model)
    np.savez(tmp_path / "model.npz", *leaves)
    with np.load(tmp_path / "model.npz") as stored:
        restored = structure.unflatten(stored.values())
    np.testing.assert_array_equal(restored(x)[0], model(x)[0])


def test_traced_tokens_are_clipped():
    model = make("gru")
    expected, _ = model(np.array([0, TOKENS - 1, 2]))
    for wrong in (np.array([-3, 99, 2], np.int8), np.array([0, 2**32 - 1, 2], np.uint32)):
        assert_close(jax.jit(model)(wrong)[0], expected, 2e-6)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64", "int8"])
def test_any_token_may_stand_in_the_padding(dtype):
    model, lengths = make("gru"), np.array([2, 4, 0])
    limits = np.iinfo(dtype)
    x = np.array([[3, 1, limits.min, limits.max], [0, 6, 5, 2], [limits.max] * 4], dtype)
    plain = np.where(np.arange(4) < lengths[:, None], x, 0).astype(np.int32)

    def run(x, lengths):
        def loss(model):
            y, state = model(x, None, lengths)
            return jnp.sum(y**2), (y, state)

        return jax.value_and_grad(loss, has_aux=True)(model)

    expected = jax.jit(run)(plain, lengths)
    for found in (run(x, lengths), jax.jit(run)(x, lengths), jax.jit(lambda n: run(x, n))(lengths)):
        assert_close(found, expected, 2e-6)


SIZE = {"width": WIDTH, "depth": 1, "outputs": 2}
WRONG = {
    "neither": (
        lambda f: f.init(KEY, MIXERS["gru"], **SIZE),
        r"expected one of them, got tokens=None",
    ),
    "both": (
        lambda f: f.init(KEY, MIXERS["gru"], **SIZE, tokens=2, input_size=3),
        r"tokens, input_size: expected one of them, got tokens=2, input_size=3",
    ),
    "class": (
        lambda f: f.init(KEY, GRU, **SIZE, tokens=2),
        r"mixer: expected a function \(key, width\) .*GRU\.init.*, got the class itself",
    ),
    "read": (
        lambda f: f.init(KEY, MIXERS["gru"], **SIZE, tokens=2, read="first"),
        r"read: expected one of 'every', 'last', 'mean', got 'first'",
    ),
    "depth": (
        lambda f: f.init(KEY, MIXERS["gru"], **(SIZE | {"depth": 0}), tokens=2),
        r"depth: expected an integer >= 1, got 0",
    ),
    "tokens": (lambda f: make("gru")([[1, TOKENS]]), r"x: expected tokens in 0\.\.6, got 7"),
    "within": (
        lambda f: make("gru")([[1, 8, 9]], lengths=[2]),
        r"x: expected tokens in 0\.\.6, got 8",
    ),
    "lengths_of_tokens": (
        lambda f: make("gru")([[1, 9]], lengths=[2, 2]),
        r"lengths: expected shape \(1,\)",
    ),
    "negative": (lambda f: make("gru").step(-1), r"x_t: expected tokens in 0\.\.6, got -1"),
    "real": (lambda f: make("gru")([[1.0]]), r"x: expected integers, the tokens, got float"),
    "no_time": (lambda f: make("gru")(1), r"x: expected shape \(\.\.\., time\), got \(\)"),
    "features": (
        lambda f: make("gru", input_size=3)(X),
        r"x: expected shape \(\.\.\., time, 3\), got \(2, 5, 2\)",
    ),
    "lengths": (
        lambda f: make("gru", input_size=2)(X, None, [5, 6]),
        r"lengths: expected values in 0\.\.5, the steps, got 6",
    ),
    "states": (
        lambda f: make("gru", input_size=2)(X, (None,)),
        r"state: expected a tuple of 2 states, one for each block, got a tuple of 1",
    ),
    "mean_step": (lambda f: make("gru", "mean").step(1), r'step: expected read = .*got "mean"'),
    "both_ways": (lambda f: make("both_ways").step(1), r"step: expected .* one direction"),
}
X = jnp.zeros((2, 5, 2))


@pytest.mark.parametrize("wrong", WRONG)
def test_errors_name_the_argument(wrong):
    call, message = WRONG[wrong]
    with pytest.raises((ValueError, TypeError), match=message):
        call(SequenceModel)
