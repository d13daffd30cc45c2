"""A method table: which ways there are to compute a recurrence, and which one `auto` takes.

The same rows serve `method="auto"`, the explanations and the tests, for every scan. What a
recurrence says of a call is a `Case`, which it may extend; what its methods are given, and what
they return, is between the two of them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from rnnscan.scan.arguments import nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is known of a call when a method is chosen.

    Attributes:
      platform: "cpu", "cuda", "rocm", "tpu" or "other": what the code is lowered for.
      exported: whether the program is lowered for `jax.export`, to run elsewhere.
      device: the kind of the platform's device here (`devices.py`); empty where it is not known.
      dtype: of the states.
      length: T.
      width: numbers in the states of one step, batch included.
    """

    platform: str
    exported: bool = False
    device: str = ""
    dtype: np.dtype
    length: int
    width: int

    @property
    def symbolic(self) -> bool:
        """Whether the length is a symbol (`jax.export`), not yet a number."""
        return not isinstance(self.length, int)

    @property
    def unsized(self) -> bool:
        """Whether any size is a symbol."""
        return not isinstance(self.length * self.width, int)


C = TypeVar("C", bound=Case)
C_contra = TypeVar("C_contra", bound=Case, contravariant=True)


class Method(Protocol[C_contra]):
    """What a table asks of a method: a name, a summary, and the cases that it cannot serve."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    @property
    def why_not(self) -> Callable[[C_contra], str | None]: ...


M = TypeVar("M", bound=Method[Any])


def serves_all(case: Case) -> None:
    """The `why_not` of a method that serves every case."""
    del case


class MethodRow(NamedTuple):
    """One row of an explanation: would this method serve, would `auto` choose it, and why.

    `condition`: of the eigenvectors of A, where the method needs them and A is concrete.
    """

    method: str
    available: bool
    reason: str
    chosen: bool
    condition: float | None = None


class MethodRows(tuple[MethodRow, ...]):
    """The rows of an explanation; what they show is a table, with an arrow where `auto` goes."""

    def __repr__(self) -> str:
        lines = [("", "method", "available", "reason")]
        lines += [
            ("->" if row.chosen else "", row.method, "yes" if row.available else "no", row.reason)
            for row in self
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


@dataclasses.dataclass(frozen=True, eq=False)  # a constant: hashed by identity
class MethodTable(Generic[M, C]):
    """The methods of one scan; `prefer` names the method that `auto` takes, and the reason."""

    methods: tuple[M, ...]
    prefer: Callable[[C], tuple[str, str]]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the methods, without "auto"."""
        return tuple(method.name for method in self.methods)

    def check(self, name: str) -> None:
        """Refuse a name that is not in the table, at the call."""
        names = ("auto", *self.names)
        if not isinstance(name, str) or name not in names:
            known = ", ".join(map(repr, names))
            raise ValueError(f"method: got {name!r}, expected one of {known}{nearest(name, names)}")

    def named(self, name: str) -> M:
        """The method of this name."""
        return self.methods[self.names.index(name)]

    def resolve(self, name: str, case: C) -> M:
        """The method itself, once the platform is known."""
        if name == "auto":
            name, _ = self.prefer(case)
        method = self.named(name)
        if reason := method.why_not(case):
            raise ValueError(f"method={name!r} cannot serve this call: {reason}")
        return method

    def explain(self, case: C) -> MethodRows:
        """A row for each method."""
        chosen, why = self.prefer(case)
        return MethodRows(
            MethodRow(
                method=method.name,
                available=(reason := method.why_not(case)) is None,
                reason=reason or (why if method.name == chosen else method.summary),
                chosen=method.name == chosen,
            )
            for method in self.methods
        )
