"""What `MinGRU` and `MinLSTM` share: a state that is a mean of the one before and a candidate.

    h_t = (1 - p_t) * h_{t-1} + p_t * g(c_t)                        (1)
    p_t = sigmoid(l_t), and l_t, c_t depend on x_t alone

    g(c) = c + 1/2 where c >= 0, else sigmoid(c)                    (2)

No gate reads the state, so (1) is linear in it and every step can be computed at once. The two
differ in the logit l alone. Both factors come from it, 1 - p as sigmoid(-l): neither loses digits
where it is small, and no quotient of gates is ever 0 / 0.

g is continuous and positive, so that from a state >= 0 every state is positive. The paper needs
that because it scans logarithms. Here the factors are summed as they are: each is in (0, 1), so a
product of decays can underflow, which is what forgetting is, but never overflow.

Source: Feng et al., "Were RNNs all we needed?" (2024), arXiv:2410.01201, Appendix B.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from rnnscan.layers.affine import affine
from rnnscan.layers.arguments import floating, initial_state, one_step, positive, sequence, working
from rnnscan.layers.draws import uniform
from rnnscan.layers.lengths import checked_lengths, masked, state_at, valid_steps
from rnnscan.scan.linear import linear_scan
from rnnscan.scan.recurrence import scan_p


class Minimal:
    """Base of the minimal layers; the fields are those of its subclasses."""

    w: jax.Array  # (G * hidden, features): G - 1 gates, then the candidate
    b: jax.Array | None  # (G * hidden,); None without a bias
    method: str

    @property
    def blocks(self) -> int:
        """G, the gates and the candidate that are stacked in w."""
        raise NotImplementedError

    def _logit(self, gates: Sequence[jax.Array]) -> jax.Array:
        """l_t of equation (1) from the gates before their sigmoid."""
        raise NotImplementedError

    @property
    def input_size(self) -> int:
        """Features of x."""
        return self.w.shape[-1]

    @property
    def hidden_size(self) -> int:
        """Width of the state."""
        return self.w.shape[-2] // self.blocks

    @property
    def output_size(self) -> int:
        """Features of y."""
        return self.hidden_size

    def __call__(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        method: str | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Every step of the sequences x, from `state` (zeros when None): (y, state after the end).

        x: (..., time, input_size); y: (..., time, hidden_size); state: (..., hidden_size). method:
        instead of the layer's own.
        lengths: integers of shape (...), how many steps of each sequence count. In the padding y
        is zero and x is never looked at, nan included; the returned state is the one at each
        length (`state` itself at length 0). time = 0 returns the state as it came.

        Raises ValueError for shapes that do not fit, for concrete lengths outside 0..time (traced
        ones are clipped) and for a method that cannot serve, TypeError for dtypes that are not
        real floating.

        >>> import jax, jax.numpy as jnp
        >>> from rnnscan import MinGRU
        >>> layer = MinGRU.init(jax.random.key(0), 3, 4)
        >>> x = jax.random.normal(jax.random.key(1), (2, 5, 3))
        >>> y, state = layer(x, lengths=[5, 2], method="associative")
        >>> bool((y[1, 2:] == 0).all()), bool((state[1] == y[1, 1]).all())
        (True, True)
        """
        x = sequence(x, self.input_size)
        state = self._state(state, x.shape[:-2], x)
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[:-2], x.shape[-2])
        return _evaluate(self, x, state, lengths, method or self.method)

    def step(self, x_t: ArrayLike, state: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        """One step, for generation: x_t (..., input_size) to (y_t, state), both (..., hidden_size).

        state: (..., hidden_size), zeros when None. Stepping through a sequence equals calling the
        layer on it. Raises ValueError for shapes that do not fit.

        >>> import jax, jax.numpy as jnp
        >>> from rnnscan import MinLSTM
        >>> layer = MinLSTM.init(jax.random.key(0), 3, 4)
        >>> y_0, state = layer.step(jnp.ones(3))
        >>> y_1, state = layer.step(jnp.ones(3), state)
        >>> bool(jnp.allclose(jnp.stack([y_0, y_1]), layer(jnp.ones((2, 3)))[0]))
        True
        """
        x_t = one_step(x_t, self.input_size)
        return _step(self, x_t, self._state(state, x_t.shape[:-1], x_t))

    def _state(self, state: ArrayLike | None, batch: tuple[int, ...], x: jax.Array) -> jax.Array:
        return initial_state(state, (*batch, self.hidden_size), self, x)


def new_weights(
    key: jax.Array, input_size: int, hidden_size: int, blocks: int, *, bias: bool, dtype: Any
) -> tuple[jax.Array, jax.Array | None]:
    """w and b, uniform in (-1/sqrt(input_size), 1/sqrt(input_size)): a `torch.nn.Linear`."""
    positive(input_size=input_size, hidden_size=hidden_size)
    dtype = floating("dtype", dtype)
    rows = blocks * hidden_size
    shapes = ((rows, input_size), *([(rows,)] if bias else []))
    bound = input_size**-0.5
    w, *b = uniform(key, shapes, -bound, bound, dtype)
    return w, b[0] if bias else None


@partial(jax.jit, static_argnames="method")
def _evaluate(
    layer: Minimal, x: jax.Array, state: jax.Array, lengths: jax.Array | None, method: str
) -> tuple[jax.Array, jax.Array]:
    dtype = state.dtype
    layer, x, state = working(dtype, layer, x, state)
    valid = None if lengths is None else valid_steps(lengths, x.shape[-2])
    h = _states(layer, masked(x, valid), state, method)
    return masked(h, valid).astype(dtype), state_at(h, lengths, state).astype(dtype)


@jax.jit
def _step(layer: Minimal, x_t: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    dtype = state.dtype
    layer, x_t, state = working(dtype, layer, x_t, state)
    decay, drive = _coefficients(layer, x_t)
    h = decay * state + drive
    return h.astype(dtype), h.astype(dtype)


def _kept(primitive: Any, *_: Any, **__: Any) -> bool:
    """What the backward pass keeps: the products and h; gates and candidates are cheap to redo."""
    return primitive is scan_p or primitive is lax.dot_general_p


@partial(jax.checkpoint, policy=_kept, static_argnums=3)
def _states(layer: Minimal, x: jax.Array, state: jax.Array, method: str) -> jax.Array:
    decay, drive = _coefficients(layer, x)
    return linear_scan(decay, drive, state, axis=-2, method=method)


def _coefficients(layer: Minimal, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """1 - p and p * g(c)."""
    *gates, candidate = jnp.split(affine(x, layer.w, layer.b), layer.blocks, axis=-1)
    logit = layer._logit(gates)
    return jax.nn.sigmoid(-logit), jax.nn.sigmoid(logit) * positive_part(candidate)


def positive_part(c: jax.Array) -> jax.Array:
    """g, equation (2)."""
    return jnp.where(c >= 0, c + 0.5, jax.nn.sigmoid(c))
