"""The linear recurrent unit: a diagonal complex recurrence that cannot explode.

    h_t = lambda * h_{t-1} + gamma * (B x_t),    y_t = Re(C h_t) + D x_t
    lambda = exp(-exp(nu_log) + i exp(theta_log)),    gamma = exp(gamma_log)

Diagonal, because almost every matrix is, in a complex basis; |lambda| < 1 whatever nu_log is, and
the step from 0.99 to 0.999 is as easy to learn as the one from 0.9 to 0.99. gamma starts as
sqrt(1 - |lambda|^2), which keeps a state driven by white noise at unit variance.

Source: Orvieto et al., "Resurrecting recurrent neural networks for long sequences" (2023): the ring
initialisation is Lemma 3.2, the normalisation section 3.4, the whole unit Appendix A.
"""

import math
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from rnnscan.layers.affine import product
from rnnscan.layers.arguments import (
    floating,
    one_step,
    positive,
    sequence,
    state_shape,
    working,
    working_dtype,
)
from rnnscan.layers.draws import normal, uniform
from rnnscan.layers.lengths import checked_lengths, masked, state_at, valid_steps
from rnnscan.scan.linear import linear_scan


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class LRU:
    """h_t = lambda * h_{t-1} + gamma * (B x_t), y_t = Re(C h_t) + D x_t, on `linear_scan`.

    The parameters are real: lambda by its logarithms, B and C as pairs of real and imaginary part,
    so that optimisers may treat them as any other array (JAX's gradient with respect to a complex
    array is the conjugate of the direction to descend along).

    Shapes: x (..., time, input_size); y (..., time, output_size); state (..., hidden_size),
    complex64, or complex128 beside float64. Any number of batch axes, none too. float16 and
    bfloat16 are computed in float32, and y is rounded.

    Cost: 4 * T * B * hidden * (input_size + output_size) operations for B and C, all steps at once,
    and a scan over T * B * hidden complex numbers by `method` (see `linear_scan`).

    Source: Orvieto et al. (2023), Appendix A.

    >>> import jax, jax.numpy as jnp
    >>> layer = LRU.init(jax.random.key(0), input_size=10, hidden_size=20)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape, state.dtype
    ((2, 5, 10), (2, 20), dtype('complex64'))
    """

    nu_log: jax.Array  # (hidden,)
    theta_log: jax.Array  # (hidden,)
    gamma_log: jax.Array  # (hidden,)
    b_re: jax.Array  # (hidden, inputs)
    b_im: jax.Array
    c_re: jax.Array  # (outputs, hidden)
    c_im: jax.Array
    d: jax.Array  # (outputs,) where inputs == outputs, else (outputs, inputs)
    method: str = field(default="auto", metadata={"static": True})

    @classmethod
    def init(
        cls,
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        method: str = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> "LRU":
        """lambda uniform on the ring r_min <= |lambda| <= r_max, with phases in (0, max_phase).

        That is, |lambda|^2 and the phase are uniform. B and C are Gaussian and keep the variance of
        white input; D is Gaussian, a vector where output_size (default: input_size) equals
        input_size, as in the paper, else a matrix.

        Raises ValueError for sizes below 1 and for a ring or phase out of range, TypeError for a
        dtype other than float32 and float64: there is no complex half for the state.

        >>> import jax
        >>> layer = LRU.init(jax.random.key(0), 3, 64, r_min=0.9, r_max=0.99)
        >>> radius = abs(layer.decay)
        >>> bool((radius >= 0.9).all() and (radius <= 0.99).all())
        True
        """
        output_size = input_size if output_size is None else output_size
        positive(input_size=input_size, hidden_size=hidden_size, output_size=output_size)
        if not (0 <= r_min <= r_max <= 1 and r_min < 1 and r_max > 0):
            raise ValueError(
                "r_min, r_max: expected 0 <= r_min <= r_max <= 1, r_min < 1 and r_max > 0, "
                f"got r_min={r_min}, r_max={r_max}"
            )
        if not 0 < max_phase <= 2 * math.pi:
            raise ValueError(f"max_phase: expected 0 < max_phase <= 2 pi, got {max_phase}")
        dtype = floating("dtype", dtype)
        if working_dtype(dtype) != dtype:
            raise TypeError(
                f"dtype: expected float32 or float64 (complex numbers have no half), got {dtype}"
            )

        # |lambda|^2 = r_max^2 - u (r_max^2 - r_min^2), in logarithms: exact close to 1 as well.
        log_largest, spread = 2 * math.log(r_max), 1 - (r_min / r_max) ** 2
        sizes = input_size, hidden_size, output_size
        parameters = _parameters(key, sizes, log_largest, spread, max_phase, dtype)
        return cls(*parameters, method=method)

    @property
    def input_size(self) -> int:
        """Features of x."""
        return self.b_re.shape[-1]

    @property
    def hidden_size(self) -> int:
        """Width of the state, in complex numbers."""
        return self.nu_log.shape[-1]

    @property
    def output_size(self) -> int:
        """Features of y."""
        return self.c_re.shape[-2]

    @property
    def decay(self) -> jax.Array:
        """lambda, complex of shape (hidden_size,)."""
        radius, phase = jnp.exp(-jnp.exp(self.nu_log)), jnp.exp(self.theta_log)
        return lax.complex(radius * jnp.cos(phase), radius * jnp.sin(phase))

    def __call__(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        method: str | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Every step of the sequences x, from `state` (zeros when None): (y, state after the end).

        x: (..., time, input_size); state: (..., hidden_size), complex, or real with no imaginary
        part. method: instead of the layer's own.
        lengths: integers of shape (...), how many steps of each sequence count. In the padding y
        is zero and x is never looked at, nan included; the returned state is the one at each
        length (`state` itself at length 0). time = 0 returns the state as it came.

        Raises ValueError for shapes that do not fit, for concrete lengths outside 0..time (traced
        ones are clipped) and for a method that cannot serve, TypeError for dtypes that are not
        floating.

        >>> import jax, jax.numpy as jnp
        >>> layer = LRU.init(jax.random.key(0), 3, 4)
        >>> x = jax.random.normal(jax.random.key(1), (2, 5, 3))
        >>> y, state = layer(x, lengths=[5, 2], method="associative")
        >>> y_2, state_2 = layer(x[1, :2])
        >>> bool((y[1, 2:] == 0).all()), bool(jnp.allclose(state[1], state_2))
        (True, True)
        """
        x = sequence(x, self.input_size)
        state, dtype = self._state(state, x.shape[:-2], x)
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[:-2], x.shape[-2])
        return _evaluate(self, x, state, lengths, method or self.method, dtype)

    def step(self, x_t: ArrayLike, state: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        """One step, for generation: x_t (..., input_size) to (y_t (..., output_size), state).

        state: (..., hidden_size), zeros when None. Stepping through a sequence equals calling the
        layer on it. Raises ValueError for shapes that do not fit.

        >>> import jax, jax.numpy as jnp
        >>> layer = LRU.init(jax.random.key(0), 3, 4)
        >>> y_0, state = layer.step(jnp.ones(3))
        >>> y_1, state = layer.step(jnp.ones(3), state)
        >>> y, last = layer(jnp.ones((2, 3)))
        >>> bool(jnp.allclose(jnp.stack([y_0, y_1]), y, atol=1e-6))
        True
        """
        x_t = one_step(x_t, self.input_size)
        state, dtype = self._state(state, x_t.shape[:-1], x_t)
        return _step(self, x_t, state, dtype)

    def _state(
        self, state: ArrayLike | None, batch: tuple[int, ...], x: jax.Array
    ) -> tuple[jax.Array, jnp.dtype]:
        """The given state or zeros, complex, and the dtype of y."""
        dtype = jnp.result_type(x, *jax.tree.leaves(self))
        real = working_dtype(dtype)
        shape = (*batch, self.hidden_size)
        if state is None:
            return lax.complex(jnp.zeros(shape, real), jnp.zeros(shape, real)), dtype
        state = jnp.asarray(state)
        if not jnp.issubdtype(state.dtype, jnp.inexact):
            raise TypeError(f"state: expected a complex dtype, got {state.dtype}")
        state_shape(state, shape)
        parts = jnp.real(state), jnp.imag(state)
        wider = jnp.result_type(parts[0], jnp.zeros((), real))
        state = lax.complex(*(part.astype(wider) for part in parts))
        return state, dtype if wider == real else wider


@partial(jax.jit, static_argnames=("sizes", "dtype"))
def _parameters(
    key: jax.Array,
    sizes: tuple[int, int, int],
    log_largest: float,
    spread: float,
    max_phase: float,
    dtype: jnp.dtype,
) -> tuple[jax.Array, ...]:
    """The fields in their order, with log |lambda|^2 = log_largest + log(1 - u spread)."""
    inputs, hidden, outputs = sizes
    ring_key, key = jax.random.split(key)
    # Away from 0 and 1 by an eps, where a logarithm of a logarithm would be infinite.
    eps = float(jnp.finfo(dtype).eps)
    u, phase = uniform(ring_key, ((hidden,), (hidden,)), eps, 1 - eps, dtype)
    log_squared = log_largest + jnp.log1p(-u * spread)
    nu_log = jnp.log(-log_squared / 2)
    gamma_log = jnp.log(-jnp.expm1(log_squared)) / 2

    into, out = (hidden, inputs), (outputs, hidden)
    direct = (inputs,) if outputs == inputs else (outputs, inputs)
    b_re, b_im, c_re, c_im, d = normal(key, (into, into, out, out, direct), dtype)
    b = math.sqrt(2 * inputs)
    c = math.sqrt(hidden)
    d = d if d.ndim == 1 else d / math.sqrt(inputs)
    return nu_log, jnp.log(max_phase * phase), gamma_log, b_re / b, b_im / b, c_re / c, c_im / c, d


@partial(jax.jit, static_argnames=("method", "dtype"))
def _evaluate(
    layer: LRU,
    x: jax.Array,
    state: jax.Array,
    lengths: jax.Array | None,
    method: str,
    dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array]:
    layer, x = working(dtype, layer, x)
    valid = None if lengths is None else valid_steps(lengths, x.shape[-2])
    x = masked(x, valid)
    h = linear_scan(layer.decay, _drive(layer, x), state, axis=-2, method=method)
    return masked(_output(layer, h, x), valid).astype(dtype), state_at(h, lengths, state)


@partial(jax.jit, static_argnames="dtype")
def _step(
    layer: LRU, x_t: jax.Array, state: jax.Array, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    layer, x_t = working(dtype, layer, x_t)
    decay = layer.decay.reshape((1,) * (state.ndim - 1) + layer.decay.shape)
    h = decay * state + _drive(layer, x_t)
    return _output(layer, h, x_t).astype(dtype), h


def _drive(layer: LRU, x: jax.Array) -> jax.Array:
    """gamma * (B x)."""
    gamma = jnp.exp(layer.gamma_log)[:, None]
    return lax.complex(product(x, gamma * layer.b_re), product(x, gamma * layer.b_im))


@jax.checkpoint  # keeps h alone, not its real and imaginary parts beside it
def _output(layer: LRU, h: jax.Array, x: jax.Array) -> jax.Array:
    """Re(C h) + D x."""
    y = product(jnp.real(h), layer.c_re) - product(jnp.imag(h), layer.c_im)
    if layer.d.ndim == 2:
        return y + product(x, layer.d)
    return y + layer.d.reshape((1,) * (x.ndim - 1) + layer.d.shape) * x
