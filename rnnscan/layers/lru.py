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
from typing import Self

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from rnnscan.layer_parts.affine import in_line, product
from rnnscan.layer_parts.arguments import floating, positive, random_key
from rnnscan.layer_parts.draws import normal, uniform
from rnnscan.layer_parts.layer import Given, ScanLayer
from rnnscan.layer_parts.state import Slot, Slots
from rnnscan.scan import LinearMethodName, carry_dtype, linear_scan, linear_table


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class LRU(ScanLayer):
    """h_t = lambda * h_{t-1} + gamma * (B x_t), y_t = Re(C h_t) + D x_t, on `linear_scan`.

    The parameters are real: lambda by its logarithms, B and C as pairs of real and imaginary part,
    so that optimisers may treat them as any other array (JAX's gradient with respect to a complex
    array is the conjugate of the direction to descend along).

    Shapes: x (..., time, input_size); y (..., time, output_size); state (..., hidden_size),
    complex64, or complex128 beside float64. A real state has no imaginary part.

    Cost: 4 * T * B * hidden * (input_size + output_size) operations for B and C, all steps at once,
    and a scan over T * B * hidden complex numbers by `method` (see `linear_scan`).

    Source: Orvieto et al. (2023), Appendix A.

    >>> import jax, jax.numpy as jnp
    >>> layer = LRU.init(jax.random.key(0), input_size=10, hidden_size=20)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape, state.dtype
    ((2, 5, 10), (2, 20), dtype('complex64'))
    """

    table = linear_table
    nu_log: jax.Array  # (hidden,)
    theta_log: jax.Array  # (hidden,)
    gamma_log: jax.Array  # (hidden,)
    b_re: jax.Array  # (hidden, inputs)
    b_im: jax.Array
    c_re: jax.Array  # (outputs, hidden)
    c_im: jax.Array
    d: jax.Array  # (outputs,) where inputs == outputs, else (outputs, inputs)
    method: LinearMethodName = field(default="auto", metadata={"static": True})

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
        method: LinearMethodName = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """lambda uniform on the ring r_min <= |lambda| <= r_max, with phases in (0, max_phase).

        That is, |lambda|^2 and the phase are uniform. B and C are Gaussian and keep the variance of
        white input; D is Gaussian, a vector where output_size (default: input_size) equals
        input_size, as in the paper, else a matrix.

        Raises ValueError for sizes below 1, a ring or phase out of range and an unknown method,
        TypeError for a dtype other than float32 and float64: there is no complex half.

        >>> import jax
        >>> layer = LRU.init(jax.random.key(0), 3, 64, r_min=0.9, r_max=0.99)
        >>> radius = abs(layer.decay)
        >>> bool((radius >= 0.9).all() and (radius <= 0.99).all())
        True
        """
        output_size = input_size if output_size is None else output_size
        key = random_key(key)
        positive(input_size=input_size, hidden_size=hidden_size, output_size=output_size)
        if not (0 <= r_min <= r_max <= 1 and r_min < 1 and r_max > 0):
            raise ValueError(
                "r_min, r_max: expected 0 <= r_min <= r_max <= 1, r_min < 1 and r_max > 0, "
                f"got r_min={r_min}, r_max={r_max}"
            )
        if not 0 < max_phase <= 2 * math.pi:
            raise ValueError(f"max_phase: expected 0 < max_phase <= 2 pi, got {max_phase}")
        dtype = floating("dtype", dtype)
        if carry_dtype(dtype) != dtype:
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

    def _slots(self, batch: tuple[int, ...]) -> Slots:
        return Slot((*batch, self.hidden_size), jnp.complexfloating)

    def _evaluate(self, given: Given) -> tuple[jax.Array, jax.Array]:
        h = linear_scan(
            self.decay,
            self._drive(given.x),
            given.state,
            axis=-2,
            reset=given.reset,
            method=self.method,
            axis_name=given.axis_name,
        )
        return self._read(h, given.x), given.last(h)

    def _step(self, x_t: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = in_line(self.decay, state.ndim) * state + self._drive(x_t)
        return self._read(h, x_t), h

    def _drive(self, x: jax.Array) -> jax.Array:
        """gamma * (B x)."""
        gamma = jnp.exp(self.gamma_log)[:, None]
        return lax.complex(product(x, gamma * self.b_re), product(x, gamma * self.b_im))

    @jax.checkpoint  # keeps h alone, not its real and imaginary parts beside it
    def _read(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """Re(C h) + D x."""
        y = product(jnp.real(h), self.c_re) - product(jnp.imag(h), self.c_im)
        return y + (product(x, self.d) if self.d.ndim == 2 else in_line(self.d, x.ndim) * x)


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
