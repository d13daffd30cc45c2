"""One pairwise list of calls of `selective_scan`, shared by its laws, and the scan as plain JAX."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import explain_selective_scan, selective_scan
from tests.scan.selective_reference import NAMES, SelectiveReference


@dataclasses.dataclass(frozen=True)
class Call:
    """One call, by shapes; `arrays` fills them.

    delta, B, C and h0: their batch axes, those of x unless said. `complex`: the operands that are.
    There is a delta_bias with softplus.
    """

    batch: tuple[int, ...] = (2,)
    T: int = 9
    channels: int = 3
    N: int = 2
    delta: tuple[int, ...] | None = None
    B: tuple[int, ...] | None = None
    C: tuple[int, ...] | None = None
    h0: tuple[int, ...] | None = None
    column: bool = False
    without: tuple[str, ...] = ()
    complex: str = ""
    reset: tuple[int, ...] | None = None
    reverse: bool = False
    discretisation: str = "euler"
    signed: bool = False
    delta_softplus: bool = False
    dtype: str = "float32"

    def __str__(self):
        """What is not as it is by default."""
        own = [
            f"{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        return "-".join(own).replace(" ", "") or "plain"

    @property
    def options(self):
        own = "reverse", "discretisation", "signed", "delta_softplus"
        return {name: getattr(self, name) for name in own}

    @property
    def shapes(self):
        """Of the operands that are given."""

        def lead(own):
            return self.batch if own is None else own

        steps = self.T, self.channels
        shapes = {
            "x": (*self.batch, *steps),
            "delta": (*lead(self.delta), *steps),
            "A": (self.channels, 1 if self.column else self.N),
            "B": (*lead(self.B), self.T, self.N),
            "C": (*lead(self.C), self.T, self.N),
            "D": (self.channels,),
            "h0": (*lead(self.h0), self.channels, self.N),
            "delta_bias": (self.channels,),
        }
        absent = (*self.without, *([] if self.delta_softplus else ["delta_bias"]))
        return {name: shapes[name] for name in NAMES if name not in absent}

    @property
    def dtypes(self):
        """Of the operands, and of y and the last state as "y"."""
        of_complex = {"float32": "complex64", "float64": "complex128"}
        found = {
            name: of_complex[self.dtype] if name in self.complex.split() else self.dtype
            for name in self.shapes
        }
        return found | {"y": of_complex[self.dtype] if self.complex else self.dtype}

    def arrays(self, seed=0):
        """(operands by name, reset, the cotangents of y and of the last state), in NumPy."""
        rng = np.random.default_rng(seed)

        def normal(shape, dtype):
            x = rng.normal(size=shape)
            x = x + 1j * rng.normal(size=shape) if "complex" in dtype else x
            return np.asarray(x).astype(jnp.dtype(dtype))

        given = {name: normal(shape, self.dtypes[name]) for name, shape in self.shapes.items()}
        if not self.delta_softplus:
            given["delta"] = np.exp(given["delta"] - 1)
        A = given["A"]
        given["A"] = -abs(np.real(A)) - 0.1 + 1j * np.imag(A) if "A" in self.complex else -abs(A)
        given["A"] = given["A"].astype(A.dtype)
        dtype = self.dtypes["y"]
        cotangents = (
            normal((*self.batch, self.T, self.channels), dtype),
            normal((*self.batch, self.channels, self.N), dtype),
        )
        reset = None if self.reset is None else rng.random(self.reset) < 0.3
        return given, reset, cotangents

    def reference(self, given, reset) -> SelectiveReference:
        return SelectiveReference(**given, reset=reset, **self.options)

    @contextlib.contextmanager
    def types(self):
        """Where the call's dtypes exist."""
        with jax.enable_x64(self.dtype == "float64"):
            yield

    def scan(self, method, reset=None, **more):
        """The scan as a function of its operands by name."""

        def f(given):
            return selective_scan(**given, reset=reset, method=method, **self.options, **more)

        return f

    def plain(self, reset=None):
        """The same in plain JAX, step by step, for JAX to differentiate by its own rules."""

        def f(given):
            with jax.numpy_dtype_promotion("standard"):  # real operands meet complex ones
                return _unrolled(**given, call=self, reset=reset)

        return f


def _unrolled(x, delta, A, B, C, D=None, h0=None, delta_bias=0.0, *, call, reset):
    states = (*call.batch, call.channels, call.N)
    A = jnp.broadcast_to(A, states)
    h = jnp.zeros(states, call.dtypes["y"]) if h0 is None else jnp.broadcast_to(h0, states)
    flags = np.broadcast_to(False if reset is None else reset, (*call.batch, call.T))
    delta = jnp.broadcast_to(delta, x.shape)
    if call.delta_softplus:
        delta = jnp.log1p(jnp.exp(delta + jnp.broadcast_to(delta_bias, x.shape)))
    B, C = (jnp.broadcast_to(v, (*call.batch, call.T, call.N)) for v in (B, C))
    ys = [x[..., 0, :]] * call.T
    for t in reversed(range(call.T)) if call.reverse else range(call.T):
        step = delta[..., t, :, None]
        z = step * A
        a = 2 * jnp.exp(z) - 1 if call.signed else jnp.exp(z)
        gain = step
        if call.discretisation == "zoh":
            gain = (1 - jnp.abs(a)) / jnp.abs(A) if call.signed else jnp.expm1(z) / A
        kept = jnp.where(flags[..., t, None, None], 0, a * h)
        h = kept + gain * x[..., t, :, None] * B[..., t, None, :]
        y = jnp.sum(h * C[..., t, None, :], -1)
        ys[t] = y if D is None else y + jnp.broadcast_to(D, y.shape) * x[..., t, :]
    return jnp.stack(ys, -2), h


ALL_COMPLEX = "x A B C D h0"
CALLS = [
    Call(),
    Call(batch=(), T=7, without=("D", "h0"), reverse=True, dtype="float64"),
    Call(batch=(2, 3), T=5, delta=(1, 3), B=(2, 1), C=(), h0=(3,), reset=(5,)),
    Call(T=8, h0=(1,), column=True, reset=(2, 8), reverse=True),
    Call(T=7, dtype="bfloat16", delta=()),
    Call(T=6, dtype="float16", reset=(1, 6), without=("h0",)),
    Call(T=9, complex="A", reset=(9,)),
    Call(T=6, complex=ALL_COMPLEX, B=(), C=(1,), reverse=True, dtype="float64"),
    Call(T=6, complex="A B C", h0=(), discretisation="zoh", dtype="float64", without=("D",)),
    Call(T=9, discretisation="zoh", reset=(2, 9)),
    Call(T=9, signed=True, reset=(9,), without=("D",)),
    Call(T=7, signed=True, discretisation="zoh", column=True, reverse=True, dtype="float64"),
    Call(T=0),
    Call(T=1, N=1, reset=(1,)),
    Call(T=193, channels=1, N=3, reset=(2, 193)),
    Call(T=128, channels=2, N=1, reverse=True, batch=()),
    Call(T=67, complex="A", discretisation="zoh"),
    Call(T=4, batch=(0,), without=("h0",)),
    Call(T=9, delta_softplus=True, reset=(9,), delta=(1,)),
    Call(T=6, delta_softplus=True, discretisation="zoh", reverse=True, dtype="float64"),
    Call(T=6, delta_softplus=True, dtype="bfloat16", without=("D",)),
    Call(T=6, delta_softplus=True, complex="A C", batch=()),
    Call(T=67, batch=(3,), channels=17, N=8, reset=(67,)),
]


def methods_of(call):
    """The methods that can serve, by their own `why_not`."""
    specs = {
        name: jax.ShapeDtypeStruct(shape, call.dtypes[name]) for name, shape in call.shapes.items()
    }
    with call.types():
        rows = explain_selective_scan(**specs, **call.options)
    return tuple(row.method for row in rows if row.available)


METHODS = methods_of(Call(T=20_001))
# "associative" and "blocked" differ from "stretches" in the `linear_scan` alone, which has laws of
# its own: they are tried on some of the calls.
every_method = pytest.mark.parametrize(
    "method", [m for m in METHODS if m not in ("associative", "blocked")]
)


def by_every_method(calls, **some):
    """Each call by each method; `name=slice`: by that method only these of the calls."""
    some = {"associative": slice(2, None, 6), "blocked": slice(3, None, 6)} | some
    pairs = [
        (call, method)
        for method in dict.fromkeys([*METHODS, "stretches", "sequential"])
        for call in calls[some.get(method, slice(None))]
        if method in methods_of(call)
    ]
    return pytest.mark.parametrize(("call", "method"), pairs, ids=str)


def steps_of(given, where):
    """The operands of some steps."""
    over_time = "x", "delta", "B", "C"
    return {n: v[..., where, :] if n in over_time else v for n, v in given.items()}


def vjp(f, given, cotangents):
    """((y, last), the gradients by name), compiled as one."""

    @jax.jit
    def both(given, cotangents):
        out, pull = jax.vjp(f, given)
        return out, *pull(cotangents)

    return both(given, cotangents)


def assert_within(got, want, dtype, name, factor=1):
    """Law 1: in this dtype, and no farther from what it should be than rounding moves it."""
    assert got.dtype == jnp.dtype(dtype), f"{name}: dtype {got.dtype}, expected {dtype}"
    got = np.asarray(got)
    assert got.shape == want.value.shape, f"{name}: shape {got.shape}, not {want.value.shape}"
    got = got.astype(np.complex128 if np.iscomplexobj(got) else np.float64)
    error, bound = np.abs(got - want.value), factor * want.bound(dtype)
    wrong = ~(error <= bound)
    if wrong.any():
        at = np.unravel_index(np.argmax(wrong), wrong.shape)
        raise AssertionError(
            f"{name}: {wrong.sum()} of {wrong.size} differ; at {tuple(map(int, at))} got "
            f"{got[at]}, expected {want.value[at]}, error {error[at]:.3g} > {bound[at]:.3g}"
        )


def assert_outputs(call, out, reference, factor=1):
    for name, got, want in zip(("y", "last"), out, reference.outputs(), strict=True):
        assert_within(got, want, call.dtypes["y"], name, factor)


def assert_gradients(call, found, reference, cotangents):
    wanted = reference.gradients(*cotangents)
    for name, got in found.items():
        assert_within(got, wanted[name], call.dtypes[name], f"gradient of {name}")
