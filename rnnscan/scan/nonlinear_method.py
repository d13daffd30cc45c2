"""What a method of a nonlinear recurrence is given, and what it returns.

Problems stand side by side, time first: states are vectors (T, B, D) in scan order
(`state_layout.py`), the leaves of x (T, B, ...). Among `params`, what f closes over, those that are
`mapped` have an axis B.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rnnscan.scan.nonlinear_step import Inputs, Params, Step
from rnnscan.scan.table import Case, MethodTable, serves_all

TOL = 8.0  # units of rounding, unless told otherwise


class Convergence(NamedTuple):
    """How far a trajectory can be trusted.

    Attributes:
      converged: whether every state is finite, and every step was taken by f itself or has its
        residual h_t - f(h_{t-1}, x_t) within `tol` units of rounding.
      iterations: corrections of the whole trajectory, rejected ones included, but for a last one
        that leaves roundings alone; steps that were taken one after another do not count.
      residual: the largest over all steps, in units of rounding: half an ulp of the largest number
        of a leaf lately, and half of what f moves if its state does in the last place. inf where it
        is none.
      error_bound: of |h - h*|, h* the exact trajectory, to first order: the residual carried on by
        the true Jacobians, and four times what a rounding at every step grows to, measured by
        random signs. An estimate, no proof; huge or inf in chaos, where a rounding error grows
        without end.

    >>> import jax.numpy as jnp
    >>> from rnnscan import nonlinear_scan
    >>> _, found = nonlinear_scan(lambda h, x: jnp.tanh(h + x), 0.0, jnp.ones(9), method="newton")
    >>> bool(found.converged), bool(found.error_bound < 1e-6)
    (True, True)
    """

    converged: jax.Array
    iterations: jax.Array
    residual: jax.Array
    error_bound: jax.Array


class NonlinearOperands(NamedTuple):
    """Of h_t = f(h_{t-1}, x_t), h_{-1} = h0 (B, D); where `reset` (T, B), the state before is
    zeros.

    `guess`: (T, B, D), where a method that iterates begins.
    """

    params: Params
    h0: jax.Array
    xs: Inputs
    reset: jax.Array | None
    guess: jax.Array | None


class Solution(NamedTuple):
    """The states (T, B, D), whether each may stand (T, B), and iterations (B,)."""

    h: jax.Array
    settled: jax.Array
    iterations: jax.Array


@dataclasses.dataclass(frozen=True)
class NonlinearProblem:
    """What is static: f, which of its params are mapped, T, B, and when to stop. None is 0."""

    step: Step
    mapped: tuple[bool, ...]
    length: int
    batch: int
    precision: str
    tol: float
    max_iterations: int | None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.length, self.batch, self.step.layout.size

    def side_by_side(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function(params, h, x)` of one state, for all problems."""
        params = tuple(0 if mapped else None for mapped in self.mapped)
        return jax.vmap(function, in_axes=(params, 0, 0), axis_size=self.batch)

    def everywhere(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function(params, h, x)` of one state, for all steps and problems."""
        return jax.vmap(self.side_by_side(function), in_axes=(None, 0, 0))

    def before(self, h: jax.Array, h0: jax.Array, reset: jax.Array | None) -> jax.Array:
        """The states one step earlier; zeros at a reset."""
        return forgotten(reset, jnp.concatenate([h0[None], h[:-1]]))


def forgotten(reset: jax.Array | None, h: jax.Array) -> jax.Array:
    """Zeros where flagged, whatever stood there."""
    return h if reset is None else jnp.where(reset[..., None], jnp.zeros((), h.dtype), h)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NonlinearCase(Case):
    """A call of a nonlinear recurrence.

    Attributes, beside those of any case:
      batch: problems side by side.
      size: D, real numbers of one state.
      parts: L, the width of the blocks that make up the Jacobian of a step; D where it is dense.
    """

    batch: int
    size: int
    parts: int

    @property
    def jacobians(self) -> int:
        """Bytes of all of them."""
        return self.length * self.batch * self.size * self.parts * self.dtype.itemsize


class Solve(Protocol):
    def __call__(self, problem: NonlinearProblem, operands: NonlinearOperands) -> Solution: ...


@dataclasses.dataclass(frozen=True, eq=False)
class NonlinearMethod:
    """One way to find a trajectory; its derivatives are those of the solution, whoever found it."""

    name: str
    summary: str
    solve: Solve
    why_not: Callable[[NonlinearCase], str | None] = serves_all


NonlinearTable = MethodTable[NonlinearMethod, NonlinearCase]
