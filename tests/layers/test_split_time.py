"""Layers whose time is split over devices, against the same call on one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rnnscan.layers import LRU, MLP, CausalConv1D, CausalSelfAttention, SequenceModel
from tests.layers.cases import FEATURES, LAYERS, assert_close, draw, draw_state, make

OTHERS = "attention", "bidirectional", "lstm_both", "gru"  # cannot be, or as those that are here
SPLIT = [name for name in LAYERS if name not in OTHERS]
WHERE = {"time": ((-1,), ("time",)), ("b", "a"): ((2, -1), ("a", "b"))}  # the meshes, by axis_name


def on_devices(f, devices, axis_name="time", y=None, **options):
    """f(axis_name, weights, x, state, lengths, reset) -> (y, state), with x, reset and y split.

    y: how it is sharded instead.
    """
    shape, names = WHERE[axis_name]
    mesh = Mesh(np.array(jax.devices("cpu")[:devices]).reshape(shape), names)
    chunk = P(None, axis_name)
    in_specs = (P(), chunk, P(), P(), chunk)
    return jax.shard_map(
        lambda *given: f(axis_name, *given),
        mesh=mesh,
        in_specs=in_specs,
        out_specs=(chunk if y is None else y, P()),
        **options,
    )


def call(axis_name, layer, x, state, lengths, reset):
    return layer(x, state, lengths, reset, axis_name=axis_name)


def split(devices, axis_name="time", **options):
    return on_devices(call, devices, axis_name, **options)


def whole(layer, x, state, lengths, reset):
    return layer(x, state, lengths, reset)


def weighted(outputs):
    """A number that every output is in, each with a weight of its own."""
    total = 0.0
    for n, leaf in enumerate(jax.tree.leaves(outputs)):
        part = jnp.real(leaf) + jnp.imag(leaf) if jnp.iscomplexobj(leaf) else leaf
        total += jnp.sum(draw(*leaf.shape, seed=n).astype(part.dtype) * part)
    return total


def results(f, layer, x, state=None, lengths=None, reset=None):
    """Outputs, and the gradients of the layer, x and the state."""

    def loss(layer, x, state):
        outputs = f(layer, x, state, lengths, reset)
        return weighted(outputs), outputs

    value = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    (_, outputs), gradients = value(layer, x, state)
    return outputs, gradients


def packed(*batch, steps, share=0.3):
    return jnp.asarray(np.random.default_rng(5).random((*batch, steps)) < share)


@pytest.mark.parametrize("name", ["linear", "lru", "conv", "selective_ssm", "bidirectional"])
def test_two_devices_from_a_given_state(name):
    layer, x = make(name), draw(2, 6, FEATURES)
    given = layer, x, draw_state(layer, (2,))
    assert_close(results(split(2), *given), results(whole, *given), tolerance=1e-5)


@pytest.mark.parametrize("name", [*SPLIT, "selective_ssm_tree"])
def test_four_devices_with_lengths_and_resets(name):
    """Sequences end within a chunk, at its end, before the first step and after the last one."""
    layer, lengths = make(name), jnp.array([8, 5, 2, 0])
    padding = jnp.arange(8)[None] >= lengths[:, None]
    x = jnp.where(padding[..., None], jnp.nan, draw(4, 8, FEATURES))
    given = layer, x, draw_state(layer, (4,)), lengths, packed(4, steps=8)
    assert_close(results(split(4, ("b", "a")), *given), results(whole, *given), tolerance=1e-5)


@pytest.mark.parametrize("name", ["min_lstm", "conv", "selective_ssm", "lstm_both"])
def test_one_step_a_device_without_a_state(name):
    """A window reaches back over several devices, and before the first one."""
    layer, x = make(name), draw(2, 8, FEATURES)
    given = None, jnp.array([8, 3]), packed(2, steps=8)
    sharded, alone = (jax.jit(f)(layer, x, *given) for f in (split(8), whole))
    assert_close(sharded, alone, tolerance=1e-5)


@pytest.mark.parametrize("name", ["mamba", "gru_both"])
def test_no_steps_return_the_state(name):
    layer = make(name)
    state = draw_state(layer, (2,))
    x, lengths, reset = jnp.zeros((2, 0, FEATURES)), jnp.array([0, 0]), jnp.zeros((2, 0), bool)
    y, last = split(2)(layer, x, state, lengths, reset)
    assert y.shape == (2, 0, layer.output_size)
    jax.tree.map(np.testing.assert_array_equal, last, state)


@pytest.mark.parametrize("name", ["linear", "lru", "conv", "selective_ssm"])
def test_no_nan_passes_a_reset_or_comes_from_later_devices(name):
    """The second of four devices resets at its second step; the third is the last that is read."""
    layer, steps = make(name), jnp.arange(8)
    reset, read = steps[None] == 3, slice(3, 6)

    def outputs(f, x):
        y, _ = f(layer, x, draw_state(layer, (1,)), None, reset)
        return jnp.sum(y[:, read] ** 2), y[:, read]

    sharded, alone = (
        jax.jit(jax.value_and_grad(lambda x, f=f: outputs(f, x), has_aux=True))
        for f in (split(4), whole)
    )
    before, after = (steps < 3)[:, None], (steps >= 6)[:, None]
    x = jnp.where(before, jnp.nan, draw(1, 8, FEATURES))
    ((_, y), dx), ((_, expected), expected_dx) = sharded(x), alone(x)
    assert_close(y, expected, tolerance=1e-5)
    assert_close(dx[:, read], expected_dx[:, read], tolerance=1e-5)
    (_, y), _ = sharded(jnp.where(after, jnp.nan, x))
    assert_close(y, expected, tolerance=1e-5)


def test_float64():
    with jax.enable_x64(True):
        layer, x = make("lru", jnp.float64), draw(2, 8, FEATURES, dtype=jnp.float64)
        given = layer, x, draw_state(layer, (2,)), jnp.array([8, 3]), packed(2, steps=8)
        assert_close(results(split(4), *given), results(whole, *given), tolerance=1e-13)


def test_halves_are_carried_in_float32_from_device_to_device():
    layer, x = make("min_gru", jnp.bfloat16), draw(2, 32, FEATURES, dtype=jnp.bfloat16)
    state = draw_state(layer, (2,))
    sharded, alone = (jax.jit(f)(layer, x, state, None, None) for f in (split(8), whole))
    assert jax.tree.leaves(sharded)[0].dtype == jnp.bfloat16
    # A state that is rounded once differs by one rounding at most.
    assert_close(sharded, alone, tolerance=2**-8)
    equal = [np.mean(np.asarray(a == b)) for a, b in zip(sharded, alone, strict=True)]
    assert min(equal) > 0.95


def test_vmap_over_shard_map_and_derivatives_of_second_order():
    layer, x = make("min_gru_signed"), draw(2, 3, 8, FEATURES)
    state, reset = draw_state(layer, (2, 3)), packed(2, 3, steps=8)

    def along(f, x, state, reset):
        def gradient(x):
            return jax.grad(lambda x: weighted(f(layer, x, state, None, reset)) ** 2)(x)

        return jax.jvp(gradient, (x,), (jnp.ones_like(x),))

    sharded, alone = (
        jax.jit(jax.vmap(lambda *given, f=f: along(f, *given)))(x, state, reset)
        for f in (split(2), whole)
    )
    assert_close(sharded, alone, tolerance=1e-5)


@pytest.mark.parametrize("name", ["lru", "conv"])
def test_without_checks_of_types(name):
    layer, x = make(name), draw(2, 4, FEATURES)
    given = layer, x, draw_state(layer, (2,)), jnp.array([3, 1])
    sharded = results(split(2, check_vma=False), *given)
    assert_close(sharded, results(whole, *given), tolerance=1e-5)


@pytest.mark.parametrize(
    ("read", "padded"), [("every", True), ("last", True), ("mean", True), ("mean", False)]
)
def test_a_model(read, padded):
    def mixer(key, width):
        return LRU.init(key, width, 3)

    sizes = {"width": 4, "depth": 1, "outputs": 2, "tokens": 5, "read": read}
    model = SequenceModel.init(jax.random.key(0), mixer, **sizes)
    x = jnp.asarray(np.random.default_rng(0).integers(0, 5, (3, 8)), jnp.int32)
    lengths, reset = (jnp.array([8, 5, 0]), packed(3, steps=8)) if padded else (None, None)
    if padded:
        x = jnp.where(jnp.arange(8)[None] < lengths[:, None], x, 999)
    sharded = on_devices(call, 4, y=None if read == "every" else P())

    def run(f):
        def loss(model):
            outputs = f(model, x, None, lengths, reset)
            return weighted(outputs), outputs

        return jax.jit(jax.grad(loss, has_aux=True))(model)

    assert_close(run(sharded), run(whole), tolerance=1e-5)


def test_what_devices_tell_each_other_does_not_grow_with_time():
    def told(steps):
        layer, x = make("mamba"), jnp.zeros((2, steps, FEATURES))
        text = jax.jit(split(4)).lower(layer, x, None, None, None).compile().as_text()
        pattern = r"= (.*?) (all-\w+|collective-permute|reduce-scatter)\("
        return sorted(re.findall(pattern, text))

    assert 3 <= len(told(16)) <= 8
    assert told(16) == told(64)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (CausalSelfAttention.init(jax.random.key(0), 4, num_heads=1), "keys .* split the batch"),
        (MLP.init(jax.random.key(0), 4, 4, length=2), "one whole window; split the batch"),
    ],
    ids=["attention", "mlp"],
)
def test_a_layer_that_cannot_be_split_says_why_and_the_way_out(layer, why):
    name = type(layer).__name__
    message = f"axis_name: {name} cannot split time over devices: .*{why}"
    with pytest.raises(ValueError, match=message):
        split(2)(layer, draw(1, 4, 4), None, None, None)


def test_an_axis_that_is_not_there():
    for layer in (CausalConv1D.init(jax.random.key(0), FEATURES, 2), make("lru")):
        with pytest.raises(ValueError, match=r"axis_name: got 'time', .* inside jax.shard_map"):
            layer(draw(1, 4, FEATURES), axis_name="time")


def test_lengths_count_over_the_whole_sequence():
    layer, x = make("lru"), draw(2, 4, FEATURES)

    def run(lengths):
        return on_devices(
            lambda axis_name, layer, x, *_: layer(x, lengths=lengths, axis_name=axis_name),
            2,
        )(layer, x, None, None, None)

    assert_close(run([4, 3]), whole(layer, x, None, [4, 3], None), tolerance=1e-5)
    with pytest.raises(ValueError, match=r"lengths: expected values in 0..4, the steps, got 5"):
        run([4, 5])
