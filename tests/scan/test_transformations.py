"""Law 6 and 7: every transformation, for every method; what the backward pass keeps."""

import dataclasses
import functools
import itertools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, PartitionSpec

from rnnscan import linear_scan, matrix_scan
from tests.scan.cases import (
    LINEAR,
    MATRIX,
    METHODS,
    Call,
    by_every_method,
    every_matrix_method,
    every_method,
    every_varying_method_of_both,
)
from tests.scan.reference import unit_roundoff
from tests.scan.test_laws import (
    assert_gradients_within,
    assert_within,
    differentiable,
    primals,
    vjp,
)


def unrolled(call, reset):
    """The scan as plain JAX, step by step, for JAX to differentiate by its own rules."""
    axis, rank = call.axis % len(call.b), len(call.b)

    def f(a, b, h0):
        product = (
            (lambda a, h: jnp.einsum("...ij,...j->...i", a, h)) if call.matrix else jnp.multiply
        )
        a = jnp.moveaxis(jnp.broadcast_to(a, call.b + call.b[-1:] * call.matrix), axis, 0)
        b = jnp.moveaxis(b, axis, 0)
        h = jnp.broadcast_to(h0, b.shape[1:])
        flags = np.zeros(call.b, bool) if reset is None else reset
        if flags.ndim == 1:
            flags = flags.reshape([-1 if i == axis else 1 for i in range(rank)])
        flags = np.moveaxis(np.broadcast_to(flags, call.b), axis, 0)
        hs = [h] * len(b)
        for t in reversed(range(len(b))) if call.reverse else range(len(b)):
            h = hs[t] = jnp.where(flags[t], b[t], product(a[t], h) + b[t])
        return jnp.moveaxis(jnp.stack(hs), 0, axis)

    return f


def second(scan, args):
    """Forward over reverse and reverse over forward, of everything at once."""

    def loss(args):
        return jnp.sum(jnp.abs(jnp.sin(scan(*args))) ** 2)

    def slope(args):
        return jax.jvp(loss, (args,), (jax.tree.map(jnp.cos, args),))[1]

    def along(args):
        return jax.jvp(jax.grad(loss), (args,), (jax.tree.map(jnp.cos, args),))[1]

    return jax.jit(lambda args: (jax.grad(slope)(args), along(args)))(args)


@functools.cache  # for every method
def second_of_plain_jax(call):
    a, b, h0, reset, _ = call.arrays()
    return second(unrolled(call, reset), primals(a, b, h0))


@by_every_method([LINEAR[5], LINEAR[8], MATRIX[3]], blocked=slice(1, 2))
def test_mixed_second_order_equals_plain_jax(call, method):
    with jax.enable_x64(True):
        dtype = "complex128" if "complex" in call.dtype else "float64"
        call = dataclasses.replace(call, dtype=dtype)
        a, b, h0, reset, _ = call.arrays()
        got = second(differentiable(call, method, reset), primals(a, b, h0))
        want = second_of_plain_jax(call)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10)


@every_method
def test_third_order(method):
    """h_1 = a_1 (a_0 h0 + b_0) + b_1: the only third derivative is 1, once for each order."""
    forward, backward = jax.jacfwd, jax.jacrev

    def last(a, h0):
        return linear_scan(a, jnp.ones(2), h0, method=method)[1]

    for modes in ((forward, backward, forward), (backward, backward, backward)):
        f = last
        for mode in modes:
            f = mode(f, (0, 1))
        third = jax.jit(f)(jnp.array([0.3, 0.7]), jnp.float32(2.0))
        np.testing.assert_array_equal(third[0][0][1], [[0, 1], [1, 0]])
        np.testing.assert_array_equal(third[1][0][0], [[0, 1], [1, 0]])
        assert not np.any(third[0][0][0])
        assert not np.any(third[1][1][1])


@every_method
def test_hessians_agree_in_both_pure_orders(method):
    """For the mixed ones see `test_mixed_second_order_equals_plain_jax`."""
    call = Call(b=(4, 2), a=(4, 1), h0=(2,), reset=(4,), dtype="float64")
    a, b, h0, reset, _ = call.arrays()
    with jax.enable_x64(True):

        def loss(a, b, h0):
            return jnp.sum(jnp.sin(differentiable(call, method, reset)(a, b, h0)))

        @jax.jit
        def both(*args):
            modes = jax.jacfwd, jax.jacrev
            return [mode(mode(loss, (0, 1, 2)), (0, 1, 2))(*args) for mode in modes]

        forward, backward = both(*primals(a, b, h0))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-12), forward, backward)


# Which of (a, b, h0, reset) are mapped, over which axis; every subset once, the others at a few.
_SUBSETS = [mask for mask in itertools.product([False, True], repeat=4) if any(mask)]
_MAPS = [("sequential", mask, (0, 1, -1)[i % 3]) for i, mask in enumerate(_SUBSETS)]
_FEW = {"associative": slice(0, None, 3), "blocked": slice(1, None, 7)}
_MAPS += [(method, *case[1:]) for method, few in _FEW.items() for case in _MAPS[few]]


def _derivatives(a, b, h0, reset, method):
    """Value, tangent and gradient at once."""

    def loss(a, b, h0):
        return jnp.sum(jnp.sin(linear_scan(a, b, h0, axis=1, reset=reset, method=method)))

    value, tangent = jax.jvp(loss, (a, b, h0), (jnp.cos(a), jnp.sin(b), h0))
    return value, tangent, jax.grad(loss, (0, 1, 2))(a, b, h0)


_one = jax.jit(_derivatives, static_argnames="method")  # one program, whatever is mapped


@pytest.mark.parametrize(("method", "mask", "place"), _MAPS)
def test_vmap_over_any_subset(method, mask, place):
    rng = np.random.default_rng(5)
    stacked = (
        rng.uniform(-1, 1, (3, 1, 5, 2)),
        rng.normal(size=(3, 2, 5, 2)),
        rng.normal(size=(3, 2, 2)),
        rng.random((3, 2, 5, 1)) < 0.3,
    )
    operands = [x if m else x[0] for x, m in zip(stacked, mask, strict=True)]
    moved = [np.moveaxis(x, 0, place) if m else x for x, m in zip(operands, mask, strict=True)]
    in_axes = tuple(place if m else None for m in mask)
    f = functools.partial(_derivatives, method=method)
    with jax.enable_x64(True):
        want = [
            _one(*(x[i] if m else x for x, m in zip(operands, mask, strict=True)), method=method)
            for i in range(3)
        ]
        got = jax.jit(jax.vmap(f, in_axes=in_axes))(*moved)
    want = jax.tree.map(lambda *xs: np.stack(xs), *want)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-12), got, want)


@every_matrix_method
def test_vmap_of_a_matrix_scan(method):
    rng = np.random.default_rng(6)
    A = rng.normal(size=(4, 3, 3)).astype(np.float32) / 3
    b = rng.normal(size=(5, 2, 3, 4)).astype(np.float32)

    def both(A, b):
        h, pull = jax.vjp(lambda A: matrix_scan(A, b, method=method), A)
        return h, *pull(2 * h)

    got, gradient = jax.jit(jax.vmap(both, in_axes=(0, 3)))(A, b)
    one = jax.jit(both)
    for i in range(4):
        h, of_A = one(A[i], b[..., i])
        np.testing.assert_allclose(got[i], h, atol=1e-6)
        np.testing.assert_allclose(gradient[i], of_A, rtol=1e-5, atol=1e-5)


@every_method
def test_jit_and_checkpoint_and_eval_shape(method):
    a, b, h0, reset, _ = LINEAR[5].arrays()
    f = differentiable(LINEAR[5], method, reset)
    args = primals(a, b, h0)
    np.testing.assert_allclose(jax.jit(f)(*args), f(*args), atol=1e-6)
    assert jax.eval_shape(f, *args).shape == b.shape

    def loss(*args):
        return jnp.sum(f(*args) ** 2)

    plain, remade = jax.jit(
        lambda *args: [jax.grad(g, (0, 1, 2))(*args) for g in (loss, jax.checkpoint(loss))]
    )(*args)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), plain, remade)


@every_method
@pytest.mark.parametrize("shared", [(), ("a",), ("h0",), ("a", "h0", "reset")], ids=str)
def test_shard_map(method, shared):
    """Over a batch axis, with varying-axes checks on; what is shared gets a summed gradient."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices("cpu")[:2])
    rng = np.random.default_rng(7)
    operands = {
        "a": rng.uniform(-1, 1, (5, 4)),
        "b": rng.normal(size=(5, 4)),
        "h0": rng.normal(size=(1, 4)),
        "reset": rng.random((5, 4)) < 0.3,
    }
    operands = {
        name: jnp.asarray(x[:, :2] if name in shared else x, None if x.dtype == bool else "float32")
        for name, x in operands.items()
    }
    specs = tuple(
        PartitionSpec() if name in shared else PartitionSpec(None, "x") for name in operands
    )

    def scan(a, b, h0, reset):
        return linear_scan(a, b, h0[0], reset=reset, method=method)

    def on_one(**operands):
        spread = {n: jnp.tile(x, (1, 2)) if n in shared else x for n, x in operands.items()}
        return scan(**spread)

    sharded = jax.shard_map(scan, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(None, "x"))

    def loss(f, reset):
        return lambda x: jnp.sum(jnp.sin(f(**x, reset=reset)))

    def by_name(**operands):
        return sharded(*operands.values())

    reset = operands.pop("reset")

    @jax.jit
    def run(operands):
        values = [f(**operands, reset=reset) for f in (by_name, on_one)]
        return values, [jax.grad(loss(f, reset))(operands) for f in (by_name, on_one)]

    values, gradients = run(operands)
    np.testing.assert_allclose(*values, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), *gradients)


@every_varying_method_of_both
def test_the_backward_pass_keeps_a_and_h(method, matrix):
    """Law 7: residuals are a and h, whatever the method; nothing when a is not differentiated."""
    T, n = 64, 4
    rng = np.random.default_rng(8)
    a = jnp.asarray(rng.normal(size=(T, n, n) if matrix else (T, n)), "float32")
    b = jnp.asarray(rng.normal(size=(T, n)), "float32")
    scan = matrix_scan if matrix else linear_scan

    def kept(f, *args):
        _, pull = jax.vjp(f, *args)
        return sum(x.size for x in jax.tree.leaves(pull))

    state = 2 * n  # h0 and its tangent, here zeros
    assert kept(lambda a, b: scan(a, b, method=method), a, b) <= a.size + b.size + state
    assert kept(lambda b: scan(a, b, method=method), b) <= a.size + state


def _operations(f, *args):
    return jax.jit(f).lower(*args).as_text().count("\n")


@pytest.mark.parametrize("scan", [linear_scan, matrix_scan])
def test_the_sequential_program_does_not_grow_with_the_length(scan):
    def size(T):
        a = jnp.ones((T, 2, 2) if scan is matrix_scan else (T, 2))
        return _operations(
            jax.grad(lambda a, b: jnp.sum(scan(a, b, method="sequential"))), a, jnp.ones((T, 2))
        )

    assert size(10) == size(10_000)


def test_a_constant_decay_is_never_spelled_out():
    """No array of b's size besides b and h: h itself is the only result."""
    T, n = 4096, 64
    a, b = jnp.full((n,), 0.9), jnp.ones((T, n))
    compiled = jax.jit(lambda a, b: linear_scan(a, b, method="sequential")).lower(a, b).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < b.nbytes / 8


def test_no_recompilation():
    traces = 0

    @jax.jit
    def f(a, b):
        nonlocal traces
        traces += 1
        return linear_scan(a, b)

    for seed in range(3):
        f(*map(jnp.asarray, LINEAR[2].arrays(seed)[:2]))
    assert traces == 1


def test_lowers_for_other_platforms():
    """What `auto` picks depends on the platform that the code is lowered for, also for export."""
    spec = jax.ShapeDtypeStruct((64, 4), jnp.float32)
    lowered = {
        platform: jax.jit(linear_scan)
        .trace(spec, spec)
        .lower(lowering_platforms=(platform,))
        .as_text()
        for platform in ("cpu", "cuda", "tpu")
    }
    kernel, cuda_kernel = "custom_call @rnnscan_forward(", "__gpu$xla.gpu.ptx"
    assert ("stablehlo.while" in lowered["cpu"]) != (kernel in lowered["cpu"])
    assert ("stablehlo.while" in lowered["cuda"]) != (cuda_kernel in lowered["cuda"])
    assert "stablehlo.while" not in lowered["tpu"]
    assert not any(kernel in lowered[platform] for platform in ("cuda", "tpu"))
    # An exported program must run where the kernel is not installed.
    exported = jax.export.export(jax.jit(linear_scan), platforms=["cpu"])(spec, spec)
    assert kernel not in exported.mlir_module()


@st.composite
def calls(draw):
    rank = draw(st.integers(1, 4))
    b = tuple(draw(st.integers(0, 4)) for _ in range(rank))
    axis = draw(st.integers(-rank, rank - 1))
    rest = tuple(n for i, n in enumerate(b) if i != axis % rank)

    def broadcast(shape):
        start = draw(st.integers(0, len(shape)))
        return tuple(draw(st.sampled_from([1, n])) for n in shape[start:])

    reset = draw(st.sampled_from(["none", "time", "any"]))
    flags = {"none": None, "time": (b[axis],), "any": broadcast(b)}[reset]
    if reset == "any" and len(flags) == 1:
        flags = (b[axis],)  # one axis is always time
    return Call(
        b=b,
        a=broadcast(b),
        h0=draw(st.sampled_from([None, broadcast(rest)])),
        axis=axis,
        reverse=draw(st.booleans()),
        reset=flags,
        dtype=draw(st.sampled_from(["float32", "bfloat16", "complex64"])),
    )


@settings(max_examples=40)
@given(
    call=calls().filter(lambda call: not call.matrix),
    method=st.sampled_from(METHODS),
    seed=st.integers(0, 2**16),
)
def test_any_call_equals_a_loop(call, method, seed):
    a, b, h0, reset, g = call.arrays(seed)
    reference, u = call.reference(a, b, h0, reset), unit_roundoff(call.dtype)
    f = differentiable(call, method, reset)
    h, gradients = vjp(f, primals(a, b, h0), jnp.asarray(g))
    assert_within(h, reference.states(), reference.states_bound(u))
    assert_gradients_within(gradients, reference, g, call.dtype)
