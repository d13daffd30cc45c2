"""What only a GPU can show: scans and a layer in its own arithmetic, within the same bounds.

First what the launcher of the CUDA kernel rests on, for all else would be wrong with it;
`smoke.py` tries the same without pytest.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import (
    GRU,
    LSTM,
    RNN,
    cell_scan,
    explain_cell_scan,
    explain_linear_scan,
    linear_scan,
    matrix_scan,
)
from rnnscan.scan.cuda_kernel.plan import plan
from rnnscan.scan.linear_methods import cuda
from tests.layers.cases import assert_close
from tests.scan.cases import Call, methods_of
from tests.scan.reference import unit_roundoff
from tests.scan.test_cells import assert_alike, cotangents_of, draw, of_dtype
from tests.scan.test_laws import assert_gradients_within, assert_within

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


_why = next(
    row for row in explain_linear_scan(0.5, jnp.ones(99), platform="cuda") if row.method == "cuda"
)
needs_kernel = pytest.mark.skipif(not _why.available, reason=_why.reason)


@needs_kernel
def test_one_buffer_for_two_operands_and_two_results_in_their_order():
    x = jnp.linspace(-1, 1, 96 * 40).reshape(96, 40)
    h, pull = jax.jit(lambda x: jax.vjp(lambda a, b: linear_scan(a, b, method="cuda"), x, x))(x)
    reference = Call(b=x.shape, a=x.shape).reference(x, x, None, None)
    assert_within(h, reference.states(), reference.states_bound(unit_roundoff("float32")))
    assert_gradients_within(jax.jit(pull)(x), reference, x, "float32")


@needs_kernel
@pytest.mark.parametrize("mode", ["walk", "apply", "chained"])
def test_every_mode_of_the_cuda_kernel(mode, monkeypatch):
    monkeypatch.setattr(cuda, "plan", functools.partial(plan, mode=mode))
    jax.clear_caches()  # programs of other modes
    for call in CALLS[:5]:
        test_values_and_gradients_equal_a_float64_loop("cuda", call)
    jax.clear_caches()


@needs_kernel
def test_blocks_that_wait_for_each_other_give_the_same_numbers_every_time(monkeypatch):
    monkeypatch.setattr(cuda, "plan", functools.partial(plan, mode="chained"))
    jax.clear_caches()
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.uniform(-1, 1, (20_000, 200)), jnp.float32) for _ in range(2))
    scan = jax.jit(lambda a, b: linear_scan(a, b, method="cuda"))
    want = np.asarray(linear_scan(a, b, method="sequential"))
    first, *others = (np.asarray(scan(a, b)) for _ in range(20))
    np.testing.assert_allclose(first, want, rtol=1e-4, atol=1e-4)
    for other in others:
        np.testing.assert_array_equal(other, first)
    jax.clear_caches()


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
    assert_gradients_within(gradients, reference, g, call.dtype)


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


@pytest.mark.parametrize(
    ("kind", "size", "reverse"),
    [
        ("tanh", (3, 65, 5, 37), False),
        ("relu", (140, 33, 8, 129), True),  # two sequences a block
        ("tanh", (131, 40, 16, 256), True),
        ("tanh", (530, 17, 16, 256), False),  # four
        ("relu", (1, 1, 1, 1), False),
    ],
    ids=str,
)
def test_the_cuda_kernel_of_cells_equals_the_plain_scan(kind, size, reverse):
    weights, x, state, flags = draw(kind, size, padded=size[1] > 1)
    given = of_dtype((weights, x, state), jnp.float32)
    row = next(r for r in explain_cell_scan(kind, *given, platform="cuda") if r.method == "cuda")
    if not row.available:
        pytest.skip(row.reason)

    @functools.partial(jax.jit, static_argnums=0)
    def run(method, weights, x, state, cotangents):
        options = {"reverse": reverse, "method": method}
        out, pull = jax.vjp(lambda *a: cell_scan(kind, *a, *flags, **options), weights, x, state)
        return out, pull(cotangents)

    got, want = (run(method, *given, cotangents_of(x, state)) for method in ("cuda", "scan"))
    assert {device.platform for device in got[0][0].devices()} == {"gpu"}
    batch, steps, inputs, hidden = size
    # Roundings as in tests/scan/test_cells.py, of both.
    assert_alike(got, want, 20 * 2.0**-24 * (inputs + hidden + batch * steps) ** 0.5)
