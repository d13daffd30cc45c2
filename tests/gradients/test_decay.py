"""log_gradient_norms against dense Jacobian products in float64, closed forms and definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan.gradients import log_gradient_norms


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def norms(step, h0, xs, cotangents=None):
    """One compilation, where an eager call would take many small ones."""
    call = jax.jit(lambda h0, xs, rows: log_gradient_norms(step, h0, xs, cotangents=rows))
    return call(h0, xs, cotangents)


def tanh_step(W, U):
    return lambda h, x: jnp.tanh(W @ h + U @ x)


def dense_log_norms(W, U, xs, V):
    """The same from the chain rule, multiplied out in float64 with one matrix per step."""
    h, jacobians, inputs = np.zeros(len(W)), [], []
    for x in xs:
        h = np.tanh(W @ h + U @ x)
        jacobians.append((1 - h**2)[:, None] * W)
        inputs.append((1 - h**2)[:, None] * U)
    rows, state, drive = V.astype(np.float64), [0.0], []
    start = np.linalg.norm(V)
    for jacobian, by_input in zip(jacobians[::-1], inputs[::-1], strict=True):
        drive.append(np.log(np.linalg.norm(rows @ by_input) / start))
        rows = rows @ jacobian
        state.append(np.log(np.linalg.norm(rows) / start))
    return np.array(state), np.array(drive)


@pytest.mark.parametrize("rows", [None, 1, 3])
def test_equals_dense_jacobian_products(x64, rows):
    dtype, n = (jnp.float64 if x64 else jnp.float32), 6
    W, U, xs = 0.9 * normal(0, n, n) / n**0.5, normal(1, n, 2), normal(2, 50, 2)
    V = np.eye(n) if rows is None else normal(3, rows, n)
    args = [jnp.asarray(value, dtype) for value in (W, U, xs)]
    got = norms(
        tanh_step(*args[:2]), jnp.zeros(n, dtype), args[2], cotangents=None if rows is None else V
    )
    assert got.state.dtype == got.input.dtype == dtype
    state, drive = dense_log_norms(W, U, xs, V)
    tolerance = {"atol": 1e-12, "rtol": 1e-12} if x64 else {"atol": 1e-4, "rtol": 1e-6}
    np.testing.assert_allclose(got.state, state, **tolerance)
    np.testing.assert_allclose(got.input, drive, **tolerance)


def test_is_exact_where_the_plain_float32_norm_is_zero():
    n, length = 8, 1000
    W, U, xs = 0.5 * normal(0, n, n) / n**0.5, 0.3 * normal(1, n, 2), normal(2, length, 2)
    W32, U32, xs32 = (jnp.asarray(value, jnp.float32) for value in (W, U, xs))
    step = tanh_step(W32, U32)

    plain = jax.grad(lambda h: jax.lax.scan(lambda h, x: (step(h, x), None), h, xs32)[0].sum())
    assert not plain(jnp.zeros(n)).any()  # what an ordinary gradient says of 1000 steps: nothing

    got = norms(step, jnp.zeros(n), xs32)
    # The reference rescales its float64 rows at every step, so it does not underflow either.
    h, rows, logs, expected = np.zeros(n), np.eye(n), -0.5 * np.log(n), [0.0]
    states = []
    for x in np.asarray(xs32, np.float64):
        h = np.tanh(np.asarray(W32, np.float64) @ h + np.asarray(U32, np.float64) @ x)
        states.append(h)
    for h in states[::-1]:
        rows = rows @ ((1 - h**2)[:, None] * np.asarray(W32, np.float64))
        size = np.linalg.norm(rows)
        rows, logs = rows / size, logs + np.log(size)
        expected.append(logs)
    assert expected[-1] < -600
    np.testing.assert_allclose(got.state, expected, rtol=2e-6, atol=2e-5)


def test_elementwise_decay_has_its_closed_form():
    decay, length = np.array([0.3, 0.9, 0.999]), 2000
    got = norms(
        lambda h, x: jnp.asarray(decay, jnp.float32) * h + x, jnp.zeros(3), jnp.zeros((length, 3))
    )
    powers = np.arange(length + 1)[:, None] * np.log(np.float64(np.float32(decay)))
    expected = 0.5 * (np.logaddexp.reduce(2 * powers, axis=1) - np.log(3))
    np.testing.assert_allclose(got.state, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.input, expected[:-1], rtol=1e-5, atol=1e-5)


def test_complex_states_count_both_coordinates():
    """|lambda|^k for a rotation, and not what the real part alone would say."""
    decay = 0.7 * np.exp(1j * np.array([0.1, 2.0]))
    length = 500
    drive = jnp.asarray(normal(0, 2, 3) + 1j * normal(1, 2, 3), jnp.complex64)
    got = norms(
        lambda h, x: jnp.asarray(decay, jnp.complex64) * h + drive @ x.astype(jnp.complex64),
        jnp.zeros(2, jnp.complex64),
        jnp.zeros((length, 3)),
    )
    expected = np.arange(length + 1) * np.log(0.7)
    np.testing.assert_allclose(got.state, expected, rtol=1e-6, atol=1e-5)
    # ‖d(re, im)/dx‖² is ‖drive‖², shared among 4 real coordinates.
    size = 0.5 * np.log((np.abs(drive) ** 2).sum() / 4)
    np.testing.assert_allclose(got.input, expected[:-1] + size, rtol=1e-6, atol=1e-5)


def test_a_step_that_is_not_holomorphic(x64):
    """h -> conj(h) + 2 re(h) is (3 re, -im): singular values 3 and 1."""
    dtype = jnp.complex128 if x64 else jnp.complex64
    step = lambda h, x: jnp.conj(h) + (2 * h.real).astype(dtype)  # noqa: E731
    got = norms(step, jnp.ones((), dtype), jnp.zeros((3, 1)))
    lags = np.arange(4)
    np.testing.assert_allclose(got.state, 0.5 * np.log((9.0**lags + 1) / 2), rtol=1e-5)
    assert np.all(np.isneginf(got.input))


def test_rows_are_what_grad_gives_for_complex_states():
    decay, readout = jnp.asarray([0.9j, 0.5 + 0.5j]), jnp.asarray([1.0 + 2j, -0.5j])
    loss = lambda h: jnp.sum((readout * h).real) ** 2  # noqa: E731
    step = lambda h, x: decay * h + x  # noqa: E731
    xs = jnp.asarray(normal(0, 20, 2), jnp.complex64)
    h0 = jnp.ones(2, jnp.complex64)

    def last(h0, xs):
        return jax.lax.scan(lambda h, x: (step(h, x), None), h0, xs)[0]

    at_last = jax.grad(loss)(last(h0, xs))
    got = norms(step, h0, xs, cotangents=at_last[None])
    by_input = jax.grad(lambda xs: loss(last(h0, xs)))(xs)
    ratio = jnp.linalg.norm(by_input, axis=1)[::-1] / jnp.linalg.norm(at_last)
    np.testing.assert_allclose(got.input, jnp.log(ratio), rtol=1e-4, atol=1e-5)


def test_pytree_states_and_inputs_with_tokens():
    """A dict of a matrix and a complex vector is the same map as the concatenated real vector."""
    table = jnp.asarray(normal(0, 5, 2), jnp.float32)
    mix = jnp.asarray(0.6 * normal(1, 8, 8) / 8**0.5, jnp.float32)

    def flat_step(h, x):
        return jnp.tanh(mix @ h + jnp.tile(x, 4))

    def split(v):
        return {"a": v[:4].reshape(2, 2), "z": jax.lax.complex(v[4:6], v[6:])}

    def tree_step(h, x):
        v = jnp.concatenate([h["a"].reshape(-1), h["z"].real, h["z"].imag])
        return split(flat_step(v, table[x["token"]] + x["shift"]))

    tokens = jnp.asarray(np.random.default_rng(2).integers(0, 5, 30))
    flat = norms(flat_step, jnp.zeros(8), table[tokens])
    tree = norms(tree_step, split(jnp.zeros(8)), {"token": tokens, "shift": jnp.zeros((30, 2))})
    np.testing.assert_allclose(tree.state, flat.state, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tree.input, flat.input, rtol=1e-5, atol=1e-6)


def test_vmap_over_sequences_equals_one_at_a_time():
    W, U = (jnp.asarray(v, jnp.float32) for v in (0.5 * normal(0, 4, 4), normal(1, 4, 2)))
    xs = jnp.asarray(normal(2, 3, 20, 2), jnp.float32)
    one = lambda xs: log_gradient_norms(tanh_step(W, U), jnp.zeros(4), xs)  # noqa: E731
    together = jax.jit(jax.vmap(one))(xs)
    apart = jax.jit(one)
    for i in range(3):
        np.testing.assert_allclose(together.state[i], apart(xs[i]).state, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(together.input[i], apart(xs[i]).input, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_halves_are_reported_in_float32_and_do_not_underflow(dtype):
    step = lambda h, x: (h * dtype(0.25)).astype(dtype)  # noqa: E731
    got = norms(step, jnp.ones(2, dtype), jnp.zeros((200, 1), dtype))
    assert got.state.dtype == got.input.dtype == jnp.float32
    np.testing.assert_allclose(got.state, np.arange(201) * np.log(0.25), rtol=1e-6)


def test_growth_beyond_the_range_of_float32_and_exact_zero():
    grows = norms(lambda h, x: 10 * h, jnp.zeros(1), jnp.zeros((100, 1)))
    np.testing.assert_allclose(grows.state, np.arange(101) * np.log(10), rtol=1e-6)
    stops = norms(lambda h, x: h * x, jnp.ones(1), jnp.asarray([[2.0], [0.0], [2.0]]))
    np.testing.assert_allclose(stops.state, [0, np.log(2), -np.inf, -np.inf], rtol=1e-6)


def test_no_steps_at_all():
    got = log_gradient_norms(lambda h, x: h + x, jnp.zeros(2), jnp.zeros((0, 2)))
    assert got.state.shape == (1,)
    assert got.input.shape == (0,)
    assert got.state[0] == 0


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (TypeError, r"step: returns float32\[3\]", (lambda h, x: jnp.zeros(3), 2, (5, 2), None)),
        (
            TypeError,
            r"step: returns \(.*, .*\) for a state",
            (lambda h, x: (h, h), 2, (5, 2), None),
        ),
        (ValueError, r"xs: shapes \[\(\)\]", (lambda h, x: h, 2, (), None)),
        (ValueError, r"cotangents: a leaf has shape \(2,\)", (lambda h, x: h, 2, (5, 2), (2,))),
        (ValueError, r"cotangents: .*\(0, 2\)", (lambda h, x: h, 2, (5, 2), (0, 2))),
    ],
)
def test_what_does_not_fit_is_named(error, words, arguments):
    step, n, shape, rows = arguments
    with pytest.raises(error, match=words):
        log_gradient_norms(
            step,
            jnp.zeros(n),
            jnp.zeros(shape),
            cotangents=None if rows is None else jnp.zeros(rows),
        )


def test_other_arguments_that_do_not_fit():
    step = lambda h, x: h  # noqa: E731
    with pytest.raises(TypeError, match=r"h0: a leaf has dtype int32; .*float or complex"):
        log_gradient_norms(step, jnp.zeros(2, jnp.int32), jnp.zeros((3, 1)))
    with pytest.raises(TypeError, match=r"h0: has no arrays"):
        log_gradient_norms(step, (), jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"xs: shapes .*\(3, 1\).*\(4, 1\)"):
        log_gradient_norms(step, jnp.zeros(2), (jnp.zeros((3, 1)), jnp.zeros((4, 1))))
    with pytest.raises(ValueError, match=r"cotangents: structure"):
        log_gradient_norms(step, jnp.zeros(2), jnp.zeros((3, 1)), cotangents=[jnp.ones((1, 2))])
    with pytest.raises(ValueError, match=r"cotangents: a leaf is complex64"):
        log_gradient_norms(
            step, jnp.zeros(2), jnp.zeros((3, 1)), cotangents=jnp.ones((1, 2), jnp.complex64)
        )


def test_products_are_precise_unless_the_caller_says_otherwise():
    def lowered():
        step = jax.jit(lambda h0, xs: log_gradient_norms(lambda h, x: W @ h + x, h0, xs))
        return step.lower(jnp.zeros(3), jnp.ones((4, 3))).as_text()

    W = jnp.eye(3)
    assert "HIGHEST" in lowered()
    with jax.default_matmul_precision("default"):
        assert "HIGHEST" not in lowered()
