"""Nonlinear recurrences: the laws for every method, every transformation, and the messages.

Compiling is what takes time: one program of a method serves as many laws as its operands can state.
How accurate a trajectory is, and when a method claims to have found it, is tested elsewhere.
"""

import dataclasses
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from rnnscan import GRU, explain_nonlinear_scan, nonlinear_scan
from rnnscan.scan import nonlinear as front_door
from rnnscan.scan import nonlinear_linearised, nonlinear_rules, nonlinear_table, stretches
from rnnscan.scan.nonlinear_methods import chunked_newton, newton
from rnnscan.scan.nonlinear_step import traced

METHODS = ("auto", *nonlinear_table.names)
ITERATIVE = [name for name in nonlinear_table.names if name != "sequential"]
every_method = pytest.mark.parametrize("method", METHODS)
every_iterative_method = pytest.mark.parametrize("method", ITERATIVE)

T, D = 8, 3


def close(got, want, tolerance=1e-5):
    def leaf(x, y):
        x, y = (np.asarray(v) for v in (x, y))
        wide = np.complex128 if np.iscomplexobj(x) else np.float64
        np.testing.assert_allclose(
            x.astype(wide), y.astype(wide), rtol=tolerance, atol=tolerance, equal_nan=True
        )

    jax.tree.map(leaf, got, want)


def plain(f, h0, xs, reset=None):
    """The states by `lax.scan`, time first, for JAX to differentiate by its own rules."""
    length = len(jax.tree.leaves(xs)[0])
    reset = jnp.zeros(length, bool) if reset is None else reset

    def body(h, over_time):
        x, first = over_time
        h = f(jax.tree.map(lambda leaf: jnp.where(first, jnp.zeros_like(leaf), leaf), h), x)
        return h, h

    return lax.scan(body, h0, (xs, reset))[1]


def loop(f, h0, xs, reset=None, reverse=False):
    """The states by a loop of NumPy in float64, time first; f in NumPy."""

    def wide(x):
        x = np.asarray(x)
        return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)

    h, length = jax.tree.map(wide, h0), len(jax.tree.leaves(xs)[0])
    xs = jax.tree.map(wide, xs)
    steps = list(range(length))[:: -1 if reverse else 1]
    out = [None] * length
    for t in steps:
        if reset is not None and reset[t]:
            h = jax.tree.map(np.zeros_like, h)
        with np.errstate(all="ignore"):
            h = out[t] = f(h, jax.tree.map(lambda x, t=t: x[t], xs))
    return jax.tree.map(lambda *hs: np.stack(hs), *out)


# The laws, by one program for each method.


class Drawn:
    """Operands of a dense tanh recurrence, as NumPy arrays, and a cotangent of its states."""

    def __init__(self, seed=0, dtype="float32"):
        rng = np.random.default_rng(seed)
        self.W = (rng.normal(size=(D, D)) / 2).astype(dtype)
        self.h0 = rng.normal(size=D).astype(dtype)
        self.xs = rng.normal(size=(T, D)).astype(dtype)
        self.g = rng.normal(size=(T, D)).astype(dtype)
        self.reset = np.zeros(T, bool)

    def __iter__(self):
        return iter((self.W, self.h0, self.xs, self.reset, self.g))


def _values_and_gradients(scan):
    """A jitted function of `Drawn`: the states, what is said of them, gradients of W, h0 and xs."""

    @jax.jit
    def run(W, h0, xs, reset, g):
        def states(W, h0, xs):
            return scan(lambda h, x: jnp.tanh(W @ h + x), h0, xs, reset)

        hs, pull, found = jax.vjp(states, W, h0, xs, has_aux=True)
        return hs, found, pull(g)

    return run


@functools.cache
def by_method(method):
    def scan(f, h0, xs, reset):
        hs, found = nonlinear_scan(f, h0, xs, reset=reset, method=method)
        return hs, found._replace(error_bound=None)  # what is not asked for is not compiled

    return _values_and_gradients(scan)


@functools.cache
def by_lax_scan():
    return _values_and_gradients(lambda *given: (plain(*given), ()))


@every_method
def test_equals_a_loop_in_values_and_gradients(method):
    given = Drawn()
    hs, found, gradients = by_method(method)(*given)
    close(hs, loop(lambda h, x: np.tanh(given.W @ h + x), given.h0, given.xs), 1e-6)
    close(gradients, by_lax_scan()(*given)[2])
    assert found.converged.shape == found.iterations.shape == found.residual.shape == ()
    assert bool(found.converged)
    assert found.iterations.dtype == jnp.int32
    assert (int(found.iterations) == 0) == (method == "sequential") or method == "auto"


@every_method
def test_causality(method):
    given = Drawn(1)
    whole = by_method(method)(*given)[0]
    given.xs[5:] = np.nan
    np.testing.assert_allclose(by_method(method)(*given)[0][:5], whole[:5], atol=1e-6)


@every_method
@pytest.mark.parametrize("s", [1, 4])
def test_split_through_the_last_state(method, s):
    """The second part is run in the place of the first; by causality what follows it is nothing."""
    given = Drawn(2)
    whole = np.asarray(by_method(method)(*given)[0])
    given.h0, given.xs = whole[s - 1], np.roll(given.xs, -s, axis=0)
    np.testing.assert_allclose(by_method(method)(*given)[0][: T - s], whole[s:], atol=1e-6)


@every_method
def test_a_reset_is_a_separate_call(method):
    """Three sequences in one call, the first of which has the given state."""
    given = Drawn(3)
    given.reset[[2, 5]] = True
    hs, found, (dW, dh0, dxs) = by_method(method)(*given)
    total, first = 0, given.h0
    for start, end in ((0, 2), (2, 5), (5, T)):
        alone = Drawn(3)
        alone.h0, alone.xs = first, np.roll(given.xs, -start, axis=0)
        alone.g = np.roll(given.g, -start, axis=0)
        alone.g[end - start :] = 0
        want, _, gradients = by_lax_scan()(*alone)
        close(hs[start:end], want[: end - start], 1e-6)
        close(dxs[start:end], gradients[2][: end - start])
        total = total + gradients[0]
        if start == 0:
            close(dh0, gradients[1])
        first = np.zeros_like(first)
    close(dW, total)
    assert bool(found.converged)


@every_method
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_leaks_across_a_reset(method, bad):
    given = Drawn(4)
    given.reset[0] = True  # the given state is dropped
    given.h0[:] = bad
    got = by_method(method)(*given)
    given.h0[:] = 0
    want = by_lax_scan()(*given)
    close(got[0], want[0], 1e-6)
    close(got[2], want[2])
    assert not np.any(got[2][1])
    assert bool(got[1].converged)

    given = Drawn(4)
    given.reset[3] = True
    whole = by_lax_scan()(*given)
    given.h0[:], given.xs[1] = bad, np.nan
    hs, found, (_, _, dxs) = by_method(method)(*given)
    close(hs[3:], whole[0][3:], 1e-6)
    close(dxs[3:], whole[2][2][3:])
    assert not bool(found.converged)


# States and inputs of any structure.


def gated(E):
    """An elementwise pair of states, from a number and a token of each step."""

    def f(h, x):
        c, y = h
        u = x["number"] + E[x["token"]]
        gate = jax.nn.sigmoid(u - y)
        c = gate * c + jax.nn.silu(u) * (1 - gate)
        return c, jnp.where(u > 0, jnp.tanh(c), 0.5 * jax.nn.relu(y) + u)

    return f


@pytest.mark.parametrize("method", ["quasi_newton", "chunked_newton"])
def test_pytrees_with_time_last_in_reverse(method):
    """`reverse` is flip, scan, flip; tokens are inputs like any other."""
    rng = np.random.default_rng(5)
    E = rng.normal(size=(4, 2)).astype(np.float32)
    h0 = tuple(rng.normal(size=2).astype(np.float32) for _ in range(2))
    number = rng.normal(size=(2, T)).astype(np.float32)
    token = rng.integers(0, 4, T).astype(np.int32)
    reset = np.arange(T) == 4

    def ours(E, h0, number):
        xs = {"number": number, "token": token}
        options = {"axis": -1, "reverse": True, "reset": reset, "method": method}
        hs, found = nonlinear_scan(gated(E), h0, xs, **options)
        return hs, found.converged

    def flipped(E, h0, number):
        xs = {"number": number.T[::-1], "token": token[::-1]}
        hs = plain(gated(E), h0, xs, reset[::-1])
        return jax.tree.map(lambda h: h[::-1].T, hs)

    @jax.jit
    def both(*args):
        hs, pull, found = jax.vjp(ours, *args, has_aux=True)
        want, pull_want = jax.vjp(flipped, *args)
        g = jax.tree.map(jnp.cos, want)
        return (hs, pull(g)), (want, pull_want(g)), found

    got, want, converged = both(E, h0, number)
    close(got, want)
    assert got[0][0].shape == (2, T)
    assert bool(converged)


def test_a_random_key_for_each_step():
    """As in dropout; a key in the closure too."""
    keys, own = jax.random.split(jax.random.key(0), 5), jax.random.key(1)

    def f(h, key):
        keep = jax.random.bernoulli(key, shape=h.shape)
        return jnp.where(keep, jnp.tanh(1.5 * h + jax.random.uniform(own)), 0.3 * h)

    @jax.jit
    def both(keys):
        options = {"reverse": True, "method": "chunked_newton"}
        ours, found = nonlinear_scan(f, jnp.ones(3), keys, **options)
        return ours, plain(f, jnp.ones(3), keys[::-1])[::-1], found.converged

    got, want, converged = both(keys)
    close(got, want)
    assert bool(converged)


def mixed(xp, W, cast=lambda x, like: x):
    """States of several shapes and dtypes that all act on one another."""

    def f(h, x):
        a = xp.tanh(W @ h["a"] + x[0] + cast(xp.real(h["z"]).sum(), h["a"]))
        b = xp.tanh(h["b"] * cast(a[:1].sum(), h["b"]) + cast(x[0][:1].sum(), h["b"]))
        turned = h["z"] * (0.5 + 0.3j) + xp.conj(h["z"]) * cast(a[1:].sum(), h["z"]) * 0.2
        return {"a": a, "b": b, "z": turned + cast(x[1], h["z"])}

    return f


@pytest.mark.parametrize("method", ["sequential", "chunked_newton"])
def test_mixed_shapes_and_dtypes(method):
    rng = np.random.default_rng(6)
    W = (rng.normal(size=(2, 2)) / 2).astype(np.float32)
    h0 = {
        "a": jnp.ones(2),
        "b": jnp.asarray([[0.5, -0.25]], jnp.bfloat16),
        "z": jnp.asarray([0.5 - 1j], jnp.complex64),
    }
    xs = tuple(rng.normal(size=(T, n)).astype(np.float32) for n in (2, 1))

    def cast(x, like):
        return jnp.asarray(x).astype(like.dtype)

    def scan(W, h0):
        hs, found = nonlinear_scan(mixed(jnp, W, cast), h0, xs, method=method)
        return hs, found.converged

    hs, converged = jax.jit(scan)(W, h0)
    want = loop(mixed(np, W), h0, xs)
    assert jax.tree.map(lambda h: h.dtype, hs) == jax.tree.map(lambda h: h.dtype, h0)
    assert hs["b"].shape == (T, 1, 2)
    for name, tolerance in {"a": 1e-5, "b": 3e-2, "z": 1e-5}.items():
        close(hs[name], want[name], tolerance)
    assert bool(converged)
    _, pull = jax.eval_shape(lambda *args: jax.vjp(lambda *a: scan(*a)[0], *args), W, h0)
    cotangents = jax.eval_shape(lambda pull, g: pull(g), pull, hs)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), cotangents) == jax.tree.map(
        lambda x: (x.shape, x.dtype), (W, h0)
    )


@pytest.mark.parametrize("method", ["newton", "quasi_newton"])
def test_complex_states_need_not_be_holomorphic(method):
    """Nor elementwise: newton's is dense, quasi_newton's is not."""
    W = jnp.asarray([[0.3 + 0.1j, -0.4], [0.2j, 0.5]], "complex64")
    rng = np.random.default_rng(7)
    xs = jnp.asarray(rng.normal(size=(T, 2)) + 1j * rng.normal(size=(T, 2)), "complex64")
    half, tenth = (np.array(n, np.complex64) for n in (0.5, 0.1))

    def f(h, x, W):
        h = W @ h if method == "newton" else W[0] * h
        return jnp.conj(h) * half + x / (1 + jnp.abs(h)).astype(h.dtype) + tenth * h

    def ours(W, h0, xs):
        hs, found = nonlinear_scan(lambda h, x: f(h, x, W), h0, xs, method=method)
        return hs, found.converged

    @jax.jit
    def both(*args):
        hs, pull, converged = jax.vjp(ours, *args, has_aux=True)
        want, pull_want = jax.vjp(lambda W, *args: plain(lambda h, x: f(h, x, W), *args), *args)
        return (hs, pull(jnp.sin(hs))), (want, pull_want(jnp.sin(want))), converged

    got, want, converged = both(W, xs[0], xs)
    close(got, want)
    assert bool(converged)


def test_a_layer_is_stepped():
    """Parameters of a layer in f's closure; its own call is the reference."""
    layer = GRU.init(jax.random.key(1), input_size=2, hidden_size=2)
    xs = jnp.asarray(np.random.default_rng(8).normal(size=(T, 2)), "float32")

    def states(layer):
        h0 = jnp.zeros((1, 2))
        return nonlinear_scan(lambda h, x: layer.step(x, h)[1], h0, xs, method="newton")[0][:, 0]

    @jax.jit
    def both(layer):
        def square(f, layer):
            hs = f(layer)
            return jnp.sum(hs**2), hs

        runs = states, lambda layer: layer(xs)[0]
        return [jax.value_and_grad(functools.partial(square, f), has_aux=True)(layer) for f in runs]

    close(*both(layer))


def test_an_equinox_module_is_f():
    eqx = pytest.importorskip("equinox")

    class Cell(eqx.Module):
        inner: eqx.nn.Linear
        scale: float

        def __call__(self, h, x):
            return self.scale * jnp.tanh(self.inner(h) + x)

    cell = Cell(eqx.nn.Linear(2, 2, key=jax.random.key(2)), 0.9)
    xs = jnp.asarray(np.random.default_rng(9).normal(size=(T, 2)), "float32")

    @eqx.filter_jit
    def both(cell):
        def ours(cell):
            return nonlinear_scan(cell, jnp.zeros(2), xs, method="newton")[0]

        def square(cell, f):
            return jnp.sum(f(cell) ** 2)

        runs = ours, lambda cell: plain(cell, jnp.zeros(2), xs)
        return [eqx.filter_value_and_grad(square)(cell, f) for f in runs]

    got, want = both(cell)
    close(eqx.filter(got, eqx.is_array), eqx.filter(want, eqx.is_array))


# Lengths and sizes at the end of their range.


@every_method
def test_no_step(method):
    def f(h, x):
        return {"a": jnp.tanh(h["a"]), "b": h["b"] + x}

    h0 = {"a": jnp.ones(2), "b": jnp.ones((2, 3))}
    hs, found = nonlinear_scan(f, h0, jnp.zeros((2, 0, 3)), axis=1, method=method)
    assert jax.tree.map(jnp.shape, hs) == {"a": (2, 0), "b": (2, 0, 3)}
    assert (bool(found.converged), int(found.iterations), float(found.residual)) == (True, 0, 0)
    assert float(found.error_bound) == 0
    none = jnp.zeros((0, 2, 3))
    gradient = jax.grad(lambda h0: jnp.sum(nonlinear_scan(f, h0, none)[0]["b"]))(h0)
    assert not any(map(np.any, jax.tree.leaves(gradient)))
    with pytest.raises(TypeError, match="f: returned"):
        nonlinear_scan(lambda h, x: h["a"], h0, none)


@every_method
def test_one_step(method):
    @jax.jit
    def run(xs):
        hs, found = nonlinear_scan(lambda h, x: jnp.tanh(2 * h + x), 0.5, xs, method=method)
        return hs, found._replace(error_bound=None)

    hs, found = run(jnp.ones(1))
    np.testing.assert_allclose(hs, [np.tanh(2)], rtol=1e-6)
    assert bool(found.converged)
    assert int(found.iterations) <= 1


@pytest.mark.parametrize("h0", [jnp.zeros(0), {}, (), {"a": jnp.zeros((2, 0))}], ids=repr)
def test_a_state_without_numbers(h0):
    hs, found = nonlinear_scan(lambda h, x: h, h0, jnp.ones(3), method="newton")
    assert jax.tree.structure(hs) == jax.tree.structure(h0)
    assert all(h.shape[0] == 3 for h in jax.tree.leaves(hs))
    assert bool(found.converged)


def test_a_batch_of_none():
    def states(x):
        return nonlinear_scan(lambda h, x: jnp.tanh(h[::-1] + x), jnp.ones(2), x, method="newton")

    hs, found = jax.vmap(states)(jnp.zeros((0, 3, 2)))
    assert hs.shape == (0, 3, 2)
    assert found.converged.shape == (0,)


@pytest.mark.parametrize(
    "f", [lambda h, x: jnp.tanh(h + x), lambda h, x: 0.5 * h], ids=["of x too", "of h alone"]
)
def test_a_number_of_python_takes_the_dtype_of_f(f, x64):
    """As it would in the sum of both; where f is the number's alone, that of JAX."""
    hs, _ = jax.jit(lambda xs: nonlinear_scan(f, 0.0, xs, method="sequential"))(
        jnp.ones(2, jnp.float32)
    )
    alone = jnp.result_type(f(0.0, jnp.ones(2, jnp.float32)[0]))
    assert hs.dtype == alone
    assert hs.shape == (2,)
    del x64


# Transformations.


@functools.cache
def alone(method):
    """One problem, with everything that can be mapped as an argument."""
    return jax.jit(functools.partial(_one, method))


def _one(method, W, h0, xs, reset, guess):
    hs, found = nonlinear_scan(dense(W), h0, xs, reset=reset, guess=guess, method=method)
    return hs, found._replace(error_bound=None)


@pytest.mark.parametrize(
    ("method", "mask"),
    [
        ("newton", "W"),
        ("newton", "h0"),
        ("chunked_newton", "W h0 xs reset guess"),
        ("damped_newton", "reset xs"),
        ("quasi_newton", "guess"),
        ("auto", "W h0 reset"),
    ],
)
def test_vmap_equals_separate_calls(method, mask):
    """Each sequence with its own count, that of its own call."""
    rng = np.random.default_rng(10)
    size = np.array([0.05, 0.5, 1.5], np.float32)
    stacked = {
        "W": rng.normal(size=(3, 2, 2)) * size[:, None, None],
        "h0": rng.normal(size=(3, 2)) * size[::-1, None],
        "xs": rng.normal(size=(3, 6, 2)) * size[:, None, None],
        "reset": rng.random((3, 6)) < size[:, None] / 2,
        "guess": rng.normal(size=(3, 6, 2)) * size[:, None, None],
    }
    stacked = {n: x if x.dtype == bool else x.astype("float32") for n, x in stacked.items()}
    is_mapped = [name in mask.split() for name in stacked]
    args = [x if m else x[1] for x, m in zip(stacked.values(), is_mapped, strict=True)]
    axes = tuple(0 if m else None for m in is_mapped)
    got, found = jax.jit(jax.vmap(functools.partial(_one, method), in_axes=axes))(*args)
    for i in range(3):
        one = (x[i] if m else x for x, m in zip(args, is_mapped, strict=True))
        want, of_one = alone(method)(*one)
        np.testing.assert_allclose(got[i], want, atol=2e-6)
        assert int(found.iterations[i]) == int(of_one.iterations)
        assert bool(found.converged[i]) == bool(of_one.converged)
    if mask in ("W", "W h0 xs reset guess"):
        assert len(set(np.asarray(found.iterations).tolist())) > 1  # or nothing was tested


def test_nested_vmaps_and_their_gradient():
    """Weights outside, sequences inside, each over an axis of its own; and the other way round."""
    rng = np.random.default_rng(11)
    W = jnp.asarray(rng.normal(size=(2, 2, 3)) / 2, "float32")  # mapped over the last
    xs = jnp.asarray(rng.normal(size=(5, 2, 2)), "float32")  # mapped over the second

    def loss(scan):
        def one(W, x):
            return jnp.sum(jnp.sin(scan(lambda h, x: jnp.tanh(W @ h + x), jnp.ones(2), x)))

        inner = jax.vmap(jax.value_and_grad(one, (0, 1)), in_axes=(None, 1))
        outer = jax.vmap(one, in_axes=(2, None))
        return jax.vmap(inner, in_axes=(2, None)), jax.vmap(outer, in_axes=(None, 1))

    @jax.jit
    def both(W, xs):
        ours = loss(lambda *given: nonlinear_scan(*given, method="newton")[0])
        return [f(W, xs) for f in (*ours, loss(plain)[0])]

    first, second, want = both(W, xs)
    close(first, want)
    close(second.T, want[0])


def second_order(scan, args, hessian=False):
    """Forward over reverse and reverse over forward, and the Hessian along one argument."""

    def loss(args):
        return jnp.sum(jnp.sin(scan(*args)) ** 2)

    def slope(args):
        return jax.jvp(loss, (args,), (jax.tree.map(jnp.cos, args),))[1]

    def of_h0(h0):
        return loss((args[0], h0, args[2]))

    if hessian:
        return jax.hessian(of_h0)(args[1]), jax.jacrev(jax.jacfwd(of_h0))(args[1])
    along = jax.jvp(jax.grad(loss), (args,), (jax.tree.map(jnp.cos, args),))
    return along, jax.value_and_grad(slope)(args)


def dense(W):
    return lambda h, x: jnp.tanh(W @ h + x)


def elementwise(W):
    return lambda h, x: jnp.tanh(W[0] * h + x) + 0.3 * h * jnp.sin(h * x)


class Caught(Exception):
    pass


def prepared(monkeypatch, f, h0, xs):
    """What the methods are given for a call."""

    def catch(operands, *, spec):
        raise Caught(spec, operands)

    with monkeypatch.context() as patch:
        patch.setattr(front_door, "nonlinear", catch)
        with pytest.raises(Caught) as caught:
            nonlinear_scan(f, h0, xs, method="newton")
    return caught.value.args


def _doubles(size=2, steps=7):
    rng = np.random.default_rng(12)
    return rng.normal(size=(size, size)), rng.normal(size=size), rng.normal(size=(steps, size))


@pytest.mark.parametrize(
    ("method", "cell", "hessian"),
    [("newton", elementwise, False), ("chunked_newton", dense, True)],
)
def test_second_order_equals_plain_jax(method, cell, hessian):
    def ours(W, h0, xs):
        return nonlinear_scan(cell(W), h0, xs, method=method)[0]

    def theirs(W, h0, xs):
        return plain(cell(W), h0, xs)

    with jax.enable_x64(True):
        args = _doubles()
        both = jax.jit(lambda args: [second_order(f, args, hessian) for f in (ours, theirs)])
        got, want = both(args)
        close(got, want, 1e-9)


def test_check_grads():
    with jax.enable_x64(True):

        @jax.jit
        def f(w, h0):
            xs = jnp.array([0.3, -0.5, 0.1])
            hs, _ = nonlinear_scan(lambda h, x: jnp.tanh(w * h + x), h0, xs, method="sequential")
            return hs[2]

        args = jnp.array(0.9), jnp.array(0.4)
        jax.test_util.check_grads(f, args, order=2, modes=("fwd", "rev"), atol=1e-5, rtol=1e-5)


def test_jacobians_in_stretches_of_time(monkeypatch):
    """Two stretches of three steps, and a ragged rest of one: the same in every order."""
    with jax.enable_x64(True):
        args = _doubles()

        def run():
            def ours(W, h0, xs):
                reset = np.arange(7) == 4
                return nonlinear_scan(dense(W), h0, xs, reset=reset, method="sequential")[0]

            return jax.jit(lambda args: second_order(ours, args))(args)

        whole = run()
        for name in ("LARGEST", "LARGEST_ON_CPU"):
            monkeypatch.setattr(stretches, name, 3 * 8 * 2 * 2 + 1)
        close(run(), whole, 1e-11)
        spec, operands = prepared(monkeypatch, dense(args[0]), *args[1:])
        drive = jnp.ones((7, 1, 1, 2))
        program = str(
            jax.make_jaxpr(
                lambda h: nonlinear_linearised.carried(spec, operands, h, drive, drive[0])
            )(drive[:, :, 0])
        )
        assert "length=2" in program


def test_checkpoint_inside_a_scan():
    """Windows, one after another, each made again in the backward pass."""
    given = Drawn(13)
    windows = given.xs.reshape(2, T // 2, D)

    @jax.jit
    def both(W, h0, windows):
        def by_windows(W, h0, windows):
            @jax.checkpoint
            def window(h, xs):
                hs, found = nonlinear_scan(dense(W), h, xs, method="newton")
                return hs[-1], (hs, found.converged)

            return lax.scan(window, h0, windows)[1]

        def loss(W, h0, windows):
            hs, converged = by_windows(W, h0, windows)
            return jnp.sum(jnp.sin(hs)), (hs, converged)

        def whole(W, h0, windows):
            hs = plain(dense(W), h0, windows.reshape(T, D))
            return jnp.sum(jnp.sin(hs)), (hs.reshape(windows.shape), jnp.ones(2, bool))

        return [
            jax.value_and_grad(f, (0, 1, 2), has_aux=True)(W, h0, windows) for f in (loss, whole)
        ]

    close(*both(given.W, given.h0, windows))


@pytest.mark.parametrize(
    ("method", "shared"),
    [("sequential", "W"), ("newton", "W"), ("chunked_newton", "h0 xs reset")],
)
def test_shard_map(method, shared):
    """Over a batch axis, with varying-axes checks on; what is shared gets a summed gradient."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices("cpu")[:2])
    rng = np.random.default_rng(14)
    operands = {
        "W": rng.normal(size=(2, 2, 2)) / 2,
        "h0": rng.normal(size=(2, 2)),
        "xs": rng.normal(size=(2, 5, 2)),
        "reset": rng.random((2, 5)) < 0.3,
    }
    operands = {
        name: jnp.asarray(x if x.dtype == bool else x.astype("float32"))[
            0 if name in shared.split() else ...
        ]
        for name, x in operands.items()
    }
    axes = tuple(None if name in shared.split() else 0 for name in operands)
    specs = tuple(PartitionSpec() if axis is None else PartitionSpec("x") for axis in axes)

    def ours(W, h0, xs, reset):
        hs, found = nonlinear_scan(dense(W), h0, xs, reset=reset, method=method)
        return hs, found.converged & jnp.isfinite(found.error_bound)

    def theirs(W, h0, xs, reset):
        return plain(dense(W), h0, xs, reset), jnp.ones((), bool)

    sharded = jax.shard_map(
        jax.vmap(ours, in_axes=axes), mesh=mesh, in_specs=specs, out_specs=PartitionSpec("x")
    )

    @jax.jit
    def run(W, h0, xs, reset):
        def both(f):
            def loss(*args):
                hs, converged = f(*args, reset)
                return jnp.sum(jnp.sin(hs)), (hs, converged)

            return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(W, h0, xs)

        return both(sharded), both(jax.vmap(theirs, in_axes=axes))

    close(*run(*operands.values()))


# Memory and programs.


@every_method
@pytest.mark.parametrize("cell", [dense, elementwise])
def test_the_backward_pass_keeps_the_trajectory_and_the_operands(method, cell):
    """Law 7; no array of T x D x D numbers, no guess."""
    steps, size = 64, 8

    def residuals(W, h0, xs, guess):
        def states(W, h0, xs):
            return nonlinear_scan(cell(W), h0, xs, guess=guess, method=method)[0]

        return jax.vjp(states, W, h0, xs)[1]

    shapes = (size, size), (size,), (steps, size), (steps, size)
    specs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    kept = [x.size for x in jax.tree.leaves(jax.eval_shape(residuals, *specs))]
    assert max(kept) <= steps * size
    assert sum(kept) <= 2 * steps * size + size * size + 4 * size, kept


@pytest.mark.parametrize("method", ["sequential", "newton", "chunked_newton"])
def test_programs_do_not_grow_with_the_length(method):
    def size(steps):
        def loss(W, xs):
            return jnp.sum(nonlinear_scan(elementwise(W), jnp.ones(2), xs, method=method)[0])

        specs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 2), (steps, 2))]
        return jax.jit(jax.grad(loss)).trace(*specs).jaxpr.pretty_print().count(" = ")

    assert size(100) == size(10_000)


def test_no_recompilation():
    traces = 0

    @jax.jit
    def f(W, xs):
        nonlocal traces
        traces += 1
        return nonlinear_scan(dense(W), jnp.ones(2), xs)

    for scale in (0.1, 0.2):
        f(scale * jnp.eye(2), scale * jnp.ones((3, 2)))
    assert traces == 1


def test_a_second_call_without_jit_compiles_nothing():
    compiled = []

    def watch(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(duration)

    def call(scale):
        W = scale * jnp.eye(2)
        return nonlinear_scan(dense(W), jnp.ones(2), jnp.ones((3, 2)), method="newton")

    call(0.1)
    jax.monitoring.register_event_duration_secs_listener(watch)
    try:
        call(0.2)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled


def test_what_f_closes_over_is_let_go():
    """By a call without jit, and, if it is a tracer, by a program."""
    seen = []

    def states(W):
        seen.append(weakref.ref(W))
        xs = jnp.ones((3, 2))
        return nonlinear_scan(dense(W), jnp.ones(2), xs, method="sequential")[0]

    states(jnp.full((2, 2), 0.3))
    jax.jit(jax.grad(lambda W: jnp.sum(states(W))))(jnp.full((2, 2), 0.3))
    gc.collect()
    assert [ref() is None for ref in seen] == [True] * len(seen)


def test_leaks_no_tracer():
    with jax.checking_leaks():

        @jax.jit
        def gradient(W):
            xs = jnp.ones((3, 2))
            f = dense(W)
            return jax.grad(lambda h0: jnp.sum(nonlinear_scan(f, h0, xs)[0]))(W[0])

        gradient.lower(0.3 * jnp.eye(2))


# What methods promise.


@every_iterative_method
def test_from_the_solution_no_iteration_is_needed(method):
    given = Drawn(15)
    args = given.W[:2, :2], given.h0[:2], given.xs[:6, :2], given.reset[:6]
    cold, found = alone(method)(*args, np.zeros((6, 2), np.float32))
    assert int(found.iterations) > 0
    hs, found = alone(method)(*args, cold)
    assert int(found.iterations) == 0
    assert bool(found.converged)
    np.testing.assert_allclose(hs, cold, atol=1e-6)
    for bad in (np.nan, np.inf):
        hs, found = alone(method)(*args, np.where(np.arange(6)[:, None] == 2, bad, cold))
        assert bool(found.converged)
        np.testing.assert_allclose(hs, cold, atol=1e-6)


def test_a_guess_lies_as_the_states_do():
    """On the axis, and in the direction, of what is returned."""

    @jax.jit
    def run(xs, h0):
        def states(guess):
            def f(h, x):
                return jnp.tanh(h[0] + h[1] + x), 0.5 * h[0]

            options = {"axis": -1, "reverse": True, "method": "newton"}
            hs, found = nonlinear_scan(f, h0, xs, guess=guess, **options)
            return hs, found._replace(error_bound=None)

        hs, cold = states(None)
        again, pull, warm = jax.vjp(states, hs, has_aux=True)
        return hs, cold, again, warm, pull(hs)

    xs = jnp.asarray(np.random.default_rng(16).normal(size=(2, 5)), "float32")
    hs, cold, again, warm, (gradient,) = run(xs, (jnp.ones(2), jnp.ones(2)))
    close(again, hs, 1e-6)
    assert int(warm.iterations) == 0 < int(cold.iterations)
    assert not any(map(np.any, gradient))


def test_chunks_of_one_step_are_newton_and_one_chunk_is_sequential(monkeypatch):
    """The states that chunks of one step start from are Newton's iterates."""
    W, h0, xs = (x.astype(np.float32) for x in _doubles())
    spec, operands = prepared(monkeypatch, dense(2 * W), h0, xs)

    @jax.jit
    def run(operands):
        found = []
        for most in (1, 2):
            limited = dataclasses.replace(spec, max_iterations=most)
            ours = chunked_newton.solve(limited, operands, 1)
            theirs = newton.method.solve(limited, operands)
            before = spec.before(theirs.h, operands.h0, None)
            next_ = spec.everywhere(spec.step)(operands.params, before, operands.xs)
            found.append((ours.h, next_, ours.iterations))
        return found, chunked_newton.solve(spec, operands, len(xs))

    found, whole = run(operands)
    for most, (h, next_, iterations) in enumerate(found, 1):
        np.testing.assert_allclose(h, next_, rtol=2e-5, atol=2e-5)
        assert iterations.tolist() == [most]
    assert whole.iterations.tolist() == [0]
    assert whole.settled.all()
    want = loop(lambda h, x: np.tanh(2 * W @ h + x), h0, xs)
    np.testing.assert_allclose(whole.h[:, 0], want, atol=1e-4)


def test_auto_completes_what_has_not_converged(monkeypatch):
    """From the first step that is not settled, each sequence from its own."""
    table = dataclasses.replace(nonlinear_table, prefer=lambda case: ("newton", "for this test"))
    monkeypatch.setattr(nonlinear_rules, "nonlinear_table", table)
    W, _, xs = (x.astype(np.float32) for x in _doubles(3, 9))
    scale = np.array([0.01, 1.0, 3.0], np.float32)
    flags = np.arange(9) == 5

    @jax.jit
    def run(scale):
        def states(s, **options):
            hs, found = nonlinear_scan(dense(s * W), jnp.ones(3), xs, reset=flags, **options)
            return hs, found._replace(error_bound=None)

        auto = jax.vmap(functools.partial(states, max_iterations=2))(scale)
        return auto, jax.vmap(lambda s: plain(dense(s * W), jnp.ones(3), xs, flags))(scale)

    (hs, found), want = run(scale)
    np.testing.assert_allclose(hs, want, atol=1e-4)
    assert found.converged.all()
    assert int(found.iterations.max()) == 2


# What is read off f.

H = jax.ShapeDtypeStruct((4,), jnp.float32)
Z = jax.ShapeDtypeStruct((4,), jnp.complex64)
SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)
M = np.ones((4, 4), np.float32)


def _lstm_like(h, x):
    c, y = h
    i, f, o = (jax.nn.sigmoid(w * y + x) for w in (1.0, 2.0, 3.0))
    c = f * c + i * jnp.tanh(y - x)
    return c, o * jnp.tanh(c)


ELEMENTWISE = {
    "affine": (lambda h, x: 0.5 * h + x, H),
    "of x alone what mixes": (lambda h, x: h * jnp.sum(x) + M @ x + jnp.roll(x, 1), H),
    "not of h": (lambda h, x: jnp.tanh(x), H),
    "gated": (lambda h, x: jax.nn.sigmoid(h + x) * h + (1 - jax.nn.sigmoid(x)) * jnp.tanh(h), H),
    "lstm": (_lstm_like, (H, H)),
    "swap": (lambda h, x: (h[1], h[0]), (H, H)),
    "dict": (lambda h, x: {"b": h["a"] * x, "a": h["b"] + h["a"]}, {"a": H, "b": H}),
    "where": (lambda h, x: jnp.where(h > 0, h, x), H),
    "select": (lambda h, x: lax.select(h * x > 0, h, -h), H),
    "jit": (lambda h, x: jax.jit(lambda h: jnp.tanh(h) + x)(h), H),
    "nested jit": (lambda h, x: jax.jit(jax.jit(jax.nn.gelu))(h), H),
    "checkpoint": (lambda h, x: jax.checkpoint(jnp.sin)(h) + x, H),
    "relu": (lambda h, x: jax.nn.relu(h), H),
    "silu": (lambda h, x: jax.nn.silu(h + x), H),
    "softplus": (lambda h, x: jax.nn.softplus(h), H),
    "leaky_relu": (lambda h, x: jax.nn.leaky_relu(h), H),
    "clip": (lambda h, x: jnp.clip(h + x, -1.0, 1.0), H),
    "powers": (lambda h, x: h**2 + jnp.abs(h) ** 2.5 + jnp.sqrt(1 + h * h), H),
    "stop_gradient": (lambda h, x: h + lax.stop_gradient(h), H),
    "halves": (lambda h, x: h.astype(jnp.bfloat16).astype(jnp.float32), H),
    "complex": (lambda h, x: jnp.conj(h) * jnp.abs(h).astype(h.dtype), Z),
    "square": (lambda h, x: jnp.tanh(h), SQUARE),
}
MIXING = {
    "matmul": (lambda h, x: jnp.tanh(M @ h + x), H),
    "roll": (lambda h, x: jnp.roll(h, 1) + x, H),
    "sum": (lambda h, x: jnp.sum(h) + x, H),
    "mean": (lambda h, x: h - h.mean() + x, H),
    "flip": (lambda h, x: jnp.flip(h), H),
    "reversed": (lambda h, x: h[::-1], H),
    "cumsum": (lambda h, x: jnp.cumsum(h), H),
    "softmax": (lambda h, x: jax.nn.softmax(h), H),
    "sort": (lambda h, x: jnp.sort(h), H),
    "first": (lambda h, x: h[0] * x, H),
    "in a jit": (lambda h, x: jax.jit(lambda h: jnp.tanh(M @ h))(h), H),
    "in a where": (lambda h, x: jnp.where(jnp.flip(h) > 0, x, h), H),
    "concatenate": (lambda h, x: jnp.concatenate([h[1:], x[:1]]), H),
    "transpose": (lambda h, x: jnp.tanh(h.T), SQUARE),
    "rows": (lambda h, x: jnp.broadcast_to(h[:, :1], (4, 4)), SQUARE),
    "two shapes": (
        lambda h, x: (h[0] * x, h[1]),
        (H, jax.ShapeDtypeStruct((2,), jnp.float32)),
    ),
    "scatter": (lambda h, x: x.at[0].set(h[3]), H),
    "reshape": (lambda h, x: h.reshape(2, 2).T.reshape(4), H),
}


def parts(f, state):
    """L, of how many numbers the Jacobian mixes, and D."""
    state = jax.tree.map(lambda h: jax.typeof(jnp.zeros(h.shape, h.dtype)), state)
    step, _ = traced(f, state, jax.typeof(jnp.zeros(4)))
    return step.parts, step.layout.size


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    f, state = ELEMENTWISE[name]
    width, size = parts(f, state)
    assert width == size // jax.tree.leaves(state)[0].size


@pytest.mark.parametrize("name", MIXING)
def test_not_elementwise(name):
    width, size = parts(*MIXING[name])
    assert width == size


@pytest.mark.parametrize(
    "f",
    [
        jax.jit(lambda h, x: jnp.tanh(h + x)),
        jax.checkpoint(lambda h, x: jnp.tanh(h + x)),
        functools.partial(lambda a, h, x: a * h + x, 0.5),
        jnp.add,
    ],
    ids=["jit", "checkpoint", "partial", "ufunc"],
)
def test_functions_of_any_kind_are_pure(f):
    h, x = (jax.typeof(jnp.ones(4)) for _ in range(2))
    assert traced(f, h, x)[0].parts == 1


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_explanations_agree_with_the_methods(platform):
    size = 64
    h0 = {"a": jax.ShapeDtypeStruct((size,), jnp.float32), "b": 0.0}
    xs = {
        "x": jax.ShapeDtypeStruct((size, 1000), jnp.float32),
        "key": jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1000)),
    }
    options = {"axis": -1, "reverse": True, "reset": jax.ShapeDtypeStruct((1000,), bool)}

    def f(h, x):
        return {"a": jnp.roll(h["a"], 1) + x["x"], "b": h["b"] + x["x"][0]}

    rows = explain_nonlinear_scan(f, h0, xs, platform=platform, **options)
    assert [row.method for row in rows] == list(nonlinear_table.names)
    assert sum(row.chosen for row in rows) == 1
    assert all(row.reason and row.reason != "todo" for row in rows)
    assert all(row.available for row in rows if row.chosen)
    guess = {"a": xs["x"], "b": jax.ShapeDtypeStruct((1000,), jnp.float32)}
    again = explain_nonlinear_scan(f, h0, xs, guess=guess, platform=platform, tol=4, **options)
    assert [row.method for row in again] == list(nonlinear_table.names)
    with pytest.raises(TypeError, match="f: returned a state that differs"):
        explain_nonlinear_scan(lambda h, x: h["a"], h0, xs, axis=-1)


def test_explain_refuses_a_platform_that_is_none():
    with pytest.raises(ValueError, match=r"platform: got 'CPU', .* did you mean 'cpu'\?"):
        explain_nonlinear_scan(lambda h, x: h, 0.0, jnp.ones(3), platform="CPU")


# Messages.

h0, xs = np.ones(2, np.float32), np.ones((4, 2), np.float32)
KEPT = []


def add(h, x):
    return jnp.tanh(h + x)


def keeps(h, x):
    KEPT.append(h)
    return h + x


def prints(h, x):
    jax.debug.print("{}", h)
    return h + x


def tree(h, x):
    return {"a": h["a"] + x, "c": h["c"]}


TWO = {"a": h0, "c": h0}


def _guess(**changes):
    return {"a": xs, "c": xs} | changes


@pytest.mark.parametrize(
    ("f", "h", "x", "options", "error", "words"),
    [
        (3, h0, xs, {}, TypeError, ["f: got 3", "(h, x) -> h"]),
        (None, h0, xs, {}, TypeError, ["f: got None"]),
        (lambda h, x: (h, x), h0, xs, {}, TypeError, ["f: returned", "(", "float32[2]"]),
        (lambda h, x: h[:1], h0, xs, {}, TypeError, ["f: returned", "float32[1]", "float32[2]"]),
        (
            lambda h, x: h.astype("float16"),
            h0,
            xs,
            {},
            TypeError,
            ["f: returned", "float16[2]", "float32[2]"],
        ),
        (lambda h, x: h["a"], TWO, xs, {}, TypeError, ["f: returned", "{'a': 'float32[2]'"]),
        (lambda h, x: h > 0, h0, xs, {}, TypeError, ["f: returned", "bool[2]"]),
        (lambda h, x: None, h0, xs, {}, TypeError, ["f: returned", "None"]),
        (lambda h, x: [1.0, 2.0], h0, xs, {}, TypeError, ["f: returned", "float32[2]"]),
        (prints, h0, xs, {}, TypeError, ["f: has side effects", "pure"]),
        (keeps, h0, xs, {}, TypeError, ["f: keeps its arguments", "pure"]),
        (tree, {"a": h0, "c": np.ones(2, int)}, xs, {}, TypeError, ["h0['c']: got dtype int"]),
        (tree, {"a": h0, "c": np.ones(2, bool)}, xs, {}, TypeError, ["h0['c']: got dtype bool"]),
        (add, 0, xs, {}, TypeError, ["h0: got 0", "write 1.0"]),
        (add, "zero", xs, {}, TypeError, ["h0: got 'zero'"]),
        (tree, {"a": h0, "c": jax.random.key(0)}, xs, {}, TypeError, ["h0['c']: got dtype key"]),
        (add, h0, {}, {}, ValueError, ["xs: has no arrays", "jnp.zeros(T)"]),
        (add, h0, None, {}, ValueError, ["xs: has no arrays"]),
        (add, h0, [1.0, 2.0], {}, TypeError, ["xs[0]: got 1.0", "array"]),
        (
            add,
            h0,
            {"a": xs, "b": xs[:3]},
            {},
            ValueError,
            ["xs: got different lengths on axis 0", "xs['a']", "4", "xs['b']", "3"],
        ),
        (add, h0, xs, {"axis": 2}, ValueError, ["xs: got shape (4, 2)", "axis 2"]),
        (add, h0, xs, {"axis": -3}, ValueError, ["xs: got shape (4, 2)", "axis -3"]),
        (add, h0, np.float32(1), {}, ValueError, ["xs: got shape ()"]),
        (add, h0, xs, {"axis": 0.0}, TypeError, ["axis: got 0.0"]),
        (add, h0, xs, {"axis": True}, TypeError, ["axis: got True"]),
        (
            lambda h, x: h,
            np.float32(1),
            xs,
            {"axis": 1},
            ValueError,
            ["axis: got 1", "h0", "1 axes"],
        ),
        (add, h0, xs, {"reverse": 1}, TypeError, ["reverse: got 1"]),
        (add, h0, xs, {"guess": xs[:3]}, ValueError, ["guess: got shape (3, 2)", "(4, 2)"]),
        (add, h0, xs, {"guess": (xs,)}, ValueError, ["guess: got", "structure of h0"]),
        (tree, TWO, xs, {"guess": _guess(c=xs.T)}, ValueError, ["guess['c']: got shape (2, 4)"]),
        (tree, TWO, xs, {"guess": _guess(c=xs > 0)}, TypeError, ["guess['c']: got dtype bool"]),
        (add, h0, xs, {"guess": xs.astype(int)}, TypeError, ["guess: got dtype int"]),
        (
            add,
            h0,
            xs,
            {"guess": xs.astype("complex64")},
            TypeError,
            ["guess: got dtype complex64", "float32"],
        ),
        (add, h0, xs, {"reset": np.ones(3, bool)}, ValueError, ["reset: got shape (3,)", "(4,)"]),
        (add, h0, xs, {"reset": np.ones((4, 2), bool)}, ValueError, ["reset:", "vmap"]),
        (add, h0, xs, {"reset": np.bool_(1)}, ValueError, ["reset: got shape ()"]),
        (add, h0, xs, {"reset": np.ones(4, int)}, TypeError, ["reset: got", "bool", "!= 0"]),
        (add, h0, xs, {"tol": 0}, ValueError, ["tol: got 0", "more than 0"]),
        (add, h0, xs, {"tol": -1.0}, ValueError, ["tol: got -1.0"]),
        (add, h0, xs, {"tol": float("nan")}, ValueError, ["tol: got nan"]),
        (add, h0, xs, {"tol": "small"}, TypeError, ["tol: got 'small'", "number"]),
        (add, h0, xs, {"tol": True}, TypeError, ["tol: got True"]),
        (add, h0, xs, {"max_iterations": 0}, ValueError, ["max_iterations: got 0", "1 or more"]),
        (add, h0, xs, {"max_iterations": 2.0}, TypeError, ["max_iterations: got 2.0", "integer"]),
        (add, h0, xs, {"max_iterations": True}, TypeError, ["max_iterations: got True"]),
        (
            add,
            h0,
            xs,
            {"method": "newtons"},
            ValueError,
            ["method: got 'newtons'", "'sequential'", "did you mean 'newton'?"],
        ),
        (add, h0, xs, {"method": None}, ValueError, ["method: got None"]),
    ],
)
def test_refuses(f, h, x, options, error, words):
    with pytest.raises(error) as raised:
        nonlinear_scan(f, h, x, **options)
    KEPT.clear()
    assert str(raised.value).startswith(words[0].split(":")[0] + ":"), raised.value
    assert all(word in str(raised.value) for word in words), raised.value


def test_refuses_the_same_where_no_number_is_known():
    """Under jit and vmap, and of options that are traced."""
    with pytest.raises(ValueError, match=r"reset: got shape \(3,\)"):
        jax.jit(jax.vmap(lambda r: nonlinear_scan(add, h0, xs, reset=r)))(np.ones((2, 3), bool))
    with pytest.raises(TypeError, match="f: keeps its arguments"):
        jax.jit(lambda x: nonlinear_scan(keeps, h0, x))(xs)
    KEPT.clear()
    with pytest.raises(TypeError, match="tol: got"):
        jax.jit(lambda tol: nonlinear_scan(add, h0, xs, tol=tol))(1.0)
    with pytest.raises(TypeError, match="max_iterations: got"):
        jax.jit(lambda most: nonlinear_scan(add, h0, xs, max_iterations=most))(3)


def test_an_error_of_f_is_its_own():
    with pytest.raises(ZeroDivisionError):
        nonlinear_scan(lambda h, x: 1 // 0, h0, xs)


# Programs that look alike.


def with_rule(scale):
    """tanh, with a derivative of its own that mixes the numbers of a state."""

    @jax.custom_jvp
    def f(h):
        return jnp.tanh(h)

    @f.defjvp
    def rule(primals, tangents):
        return f(*primals), scale * jnp.flip(tangents[0])

    return f


def test_a_rule_of_its_own_is_part_of_a_program():
    h = jax.ShapeDtypeStruct((4,), jnp.float32)

    def step(scale):
        f = with_rule(scale)
        return traced(lambda h, x: f(h) + x, h, h)[0]

    assert step(0.5) == step(0.5)
    assert step(0.5) != step(0.25)


def test_derivatives_go_by_the_rule_not_by_what_it_belongs_to():
    f, xs = with_rule(0.5), jnp.zeros((3, 4))

    def plain(h0):
        return jax.lax.scan(lambda h, x: (f(h) + x,) * 2, h0, xs)[1]

    def ours(h0):
        return nonlinear_scan(lambda h, x: f(h) + x, h0, xs)[0]

    given = jnp.zeros(4), jnp.arange(4.0)
    for got, want in zip(*(jax.jvp(s, given[:1], given[1:]) for s in (ours, plain)), strict=True):
        np.testing.assert_allclose(got, want)


def test_how_numbers_are_drawn_is_part_of_a_program():
    """Same operations, another context."""
    keys = jax.random.split(jax.random.key(0), 3)

    def states(partitionable):
        def f(h, key):
            with jax.threefry_partitionable(partitionable):
                return 0.5 * h + jax.random.normal(key, (4,))

        want = jax.lax.scan(lambda h, key: (f(h, key),) * 2, jnp.zeros(4), keys)[1]
        np.testing.assert_allclose(nonlinear_scan(f, jnp.zeros(4), keys)[0], want, rtol=1e-6)
        return want

    assert not np.allclose(states(True), states(False))


def test_a_part_without_a_forward_derivative_is_named():
    @jax.custom_vjp
    def f(h):
        return h

    f.defvjp(lambda h: (h, None), lambda _, g: (g,))
    with pytest.raises(TypeError, match=r"f: needs a derivative in forward mode.*custom_jvp"):
        nonlinear_scan(lambda h, x: f(h) + x, jnp.zeros(2), jnp.ones((3, 2)))
