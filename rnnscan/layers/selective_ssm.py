"""The selective state-space model (S6), the recurrence of Mamba: a diagonal one set by the input.

Each of C channels has a state of N numbers, which all channels write and read in the same way:

    (r_t, B_t, C_t) = W_x x_t,    dt_t = softplus(W_dt r_t + b_dt)                          (1)
    h_t = exp(dt_t A) * h_{t-1} + (dt_t x_t) B_t,    A = -exp(A_log)                        (2)
    y_t = h_t C_t + D x_t                                                                   (3)

for h_t of shape (C, N), dt_t and x_t of (C,), B_t and C_t of (N,). A long step dt_t forgets the
state and takes the input, a short one keeps the state: that is the gate. The decay is in (0, 1),
whatever the parameters are.

(2) is the equation h' = A h + B x over a time dt_t in which x is held. A is discretised exactly
("zero-order hold"), B by the Euler step dt B, as the published code does; exact for both is
B (exp(dt A) - 1) / A, equation 4 of the paper, here `discretisation="zoh"`.

With `signed` the decay is 2 exp(dt_t A) - 1, in (-1, 1), so that a state can change its sign: what
a parity needs (Grazzi et al., arXiv:2411.12537, table 2).

Memory: decay, drive and h are N times as large as x, and never in memory (`selective_scan`).
Padding is a step of no time: dt = 0 holds the state exactly.

Source: Gu & Dao, "Mamba: Linear-time sequence modeling with selective state spaces" (2023),
arXiv:2312.00752, equations 2-4 and Algorithm 2, with the parametrisation of its published code.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnscan.layer_parts.affine import in_line, product
from rnnscan.layer_parts.arguments import flag, floating, one_of, positive, random_key
from rnnscan.layer_parts.draws import uniform
from rnnscan.layer_parts.layer import Given, ScanLayer
from rnnscan.layer_parts.state import Slot, Slots
from rnnscan.scan import (
    DISCRETISATIONS,
    Discretisation,
    SelectiveMethodName,
    carry_dtype,
    selective_scan,
    selective_step,
    selective_table,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class SelectiveSSM(ScanLayer):
    """h_t = exp(dt_t A) * h_{t-1} + (dt_t x_t) B_t, y_t = h_t C_t + D x_t, on `selective_scan`.

    dt_t, B_t and C_t are functions of x_t: equations (1)-(3) above.

    Shapes: x and y (..., time, input_size); state (..., input_size, state_size).

    Cost: 4 * T * B * input_size * (dt_rank + state_size) operations for the products, all steps at
    once, and a scan with T * B * input_size * state_size exponentials by `method` (see
    `selective_scan`). The backward pass keeps x, dt, the products of (1) and every 64th state; it
    computes the others again. Where time is split over devices each scans its chunk twice, the
    first time to find what it makes of a state; a state and its decay are sent.

    Source: Gu & Dao (2023), Algorithm 2.

    >>> import jax, jax.numpy as jnp
    >>> layer = SelectiveSSM.init(jax.random.key(0), input_size=10, state_size=4)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape
    ((2, 5, 10), (2, 10, 4))
    """

    table = selective_table
    w_x: jax.Array  # (dt_rank + 2 * state, channels): r, B, C
    w_dt: jax.Array  # (channels, dt_rank)
    b_dt: jax.Array  # (channels,)
    a_log: jax.Array  # (channels, state)
    d: jax.Array  # (channels,)
    method: SelectiveMethodName = field(default="auto", metadata={"static": True})
    discretisation: Discretisation = field(default="euler", metadata={"static": True})
    stretch: int | None = field(default=None, metadata={"static": True})
    signed: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        one_of(DISCRETISATIONS, discretisation=self.discretisation)
        flag(signed=self.signed)
        super().__post_init__()

    @classmethod
    def init(
        cls,
        key: jax.Array,
        input_size: int,
        *,
        state_size: int = 16,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        discretisation: Discretisation = "euler",
        signed: bool = False,
        stretch: int | None = None,
        method: SelectiveMethodName = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """As the published code: A = -(1, ..., state_size) in each channel (S4D-real), and D = 1.

        b_dt is such that softplus(b_dt) is log-uniform in [dt_min, dt_max]: the memories of the
        channels reach from 1 / dt_max steps to 1 / dt_min. W_x is uniform in +-1/sqrt(input_size)
        and W_dt in +-1/sqrt(dt_rank); dt_rank is ceil(input_size / 16) when None. `signed`: decays
        in (-1, 1). `stretch`: steps whose states are in memory at once by the methods that have
        them there, at most; by default as many as fit into a cache.

        Raises ValueError for sizes below 1, unless 0 < dt_min <= dt_max and for an unknown method,
        TypeError for a dtype that is not real floating.

        >>> import jax
        >>> layer = SelectiveSSM.init(jax.random.key(0), 40, dt_min=0.01, dt_max=0.1)
        >>> dt = jax.nn.softplus(layer.b_dt)
        >>> bool((dt > 0.0099).all() and (dt < 0.1001).all()), layer.dt_rank
        (True, 3)
        """
        key = random_key(key)
        positive(input_size=input_size, state_size=state_size)
        dt_rank = -(-input_size // 16) if dt_rank is None else dt_rank
        positive(dt_rank=dt_rank, stretch=1 if stretch is None else stretch)
        dtype = floating("dtype", dtype)
        if not 0 < dt_min <= dt_max <= float(jnp.finfo(dtype).max):
            raise ValueError(
                f"dt_min, dt_max: expected 0 < dt_min <= dt_max, got dt_min={dt_min}, "
                f"dt_max={dt_max}; the latter must be a finite number of {dtype}"
            )
        sizes = input_size, state_size, dt_rank
        parameters = _parameters(key, sizes, math.log(dt_min), math.log(dt_max), dtype)
        options = {"discretisation": discretisation, "stretch": stretch, "signed": signed}
        return cls(*parameters, method=method, **options)

    @property
    def input_size(self) -> int:
        """Features of x, the channels."""
        return self.a_log.shape[-2]

    @property
    def output_size(self) -> int:
        """Features of y."""
        return self.input_size

    @property
    def state_size(self) -> int:
        """Numbers of the state of each channel."""
        return self.a_log.shape[-1]

    @property
    def dt_rank(self) -> int:
        """Numbers that the steps of all channels are made of."""
        return self.w_dt.shape[-1]

    def _slots(self, batch: tuple[int, ...]) -> Slots:
        return Slot((*batch, self.input_size, self.state_size))

    def _evaluate(self, given: Given) -> tuple[jax.Array, jax.Array]:
        dt, b, c = self._projected(given.x)
        if given.valid is not None:
            dt = jnp.where(given.valid, dt, -jnp.inf)  # no time
        return selective_scan(
            *(given.x, dt, self._rates(), b, c, self.d, given.state),
            delta_bias=self.b_dt,
            delta_softplus=True,
            reset=None if given.reset is None else given.reset[..., 0],
            method=self.method,
            discretisation=self.discretisation,
            signed=self.signed,
            stretch=self.stretch,
            axis_name=given.axis_name,
        )

    def _step(self, x_t: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        dt, b, c = self._projected(x_t)
        dt = jax.nn.softplus(dt + in_line(self.b_dt, dt.ndim))
        return selective_step(
            *(x_t, dt, self._rates(), b, c, self.d, state),
            discretisation=self.discretisation,
            signed=self.signed,
        )

    def _projected(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """dt, B and C of equation (1), dt before the bias and softplus."""
        cuts = self.dt_rank, self.dt_rank + self.state_size
        r, b, c = jnp.split(product(x, self.w_x), cuts, axis=-1)
        return product(r, self.w_dt), b, c

    def _rates(self) -> jax.Array:
        """A of equation (2)."""
        return -jnp.exp(self.a_log)


@partial(jax.jit, static_argnames=("sizes", "dtype"))
def _parameters(
    key: jax.Array, sizes: tuple[int, int, int], low: float, high: float, dtype: jnp.dtype
) -> tuple[jax.Array, ...]:
    """The arrays among the fields, in their order; low and high are the logarithms of dt."""
    channels, state, rank = sizes
    shapes = ((rank + 2 * state, channels), (channels, rank), (channels,))
    w_x, w_dt, u = uniform(key, shapes, -1, 1, carry_dtype(dtype))
    log_dt = low + (high - low) * (1 + u) / 2
    # The inverse of softplus; of a dt that is hardly a number, its logarithm.
    dt = jnp.exp(jnp.maximum(log_dt, -40))
    b_dt = jnp.where(log_dt < -40, log_dt, dt + jnp.log(-jnp.expm1(-dt)))
    a_log = jnp.log(jnp.arange(1, state + 1, dtype=u.dtype))
    a_log, d = jnp.broadcast_to(a_log, (channels, state)), jnp.ones_like(u)
    drawn = w_x * channels**-0.5, w_dt * rank**-0.5, b_dt, a_log, d
    return tuple(parameter.astype(dtype) for parameter in drawn)
