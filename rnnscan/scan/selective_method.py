"""What a method of the selective scan is given, and what it returns.

Batch first: x and delta (B, T, channels), A (channels, N) of one or of every sequence, B_t and C_t
(B, T, 1, N), the state (B, channels, N). The axis of size 1 is that of the channels, over which
they broadcast and their gradients are sums. The maps are those of `selective_rules.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, get_args

import jax

from rnnscan.scan.table import Case, MethodTable, serves_all

Discretisation = Literal["euler", "zoh"]
DISCRETISATIONS = get_args(Discretisation)

EVERY = 64  # steps between the states that the backward pass keeps


class Inputs(NamedTuple):
    """What can be differentiated.

    Attributes:
      x, delta: (B, T, channels).
      a: (1 or B, channels, N or 1).
      b, c: (B, T, 1, N).
      d: (1 or B, channels), or None where nothing of x skips the state.
      bias: of delta before softplus, (1 or B, channels), or None.
      h0: (B, channels, N).
    """

    x: jax.Array
    delta: jax.Array
    a: jax.Array
    b: jax.Array
    c: jax.Array
    d: jax.Array | None
    bias: jax.Array | None
    h0: jax.Array


class ForwardOperands(NamedTuple):
    """`reset` (B, T): where the state before a step is dropped."""

    inputs: Inputs
    reset: jax.Array | None


class Results(NamedTuple):
    """y (B, T, channels); `last`, the state after the last step in scan order; `kept`, with `keep`
    of the problem, those before step 0, EVERY, 2 EVERY ... in scan order, (B, steps / EVERY,
    channels, N)."""

    y: jax.Array
    last: jax.Array
    kept: jax.Array | None = None


class TangentOperands(NamedTuple):
    inputs: Inputs
    kept: jax.Array
    tangents: Inputs
    reset: jax.Array | None


class TransposeOperands(NamedTuple):
    """`cotangents`: of y and of the last state."""

    inputs: Inputs
    kept: jax.Array
    cotangents: Results
    reset: jax.Array | None


@dataclasses.dataclass(frozen=True)
class SelectiveProblem:
    """What is static.

    Attributes:
      reverse: whether the scan runs from the last step to the first.
      signed: whether the decay is 2 exp(delta A) - 1, not exp(delta A).
      discretisation: of the drive: "euler" or "zoh".
      softplus: whether the times are softplus(delta + bias), not delta.
      precision: of products.
      stretch: steps whose states are in memory at once, at most; by default as suits the platform.
      keep: whether states are kept for the backward pass.
      platform: what the program is lowered for, where that is known.
    """

    reverse: bool
    signed: bool
    discretisation: Discretisation
    softplus: bool
    precision: str
    stretch: int | None = None
    keep: bool = False
    platform: str = "cpu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectiveCase(Case):
    """A call of the selective scan.

    Attributes, beside those of any case:
      inner: numbers in the state of one sequence, channels N.
      discretisation: of the drive.
    """

    inner: int
    discretisation: Discretisation


class Forward(Protocol):
    def __call__(self, problem: SelectiveProblem, operands: ForwardOperands) -> Results: ...


class Tangent(Protocol):
    def __call__(self, problem: SelectiveProblem, operands: TangentOperands) -> Results: ...


class Transpose(Protocol):
    def __call__(self, problem: SelectiveProblem, operands: TransposeOperands) -> Inputs: ...


@dataclasses.dataclass(frozen=True, eq=False)
class SelectiveMethod:
    """One way to evaluate the scan, its tangent map and that map's transpose. T is at least 1."""

    name: str
    summary: str
    forward: Forward
    tangent: Tangent
    transpose: Transpose
    why_not: Callable[[SelectiveCase], str | None] = serves_all


SelectiveTable = MethodTable[SelectiveMethod, SelectiveCase]


def kept_states(steps: int) -> int:
    """How many states are kept of so many steps."""
    return -(-steps // EVERY)
