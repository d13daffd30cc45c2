"""A method table: which ways there are to compute a recurrence, and which one `auto` takes.

The same rows serve `method="auto"`, `explain_linear_scan` and the tests.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rnnscan.scan.product import Product

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def checked_platform(name: str) -> str:
    """One of `PLATFORMS`; JAX calls a CUDA device "gpu"."""
    name = "cuda" if name == "gpu" else name
    if name not in PLATFORMS:
        known = ", ".join(map(repr, PLATFORMS))
        raise ValueError(f"platform: got {name!r}, expected one of {known}")
    return name


@dataclasses.dataclass(frozen=True)
class Case:
    """What is known of a call when a method is chosen: platform, shapes and dtype.

    Attributes:
      platform: "cpu", "cuda", "rocm", "tpu" or "other": what the code is lowered for.
      dtype: of b and h.
      length: T.
      width: numbers in the states of one step, batch included.
      inner: those of them behind time, which lie together in memory.
      size: the n of a matrix product; 1 for an elementwise one.
      constant: whether the decay is the same at every step.
      exported: whether the program is lowered for `jax.export`, to run elsewhere.
    """

    platform: str
    dtype: np.dtype
    length: int
    width: int
    inner: int
    size: int
    constant: bool
    exported: bool = False

    @property
    def symbolic(self) -> bool:
        """Whether the length is a symbol (`jax.export`), not yet a number."""
        return not isinstance(self.length, int)


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to evaluate a recurrence, its tangent map and that map's transpose.

    `forward(product, time, a, b, h0, reset, *, shape, dtype) -> h`
    `tangent(product, time, a, h, h0, reset, da, db, dh0, *, shape, dtype) -> dh`
    `transpose(product, time, a, h, h0, reset, g, *, shape, dtype, decay_shape, state_shape)
        -> (da, db, dh0)`, where da has `decay_shape` and dh0 has `state_shape`. With h and h0
        `None` (the decay is not differentiated) da is `None`.

    Operands have their batch and time axes in line, with size 1 where they broadcast; results have
    `shape` and `dtype`. T is at least 1.
    """

    name: str
    summary: str
    forward: Callable
    tangent: Callable
    transpose: Callable
    why_not: Callable[[Case], str | None] = lambda case: None


class MethodRow(NamedTuple):
    """One row of an explanation: would this method serve, would `auto` choose it, and why.

    `condition`: of the eigenvectors of A, where the method needs them and A is concrete.
    """

    method: str
    available: bool
    reason: str
    chosen: bool
    condition: float | None = None


@dataclasses.dataclass(frozen=True)
class MethodTable:
    """The methods of one product; `prefer` names the method that `auto` takes, and the reason."""

    product: Product
    methods: tuple[Method, ...]
    prefer: Callable[[Case], tuple[str, str]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(method.name for method in self.methods)

    def check(self, name: str) -> None:
        """Refuse a name that is not in the table, at the call."""
        if name != "auto" and name not in self.names:
            known = ", ".join(repr(known) for known in ("auto", *self.names))
            raise ValueError(f"method: got {name!r}, expected one of {known}")

    def resolve(self, name: str, case: Case) -> Method:
        """The method itself, once the platform is known."""
        if name == "auto":
            name, _ = self.prefer(case)
        method = self.methods[self.names.index(name)]
        if reason := method.why_not(case):
            raise ValueError(f"method={name!r} cannot serve this call: {reason}")
        return method

    def explain(self, case: Case) -> tuple[MethodRow, ...]:
        chosen, why = self.prefer(case)
        return tuple(
            MethodRow(
                method=method.name,
                available=(reason := method.why_not(case)) is None,
                reason=reason or (why if method.name == chosen else method.summary),
                chosen=method.name == chosen,
            )
            for method in self.methods
        )
