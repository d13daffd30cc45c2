"""What a method of a linear recurrence is given, and what it returns.

The three maps, over a product `*`, are equations (1) to (3) of `linear_rules.py`. Operands have
their batch and time axes in line, with size 1 where they broadcast.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan.scan import devices
from rnnscan.scan.cost import Cost, seconds
from rnnscan.scan.precision import carry_dtype
from rnnscan.scan.product import Product
from rnnscan.scan.table import Case, MethodTable, serves_all
from rnnscan.scan.time_axis import TimeAxis

Shape = tuple[int, ...]


class ScanOperands(NamedTuple):
    """Of h_t = a_t * h_{t-1} + b_t, with h_{-1} = h0."""

    a: jax.Array
    b: jax.Array
    h0: jax.Array
    reset: jax.Array | None


class Past(NamedTuple):
    """What h_{t-1} is read from: the states, and the one before the first step."""

    h: jax.Array
    h0: jax.Array


class TangentOperands(NamedTuple):
    """Of dh_t = a_t * dh_{t-1} + db_t + da_t * h_{t-1}, with dh_{-1} = dh0."""

    a: jax.Array
    past: Past
    da: jax.Array
    db: jax.Array
    dh0: jax.Array
    reset: jax.Array | None


class States(NamedTuple):
    """h of every step; `entering`, where time is split over devices and it is asked for, the state
    before the first step of a device's chunk. Of tangents likewise."""

    h: jax.Array
    entering: jax.Array | None


class TransposeOperands(NamedTuple):
    """Of l_t = g_t + a_{t+1}' * l_{t+1}; `past` is `None` where a is not differentiated.

    `later`, shaped as a state: what steps behind the last one send back, l_{T-1} = g_{T-1} + later,
    where these steps are a part of more. It has been multiplied by the decay of the step that it
    comes from, and dropped there if that resets; a reset of step T-1 does not concern it.
    """

    g: jax.Array
    a: jax.Array
    past: Past | None
    reset: jax.Array | None
    later: jax.Array | None = None


class Gradients(NamedTuple):
    """db_t = l_t, da_t = l_t (x) h_{t-1} (`None` where the past is), dh0 = a_0' * l_0."""

    da: jax.Array | None
    db: jax.Array
    dh0: jax.Array


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is static: the product, where time is, and the shape and dtype of h. T is at least 1.

    `gradients`: in the transposed map the shapes of a and h0, to which their gradients are summed.
    """

    product: Product
    time: TimeAxis
    shape: Shape
    dtype: np.dtype
    gradients: tuple[Shape, Shape] = ((), ())

    @property
    def wide(self) -> np.dtype:
        """What is carried from step to step."""
        return carry_dtype(self.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearCase(Case):
    """A call of a linear recurrence.

    Attributes, beside those of any case:
      inner: numbers in the states of one step that lie behind time, and so together in memory.
      size: the n of a matrix product; 1 for an elementwise one.
      constant: whether the decay is the same at every step.
    """

    inner: int
    size: int
    constant: bool

    @property
    def states(self) -> int:
        """Numbers of all states."""
        return self.length * self.width

    @property
    def parts(self) -> int:
        """Real numbers of one of theirs."""
        return 2 if jnp.issubdtype(self.dtype, jnp.complexfloating) else 1

    @property
    def reals(self) -> int:
        """Real numbers of all states."""
        return self.parts * self.states

    @property
    def narrow(self) -> bool:
        """Whether a row, the numbers side by side at one step, is too short for vectors to pay."""
        return self.inner < 64

    def traffic(self, backward: bool) -> Cost:
        """What no method avoids: each operand read once, each result written once.

        Forward reads a and b and writes h; backward reads g, a and h and writes db and da. What is
        constant in time stays where it is; a decay of matrices has `size` numbers for each of b.
        """
        array = self.states * self.dtype.itemsize
        decay = 0 if self.constant else array * self.size
        if not backward:
            return Cost(bytes=2 * array + decay, fresh=array)
        return Cost(bytes=3 * array + 2 * decay, fresh=array + decay)


class Forward(Protocol):
    def __call__(self, problem: Problem, operands: ScanOperands) -> jax.Array: ...


class Tangent(Protocol):
    def __call__(self, problem: Problem, operands: TangentOperands) -> jax.Array: ...


class Transpose(Protocol):
    def __call__(self, problem: Problem, operands: TransposeOperands) -> Gradients: ...


@dataclasses.dataclass(frozen=True, eq=False)
class LinearMethod:
    """One way to evaluate a linear recurrence, its tangent map and that map's transpose.

    Results have the shape and dtype of the problem: h, its tangent, and db; da and dh0 have those
    of `problem.gradients`.

    `cost(case, backward)`: what the forward map does, or with it the backward pass, counted; of a
    method that states none, no time is predicted.
    """

    name: str
    summary: str
    forward: Forward
    tangent: Tangent
    transpose: Transpose
    why_not: Callable[[LinearCase], str | None] = serves_all
    cost: Callable[[LinearCase, bool], Cost] | None = None


def fastest(methods: Iterable[LinearMethod], case: LinearCase) -> tuple[str, str] | None:
    """The method that should take least time with its backward pass, and the reason.

    Nothing where the device is not known, or a size is not.
    """
    device = devices.known(case.device)
    if device is None or case.unsized:
        return None
    able = [m for m in methods if m.cost is not None and m.why_not(case) is None]
    times = {m.name: seconds(m.cost(case, True), device) for m in able if m.cost is not None}
    name, *others = sorted(times, key=times.__getitem__)
    said = f"with its backward pass {1e6 * times[name]:.3g} us, predicted for {case.device}"
    return name, said + (f"; {others[0]} {1e6 * times[others[0]]:.3g} us" if others else "")


LinearTable = MethodTable[LinearMethod, LinearCase]
