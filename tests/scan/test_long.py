"""More steps than an int32 counts: lowered, not allocated, and computed where the limit is low."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import nonlinear_scan
from rnnscan.gradients import log_gradient_norms
from rnnscan.scan import precision
from tests.scan.test_empty import CALLS, cell, linear

LENGTHS = (2**31 - 1, 2**31, 2**31 + 1, 2**32 + 3)


def loss_of(f):
    return lambda *args: sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(f(*args)))


def gradient(f, given):
    return jax.jit(jax.value_and_grad(loss_of(f), tuple(range(len(given)))))


@pytest.mark.parametrize("name", CALLS)
def test_every_method_lowers_for_any_length(name):
    """Forward and backward; width 1, batch 1."""
    make, options = CALLS[name]
    lengths = LENGTHS if make is linear else LENGTHS[2:]
    for steps in lengths:
        f, shapes = make(*options, 1, steps, 1)
        given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        found = gradient(f, given).lower(*given).out_info[1]
        assert [x.shape for x in found] == shapes


@pytest.mark.parametrize("name", [n for n in CALLS if n.endswith("auto")])
def test_what_auto_takes_elsewhere_lowers(name):
    make, options = CALLS[name]
    f, shapes = make(*options, 1, LENGTHS[2], 1)
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    gradient(f, given).trace(*given).lower(lowering_platforms=("cuda",))


COMPUTED = [n for n in CALLS if n.startswith(("linear", "matrix", "selective-s"))]
COMPUTED += ["tanh-scan", "tanh-newton", "nonlinear-sequential", "nonlinear-chunked_newton"]


@pytest.mark.parametrize("name", [n for n in COMPUTED if not n.endswith("native")])
def test_what_counts_in_64_bits_computes_the_same(name, monkeypatch):
    make, options = CALLS[name]
    f, shapes = make(*options, 2, 13, 2)
    rng = np.random.default_rng(0)
    given = [jnp.asarray(rng.normal(size=shape) / 3, jnp.float32) for shape in shapes]
    wanted = gradient(f, given)(*given)
    monkeypatch.setattr(precision, "LONG", 4)
    found = gradient(f, given)(*given)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6)


def test_tangents_step_by_step_in_stretches(monkeypatch):
    """Of a wide state, whose derivative on a CPU is a loop in the caller's program."""
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(11, 20)), jnp.float32)

    def run(xs):
        def states(h0):
            return nonlinear_scan(lambda h, x: jnp.tanh(jnp.roll(h, 1) + x), h0, xs)[0]

        return jax.jit(jax.grad(loss_of(states)))(jnp.zeros(20))

    wanted = run(xs)
    monkeypatch.setattr(precision, "LONG", 4)
    np.testing.assert_allclose(run(xs), wanted, rtol=1e-5)


def test_loops_of_the_caller_say_what_they_need():
    f, shapes = cell("tanh", "auto", 1, LENGTHS[3], 1)
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    hessian = functools.partial(jax.eval_shape, jax.hessian(loss_of(f)))
    with pytest.raises(ValueError, match=r"x: got 4294967299 steps.*jax_enable_x64"):
        hessian(*given)
    with jax.enable_x64(True):
        assert hessian(*given).shape == (1, 3, 1, 3)
    mapped = jax.vmap(f, (0, *[None] * (len(given) - 1)))
    with pytest.raises(ValueError, match=r"x: got .* weights that are mapped"):
        jax.eval_shape(mapped, jax.ShapeDtypeStruct((2, 1, 3), jnp.float32), *given[1:])
    xs = jax.ShapeDtypeStruct((LENGTHS[1],), jnp.float32)
    with pytest.raises(ValueError, match=r"xs: got T = 2147483648.*jax_enable_x64"):
        jax.eval_shape(lambda xs: log_gradient_norms(lambda h, x: h * x, 0.0, xs), xs)


def test_more_iterations_than_an_int32_counts():
    _, found = nonlinear_scan(
        lambda h, x: jnp.tanh(h + x),
        jnp.zeros(()),
        jnp.ones(5),
        method="damped_newton",
        max_iterations=10**10,
    )
    assert bool(found.converged)
