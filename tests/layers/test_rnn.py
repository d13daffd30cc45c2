"""RNN is torch.nn.RNN: values, all gradients, weights by name."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.layers import RNN
from tests.layers.cases import assert_close

GOLDEN = np.load(Path(__file__).parent / "torch_rnn.npz")
CASES = json.loads(str(GOLDEN["cases"]))


def matches_torch(case, reference, dtype):
    """Compare with what scripts/make_torch_golden.py computed in float64."""
    reference = {key: np.asarray(value, dtype) for key, value in reference.items()}

    def layer_of(prefix):
        keys = [key for key in reference if key.startswith((f"{prefix}/weight", f"{prefix}/bias"))]
        arrays = {key.removeprefix(f"{prefix}/"): reference[key] for key in keys}
        return RNN.from_torch(arrays, case.get("nonlinearity", "tanh"))

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def run(layer, given):
        y, last = layer(given["x"], given.get("state"), case.get("lengths"))
        return jnp.sum(y * reference["dy"]) + jnp.sum(last * reference["dlast"]), (y, last)

    given = {key: reference[key] for key in ("x", "state") if key in reference}
    (_, out), gradients = run(layer_of("weight"), given)
    single = dtype == np.float32
    assert_close(out, (reference["y"], reference["last"]), 1e-6 if single else 1e-12)
    expected = (layer_of("grad"), {key: reference[f"grad/{key}"] for key in given})
    assert_close(gradients, expected, 1e-5 if single else 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_equals_stored_values_of_torch(name, x64):
    keys = [key for key in GOLDEN if key.startswith(f"{name}/")]
    reference = {key.removeprefix(f"{name}/"): GOLDEN[key] for key in keys}
    matches_torch(CASES[name], reference, np.float64 if x64 else np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_equals_torch_itself(seed, x64):
    pytest.importorskip("torch")
    from scripts.make_torch_golden import reference

    rng = np.random.default_rng(seed)
    case = {
        "input_size": int(rng.integers(1, 6)),
        "hidden_size": int(rng.integers(2, 9)),
        "num_layers": int(rng.integers(1, 4)),
        "time": int(rng.integers(1, 20)),
        "nonlinearity": str(rng.choice(["tanh", "relu"])),
        "batch": [None, 1, 3][rng.integers(3)],
    }
    case |= {key: bool(rng.integers(2)) for key in ("bidirectional", "bias", "state")}
    if case["batch"] is not None and rng.integers(2):
        case["lengths"] = [int(n) for n in rng.integers(1, case["time"] + 1, case["batch"])]
    matches_torch(case, reference(seed, **case), np.float64 if x64 else np.float32)


def test_the_weights_of_the_article_and_their_number():
    # 128 * (100 + 128) weights, and two bias vectors of 128 where the formula with one has one.
    def count(**kwargs):
        layer = jax.eval_shape(lambda: RNN.init(jax.random.key(0), 100, 128, **kwargs))
        return sum(leaf.size for leaf in jax.tree.leaves(layer))

    assert count(bias=False) == 29_184
    assert count() == 29_440


def arrays(**changes):
    """A state_dict of two layers, 3 -> 4 -> 4, with these keys changed; None leaves one out."""
    shapes = {}
    for layer, features in enumerate((3, 4)):
        shapes |= {f"weight_ih_l{layer}": (4, features), f"weight_hh_l{layer}": (4, 4)}
        shapes |= {f"bias_ih_l{layer}": (4,), f"bias_hh_l{layer}": (4,)}
    made = {key: np.ones(shape, np.float32) for key, shape in shapes.items()} | changes
    return {key: value for key, value in made.items() if value is not None}


FAULTS = {
    "missing": (arrays(weight_hh_l1=None), r"missing weight_hh_l1$"),
    "one_bias": (arrays(bias_hh_l0=None), r"missing bias_hh_l0$"),
    "half_reverse": (arrays(weight_ih_l0_reverse=np.ones((4, 3))), r"missing weight_hh_l0_rev"),
    "unexpected": (arrays(weight_hr_l0=np.ones((2, 4))), r"unexpected weight_hr_l0$"),
    "misshapen": (
        arrays(weight_ih_l1=np.ones((4, 5))),
        r"weight_ih_l1: expected shape \(4, 4\), got \(4, 5\)$",
    ),
    "lstm": (
        arrays(weight_hh_l0=np.ones((16, 4))),
        r"weight_hh_l0: expected shape \(4, 4\), got \(16, 4\) .*weights of a torch\.nn\.LSTM",
    ),
    "scalar": (arrays(weight_hh_l0=np.float32(1)), r"weight_hh_l0: expected shape .*got \(\)"),
    "integers": (arrays(bias_hh_l0=np.ones(4, int)), r"bias_hh_l0: expected a floating .* int64"),
    "all_at_once": (
        arrays(weight_hh_l1=None, extra=np.ones(1), bias_ih_l0=np.ones(3)),
        r"missing weight_hh_l1; unexpected extra; bias_ih_l0: expected shape \(4,\), got \(3,\)",
    ),
    "prefix": ({"rnn.weight_ih_l0": np.ones((4, 3))}, r"without a prefix.*rnn\.weight_ih_l0"),
    "empty": ({}, r"expected keys like 'weight_ih_l0'.*got \[\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_from_torch_names_every_fault(fault):
    given, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        RNN.from_torch(given)


def test_from_torch_copies():
    given = arrays()
    layer = RNN.from_torch(given)
    given["weight_hh_l0"][:] = 7
    assert (layer.cells[0][0].w_hh == 1).all()


def test_unknown_nonlinearity():
    with pytest.raises(ValueError, match=r"nonlinearity: expected 'tanh' or 'relu', got 'sin'"):
        RNN.init(jax.random.key(0), 3, 4, nonlinearity="sin")
    with pytest.raises(ValueError, match=r"nonlinearity: .* got 'gelu'"):
        RNN.from_torch(arrays(), nonlinearity="gelu")


def test_init_draws_as_torch_does():
    layer = RNN.init(jax.random.key(0), 50, 100, num_layers=2, bidirectional=True)
    for leaf in jax.tree.leaves(layer):
        leaf = np.asarray(leaf)
        assert np.abs(leaf).max() <= 0.1  # uniform(-1/sqrt(100), 1/sqrt(100))
        assert abs(leaf.std() * 3**0.5 / 0.1 - 1) < 4 / leaf.size**0.5
    starts = {tuple(np.asarray(leaf).ravel()[:2]) for leaf in jax.tree.leaves(layer)}
    assert len(starts) == len(jax.tree.leaves(layer))  # nothing is drawn twice


def test_recurrent_init_draws_the_recurrent_matrices_alone():
    key = jax.random.key(0)
    kwargs = {"num_layers": 2, "bidirectional": True}
    plain = RNN.init(key, 3, 4, **kwargs)
    layer = RNN.init(key, 3, 4, recurrent_init=jax.nn.initializers.orthogonal(), **kwargs)
    for before, after in zip(sum(plain.cells, ()), sum(layer.cells, ()), strict=True):
        product = jnp.matmul(after.w_hh, after.w_hh.T, precision="highest")
        np.testing.assert_allclose(product, np.eye(4), atol=1e-6)
        np.testing.assert_array_equal(after.w_ih, before.w_ih)


def test_stepping_in_both_directions_is_refused():
    layer = RNN.init(jax.random.key(0), 3, 4, bidirectional=True)
    with pytest.raises(ValueError, match=r"step: expected .* one direction, got bidirectional"):
        layer.step(jnp.zeros(3))


def test_the_time_of_compiling_does_not_grow_with_length():
    layer = jax.eval_shape(lambda: RNN.init(jax.random.key(0), 3, 4))
    gradient = jax.jit(jax.grad(lambda layer, x: jnp.sum(layer(x)[0])))
    sizes = {
        len(gradient.lower(layer, jax.ShapeDtypeStruct((time, 3), jnp.float32)).as_text())
        for time in (2000, 9000)
    }
    assert len(sizes) == 1
