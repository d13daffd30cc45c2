"""What only a GPU can show: scans and a layer in its own arithmetic, within the same bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import GRU, LSTM, RNN, linear_scan, matrix_scan
from tests.layers.cases import assert_close
from tests.scan.cases import Call, methods_of
from tests.scan.reference import unit_roundoff
from tests.scan.test_laws import assert_within

pytestmark = pytest.mark.gpu

CALLS = [
    Call(b=(4097, 33), a=(4097, 33), h0=(33,), reset=(4097,)),
    Call(b=(3, 1025, 70), a=(70,), h0=(3, 1), axis=1, reverse=True),
    Call(b=(3, 70, 1025), a=(3, 1, 1025), axis=2, dtype="complex64"),
    Call(b=(1000, 130), a=(130,), h0=(130,), dtype="bfloat16"),
    Call(b=(513, 2, 3), a=(513, 1, 3), h0=(), reset=(513, 2, 3), dtype="float64"),
    Call(b=(1025, 4, 16), a=(16, 16), h0=(4, 16)),
    Call(b=(2, 513, 8), a=(2, 513, 8, 8), axis=1, reverse=True, reset=(513,)),
    Call(b=(65, 32), a=(1, 32, 32), h0=(32,), dtype="bfloat16"),
]


@pytest.fixture(autouse=True)
def on_the_gpu():
    with jax.default_device(jax.devices("gpu")[0]):
        yield


# Compiling takes the time here: every call as `auto` would have it, two of them by each method.
PAIRS = [("auto", call) for call in CALLS]
ARRAY_METHODS = {"sequential", "associative", "blocked"}
PAIRS += [(m, call) for call in CALLS[::5] for m in methods_of(call) if m in ARRAY_METHODS]
PAIRS += [("blocked", CALLS[2])]  # its length has a divisor near the chunk's, that of CALLS[0] none


@pytest.mark.parametrize(("method", "call"), PAIRS, ids=str)
def test_values_and_gradients_equal_a_float64_loop(method, call):
    scan = matrix_scan if call.matrix else linear_scan
    a, b, h0, reset, g = call.arrays()
    reference, u = call.reference(a, b, h0, reset), unit_roundoff(call.dtype)

    @jax.jit
    def evaluate(primals, g):
        h, pull = jax.vjp(lambda *p: scan(*p, reset=reset, method=method, **call.options), *primals)
        return h, pull(g)

    with call.wide():
        primals = [jnp.asarray(x) for x in (a, b, h0) if x is not None]
        h, gradients = evaluate(primals, jnp.asarray(g))
    assert {device.platform for device in h.devices()} == {"gpu"}
    assert_within(h, reference.states(), reference.states_bound(u))
    names = ("a", "b", "h0")[: len(gradients)]
    wanted, bounds = reference.gradients(g), reference.gradient_bounds(g, u)
    for name, got, want, bound in zip(names, gradients, wanted, bounds, strict=False):
        assert_within(got, want, bound, f"gradient of {name}")


@pytest.mark.parametrize(
    ("cls", "options"),
    [(RNN, {}), (RNN, {"nonlinearity": "relu"}), (LSTM, {}), (GRU, {})],
    ids=["tanh", "relu", "lstm", "gru"],
)
def test_stepping_equals_calling(cls, options):
    layer = cls.init(jax.random.key(0), 24, 96, num_layers=2, **options)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((5, 33, 24)), jnp.float32)
    step, ys, state = jax.jit(layer.step), [], None
    for t in range(x.shape[1]):
        y, state = step(x[:, t], state)
        ys.append(y)
    whole = jax.jit(layer)(x)
    assert {device.platform for device in whole[0].devices()} == {"gpu"}
    assert_close((jnp.stack(ys, 1), state), whole)
