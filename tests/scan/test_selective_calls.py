"""Law 7 of `selective_scan`, its methods, and what it refuses."""

import jax
import jax.export
import numpy as np
import pytest

from rnnscan import explain_selective_scan, selective_scan
from tests.scan.selective_cases import METHODS, Call, every_method
from tests.scan.test_selective_transformations import SMALL, assert_close, loss_of

WIDE = Call(batch=(2,), T=8192, channels=64, N=64, without=("h0",))
STATES = 4 * 2 * 8192 * 64 * 64  # bytes of all of them


def specs_for(call):
    return {name: jax.ShapeDtypeStruct(s, call.dtypes[name]) for name, s in call.shapes.items()}


@every_method
def test_states_are_never_in_memory(method):
    """Neither forward nor in the gradient of everything; x, of N = 64, is little beside them."""
    f = WIDE.scan(method)
    for program in (f, jax.grad(loss_of(f))):
        compiled = jax.jit(program).lower(specs_for(WIDE)).compile()
        used = compiled.memory_analysis()
        assert used.temp_size_in_bytes < STATES / 6, (used.temp_size_in_bytes, STATES)


@every_method
def test_the_backward_pass_keeps_its_inputs_and_a_state_every_64_steps(method):
    call = Call(batch=(2,), T=640, channels=4, N=16)
    given, _, _ = call.arrays()
    _, pull = jax.vjp(call.scan(method), given)
    kept = sum(leaf.size for leaf in jax.tree.leaves(pull))
    assert kept <= sum(v.size for v in given.values()) + 10 * given["h0"].size


@every_method
def test_the_program_does_not_grow_with_the_length(method):
    def size(T):
        call = Call(batch=(), T=T, channels=64, N=16)
        lowered = jax.jit(jax.grad(loss_of(call.scan(method)))).lower(specs_for(call))
        return lowered.as_text().count("\n")

    assert size(100_000) <= 1.1 * size(1_000)


def test_no_recompilation():
    traces = 0

    @jax.jit
    def f(given):
        nonlocal traces
        traces += 1
        return selective_scan(**given)

    for seed in range(3):
        f(SMALL.arrays(seed)[0])
    assert traces == 1


def test_lowers_for_other_platforms_and_for_export():
    """No kernel of this machine in what runs elsewhere."""
    specs = specs_for(Call(batch=(), T=64))

    def f(given):
        return selective_scan(**given)

    for platform in ("cuda", "tpu"):
        text = jax.jit(f).trace(specs).lower(lowering_platforms=(platform,)).as_text()
        assert "rnnscan_selective" not in text
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(specs)
    assert "rnnscan_selective" not in exported.mlir_module()
    given, _, _ = Call(batch=(), T=64).arrays()
    assert_close(exported.call(given), f(given), 1e-5)


def test_exports_for_any_length_and_batch():
    call = Call(batch=(3,), T=70)
    given, _, _ = call.arrays()
    b, t = jax.export.symbolic_shape("b, t")
    shapes = {
        "x": (b, t, call.channels),
        "delta": (b, t, call.channels),
        "B": (b, t, call.N),
        "C": (b, t, call.N),
        "h0": (b, call.channels, call.N),
    }
    specs = {
        name: jax.ShapeDtypeStruct(shapes.get(name, v.shape), v.dtype) for name, v in given.items()
    }
    f = jax.jit(lambda given: selective_scan(**given))
    exported = jax.export.export(f)(specs)
    assert_close(exported.call(given), f(given), 1e-5)


@pytest.mark.parametrize(
    ("call", "platform", "chosen"),
    [
        (Call(T=2048, channels=64, N=16), "cuda", "stretches"),
        (Call(T=2048, channels=64, N=16), "tpu", "stretches"),
        (Call(T=2048, channels=64, N=16, discretisation="zoh"), "cpu", "stretches"),
        (Call(T=2048, channels=64, N=16, complex="A"), "cpu", "stretches"),
        (Call(T=2048, channels=64, N=16, dtype="float64"), "cpu", "stretches"),
    ],
    ids=str,
)
def test_explain_says_what_auto_takes(call, platform, chosen):
    with call.types():
        rows = explain_selective_scan(**specs_for(call), **call.options, platform=platform)
    assert [row.method for row in rows if row.chosen] == [chosen]
    assert {"native", "stretches", "sequential"} <= {row.method for row in rows}
    native = next(row for row in rows if row.method == "native")
    assert not native.available
    assert native.reason


@pytest.mark.skipif("native" not in METHODS, reason="no kernel was compiled at the install")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_auto_takes_the_kernel_on_cpus(dtype):
    call = Call(T=2048, channels=64, N=16, dtype=dtype)
    specs = specs_for(call)
    rows = explain_selective_scan(**specs, platform="cpu")
    assert [row.method for row in rows if row.chosen] == ["native"]
    text = jax.jit(lambda given: selective_scan(**given)).lower(specs).as_text()
    assert "rnnscan_selective_forward" in text


# Bad input.

T, CHANNELS, N = 5, 3, 2
GOOD = Call(batch=(2,), T=T, channels=CHANNELS, N=N)
WRONG = {
    "delta": ({"delta": np.zeros((2, 5, 4), np.float32)}, r"delta: .*\(2, 5, 4\).*\(2, 5, 3\)"),
    "delta batch": ({"delta": np.zeros((3, 5, 3), np.float32)}, r"delta: .*\(3, 5, 3\)"),
    "A": ({"A": -np.ones((4, 2), np.float32)}, r"A: .*\(4, 2\).*\(3, 2\)"),
    "A rank": ({"A": -np.ones(3, np.float32)}, r"A: .*\(3,\).*\(3, 2\)"),
    "A grows": ({"A": np.float32([[-1, -1], [-1, 0.5], [-1, -1]])}, r"A: .*0\.5.*(<= 0)"),
    "B": ({"B": np.zeros((2, 4, 2), np.float32)}, r"B: .*\(2, 4, 2\).*\(2, 5, 2\)"),
    "C": ({"C": np.zeros((2, 5, 7), np.float32)}, r"C: .*\(2, 5, 7\).*\(2, 5, 2\)"),
    "D": ({"D": np.zeros(4, np.float32)}, r"D: .*\(4,\).*\(3,\)"),
    "h0": ({"h0": np.zeros((2, 2, 3), np.float32)}, r"h0: .*\(2, 2, 3\).*\(2, 3, 2\)"),
    "x": ({"x": np.zeros(5, np.float32)}, r"x\b.*\(5,\)"),
    "reset": ({"reset": np.zeros(4, bool)}, r"reset: .*\(4,\)"),
    "reset features": ({"reset": np.zeros((2, 5, 3), bool)}, r"reset: .*\(2, 5, 3\)"),
    "reset dtype": ({"reset": np.zeros(5)}, r"reset: .*bool"),
    "integers": ({"x": np.zeros((2, 5, 3), np.int32)}, r"x: .*int32"),
    "list": ({"B": [1.0]}, r"B: .*list"),
    "method": ({"method": "nativ"}, r"method: got 'nativ'.*did you mean 'native'"),
    "discretisation": ({"discretisation": "zho"}, r"discretisation: got 'zho'.*'zoh'"),
    "delta_bias": ({"delta_bias": np.zeros(2, np.float32)}, r"delta_bias: .*\(2,\).*\(3,\)"),
    "delta_softplus": ({"delta_softplus": None}, r"delta_softplus: got None"),
    "signed": ({"signed": 1}, r"signed: got 1"),
    "reverse": ({"reverse": "yes"}, r"reverse: got 'yes'"),
    "stretch": ({"stretch": 0}, r"stretch: got 0"),
    "axis_name": ({"axis_name": "t"}, r"axis_name: .*'t'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_refused(wrong):
    changed, message = WRONG[wrong]
    given, _, _ = GOOD.arrays()
    with pytest.raises((ValueError, TypeError), match=message):
        selective_scan(**given | changed)


def test_a_complex_delta_turns_the_state():
    """Half a turn a step is a signed decay of 1."""
    h = selective_scan(
        x=np.zeros((3, 1), np.complex64),
        delta=np.full((3, 1), 1j * np.pi, np.complex64),
        A=-np.ones((1, 1), np.complex64),
        B=np.ones((3, 1), np.complex64),
        C=np.ones((3, 1), np.complex64),
        h0=np.full((1, 1), 2, np.complex64),
    )[0]
    np.testing.assert_allclose(h[:, 0], [-2, 2, -2], atol=1e-6)


def test_signed_decays_are_real():
    given, _, _ = GOOD.arrays()
    with pytest.raises(ValueError, match=r"signed: .*A"):
        selective_scan(**given | {"A": given["A"].astype(np.complex64)}, signed=True)


def test_dtypes_are_not_mixed_unsaid():
    """Strict promotion raises as JAX does."""
    given, _, _ = GOOD.arrays()
    with pytest.raises(ValueError, match="float16"):
        selective_scan(**given | {"C": given["C"].astype(np.float16)})


def test_a_named_method_that_cannot_serve_says_why():
    given, _, _ = GOOD.arrays()
    with pytest.raises(ValueError, match=r"method='native' cannot serve this call: .*zoh"):
        selective_scan(**given, discretisation="zoh", method="native")
