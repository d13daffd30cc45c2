"""Maps over none, batches of none, no steps: the shapes are those of a loop over none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import GRU, MLP, SequenceModel
from rnnscan.scan import cell_table
from tests.layers.cases import BOTH_WAYS, FEATURES, LAYERS, draw, make
from tests.scan.test_empty import shapes

KEY = jax.random.key(0)
STEPS = 5


def mlp():
    return MLP.init(KEY, FEATURES, 4, length=STEPS)


def model():
    return SequenceModel.init(
        KEY, lambda key, n: GRU.init(key, n, n), width=4, depth=1, outputs=2, input_size=FEATURES
    )


EVERY = {name: lambda name=name: make(name) for name in LAYERS}
EVERY |= {
    f"lstm-{method}": lambda method=method: LAYERS["lstm"](KEY, method=method)
    for method in cell_table.names
    if method != "cuda"
}
EVERY |= {"mlp": mlp, "model": model}
every_layer = pytest.mark.parametrize("name", EVERY)


def flags(x):
    """True at some step that is known when x is."""
    return x[..., 0] > 1


def run(layer, x, state):
    """All floating results; with lengths and resets where the layer takes them."""
    options = {} if isinstance(layer, MLP) else {"reset": flags(x)}
    lengths = jnp.ones(x.shape[:-2], jnp.int32)
    results = layer(x), layer(x, state, lengths, **options)
    return [leaf for leaf in jax.tree.leaves(results) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


@every_layer
def test_a_map_over_none(name):
    """Over everything, the weights alone (an ensemble of none), the states, and one in another."""
    layer, x = EVERY[name](), draw(2, STEPS, FEATURES)
    state = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(layer, x)[1])

    def one(layer, x, state):
        values, pull = jax.vjp(lambda layer, x: run(layer, x, state), layer, x)
        return values, pull(values)

    given = layer, x, state
    none = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), given)
    ways: list = [jax.vmap(one, axes) for axes in ((0, 0, 0), (0, None, None), (None, None, 0))]
    operands = [none, (none[0], x, state), (layer, x, none[2])]
    pair = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), layer)
    ways.append(jax.vmap(jax.vmap(lambda layer, x: layer(x)[0], (None, 0)), (0, None)))
    operands.append((pair, none[1]))

    def all_ways(operands):
        return [way(*given) for way, given in zip(ways, operands, strict=True)]

    *maps, nested = jax.jit(all_ways).lower(operands).out_info
    wanted = [(0, *shape) for shape in shapes(jax.eval_shape(one, *given))]
    assert all(shapes(found) == wanted for found in maps)
    assert nested.shape[:2] == (2, 0)


@every_layer
def test_a_batch_of_none_and_no_steps(name):
    layer = EVERY[name]()

    def loss(layer, x):
        return jnp.sum(layer(x)[0])

    def gradients(*given):
        return [jax.value_and_grad(loss, (0, 1))(layer, x)[1] for x in given]

    sizes = [(0, STEPS), (2, 0, STEPS)] + [(2, 0), (0, 0)] * (not isinstance(layer, MLP))
    given = [jnp.zeros((*size, FEATURES)) for size in sizes]
    for found, x in zip(jax.jit(gradients).lower(*given).out_info, given, strict=True):
        assert shapes(found) == shapes((layer, x))


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in BOTH_WAYS])
def test_a_step_of_none(name):
    layer, x = make(name), jnp.zeros((2, FEATURES))
    state = jax.eval_shape(layer.step, x)[1]
    none = jax.tree.map(lambda s: jnp.zeros((0, *s.shape), s.dtype), (x, state))
    y, after = jax.jit(jax.vmap(layer.step)).lower(*none).out_info
    assert y.shape[:2] == (0, 2)
    assert shapes(after) == shapes(none[1])


@pytest.mark.parametrize("name", ["rnn", "selective_ssm", "attention"])
def test_gradients_of_an_ensemble_on_nothing_are_zeros(name):
    layer = make(name)

    @jax.jit
    def gradient(layer, x):
        return jax.grad(lambda layer: jnp.sum(jax.vmap(lambda x: layer(x)[0])(x)))(layer)

    found = gradient(layer, jnp.zeros((0, 2, STEPS, FEATURES)))
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(found))
