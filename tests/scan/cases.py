"""One pairwise list of calls, shared by every law: shapes, axes, dtypes and options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnscan import explain_linear_scan, explain_matrix_scan
from rnnscan.scan import linear_table, matrix_table
from tests.scan.reference import DiagonalReference, Reference


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a scan, by shapes; `arrays` fills them."""

    b: tuple[int, ...]
    a: tuple[int, ...]
    h0: tuple[int, ...] | None = None
    axis: int = 0
    reverse: bool = False
    reset: tuple[int, ...] | None = None
    dtype: str = "float32"

    def __str__(self):
        parts = [f"b{list(self.b)}", f"a{list(self.a)}", f"axis{self.axis}", self.dtype]
        parts += [] if self.h0 is None else [f"h0{list(self.h0)}"]
        parts += [] if self.reset is None else [f"reset{list(self.reset)}"]
        return "-".join(parts + ["reverse"] * self.reverse)

    @property
    def matrix(self):
        return len(self.a) == len(self.b) + 1 or (len(self.a) == 2 and self.a[0] == self.a[1] > 1)

    @property
    def length(self):
        return self.b[self.axis]

    @property
    def options(self):
        return {"axis": self.axis, "reverse": self.reverse}

    def arrays(self, seed=0):
        """(a, b, h0, reset, g) as NumPy arrays of the call's dtype."""
        rng = np.random.default_rng(seed)

        def normal(shape):
            x = rng.normal(size=shape)
            return x + 1j * rng.normal(size=shape) if "complex" in self.dtype else x

        a = np.tanh(normal(self.a)) if "complex" not in self.dtype else normal(self.a) / 2
        a = a / (2 * np.sqrt(self.a[-1])) if self.matrix else a
        reset = None if self.reset is None else rng.random(self.reset) < 0.3
        b, g = normal(self.b), normal(self.b)
        h0 = None if self.h0 is None else normal(self.h0)
        dtype = jnp.dtype(self.dtype)
        a, b, g = (np.asarray(x).astype(dtype) for x in (a, b, g))
        h0 = None if h0 is None else np.asarray(h0).astype(dtype)
        return a, b, h0, reset, g

    def reference(self, a, b, h0, reset, method=None):
        """What the call should give, and how far this method may be from it."""
        kind = DiagonalReference if method == "diagonal" else Reference
        return kind(a, b, h0, reset=reset, matrix=self.matrix, **self.options)

    def wide(self):
        """The context in which the call's dtype exists."""
        return jax.enable_x64(self.dtype in ("float64", "complex128"))


LINEAR = [
    Call(b=(9,), a=(9,)),
    Call(b=(9,), a=(), h0=(), reset=(9,), dtype="float64"),
    Call(b=(8, 3), a=(8, 3), h0=(3,), reverse=True),
    Call(b=(7, 3), a=(3,), reset=(7, 3), dtype="bfloat16"),
    Call(b=(2, 7, 3), a=(2, 7, 1), h0=(1, 3), axis=1, reset=(7,), dtype="complex64"),
    Call(b=(2, 7, 3), a=(1, 1, 3), h0=(2, 1), axis=1, reverse=True, reset=(2, 7, 1)),
    Call(b=(2, 3, 17), a=(3, 1), h0=(), axis=-1, reverse=True, dtype="float64"),
    Call(b=(4, 2, 3), a=(4, 1, 1), h0=(2, 3), reset=(1, 2, 1), dtype="float16"),
    Call(b=(2, 5, 2, 3), a=(5, 2, 1), axis=1, h0=(2, 3), dtype="complex128", reset=(5, 1, 3)),
    Call(b=(1, 6, 1), a=(6, 1), axis=1, reverse=True, dtype="complex64"),
    Call(b=(3, 1, 2), a=(3, 1, 2), axis=1, h0=(3, 2), reset=(1,)),
    Call(b=(0, 3), a=(3,), h0=(3,)),
    Call(b=(3, 0), a=(0,), axis=1, h0=(), reset=(3, 0)),
    Call(b=(4, 0), a=(4, 1), h0=()),
    Call(b=(65, 2), a=(65, 2), h0=(2,), reset=(65,), reverse=True),
    Call(b=(301, 2), a=(2,), h0=(2,), dtype="bfloat16"),
]

MATRIX = [
    Call(b=(6, 3), a=(3, 3), h0=(3,)),
    Call(b=(6, 3), a=(6, 3, 3), reverse=True, dtype="float64"),
    Call(b=(2, 5, 3), a=(3, 3), axis=1, h0=(2, 3), reset=(5,)),
    Call(b=(2, 5, 3), a=(2, 1, 3, 3), axis=-2, h0=(3,), reset=(2, 5, 1), dtype="float64"),
    Call(b=(5, 2, 3), a=(5, 1, 3, 3), h0=(1, 3), reverse=True, reset=(5, 1, 1), dtype="complex64"),
    Call(b=(2, 5, 2), a=(2, 5, 2, 2), axis=1, reset=(5,), dtype="complex128"),
    Call(b=(5, 2), a=(2, 2), h0=(1,), dtype="bfloat16"),
    Call(b=(0, 2), a=(2, 2), h0=(2,)),
    Call(b=(1, 4), a=(1, 4, 4), h0=(4,), reset=(1,)),
    Call(b=(83, 2), a=(2, 2), h0=(2,), reset=(83,), reverse=True),
    Call(b=(2, 19, 2, 3), a=(2, 1, 1, 3, 3), axis=1, h0=(2, 1), reset=(2, 1, 2, 1)),
    Call(b=(2, 9, 3), a=(3, 3), axis=1, reverse=True, reset=(2, 9, 1), dtype="complex64"),
]


def methods_of(call):
    """The methods of its scan that can serve, by their own `why_not`."""
    explain = explain_matrix_scan if call.matrix else explain_linear_scan
    a, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (call.a, call.b))
    return tuple(row.method for row in explain(a, b, axis=call.axis) if row.available)


# Those that serve any length. Without a compiler at the install there is no kernel among them, and
# test_native.py says so.
METHODS = methods_of(Call(b=(20_001, 3), a=(20_001, 3)))
MATRIX_METHODS = methods_of(Call(b=(20_001, 3), a=(3, 3)))


def by_every_method(calls, **some):
    """Each call by each method of its scan; `name=slice`: by that method only these of the calls.

    For a method that takes long to compile.
    """
    pairs = [
        (call, method)
        for method in dict.fromkeys(linear_table.names + matrix_table.names)
        for call in calls[some.get(method, slice(None))]
        if method in methods_of(call)
    ]
    return pytest.mark.parametrize(("call", "method"), pairs, ids=str)


every_method = pytest.mark.parametrize("method", METHODS)
every_matrix_method = pytest.mark.parametrize("method", MATRIX_METHODS)
# Where the decay varies in time; with a constant one see test_matrix_methods.py.
every_varying_method_of_both = pytest.mark.parametrize(
    ("matrix", "method"),
    [(False, method) for method in METHODS]
    + [(True, method) for method in MATRIX_METHODS if method != "diagonal"],
)
