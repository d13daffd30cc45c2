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
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from rnnscan.layers.affine import affine, product
from rnnscan.layers.arguments import (
    floating,
    initial_state,
    one_step,
    positive,
    sequence,
    working,
    working_dtype,
)
from rnnscan.layers.draws import uniform
from rnnscan.layers.lengths import checked_lengths, masked, valid_steps
from rnnscan.scan.arguments import vary_alike
from rnnscan.scan.linear import linear_scan

DISCRETISATIONS = ("euler", "zoh")

# How long a stretch of time is. On CPUs an array of it is 2^18 numbers at most, 1 MB of float32, so
# that all of them stay in the cache: measured on two cores for states of 2^6 to 2^14 numbers.
# Elsewhere it is as long as fills an accelerator without filling its memory.
NUMBERS_ON_CPU, NUMBERS_ELSEWHERE = 2**18, 2**24
SHORTEST, LONGEST_ON_CPU = 16, 256  # steps


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class SelectiveSSM:
    """h_t = exp(dt_t A) * h_{t-1} + (dt_t x_t) B_t, y_t = h_t C_t + D x_t, on `linear_scan`.

    dt_t, B_t and C_t are functions of x_t: equations (1)-(3) above.

    Shapes: x and y (..., time, input_size); state (..., input_size, state_size). Any number of
    batch axes, none too. float16 and bfloat16 are computed in float32; y and state are rounded.

    Cost: 4 * T * B * input_size * (dt_rank + state_size) operations for the products, all steps at
    once, and a scan over T * B * input_size * state_size numbers by `method` (see `linear_scan`).
    The backward pass keeps x, the products of (1) and a state for each stretch of time; it computes
    the states again.

    Source: Gu & Dao (2023), Algorithm 2.

    >>> import jax, jax.numpy as jnp
    >>> layer = SelectiveSSM.init(jax.random.key(0), input_size=10, state_size=4)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape
    ((2, 5, 10), (2, 10, 4))
    """

    w_x: jax.Array  # (dt_rank + 2 * state, channels): r, B, C
    w_dt: jax.Array  # (channels, dt_rank)
    b_dt: jax.Array  # (channels,)
    a_log: jax.Array  # (channels, state)
    d: jax.Array  # (channels,)
    method: str = field(default="auto", metadata={"static": True})
    discretisation: str = field(default="euler", metadata={"static": True})
    stretch: int | None = field(default=None, metadata={"static": True})

    def __post_init__(self):
        if self.discretisation not in DISCRETISATIONS:
            known = " or ".join(map(repr, DISCRETISATIONS))
            raise ValueError(f"discretisation: expected {known}, got {self.discretisation!r}")

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
        discretisation: str = "euler",
        stretch: int | None = None,
        method: str = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> "SelectiveSSM":
        """As the published code: A = -(1, ..., state_size) in each channel (S4D-real), and D = 1.

        b_dt is such that softplus(b_dt) is log-uniform in [dt_min, dt_max]: the memories of the
        channels reach from 1 / dt_max steps to 1 / dt_min. W_x is uniform in +-1/sqrt(input_size)
        and W_dt in +-1/sqrt(dt_rank); dt_rank is ceil(input_size / 16) when None. `stretch`: steps
        that are in memory at once, by default as many as fit into a cache.

        Raises ValueError for sizes below 1 and unless 0 < dt_min <= dt_max, TypeError for a dtype
        that is not real floating.

        >>> import jax
        >>> layer = SelectiveSSM.init(jax.random.key(0), 40, dt_min=0.01, dt_max=0.1)
        >>> dt = jax.nn.softplus(layer.b_dt)
        >>> bool((dt > 0.0099).all() and (dt < 0.1001).all()), layer.dt_rank
        (True, 3)
        """
        positive(input_size=input_size, state_size=state_size)
        dt_rank = -(-input_size // 16) if dt_rank is None else dt_rank
        positive(dt_rank=dt_rank, stretch=1 if stretch is None else stretch)
        if not 0 < dt_min <= dt_max < math.inf:
            raise ValueError(
                f"dt_min, dt_max: expected 0 < dt_min <= dt_max, got dt_min={dt_min}, "
                f"dt_max={dt_max}"
            )
        dtype = floating("dtype", dtype)
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

    def __call__(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        method: str | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Every step of the sequences x, from `state` (zeros when None): (y, state after the end).

        x and y: (..., time, input_size); state: (..., input_size, state_size). method: instead of
        the layer's own.
        lengths: integers of shape (...), how many steps of each sequence count. In the padding y
        is zero and x is never looked at, nan included; the returned state is the one at each
        length (`state` itself at length 0). time = 0 returns the state as it came.

        Raises ValueError for shapes that do not fit, for concrete lengths outside 0..time (traced
        ones are clipped) and for a method that cannot serve, TypeError for dtypes that are not
        real floating.

        >>> import jax, jax.numpy as jnp
        >>> layer = SelectiveSSM.init(jax.random.key(0), 3, state_size=4)
        >>> x = jax.random.normal(jax.random.key(1), (2, 5, 3))
        >>> y, state = layer(x, lengths=[5, 2], method="associative")
        >>> y_2, state_2 = layer(x[1, :2])
        >>> bool((y[1, 2:] == 0).all()), bool(jnp.allclose(state[1], state_2, atol=1e-6))
        (True, True)
        """
        x = sequence(x, self.input_size)
        state = self._state(state, x.shape[:-2], x)
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[:-2], x.shape[-2])
        return _evaluate(self, x, state, lengths, method or self.method)

    def step(self, x_t: ArrayLike, state: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        """One step, for generation: x_t (..., input_size) to (y_t (..., input_size), state).

        state: (..., input_size, state_size), zeros when None. Stepping through a sequence equals
        calling the layer on it. Raises ValueError for shapes that do not fit.

        >>> import jax, jax.numpy as jnp
        >>> layer = SelectiveSSM.init(jax.random.key(0), 3, state_size=4)
        >>> y_0, state = layer.step(jnp.ones(3))
        >>> y_1, state = layer.step(jnp.ones(3), state)
        >>> bool(jnp.allclose(jnp.stack([y_0, y_1]), layer(jnp.ones((2, 3)))[0], atol=1e-6))
        True
        """
        x_t = one_step(x_t, self.input_size)
        return _step(self, x_t, self._state(state, x_t.shape[:-1], x_t))

    def _state(self, state: ArrayLike | None, batch: tuple[int, ...], x: jax.Array) -> jax.Array:
        return initial_state(state, (*batch, *self.a_log.shape[-2:]), self, x)


@partial(jax.jit, static_argnames=("sizes", "dtype"))
def _parameters(
    key: jax.Array, sizes: tuple[int, int, int], low: float, high: float, dtype: jnp.dtype
) -> tuple[jax.Array, ...]:
    """The arrays among the fields, in their order; low and high are the logarithms of dt."""
    channels, state, rank = sizes
    shapes = ((rank + 2 * state, channels), (channels, rank), (channels,))
    w_x, w_dt, u = uniform(key, shapes, -1, 1, working_dtype(dtype))
    dt = jnp.exp(low + (high - low) * (1 + u) / 2)
    b_dt = dt + jnp.log(-jnp.expm1(-dt))  # the inverse of softplus
    a_log = jnp.log(jnp.arange(1, state + 1, dtype=u.dtype))
    a_log, d = jnp.broadcast_to(a_log, (channels, state)), jnp.ones_like(u)
    drawn = w_x * channels**-0.5, w_dt * rank**-0.5, b_dt, a_log, d
    return tuple(parameter.astype(dtype) for parameter in drawn)


class _Steps(NamedTuple):
    """What some steps need beside the state, each (..., time, its size)."""

    x: jax.Array  # channels
    dt: jax.Array  # channels; before softplus
    b: jax.Array  # state
    c: jax.Array  # state
    valid: jax.Array | None  # 1


@partial(jax.jit, static_argnames="method")
def _evaluate(
    layer: SelectiveSSM, x: jax.Array, state: jax.Array, lengths: jax.Array | None, method: str
) -> tuple[jax.Array, jax.Array]:
    dtype = state.dtype
    layer, x, state = working(dtype, layer, x, state)
    valid = None if lengths is None else valid_steps(lengths, x.shape[-2])
    x = masked(x, valid)
    steps = _projected(layer, x)._replace(valid=valid)
    # Without the axes of size 1: beside one, XLA's sums on CPUs are ten times slower.
    ones = tuple(i for i, n in enumerate(state.shape[:-2]) if n == 1)
    steps = jax.tree.map(lambda leaf: jnp.squeeze(leaf, ones), steps)
    y, last = _scan(layer, steps, jnp.squeeze(state, ones), method)
    y, state = y.reshape(x.shape), last.reshape(state.shape)
    y = y + _in_line(layer.d, x.ndim) * x
    return masked(y, valid).astype(dtype), state.astype(dtype)


@jax.jit
def _step(layer: SelectiveSSM, x_t: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    dtype = state.dtype
    layer, x_t, state = working(dtype, layer, x_t, state)
    step = _projected(layer, x_t)
    decay, drive = _discretised(layer, step)
    h = decay * state + drive
    y = _read(h, step.c) + _in_line(layer.d, x_t.ndim) * x_t
    return y.astype(dtype), h.astype(dtype)


def _projected(layer: SelectiveSSM, x: jax.Array) -> _Steps:
    """Equation (1), before softplus."""
    cuts = layer.dt_rank, layer.dt_rank + layer.state_size
    r, b, c = jnp.split(product(x, layer.w_x), cuts, axis=-1)
    return _Steps(x, affine(r, layer.w_dt, layer.b_dt), b, c, None)


def _discretised(layer: SelectiveSSM, steps: _Steps) -> tuple[jax.Array, jax.Array]:
    """Decay and drive of equation (2), each (..., channels, state)."""
    dt = jax.nn.softplus(steps.dt)
    if steps.valid is not None:
        dt = jnp.where(steps.valid, dt, 0)
    a = _in_line(-jnp.exp(layer.a_log), dt.ndim + 1)
    if layer.discretisation == "euler":
        drive = _einsum("...c,...n->...cn", dt * steps.x, steps.b)
    else:
        gain = jnp.expm1(dt[..., None] * a) / a
        drive = gain * steps.x[..., None] * steps.b[..., None, :]
    return jnp.exp(dt[..., None] * a), drive


def _read(h: jax.Array, c: jax.Array) -> jax.Array:
    """h_t C_t."""
    return _einsum("...cn,...n->...c", h, c)


def _scan(
    layer: SelectiveSSM, steps: _Steps, state: jax.Array, method: str
) -> tuple[jax.Array, jax.Array]:
    """(h_t C_t for every t, the state after the end), one stretch of time after another."""
    time = steps.x.shape[-2]
    count, length = _stretches(layer.stretch, time, state.size)
    stretch = jax.checkpoint(partial(_stretch, method), prevent_cse=count == 1)
    leaves, structure = jax.tree.flatten((layer, state, steps))
    layer, state, steps = structure.unflatten(vary_alike(*leaves))
    if count == 1:
        state, y = stretch(layer, state, steps)
        return y, state

    batch = state.shape[:-2]
    if count * length > time and steps.valid is None:
        steps = steps._replace(valid=jnp.ones((*batch, time, 1), bool))

    def cut(leaf):  # (..., time, size) to (count, ..., length, size)
        leaf = jnp.pad(leaf, [(0, 0)] * len(batch) + [(0, count * length - time), (0, 0)])
        return jnp.moveaxis(leaf.reshape((*batch, count, length, leaf.shape[-1])), -3, 0)

    state, y = lax.scan(partial(stretch, layer), state, jax.tree.map(cut, steps))
    y = jnp.moveaxis(y, 0, -3).reshape((*batch, count * length, y.shape[-1]))
    return lax.slice_in_dim(y, 0, time, axis=y.ndim - 2), state


def _stretch(
    method: str, layer: SelectiveSSM, state: jax.Array, steps: _Steps
) -> tuple[jax.Array, jax.Array]:
    decay, drive = _discretised(layer, steps)
    h = linear_scan(decay, drive, state, axis=-3, method=method)
    last = state if h.shape[-3] == 0 else h[..., -1, :, :]
    return last, _read(h, steps.c)


def _stretches(asked: int | None, time: int, width: int) -> tuple[int, int]:
    """How many stretches, and how many steps each has, for a state of `width` numbers."""
    if not isinstance(time * width, int):
        return 1, time  # a symbol (`jax.export`)
    if asked is None and jax.default_backend() == "cpu":
        asked = min(max(SHORTEST, NUMBERS_ON_CPU // max(width, 1)), LONGEST_ON_CPU)
    elif asked is None:
        asked = max(SHORTEST, NUMBERS_ELSEWHERE // max(width, 1))
    count = max(1, -(-time // asked))
    return count, -(-time // count)


# Products rather than sums of products, whose gradients XLA runs at a tenth of the speed on CPUs.
_einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def _in_line(parameter: jax.Array, rank: int) -> jax.Array:
    return parameter.reshape((1,) * (rank - parameter.ndim) + parameter.shape)
