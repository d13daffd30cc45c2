"""Several sequences in one call: what stood before a reset has no effect, forward and backward."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rnnscan import GRU, LRU, MLP, SequenceModel
from tests.layers.cases import (
    BOTH_WAYS,
    FEATURES,
    LAYERS,
    LAYERS_FIRST,
    TREES,
    assert_close,
    draw,
    draw_state,
    make,
    one_of,
)

every_layer = pytest.mark.parametrize("name", LAYERS)
every_method = pytest.mark.parametrize("name", [*LAYERS, *TREES])

# A rollout of two environments: `done` at the last step of an episode, the second one's last one
# before it began; the second has one step less, and a flag in the padding that means nothing.
STEPS, LENGTHS = 5, np.array([5, 4])
DONE = np.array([[False, True, False, False, False], [False, False, True, True, False]])
DONE_BEFORE = np.array([False, True])
RESET = np.concatenate([DONE_BEFORE[:, None], DONE[:, :-1]], axis=1)
EPISODES = ((0, 2, 5), (0, 3, 4))


def inner(dy, dlast, y, last):
    """<dy, y> + Re <dlast, last>, without the integers in a state."""
    pairs = zip(jax.tree.leaves(dlast), jax.tree.leaves(last), strict=True)
    parts = [jnp.sum(jnp.real(d * s)) for d, s in pairs if jnp.issubdtype(s.dtype, jnp.inexact)]
    return jnp.sum(dy * y) + sum(parts)


def replay(layer, x, state):
    return layer(x, state, LENGTHS, RESET)


def rollout(layer, x, state):
    """Step by step: after an episode that is done the state is forgotten, then x_t is read."""
    front = isinstance(layer, LAYERS_FIRST)

    def step(state, inputs):
        x_t, reset_t, valid_t = inputs
        y_t, new = layer.step(x_t, state, reset_t)

        def kept(new, old):
            return jnp.where(
                valid_t.reshape((1,) * front + (2,) + (1,) * (new.ndim - 1 - front)), new, old
            )

        return jax.tree.map(kept, new, state), jnp.where(valid_t[:, None], y_t, 0)

    valid = np.arange(STEPS) < LENGTHS[:, None]
    state, y = lax.scan(step, state, (jnp.swapaxes(x, 0, 1), RESET.T, valid.T))
    return jnp.swapaxes(y, 0, 1), state


def separate(layer, x, state, both_ways):
    """A call for each episode. The state enters the first, unless it was over, and in reverse the
    last; it leaves the other way round."""

    def of_ways(onward, reverse):
        if not both_ways:
            return onward
        return jax.tree.map(lambda a, b: jnp.stack([a[0], b[1]]), onward, reverse)

    ys, lasts = [], []
    for row, cuts in enumerate(EPISODES):
        given = one_of(layer, state, (row,))
        nothing = jax.tree.map(jnp.zeros_like, given)
        parts = list(itertools.pairwise(cuts))
        calls = []
        for start, stop in parts:
            onward = given if start == 0 and not DONE_BEFORE[row] else nothing
            reverse = given if stop == cuts[-1] else nothing
            calls.append(layer(x[row, start:stop], of_ways(onward, reverse)))
        y = jnp.concatenate([y for y, _ in calls])
        ys.append(jnp.pad(y, ((0, STEPS - len(y)), (0, 0))))
        lasts.append(of_ways(calls[-1][1], calls[0][1]))
    front = isinstance(layer, LAYERS_FIRST)
    return jnp.stack(ys), jax.tree.map(lambda *rows: jnp.stack(rows, int(front)), *lasts)


@every_layer
def test_a_replay_equals_a_rollout_and_separate_calls(name):
    layer, x = make(name), draw(2, STEPS, FEATURES)
    state, both_ways = draw_state(layer, (2,)), name in BOTH_WAYS
    dy = draw(*jax.eval_shape(layer, x)[0].shape, seed=3)
    dlast = draw_state(layer, (2,), seed=4)
    ways = [replay, lambda *a: separate(*a, both_ways)] + ([] if both_ways else [rollout])

    @jax.jit
    def every(layer, x, state):
        def loss(run, *operands):
            y, last = run(*operands)
            return inner(dy, dlast, y, last), (y, last)

        of_loss = jax.grad(loss, (1, 2, 3), has_aux=True, allow_int=True)
        return [of_loss(run, layer, x, state) for run in ways]

    first, *others = every(layer, x, state)
    for note, other in zip(["separate calls", "rollout"], others, strict=False):
        assert_close(first, other, 5e-6, note)


@every_method
def test_nothing_passes_a_reset(name):
    """inf and nan before it and after it, in the input, the state and what comes back."""
    layer, x = make(name), draw(2, 6, FEATURES)
    state = jax.tree.map(jnp.zeros_like, draw_state(layer, (2,)))
    y, _ = jax.eval_shape(layer, x)
    dy = draw(*y.shape, seed=3)
    reset = np.zeros((2, 6), bool)
    reset[:, 3] = True

    @jax.jit
    def run(layer, x, state, reset, dy):
        y, pull = jax.vjp(lambda layer, *a: layer(*a, reset=reset)[0], layer, x, state)
        return y, pull(dy)

    def filled(state, bad):
        def fill(leaf):
            return jnp.full_like(leaf, bad) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

        return jax.tree.map(fill, state)

    y, (_, d_x, d_state) = run(layer, x, state, reset, dy)
    first, second = np.s_[:, :3], np.s_[:, 3:]
    for bad in (np.nan, np.inf):
        given = state if name in BOTH_WAYS else filled(state, bad)  # in reverse it comes second
        bad_x, bad_dy = x.at[first].set(bad), dy.at[first].set(bad)
        found, (_, back, _) = run(layer, bad_x, given, reset, bad_dy)
        assert_close((found[second], back[second]), (y[second], d_x[second]), 0, f"{bad} first")
        bad_x, bad_dy = x.at[second].set(bad), dy.at[second].set(bad)
        found, (_, back, of_state) = run(layer, bad_x, state, reset, bad_dy)
        assert_close((found[first], back[first]), (y[first], d_x[first]), 0, f"{bad} second")
        if name not in BOTH_WAYS:
            assert_close(of_state, d_state, 0, f"{bad} second")
    if name in BOTH_WAYS:
        return
    # A state that is dropped at once: the gradients of the weights are those without it.
    reset = reset.copy()
    reset[:, 0] = True
    clean = run(layer, x, state, reset, dy)
    assert_close(run(layer, x, filled(state, np.nan), reset, dy), clean, 0, "state")


def test_flags_of_the_wrong_kind_are_named():
    x, layer = np.zeros((2, 3, FEATURES), np.float32), make("gru")
    for reset in (np.zeros((2, 3)), np.zeros((2, 3), int), [[0, 1, 0]] * 2):
        with pytest.raises(TypeError, match=r"reset: .*bool"):
            layer(x, reset=reset)
    for reset in (np.zeros((3, 2), bool), np.zeros(2, bool), np.zeros((1, 3), bool), True):
        with pytest.raises(ValueError, match=r"reset: expected shape \(2, 3\), .* or \(3,\)"):
            layer(x, reset=reset)
    with pytest.raises(ValueError, match=r"reset: expected shape \(2,\), .* or \(\) for all"):
        layer.step(x[:, 0], None, np.zeros((2, 3), bool))
    for name in ("bidirectional", "lstm_both"):
        with pytest.raises(ValueError, match="one direction"):
            make(name).step(x[:, 0], None, np.zeros(2, bool))
    mlp = MLP.init(jax.random.key(0), FEATURES, 4, length=3)
    for call in (lambda: mlp(x, reset=[False] * 3), lambda: mlp.step(x[:, 0], reset=False)):
        with pytest.raises(ValueError, match="reset: MLP takes none"):
            call()


def test_one_row_of_flags_is_for_all_sequences():
    layer, x = make("lru"), draw(2, 3, FEATURES)
    flags = [False, True, False]
    assert_close(layer(x, reset=flags), layer(x, reset=[flags, flags]), 0)
    state = draw_state(layer, (2,))
    assert_close(layer.step(x[:, 0], state, True), layer.step(x[:, 0], state, [True, True]), 0)
    assert_close(layer.step(x[:, 0], state, True), layer.step(x[:, 0]), 0)
    assert_close(layer.step(x[:, 0], state, False), layer.step(x[:, 0], state), 0)


@pytest.mark.parametrize("read", ["every", "last", "mean"])
def test_a_model_reads_the_last_sequence(read):
    def mixer(key, width):
        return GRU.init(key, width, 5) if read == "every" else LRU.init(key, width, 5)

    model = SequenceModel.init(
        jax.random.key(0), mixer, width=4, depth=2, outputs=2, tokens=7, read=read
    )
    tokens = np.random.default_rng(0).integers(0, 7, (2, 6))
    lengths, reset = [6, 4], np.zeros((2, 6), bool)
    reset[0, [2, 3]], reset[1, [1, 5]] = True, True  # the last one in the padding
    y, state = model(tokens, None, lengths, reset)
    alike = model(tokens, None, lengths, reset[0]), model(tokens, None, lengths, reset[[0, 0]])
    assert_close(*alike)
    for row, (start, stop) in enumerate([(3, 6), (1, 4)]):
        want, want_state = model(tokens[row, start:stop])
        got = y[row, start:stop] if read == "every" else y[row]
        assert_close(got, want)
        own = tuple(one_of(b.mixer, s, (row,)) for b, s in zip(model.blocks, state, strict=True))
        assert_close(own, want_state)
    if read == "every":
        now = None
        for t in range(3):
            y_t, now = model.step(tokens[:, t], now, reset[:, t])
            assert_close(y_t, y[:, t])


@pytest.mark.parametrize("name", ["lstm_both", "linear", "lru", "mamba", "attention"])
def test_flags_alone_are_mapped(name):
    layer, x = make(name), draw(2, 4, FEATURES)
    resets = np.random.default_rng(2).random((3, 2, 4)) < 0.4
    gradient = jax.jit(jax.grad(lambda x, reset: jnp.sum(layer(x, reset=reset)[0] ** 2)))
    mapped = jax.jit(jax.vmap(gradient, (None, 0)))(x, resets)
    assert_close(mapped, jnp.stack([gradient(x, reset) for reset in resets]))
