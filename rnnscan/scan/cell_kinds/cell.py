"""What a recurrent cell is: one step, and the derivative of that step."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax

Parts = Sequence[jax.Array]  # of each gate, or of what is kept: (..., H)
States = tuple[jax.Array, ...]  # (..., H) each, h first


class Step(Protocol):
    """(s_t, what is kept) from the gates' z, from q (`None` unless `apart`) and from s_{t-1}."""

    def __call__(self, z: Parts, q: jax.Array | None, state: States) -> tuple[States, Parts]: ...


class Tangent(Protocol):
    """ds_t, linear in dz, dq and ds_{t-1}; `before` and `after` are s_{t-1} and s_t."""

    def __call__(
        self,
        kept: Parts,
        before: States,
        after: States,
        dz: Parts,
        dq: jax.Array | None,
        dstate: States,
    ) -> States: ...


@dataclasses.dataclass(frozen=True, eq=False)  # a constant: hashed by identity
class Cell:
    """s_t = step(z_t, q_t, s_{t-1}) elementwise, where z_t = W_ih x_t + b + W_hh h_{t-1}.

    Attributes:
      name: what `cell_scan` calls it.
      gates: G. Their z are parts of one vector, so that W_ih is (G H, I) and W_hh (G H, H).
      step: new state, and what its derivative reads beside the states.
      tangent: that derivative.
      states: names of the arrays of a state; the first is h, which the next step's product and the
        caller read.
      kept: arrays that `step` keeps.
      apart: whether the last gate reads its recurrent part, q_t = W_hh h_{t-1} + b_hn, by itself,
        so that its z is W_ih x_t + b alone.
    """

    name: str
    gates: int
    step: Step
    tangent: Tangent
    states: tuple[str, ...] = ("h",)
    kept: int = 0
    apart: bool = False
