"""SelectiveSSM against a float64 loop, its gradients by hand, and what its initialisation says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.layers import SelectiveSSM
from rnnscan.scan import selective_stretches
from tests.layers.cases import assert_close, draw

ARRAYS = ("w_x", "w_dt", "b_dt", "a_log", "d")


def parameters(layer):
    return {name: np.asarray(getattr(layer, name), np.float64) for name in ARRAYS}


def by_definition(layer, x, h, dy, dlast):
    """Equations (1)-(3) step after step, and the gradients of <dy, y> + <dlast, last>."""
    p = parameters(layer)
    rank, size = layer.dt_rank, layer.state_size
    a = -np.exp(p["a_log"])
    euler = layer.discretisation == "euler"
    y, steps = [], []
    for x_t in x:
        r, b, c = np.split(p["w_x"] @ x_t, [rank, rank + size])
        z = p["w_dt"] @ r + p["b_dt"]
        dt = np.logaddexp(z, 0)[:, None]
        power = np.exp(dt * a)
        decay = 2 * power - 1 if layer.signed else power
        gain = dt + 0 * a if euler else np.expm1(dt * a) / a
        before, h = h, decay * h + gain * np.outer(x_t, b)
        y.append(h @ c + p["d"] * x_t)
        steps.append((x_t, r, b, c, z, dt, power, decay, gain, before, h))

    grad = {name: np.zeros_like(value) for name, value in p.items()}
    d_a, d_x, dh = np.zeros_like(a), [], dlast
    for (x_t, r, b, c, z, dt, power, decay, gain, before, h_t), dy_t in zip(
        reversed(steps), reversed(dy), strict=True
    ):
        dh = dh + np.outer(dy_t, c)
        d_c = h_t.T @ dy_t
        d_power, d_gain = (2 if layer.signed else 1) * dh * before, dh * np.outer(x_t, b)
        slope = 1 if euler else power  # of the gain, along dt
        d_dt = (d_power * power * a + d_gain * slope).sum(1)
        d_a += d_power * power * dt
        if not euler:
            d_a += d_gain * (dt * power / a - gain / a)
        d_b = (dh * gain).T @ x_t
        d_z = d_dt / (1 + np.exp(-z))
        d_r = p["w_dt"].T @ d_z
        d_projected = np.concatenate([d_r, d_b, d_c])
        grad["w_dt"] += np.outer(d_z, r)
        grad["b_dt"] += d_z
        grad["w_x"] += np.outer(d_projected, x_t)
        grad["d"] += dy_t * x_t
        d_x.append((dh * gain) @ b + p["d"] * dy_t + p["w_x"].T @ d_projected)
        dh = dh * decay
    grad["a_log"] = d_a * a
    return (np.array(y), h), (grad, np.array(d_x[::-1]), dh)


CASES = {  # steps, options
    "auto": (33, {}),
    "one_step": (1, {}),
    "stretches": (33, {"stretch": 8}),
    "stretches_that_fit": (32, {"stretch": 8, "method": "associative"}),
    "zoh": (33, {"discretisation": "zoh", "method": "blocked", "dt_rank": 3}),
    "steps": (9, {"stretch": 1, "method": "sequential"}),
    "signed": (70, {"signed": True}),
}


@pytest.mark.parametrize(
    ("case", "x64"),
    [
        *((case, True) for case in CASES),
        ("auto", False),
        ("stretches", False),
        ("zoh", False),
        ("signed", False),
    ],
    indirect=["x64"],
)
def test_equals_its_sequential_definition(case, x64):
    steps, options = CASES[case]
    dtype = np.float64 if x64 else np.float32
    options = {"dt_min": 0.01, "dt_max": 2.0, "state_size": 4} | options
    layer = SelectiveSSM.init(jax.random.key(0), 5, dtype=dtype, **options)
    shapes = [(steps, 5), (5, 4), (steps, 5), (5, 4)]
    given = [draw(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]
    x, state, dy, dlast = given

    @jax.jit
    def run(layer, x, state):
        out, backward = jax.vjp(lambda *args: args[0](*args[1:]), layer, x, state)
        return out, backward((dy, dlast))

    out, (d_layer, *rest) = run(layer, x, state)
    expected, (grad, *wanted) = by_definition(layer, *(np.asarray(v, np.float64) for v in given))
    assert_close(out, tuple(v.astype(dtype) for v in expected), 1e-13 if x64 else 2e-6)
    gradients = ({name: getattr(d_layer, name) for name in ARRAYS}, *rest)
    wanted = jax.tree.map(lambda v: v.astype(dtype), (grad, *wanted))
    assert_close(gradients, wanted, 1e-12 if x64 else 1e-5)


def test_slow_and_fast_modes_under_zero_order_hold():
    """Decays from 1 - 1e-90 to exp(-3) a step: values and gradients as in float64."""
    a_logs = np.array([-200, -50, -20, -8, -3, 0, 3, 8], np.float32)
    options = {"state_size": 2, "dt_min": 1e-3, "dt_max": 1e-3, "discretisation": "zoh"}
    layer = SelectiveSSM.init(jax.random.key(0), 2, **options)
    x, dy = draw(20, 2), draw(20, 2, seed=2)

    def run(dtype):
        def of(a_log, layer, x, dy):
            layer = dataclasses.replace(layer, a_log=jnp.full_like(layer.a_log, a_log))
            y, backward = jax.vjp(lambda layer, x: layer(x)[0], layer, x)
            d_layer, d_x = backward(dy)
            return y, d_layer.a_log, d_layer.b_dt, d_x

        given = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), (a_logs, layer, x, dy))
        found = jax.jit(jax.vmap(of, (0, None, None, None)))(*given)
        return [np.asarray(part, np.float64) for part in found]

    found = run(np.float32)
    with jax.enable_x64(True):
        expected = run(np.float64)
    for i, a_log in enumerate(a_logs):
        for name, a, d in zip(("y", "a_log", "b_dt", "x"), found, expected, strict=True):
            # A gradient along a_log of exp(-200) is no number of float32, but zero.
            scale = max(np.abs(d[i]).max(), float(np.finfo(np.float32).tiny))
            error = np.abs(a[i] - d[i]).max() / scale
            assert error <= (2e-6 if name == "y" else 1e-5), (a_log, name, error)


@pytest.mark.parametrize("stretch", [None, 3])
def test_lengths_in_stretches(stretch):
    """Sequences that end inside, at the end of and before the last of several stretches."""
    layer = SelectiveSSM.init(jax.random.key(0), 3, state_size=2, stretch=stretch)
    lengths = [7, 6, 1, 0]
    x, state = draw(4, 7, 3), draw(4, 3, 2, seed=2)
    padded = x.at[jnp.arange(7)[None, :] >= jnp.array(lengths)[:, None]].set(jnp.nan)
    y, last = jax.jit(layer)(padded, state, jnp.array(lengths))
    for i, n in enumerate(lengths):
        assert_close((y[i, :n], last[i]), layer(x[i, :n], state[i]), note=n)
        assert (y[i, n:] == 0).all()
    np.testing.assert_array_equal(last[3], state[3])


def test_stretches_follow_the_platform_that_a_program_is_lowered_for():
    """Cut for the cache of a CPU, and whole elsewhere; either program holds its own way alone."""
    layer = SelectiveSSM.init(jax.random.key(0), 32, method="stretches")
    x, width = jnp.zeros((8, 600, 32)), 8 * 32 * 16
    assert selective_stretches(None, 600, width, "cpu") == (10, 64)
    assert selective_stretches(None, 600, width, "cuda") == (1, 600)
    gradient = jax.jit(jax.grad(lambda layer, x: jnp.sum(layer(x)[0])))
    traced = gradient.trace(layer, x)
    on_cpu, on_gpu = (traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda"))
    states = {"cpu": "tensor<8x64x32x16xf32>", "cuda": "tensor<8x600x32x16xf32>"}
    for text, here, there in ((on_cpu, "cpu", "cuda"), (on_gpu, "cuda", "cpu")):
        assert states[here] in text
        assert states[there] not in text


def test_a_stretch_by_platform_is_one_program_and_changes_nothing():
    layer = SelectiveSSM.init(jax.random.key(0), 4, state_size=2, method="stretches")
    length = selective_stretches(None, 300, 3 * 8, "cpu")[1]
    named = dataclasses.replace(layer, stretch=length)
    x = draw(3, 300, 4)

    def run(layer, x):
        return jax.value_and_grad(lambda layer, x: jnp.sum(layer(x)[0] ** 2), (0, 1))(layer, x)

    compiled = jax.jit(run).lower(layer, x).compile()
    assert "conditional" not in compiled.as_text()
    found, expected = compiled(layer, x), jax.jit(run)(named, x)
    assert_close(jax.tree.leaves(found), jax.tree.leaves(expected))
    # A map over sequences, remade in the backward pass: as the laws, but with two ways to choose.
    each = jax.jit(jax.vmap(jax.checkpoint(lambda x: layer(x)[0])))
    assert_close(each(x), layer(x)[0])


def test_axes_of_size_one():
    layer = SelectiveSSM.init(jax.random.key(0), 3, state_size=2)
    x, state = draw(1, 4, 1, 7, 3), draw(1, 4, 1, 3, 2, seed=2)
    lengths = jnp.array([[[7], [3], [0], [5]]])
    y, last = layer(x, state, lengths)
    flat = layer(x[0, :, 0], state[0, :, 0], lengths[0, :, 0])
    assert_close((y[0, :, 0], last[0, :, 0]), flat)


def test_the_backward_pass_keeps_no_states_but_those_between_stretches():
    channels, size, steps = 4, 32, 512
    layer = SelectiveSSM.init(jax.random.key(0), channels, state_size=size, stretch=64)
    x = draw(steps, channels)
    for lengths in (None, steps - 1):
        _, backward = jax.vjp(lambda layer, x, n=lengths: layer(x, None, n)[0], layer, x)
        kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.size >= steps]
        assert max(leaf.shape[-1] for leaf in kept) <= max(channels, size)
        # x as it came and in stretches, dt, r; B and C; the flags
        most = 4 * channels + 3 * size + 2
        assert sum(leaf.size for leaf in kept) <= most * steps
        assert most < channels * size


def test_the_time_of_compiling_does_not_grow_with_length():
    layer = jax.eval_shape(lambda: SelectiveSSM.init(jax.random.key(0), 3))
    gradient = jax.jit(jax.grad(lambda layer, x: jnp.sum(layer(x)[0])))
    sizes = {
        len(gradient.lower(layer, jax.ShapeDtypeStruct((time, 3), jnp.float32)).as_text())
        for time in (2048, 4096)  # 32 and 64 states are kept: as many digits
    }
    assert len(sizes) == 1


@pytest.mark.parametrize("range_", [(1e-3, 0.1), (1e-5, 1e-4), (0.5, 20.0), (0.01, 0.01)])
def test_steps_start_log_uniform(range_):
    low, high = range_
    n = 4096
    sizes = {"dt_rank": 2, "state_size": 3}
    layer = SelectiveSSM.init(jax.random.key(1), n, dt_min=low, dt_max=high, **sizes)
    dt = np.logaddexp(np.asarray(layer.b_dt, np.float64), 0)
    assert low * (1 - 1e-5) <= dt.min() <= dt.max() <= high * (1 + 1e-5)
    if low < high:
        u = np.sort(np.log(dt / low) / np.log(high / low))
        distance = np.abs(u - (np.arange(n) + 0.5) / n).max()
        assert distance < 1.63 / n**0.5  # Kolmogorov: exceeded by one key in a hundred
    np.testing.assert_allclose(np.exp(layer.a_log), np.tile([1.0, 2.0, 3.0], (n, 1)), rtol=1e-6)
    np.testing.assert_array_equal(layer.d, np.ones(n))
    for w, bound in ((layer.w_x, n**-0.5), (layer.w_dt, 2**-0.5)):
        assert np.abs(w).max() <= bound
        assert abs(w.std() * 3**0.5 / bound - 1) < 4 / w.size**0.5


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_step_too_short_for_a_number_has_a_finite_bias(dtype):
    for dt in (1e-100, 1e-42, 1e-30, 1e-8):
        layer = SelectiveSSM.init(jax.random.key(0), 2, dt_min=dt, dt_max=dt, dtype=dtype)
        rounding = 2 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.float64(layer.b_dt), np.log(dt), rtol=rounding)


def test_sizes():
    layer = SelectiveSSM.init(jax.random.key(0), 33)
    assert (layer.input_size, layer.output_size, layer.state_size, layer.dt_rank) == (33, 33, 16, 3)
    shapes = [leaf.shape for leaf in jax.tree.leaves(layer)]
    assert shapes == [(35, 33), (33, 3), (33,), (33, 16), (33,)]


def test_extreme_steps_neither_overflow_nor_spoil_the_gradients():
    """dt A down to -1e6, where the state is dropped, and dt down to 1e-38, where it is kept."""
    for discretisation in ("euler", "zoh"):
        layer = SelectiveSSM.init(
            jax.random.key(0), 3, state_size=4, dt_rank=1, discretisation=discretisation
        )
        scale = jnp.array([[1e5], [-80.0], [0.0]])
        layer = SelectiveSSM(
            layer.w_x, scale, layer.b_dt, layer.a_log, layer.d, "auto", discretisation
        )
        x, state = jnp.abs(draw(40, 3)), jnp.ones((3, 4))
        gradient = jax.grad(lambda *a: sum(jnp.sum(out) for out in a[0](*a[1:])), (0, 1, 2))
        for leaf in jax.tree.leaves((layer(x, state), gradient(layer, x, state))):
            assert np.isfinite(leaf).all()


WRONG = {
    "inverted": ({"dt_min": 0.1, "dt_max": 0.01}, r"dt_min, dt_max: .* dt_min=0\.1, dt_max=0\.01"),
    "zero": ({"dt_min": 0.0}, r"dt_min, dt_max: expected 0 < dt_min"),
    "infinite": ({"dt_max": float("inf")}, r"dt_min, dt_max: .*dt_max=inf"),
    "too_large": (
        {"dt_max": 1e5, "dtype": "float16"},
        r"dt_min, dt_max: .*dt_max=100000\.0; .* a finite number of float16",
    ),
    "nan": ({"dt_min": float("nan")}, r"dt_min, dt_max: .*dt_min=nan"),
    "rank": ({"dt_rank": 0}, r"dt_rank: expected an integer >= 1, got 0"),
    "state": ({"state_size": 2.0}, r"state_size: expected an integer >= 1, got 2\.0"),
    "stretch": ({"stretch": 0}, r"stretch: expected an integer >= 1, got 0"),
    "inputs": ({"input_size": 0}, r"input_size: expected an integer >= 1, got 0"),
    "dtype": ({"dtype": jnp.int32}, r"dtype: expected a real floating dtype, got int32"),
    "rule": (
        {"discretisation": "exact"},
        r"discretisation: expected 'euler' or 'zoh', got",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_init_refuses(wrong):
    kwargs, message = WRONG[wrong]
    with pytest.raises((ValueError, TypeError), match=message):
        SelectiveSSM.init(jax.random.key(0), **({"input_size": 3} | kwargs))


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_halves_are_computed_in_float32(half):
    half = jnp.dtype(half)
    layer = SelectiveSSM.init(jax.random.key(0), 3, state_size=4, dtype=half)
    assert {leaf.dtype for leaf in jax.tree.leaves(layer)} == {half}
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layer)
    x = draw(40, 3, dtype=half)
    for value, expected in zip(layer(x), wide(x.astype(jnp.float32)), strict=True):
        np.testing.assert_array_equal(value, expected.astype(half), strict=True)
