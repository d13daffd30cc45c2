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

Memory: decay, drive and h are N times as large as x. They are made, scanned and read in stretches
of time that fit into a cache, and the backward pass makes them again from the state at the start of
each. Padding is a step of no time: dt = 0 holds the state exactly.

Source: Gu & Dao, "Mamba: Linear-time sequence modeling with selective state spaces" (2023),
arXiv:2312.00752, equations 2-4 and Algorithm 2, with the parametrisation of its published code.
"""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Self, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from rnnscan.layer_parts.affine import affine, einsum, in_line, product
from rnnscan.layer_parts.arguments import floating, one_of, positive, random_key
from rnnscan.layer_parts.draws import uniform
from rnnscan.layer_parts.hold import hold_gain
from rnnscan.layer_parts.layer import Given, ScanLayer
from rnnscan.layer_parts.state import Slot, Slots
from rnnscan.scan import (
    AxisName,
    LinearMethodName,
    at_the_end,
    carry_dtype,
    entering,
    linear_scan,
    linear_table,
    vary_alike,
)

Discretisation = Literal["euler", "zoh"]
DISCRETISATIONS = get_args(Discretisation)

# How long a stretch of time is. On CPUs an array of it is 2^18 numbers at most, 1 MB of float32, so
# that all of them stay in the cache: measured on two cores for states of 2^6 to 2^14 numbers.
# Elsewhere it is as long as fills an accelerator without filling its memory.
NUMBERS_ON_CPU, NUMBERS_ELSEWHERE = 2**18, 2**24
SHORTEST, LONGEST_ON_CPU = 16, 256  # steps


class _Steps(NamedTuple):
    """What some steps need beside the state, each (..., time, its size)."""

    x: jax.Array  # channels
    dt: jax.Array  # channels; before softplus
    b: jax.Array  # state
    c: Any  # state; None where h is not read
    valid: jax.Array | None  # 1
    reset: jax.Array | None  # 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class SelectiveSSM(ScanLayer):
    """h_t = exp(dt_t A) * h_{t-1} + (dt_t x_t) B_t, y_t = h_t C_t + D x_t, on `linear_scan`.

    dt_t, B_t and C_t are functions of x_t: equations (1)-(3) above.

    Shapes: x and y (..., time, input_size); state (..., input_size, state_size).

    Cost: 4 * T * B * input_size * (dt_rank + state_size) operations for the products, all steps at
    once, and a scan over T * B * input_size * state_size numbers by `method` (see `linear_scan`).
    The backward pass keeps x, the products of (1) and a state for each stretch of time; it computes
    the states again. Where time is split over devices each scans its chunk twice, the first time to
    find what it makes of a state; a state and its decay are sent.

    Source: Gu & Dao (2023), Algorithm 2.

    >>> import jax, jax.numpy as jnp
    >>> layer = SelectiveSSM.init(jax.random.key(0), input_size=10, state_size=4)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape
    ((2, 5, 10), (2, 10, 4))
    """

    table = linear_table
    w_x: jax.Array  # (dt_rank + 2 * state, channels): r, B, C
    w_dt: jax.Array  # (channels, dt_rank)
    b_dt: jax.Array  # (channels,)
    a_log: jax.Array  # (channels, state)
    d: jax.Array  # (channels,)
    method: LinearMethodName = field(default="auto", metadata={"static": True})
    discretisation: Discretisation = field(default="euler", metadata={"static": True})
    stretch: int | None = field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        one_of(DISCRETISATIONS, discretisation=self.discretisation)
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
        stretch: int | None = None,
        method: LinearMethodName = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """As the published code: A = -(1, ..., state_size) in each channel (S4D-real), and D = 1.

        b_dt is such that softplus(b_dt) is log-uniform in [dt_min, dt_max]: the memories of the
        channels reach from 1 / dt_max steps to 1 / dt_min. W_x is uniform in +-1/sqrt(input_size)
        and W_dt in +-1/sqrt(dt_rank); dt_rank is ceil(input_size / 16) when None. `stretch`: steps
        that are in memory at once, by default as many as fit into a cache.

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
        options = {"method": method, "discretisation": discretisation, "stretch": stretch}
        return cls(*parameters, **options)

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
        x, state = given.x, given.state
        steps = self._projected(x)._replace(valid=given.valid, reset=given.reset)
        # Without the axes of size 1: beside one, XLA's sums on CPUs are ten times slower.
        ones = tuple(i for i, n in enumerate(state.shape[:-2]) if n == 1)
        steps = jax.tree.map(lambda leaf: jnp.squeeze(leaf, ones), steps)
        state, over = jnp.squeeze(state, ones), given.axis_name
        if over is None:
            y, last = _scan(self, steps, state)
        else:
            y, last = _scan(self, steps, _entering(self, steps, state, over))
            last = at_the_end(last, over)  # padding holds the state
        last = last.reshape(given.state.shape)
        return y.reshape(x.shape) + in_line(self.d, x.ndim) * x, last

    def _step(self, x_t: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        step = self._projected(x_t)
        decay, drive = self._discretised(step)
        h = decay * state + drive
        return _read(h, step.c) + in_line(self.d, x_t.ndim) * x_t, h

    def _projected(self, x: jax.Array) -> _Steps:
        """Equation (1), before softplus."""
        cuts = self.dt_rank, self.dt_rank + self.state_size
        r, b, c = jnp.split(product(x, self.w_x), cuts, axis=-1)
        return _Steps(x, affine(r, self.w_dt, self.b_dt), b, c, None, None)

    def _discretised(self, steps: _Steps) -> tuple[jax.Array, jax.Array]:
        """Decay and drive of equation (2), each (..., channels, state)."""
        dt = _durations(steps)
        a = -jnp.exp(self.a_log)
        a = in_line(a, dt.ndim + 1) if a.ndim == 2 else a[..., None, :, :]
        # Products of matrices rather than sums, whose gradients XLA runs at a tenth of the speed
        # on CPUs; so in `_read`.
        if self.discretisation == "euler":
            drive = einsum("...c,...n->...cn", dt * steps.x, steps.b)
        else:
            gain = hold_gain(dt[..., None], a)
            drive = gain * steps.x[..., None] * steps.b[..., None, :]
        return jnp.exp(dt[..., None] * a), drive


def _durations(steps: _Steps) -> jax.Array:
    """dt of equation (1), zero in the padding."""
    dt = jax.nn.softplus(steps.dt)
    return dt if steps.valid is None else jnp.where(steps.valid, dt, 0)


def _read(h: jax.Array, c: jax.Array) -> jax.Array:
    """h_t C_t."""
    return einsum("...cn,...n->...c", h, c)


def _entering(
    layer: SelectiveSSM, steps: _Steps, state: jax.Array, axis_name: AxisName
) -> jax.Array:
    """The state before these steps, of `state` before those of all devices.

    The decays of all steps multiply to that of one step of their whole duration.
    """
    _, last = _scan(layer, steps._replace(c=None), jnp.zeros_like(state))
    duration, reset = _durations(steps), None
    if steps.reset is not None:
        reset = jnp.any(steps.reset, axis=-2)
        # Before the sum: no nan of a sequence that is forgotten here is in it.
        duration = jnp.where(reset[..., None], 0, duration)
        reset = reset[..., None]
    duration = jnp.sum(duration, axis=-2)[..., None]
    decay = jnp.exp(duration * in_line(-jnp.exp(layer.a_log), state.ndim))
    return entering(decay, last, state, axis_name, reset=reset)


def _scan(layer: SelectiveSSM, steps: _Steps, state: jax.Array) -> tuple[Any, jax.Array]:
    """(h_t C_t for every t or None, the state after the end), one stretch of time after another."""
    time = steps.x.shape[-2]
    on_cpu, elsewhere = (
        stretches(layer.stretch, time, state.size, platform) for platform in ("cpu", "other")
    )
    leaves, structure = jax.tree.flatten((layer, steps, state))
    operands = structure.unflatten(vary_alike(*leaves))
    if on_cpu == elsewhere:
        return _in_stretches(*on_cpu, *operands)
    # A compiled program holds one of them alone. What a vjp outside of any jit keeps is larger by
    # zeros in the place of what the other would keep.
    return lax.platform_dependent(
        *operands,
        cpu=partial(_in_stretches, *on_cpu),
        default=partial(_in_stretches, *elsewhere),
    )


def _in_stretches(
    count: int, length: int, layer: SelectiveSSM, steps: _Steps, state: jax.Array
) -> tuple[Any, jax.Array]:
    stretch = jax.checkpoint(_stretch, prevent_cse=count == 1)
    if count == 1:
        state, y = stretch(layer, state, steps)
        return y, state

    batch, time = state.shape[:-2], steps.x.shape[-2]
    if count * length > time and steps.valid is None:
        steps = steps._replace(valid=jnp.ones((*batch, time, 1), bool))

    def cut(leaf):  # (..., time, size) to (count, ..., length, size)
        leaf = jnp.pad(leaf, [(0, 0)] * len(batch) + [(0, count * length - time), (0, 0)])
        return jnp.moveaxis(leaf.reshape((*batch, count, length, leaf.shape[-1])), -3, 0)

    # One for each sequence: where these lie on several devices, its gradient is summed over them
    # once, and not in every stretch.
    each = in_line(layer.a_log, state.ndim) + lax.full_like(steps.x[..., 0, :, None], 0)
    layer = replace(layer, a_log=each)
    state, y = lax.scan(partial(stretch, layer), state, jax.tree.map(cut, steps))
    if y is None:
        return y, state
    y = jnp.moveaxis(y, 0, -3).reshape((*batch, count * length, y.shape[-1]))
    return lax.slice_in_dim(y, 0, time, axis=y.ndim - 2), state


def _stretch(layer: SelectiveSSM, state: jax.Array, steps: _Steps) -> tuple[jax.Array, Any]:
    decay, drive = layer._discretised(steps)
    reset = None if steps.reset is None else steps.reset[..., None]
    h = linear_scan(decay, drive, state, axis=-3, reset=reset, method=layer.method)
    last = state if h.shape[-3] == 0 else h[..., -1, :, :]
    return last, None if steps.c is None else _read(h, steps.c)


def stretches(asked: int | None, time: int, width: int, platform: str) -> tuple[int, int]:
    """How many stretches, and how many steps each has, for a state of `width` numbers.

    asked: how many steps, by default as many as suit the platform: "cpu" or any other.

    >>> stretches(None, 2048, 8 * 64 * 16, "cpu"), stretches(None, 2048, 8 * 64 * 16, "cuda")
    ((64, 32), (1, 2048))
    """
    if not isinstance(time * width, int):
        return 1, time  # a symbol (`jax.export`)
    if asked is None and platform == "cpu":
        asked = min(max(SHORTEST, NUMBERS_ON_CPU // max(width, 1)), LONGEST_ON_CPU)
    elif asked is None:
        asked = max(SHORTEST, NUMBERS_ELSEWHERE // max(width, 1))
    count = max(1, -(-time // asked))
    return count, -(-time // count)


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
