"""Laws 4 and 9 of `selective_scan`, and decays at their limits: what must not be seen is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.scan.selective_cases import (
    Call,
    assert_gradients,
    assert_outputs,
    assert_within,
    every_method,
    steps_of,
    vjp,
)


@every_method
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_segments_equal_separate_calls(method, reverse):
    """Law 4, values and gradients, the calls being loops in NumPy."""
    lengths = (1, 70, 5)
    call = Call(batch=(), T=sum(lengths), reverse=reverse, without=("h0",))
    given, _, (dy, dlast) = call.arrays(3)
    ends = np.cumsum(lengths)
    starts = ends - np.array(lengths)
    marks = np.zeros(call.T, bool)
    marks[ends - 1 if reverse else starts] = True
    (y, last), found = vjp(call.scan(method, marks), given, (dy, dlast))

    shared = {"A": 0.0, "D": 0.0}
    ends_here = 0 if reverse else len(lengths) - 1
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        where = slice(start, end)
        reference = call.reference(steps_of(given, where), None)
        y_here, last_here = reference.outputs()
        assert_within(y[where], y_here, "float32", "y")
        if i == ends_here:
            assert_within(last, last_here, "float32", "last")
        wanted = reference.gradients(dy[where], dlast * (i == ends_here))
        for name in found:
            if name in shared:
                shared[name] = shared[name] + wanted[name].value
            else:
                assert_within(found[name][where], wanted[name], "float32", f"gradient of {name}")
    for name, want in shared.items():
        np.testing.assert_allclose(found[name], want, rtol=2e-5, atol=2e-5)


def fouled(call, given, past, bad, names):
    """The operands with `bad` in all that is before the reset."""
    found = {name: np.array(v) for name, v in given.items()}
    for name in names:
        found[name][... if name == "h0" else past] = bad
    return found


@every_method
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_leaks_across_a_reset(method, reverse):
    """Law 4 with inf and nan behind the reset: forward, backward and in the tangent."""
    T, t = 75, 69  # beyond the first state that is kept
    t = T - 1 - t if reverse else t
    call = Call(batch=(), T=T, reverse=reverse)
    given, _, _ = call.arrays(4)
    marks = np.arange(T) == t
    past = np.arange(T) > t if reverse else np.arange(T) < t
    future = ~past
    given["delta"][t] = -200  # the decay there, which is dropped too, is inf
    given["A"] = -1 - np.abs(given["A"])
    given["x"][t] = 1e-3
    alone = call.reference(steps_of(given | {"h0": 0 * given["h0"]}, future), marks[future])
    f = call.scan(method, marks)
    reads = np.where(future[:, None], np.cos(given["x"]), np.float32(0))
    lasts = np.cos(given["h0"])

    @jax.jit
    def every(given, cotangents):
        out, tangent = jax.jvp(f, (given,), (jax.tree.map(jnp.ones_like, given),))
        return out, tangent, jax.vjp(f, given)[1](cotangents)[0]

    wanted = alone.gradients(reads[future], lasts)
    for bad in np.array([np.inf, np.nan], np.float32):
        foul = fouled(call, given, past, bad, ("x", "delta", "B", "C", "h0"))
        (y, last), (dy, dlast), found = every(foul, (reads, lasts))
        y_alone, last_alone = alone.outputs()
        np.testing.assert_allclose(y[future], y_alone.value, rtol=1e-4)
        np.testing.assert_allclose(last, last_alone.value, rtol=1e-4)
        assert np.isfinite(dy[future]).all()
        assert np.isfinite(dlast).all()
        # A loss of the clean part: its gradients are as if there had been no past.
        for name in ("x", "delta", "B", "C"):
            got, want = np.asarray(found[name])[future], wanted[name].value
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4, err_msg=name)

        # No gradient of it reaches the past, where only the state was bad.
        _, _, found = every(fouled(call, given, past, bad, ("h0",)), (reads, lasts))
        for name in ("x", "B"):
            np.testing.assert_array_equal(np.asarray(found[name])[past], 0, err_msg=name)
        np.testing.assert_array_equal(found["h0"], 0)

        # A loss of the past, nan itself, sends nothing to the future.
        of_past = np.where(np.repeat(past[:, None], 3, 1), bad, np.float32(0))
        *_, found = every(given, (of_past, 0 * lasts))
        for name in ("x", "delta", "B", "C"):
            np.testing.assert_array_equal(np.asarray(found[name])[future], 0, err_msg=name)
        # A loss of everything, nan itself, sends nothing behind the first step's reset.
        assert not np.isnan(np.asarray(found["x"])[future]).any()


@every_method
def test_a_reset_at_the_first_step_drops_the_first_state(method):
    """All gradients, those of A and D too: nothing else is bad."""
    call = Call(batch=(), T=5)
    given, _, cotangents = call.arrays(5)
    marks = np.arange(5) == 0
    clean = call.reference(given | {"h0": 0 * given["h0"]}, marks)
    bad = given | {"h0": np.full_like(given["h0"], np.nan)}
    out, found = vjp(call.scan(method, marks), bad, cotangents)
    assert_outputs(call, out, clean)
    assert_gradients(call, found, clean, cotangents)


@every_method
@pytest.mark.parametrize("reverse", [False, True])
def test_causality_even_to_nan(method, reverse):
    """Law 9: what comes later in scan order changes nothing, nor does its nan reach back."""
    T, t = 70, 66
    call = Call(batch=(2,), T=T, reverse=reverse)
    given, _, _ = call.arrays(6)
    later = np.arange(T)[::-1] > t if reverse else np.arange(T) > t
    foul = {name: np.array(v) for name, v in given.items()}
    for name in ("x", "delta", "B", "C"):
        foul[name][:, later] = np.nan
    f = jax.jit(call.scan(method))
    y, clean = f(foul)[0], f(given)[0]
    np.testing.assert_array_equal(y[:, ~later], clean[:, ~later])
    assert np.isnan(y[:, later]).all()


@every_method
def test_nan_stays_in_its_channel_and_its_sequence(method):
    call = Call(batch=(2,), T=6, channels=19, N=3)
    given, _, _ = call.arrays(7)
    given["x"][1, 2, 17] = np.nan
    given["h0"][0, 5] = np.inf
    given["A"][5] = -1e-3
    y, last = map(np.asarray, jax.jit(call.scan(method))(given))
    finite = np.ones(y.shape, bool)
    finite[1, 2:, 17] = finite[0, :, 5] = False
    np.testing.assert_array_equal(np.isfinite(y), finite)
    np.testing.assert_array_equal(np.isfinite(last), finite[:, -1, :, None].repeat(3, -1))


@every_method
@pytest.mark.parametrize("softplus", [False, True])
def test_no_time_holds_the_state_exactly(method, softplus):
    """A time of 0, or softplus(-inf): h is h0 to the last bit; gradients are finite."""
    call = Call(batch=(2,), T=70, delta_softplus=softplus)
    given, _, cotangents = call.arrays(8)
    given["delta"][:] = -np.inf if softplus else 0
    (y, last), found = vjp(call.scan(method), given, cotangents)
    np.testing.assert_array_equal(last, given["h0"])
    assert all(np.isfinite(gradient).all() for gradient in found.values())
    want = np.einsum("bcn,btn->btc", given["h0"], given["C"]) + given["D"] * given["x"]
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


@every_method
def test_decays_that_underflow_forget(method):
    """exp(delta A) = 0: y of a step is of that step alone; every gradient is finite and right."""
    call = Call(batch=(), T=70, channels=2)
    given, _, cotangents = call.arrays(9)
    given["A"] = np.float32([[-1e4, -300], [-1e30, -95]])
    given["delta"] = 1 + given["delta"] / 100
    out, found = vjp(call.scan(method), given, cotangents)
    drive = (given["delta"] * given["x"])[..., None] * given["B"][:, None]
    want = np.sum(drive * given["C"][:, None], -1) + given["D"] * given["x"]
    np.testing.assert_allclose(out[0], want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out[1], drive[-1], rtol=1e-6)
    wanted = call.reference(given, None).gradients(*cotangents)
    for name, got in found.items():
        np.testing.assert_allclose(got, wanted[name].value, rtol=1e-4, atol=1e-5, err_msg=name)


@every_method
def test_a_rate_of_minus_infinity_forgets_and_a_time_of_none_holds(method):
    """A = -inf is as a rate that is finite and vast, beside steps that fill a stretch up too."""
    call = Call(batch=(), T=70, channels=2)
    given, _, cotangents = call.arrays(10)
    given["delta"] = 1 + given["delta"] / 100
    vast, infinite = (
        given | {"A": np.array([[-1, rate], [rate, -2]], np.float32)} for rate in (-1e30, -np.inf)
    )
    f = jax.jit(lambda given: vjp(call.scan(method), given, cotangents))
    jax.tree.map(np.testing.assert_array_equal, f(infinite), f(vast))
    none = infinite | {"delta": 0 * given["delta"]}
    np.testing.assert_array_equal(f(none)[0][1], given["h0"])


@every_method
def test_an_infinite_time_at_a_reset_is_not_in_the_gradient_of_rates(method):
    """Each decay is dropped: nothing depends on A, whatever the times are."""
    call = Call(batch=(), T=6)
    given, _, cotangents = call.arrays(11)
    given["delta"][3] = np.inf
    _, found = vjp(call.scan(method, np.ones(call.T, bool)), given, cotangents)
    np.testing.assert_array_equal(found["A"], 0)
