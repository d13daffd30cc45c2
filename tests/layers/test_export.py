"""`jax.export` of layers whose batch and time are symbols, called at several sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from rnnscan import GRU, LRU, MLP, RNN, CausalSelfAttention, SequenceModel
from rnnscan.layers import attention
from tests.layers.cases import BOTH_WAYS, FEATURES, LAYERS, assert_close, draw, make

KEY = jax.random.key(0)
STEPS = 5  # where time is no symbol; what the MLP is made for
MIXERS = {
    "gru": lambda key, width: GRU.init(key, width, 3),
    "lru": lambda key, width: LRU.init(key, width, 3),
}


def model(mixer, read, **x):
    return SequenceModel.init(KEY, MIXERS[mixer], width=4, depth=1, outputs=2, read=read, **x)


EVERY = {name: functools.partial(make, name) for name in LAYERS}
EVERY |= {
    "mlp": lambda: MLP.init(KEY, FEATURES, 4, length=STEPS),
    "model": lambda: model("gru", "mean", input_size=FEATURES),
    "model-tokens": lambda: model("lru", "last", tokens=5),
}


def spec(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def specs(layer, batch, steps):
    x = spec(batch, steps, FEATURES)
    if getattr(layer, "tokens", None):
        x = spec(batch, steps, dtype=jnp.int32)
    lengths, reset = spec(batch, dtype=jnp.int32), spec(batch, steps, dtype=bool)
    return jax.tree.map(lambda leaf: spec(*leaf.shape), layer), x, lengths, reset


def operands(layer, batch, steps):
    rng = np.random.default_rng(0)
    x = draw(batch, steps, FEATURES)
    if getattr(layer, "tokens", None):
        x = jnp.asarray(rng.integers(0, layer.tokens, (batch, steps)), jnp.int32)
    lengths = jnp.asarray(rng.integers(0, steps + 1, batch), jnp.int32)
    return layer, x, lengths, jnp.asarray(rng.random((batch, steps)) < 0.3)


def run(layer, x, lengths, reset):
    """A call, padded and packed, and gradients through it."""
    options = {} if isinstance(layer, MLP) else {"reset": reset}

    def loss(layer):
        y, state = layer(x, None, lengths, **options)
        leaves = [s for s in jax.tree.leaves(state) if jnp.issubdtype(s.dtype, jnp.floating)]
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in (y, *leaves)), (y, state)

    return jax.grad(loss, has_aux=True)(layer)


def run_twice(layer, x, lengths, reset):
    """The same after another call, whose state goes in."""
    y, state = layer(x)
    more, state = layer(x, state, lengths, reset)
    return y, more, state


def exported(layer, batch, steps, f=run):
    return export.export(jax.jit(f))(*specs(layer, batch, steps))


@pytest.mark.parametrize("name", EVERY)
def test_any_batch_and_time(name):
    layer = EVERY[name]()
    batch, steps = export.symbolic_shape("b, t")
    size = (3, 7) if name != "mlp" else (3, STEPS)
    program = exported(layer, batch, steps if name != "mlp" else STEPS)
    given = operands(layer, *size)
    assert_close(program.call(*given), jax.jit(run)(*given), 1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_one_of_them_and_another_platform(name):
    layer = EVERY[name]()
    batch, steps = export.symbolic_shape("b, t")
    for size in [(batch, 70 if name != "mlp" else STEPS), *[(2, steps)] * (name != "mlp")]:
        given = specs(layer, *size)
        program = export.export(jax.jit(run), platforms=["cuda"])(*given)
        assert [a.shape for a in program.in_avals] == [s.shape for s in jax.tree.leaves(given)]


@pytest.mark.parametrize("name", ["rnn", "attention"])
def test_differentiated_after_the_export(name):
    layer = make(name)
    batch, steps = export.symbolic_shape("b, t")
    program = exported(layer, batch, steps, lambda *given: given[0](given[1])[0])
    given = operands(layer, 2, 6)

    def gradient(call):
        return jax.jit(jax.grad(lambda layer, x: jnp.sum(jnp.sin(call(layer, x))), (0, 1)))

    found = gradient(lambda *x: program.call(*x, *given[2:]))(*given[:2])
    assert_close(found, gradient(lambda layer, x: layer(x)[0])(*given[:2]), 1e-5)


def test_attention_in_blocks(monkeypatch):
    """One step, less than a block of queries, several, evenly or not; and from a cache."""
    monkeypatch.setattr(attention, "BLOCK", 4)
    layer = CausalSelfAttention.init(KEY, FEATURES, 4, num_heads=1, context=6)
    (steps,) = export.symbolic_shape("t")
    program = exported(layer, 2, steps, run_twice)
    monkeypatch.undo()
    for steps in (1, 3, 8, 11):
        given = operands(layer, 2, steps)
        assert_close(program.call(*given), jax.jit(run_twice)(*given), 1e-5, str(steps))


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in BOTH_WAYS])
def test_a_step_of_any_batch(name):
    layer = make(name)
    (batch,) = export.symbolic_shape("b")
    (x, state) = jax.eval_shape(lambda x: (x, layer.step(x)[1]), spec(batch, FEATURES))
    found = export.export(jax.jit(layer.step))(x, state).out_avals
    assert found[0].shape == (batch, layer.output_size)
    assert [a.shape for a in found[1:]] == [s.shape for s in jax.tree.leaves(state)]


def test_what_cannot_be_exported_says_why():
    batch, steps, n = export.symbolic_shape("b, t, n")
    with pytest.raises(ValueError, match=r"x: expected exactly 5 steps, .* got t"):
        exported(EVERY["mlp"](), batch, steps)
    layer = RNN.init(KEY, FEATURES, 4, method="newton")
    with pytest.raises(ValueError, match=r"method='newton' cannot .* length is a symbol"):
        exported(layer, batch, steps)
    with pytest.raises(ValueError, match=r"lengths: expected shape \(b,\).* got \(n,\)"):
        jax.eval_shape(layer, spec(batch, 5, FEATURES), None, spec(n, dtype=jnp.int32))
