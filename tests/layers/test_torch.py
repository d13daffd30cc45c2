"""RNN, LSTM and GRU are those of torch.nn: values, final states, all gradients, weights by name."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.torch_example.reference import LAYERS, computed, errors, reference, stored

FILES = {name: Path(__file__).with_name(f"torch_{name.lower()}.npz") for name in LAYERS}
STORED = {name: stored(path) for name, path in FILES.items()}
# In float32, which on a CPU is the kernel, all of them; in float64 those with every option in them.
CASES = [
    (layer, case, wide)
    for layer, (_, cases, _) in STORED.items()
    for case in cases
    for wide in (False, True)
    if not wide or case in ("deep", "unbatched", "relu")
]


def matches_torch(case, expected, dtype):
    found = computed(case, expected, dtype)
    assert {key for key in expected if key.startswith("grad/")} == {
        key for key in found if key.startswith("grad/")
    }
    for key, value in found.items():
        assert (value.shape, value.dtype) == (expected[key].shape, dtype), key
    of_values, of_gradients = errors(found, expected)
    single = dtype == np.float32
    assert of_values <= (1e-6 if single else 1e-12)
    assert of_gradients <= (1e-5 if single else 1e-12)


@pytest.mark.parametrize(("layer", "name", "x64"), CASES, indirect=["x64"])
def test_equals_stored_values_of_torch(layer, name, x64):
    _, cases, references = STORED[layer]
    matches_torch(cases[name], references[name], np.dtype("float64" if x64 else "float32"))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("seed", range(4))
def test_equals_torch_itself(layer, seed, x64):
    pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    case = {
        "layer": layer,
        "input_size": int(rng.integers(1, 6)),
        "hidden_size": int(rng.integers(2, 9)),
        "num_layers": int(rng.integers(1, 4)),
        "time": int(rng.integers(1, 20)),
        "batch": [None, 1, 3][rng.integers(3)],
    }
    if layer == "RNN":
        case["nonlinearity"] = str(rng.choice(["tanh", "relu"]))
    case |= {key: bool(rng.integers(2)) for key in ("bidirectional", "bias", "state")}
    if case["batch"] is not None and rng.integers(2):
        case["lengths"] = [int(n) for n in rng.integers(1, case["time"] + 1, case["batch"])]
    expected = reference(seed, **case)
    matches_torch(case, expected, np.dtype("float64" if x64 else "float32"))


def arrays(gates=1, **changes):
    """A state_dict of two layers, 3 -> 4 -> 4, with these keys changed; None leaves one out."""
    rows, shapes = 4 * gates, {}
    for layer, features in enumerate((3, 4)):
        shapes |= {f"weight_ih_l{layer}": (rows, features), f"weight_hh_l{layer}": (rows, 4)}
        shapes |= {f"bias_ih_l{layer}": (rows,), f"bias_hh_l{layer}": (rows,)}
    made = {key: np.ones(shape, np.float32) for key, shape in shapes.items()} | changes
    return {key: value for key, value in made.items() if value is not None}


FAULTS = {
    "missing": ("RNN", arrays(weight_hh_l1=None), r"missing weight_hh_l1$"),
    "missing_of_lstm": ("LSTM", arrays(4, bias_ih_l1=None), r"missing bias_ih_l1$"),
    "one_bias": ("GRU", arrays(3, bias_hh_l0=None), r"missing bias_hh_l0$"),
    "half_reverse": (
        "RNN",
        arrays(weight_ih_l0_reverse=np.ones((4, 3))),
        r"missing weight_hh_l0_rev",
    ),
    "projection": (
        "LSTM",
        arrays(4, weight_hr_l0=np.ones((2, 4))),
        r"^from_torch: projections \(proj_size\) are not offered, got \['weight_hr_l0'\]$",
    ),
    "misshapen": (
        "RNN",
        arrays(weight_ih_l1=np.ones((4, 5))),
        r"weight_ih_l1: expected shape \(4, 4\), got \(4, 5\)$",
    ),
    "of_an_lstm": ("RNN", arrays(4), r"expected shape .*weights of a torch\.nn\.LSTM\)$"),
    "of_a_gru": ("LSTM", arrays(3), r"expected shape .*weights of a torch\.nn\.GRU\)$"),
    "of_an_rnn": ("GRU", arrays(1), r"expected shape .*weights of a torch\.nn\.RNN\)$"),
    "scalar": ("RNN", arrays(weight_hh_l0=np.float32(1)), r"weight_hh_l0: expected .*got \(\)"),
    "integers": (
        "RNN",
        arrays(bias_hh_l0=np.ones(4, int)),
        r"bias_hh_l0: expected a floating .* int64",
    ),
    "all_at_once": (
        "RNN",
        arrays(weight_hh_l1=None, extra=np.ones(1), bias_ih_l0=np.ones(3)),
        r"missing weight_hh_l1; unexpected extra; bias_ih_l0: expected shape \(4,\), got \(3,\)",
    ),
    "prefix": ("GRU", {"rnn.weight_ih_l0": np.ones((4, 3))}, r"torch\.nn\.GRU, without a prefix"),
    "whole_model": (
        "LSTM",
        {"embedding.weight": np.ones(2), "a.b.bias_hh_l1_reverse": np.ones(4), "head.bias": 1},
        r"got those of a model with such layers at 'a\.b\.': take one, \{key\[4:\]: array for key",
    ),
    "empty": ("LSTM", {}, r"expected keys like 'weight_ih_l0'.*got \[\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_from_torch_names_every_fault(fault):
    layer, given, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        LAYERS[layer].from_torch(given)


def test_from_torch_wants_names():
    for given in ([np.ones((4, 3))], iter([("weight_ih_l0", 1)]), object()):
        with pytest.raises(TypeError, match=r"^from_torch: expected names .*state_dict.* got a "):
            LAYERS["GRU"].from_torch(given)


class Tensor:
    """What of torch.Tensor is relied on: NumPy takes it unless it is trained or a bfloat16."""

    def __init__(self, array, dtype="torch.bfloat16", requires_grad=False):
        self.array, self.dtype, self.requires_grad = array, dtype, requires_grad

    def __array__(self, dtype=None, copy=None):
        if self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array

    def detach(self):
        return Tensor(self.array, self.dtype)

    def cpu(self):
        return self

    def float(self):
        return Tensor(self.array, "torch.float32", self.requires_grad)

    def zero_(self):
        self.array[...] = 0


def of_numpy(array, requires_grad=False):
    return Tensor(array, requires_grad=requires_grad)


def of_torch(array, requires_grad=False):
    torch = pytest.importorskip(
        "torch", reason="no dependency of the tests; `Tensor` stands in for it"
    )
    return torch.tensor(array, dtype=torch.bfloat16, requires_grad=requires_grad)


@pytest.mark.parametrize("tensor", [of_numpy, of_torch])
def test_bfloat16_tensors(tensor):
    """As weights, trained ones too, and as x and state, where a gradient would end unnoticed."""
    layer = LAYERS["GRU"]
    of_bits = np.arange(48, dtype=np.float32).reshape(12, 4) / 32  # each of them a bfloat16
    w_hh = tensor(of_bits.copy(), requires_grad=True)
    made = layer.from_torch(
        {"weight_ih_l0": tensor(np.ones((12, 3), np.float32)), "weight_hh_l0": w_hh}
    )
    w_hh.detach().zero_()
    found = made.cells[0][0].w_hh
    np.testing.assert_array_equal(found, of_bits.astype(jnp.bfloat16), strict=True)

    x, state = np.ones((2, 5, 3), np.float32), np.ones((1, 2, 4), np.float32)
    expected = made(x.astype(jnp.bfloat16), state.astype(jnp.bfloat16))
    jax.tree.map(np.testing.assert_array_equal, made(tensor(x), tensor(state)), expected)
    jax.tree.map(
        np.testing.assert_array_equal,
        made.step(tensor(x[:, 0]), tensor(state)),
        made.step(x[:, 0].astype(jnp.bfloat16), state.astype(jnp.bfloat16)),
    )
    for trained in ((tensor(x, True), None), (tensor(x), tensor(state, True))):
        with pytest.raises(RuntimeError, match="requires grad"):
            made(*trained)


@pytest.mark.parametrize(("layer", "gates"), [("RNN", 1), ("LSTM", 4), ("GRU", 3)])
def test_from_torch_copies(layer, gates):
    given = arrays(gates)
    made = LAYERS[layer].from_torch(given)
    given["weight_hh_l0"][:] = 7
    assert (made.cells[0][0].w_hh == 1).all()
    assert len(jax.tree.leaves(made)) == len(given)
