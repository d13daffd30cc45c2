"""What a method of recurrent cells is given, and what it returns.

Batch first: x (B, T, I), states (B, T, H), gates (B, T, G H). The three maps are those of
`cell_rules.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax

from rnnscan.scan.cell_kinds.cell import Cell, States
from rnnscan.scan.nonlinear_method import Convergence
from rnnscan.scan.table import Case, MethodTable, serves_all


class CellWeights(NamedTuple):
    """Of one cell with G gates.

    Attributes:
      w_ih: (G H, I).
      bias: (G H,).
      w_hh: (G H, H).
      bias_hn: (H,), of a cell whose last gate keeps its recurrent part apart (gru); else `None`.

    >>> import jax.numpy as jnp
    >>> CellWeights(jnp.ones((4, 3)), jnp.zeros(4), jnp.eye(4)).w_hh.shape
    (4, 4)
    """

    w_ih: jax.Array
    bias: jax.Array
    w_hh: jax.Array
    bias_hn: jax.Array | None = None


class ForwardOperands(NamedTuple):
    """Where a step is not `valid` (B, T), the state passes as it is; where it has a `reset` (B, T),
    which no step has that is not valid, the state before it is zeros."""

    x: jax.Array
    weights: CellWeights
    state: States
    valid: jax.Array | None
    reset: jax.Array | None


class Trajectory(NamedTuple):
    """`states`: h of every step, with `keep` all arrays of the state; `last` in scan order;
    `kept`: what the cell keeps, side by side, (B, T, kept H); `found`: of a method that iterates,
    what it says of each sequence, (B,); `first`: with `keep`, where time is split over devices, the
    state that entered this device's chunk."""

    states: States
    last: States
    kept: jax.Array | None
    found: Convergence | None = None
    first: States | None = None


class Residuals(NamedTuple):
    """What the linear maps read of the trajectory, beside `weights`, here w_hh: the state before
    it, the states and what was kept."""

    first: States
    states: States
    kept: jax.Array | None


class Drives(NamedTuple):
    """Tangents that the linear recurrence starts from: of W_ih x + b, of q, of the state."""

    u: jax.Array
    q: jax.Array | None
    state: States


class Evolution(NamedTuple):
    """Tangents of h at every step, and of the last state."""

    h: jax.Array
    last: States


class TangentOperands(NamedTuple):
    weights: jax.Array
    residuals: Residuals
    drives: Drives
    valid: jax.Array | None
    reset: jax.Array | None


class TransposeOperands(NamedTuple):
    weights: jax.Array
    residuals: Residuals
    cotangents: Evolution
    valid: jax.Array | None
    reset: jax.Array | None


@dataclasses.dataclass(frozen=True)
class CellProblem:
    """What is static: the cell, the direction, the precision of products; `keep`: whether the
    trajectory is returned as the backward pass reads it; `certify`: whether with a `Convergence`,
    whatever the method."""

    cell: Cell
    reverse: bool
    precision: str
    keep: bool = False
    certify: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellCase(Case):
    """A call of a recurrent cell.

    Attributes, beside those of any case:
      kind: the name of the cell.
      batch, hidden: B and H.
      inputs: I, where x is read.
    """

    kind: str
    batch: int
    hidden: int
    inputs: int = 1


class Forward(Protocol):
    def __call__(self, problem: CellProblem, operands: ForwardOperands) -> Trajectory: ...


class Tangent(Protocol):
    def __call__(self, problem: CellProblem, operands: TangentOperands) -> Evolution: ...


class Transpose(Protocol):
    def __call__(self, problem: CellProblem, operands: TransposeOperands) -> Drives: ...


@dataclasses.dataclass(frozen=True, eq=False)
class CellMethod:
    """One way to evaluate a cell's trajectory, its tangent map and that map's transpose.

    T is at least 1. `any_weights`: whether it can be mapped (vmap) over weights; `in_turns`:
    whether it serves a device that waits for the state of the one before it.
    """

    name: str
    summary: str
    forward: Forward
    tangent: Tangent
    transpose: Transpose
    why_not: Callable[[CellCase], str | None] = serves_all
    any_weights: bool = False
    in_turns: bool = True


CellTable = MethodTable[CellMethod, CellCase]
