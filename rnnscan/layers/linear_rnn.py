"""The RNN without its activation: a dense linear recurrence, parallel over time.

    h_t = W_hh h_{t-1} + W_ih x_t + b

A composition of affine maps is an affine map, so neighbouring steps can be combined first.
A nonlinearity forbids just this, which is why `method` is a choice here and not in `RNN`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from rnnscan.layers.affine import affine, product
from rnnscan.layers.arguments import floating, initial_state, one_step, positive, sequence, working
from rnnscan.layers.draws import uniform
from rnnscan.layers.lengths import checked_lengths, masked, state_at, valid_steps
from rnnscan.scan.matrix import matrix_scan
from rnnscan.scan.matrix_methods import diagonal


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class LinearRNN:
    """h_t = W_hh h_{t-1} + W_ih x_t + b, and y_t = h_t: one dense layer on `matrix_scan`.

    Shapes: x (..., time, input_size); y (..., time, hidden_size); state (..., hidden_size). Any
    number of batch axes, none too.

    Cost: by `method` (see the table of `matrix_scan`): "sequential" 2 * T * B * hidden^2 operations
    in T steps; "blocked", by powers of W_hh, twice that in about 4 log2 T; "diagonal" four times
    that, among the eigenvectors of W_hh, and never what "auto" takes, as its error has their
    condition number; "associative" T * hidden^3 in about 2 log2 T. float16 and bfloat16 are
    computed in float32; y and state are rounded. Nothing bounds the state: where an eigenvalue of
    W_hh exceeds 1 in modulus it grows without limit.

    Source: the recurrence of `RNN` with phi(z) = z; for its parallel evaluation Blelloch, "Prefix
    sums and their applications" (1990), section 1.4.

    >>> import jax, jax.numpy as jnp
    >>> layer = LinearRNN.init(jax.random.key(0), input_size=10, hidden_size=20)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape, bool((y[:, -1] == state).all())
    ((2, 5, 20), (2, 20), True)
    """

    w_ih: jax.Array  # (hidden, features)
    w_hh: jax.Array  # (hidden, hidden)
    b: jax.Array | None  # (hidden,); None without a bias
    method: str = field(default="auto", metadata={"static": True})

    @classmethod
    def init(
        cls,
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        recurrent_init: Callable[..., jax.Array] | None = None,
        method: str = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> "LinearRNN":
        """Every weight uniform in (-1/sqrt(hidden_size), 1/sqrt(hidden_size)), as in `RNN`.

        `recurrent_init(key, shape, dtype)`, any of `jax.nn.initializers`, draws W_hh instead.
        Raises ValueError for sizes below 1.

        >>> import jax
        >>> orthogonal = jax.nn.initializers.orthogonal()
        >>> layer = LinearRNN.init(jax.random.key(0), 3, 8, recurrent_init=orthogonal)
        >>> layer.w_ih.shape, layer.w_hh.shape, layer.b.shape
        ((8, 3), (8, 8), (8,))
        """
        positive(input_size=input_size, hidden_size=hidden_size)
        dtype = floating("dtype", dtype)
        square = (hidden_size, hidden_size)
        shapes = ((hidden_size, input_size), square, *([(hidden_size,)] if bias else []))
        key, recurrent_key = jax.random.split(key)
        bound = hidden_size**-0.5
        w_ih, w_hh, *b = uniform(key, shapes, -bound, bound, dtype)
        if recurrent_init is not None:
            w_hh = recurrent_init(recurrent_key, square, dtype)
        return cls(w_ih, w_hh, b[0] if bias else None, method)

    @property
    def input_size(self) -> int:
        """Features of x."""
        return self.w_ih.shape[-1]

    @property
    def hidden_size(self) -> int:
        """Width of the state."""
        return self.w_hh.shape[-1]

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

        x: (..., time, input_size); state: (..., hidden_size). method: instead of the layer's own.
        lengths: integers of shape (...), how many steps of each sequence count. In the padding y
        is zero and x is never looked at, nan included; the returned state is the one at each
        length (`state` itself at length 0). time = 0 returns the state as it came.

        Raises ValueError for shapes that do not fit, for concrete lengths outside 0..time (traced
        ones are clipped) and for a method that cannot serve ("diagonal" with a concrete W_hh of
        hardly any eigenvectors, which takes a look at them on the host), TypeError for dtypes that
        are not real floating.

        >>> import jax, jax.numpy as jnp
        >>> layer = LinearRNN.init(jax.random.key(0), 3, 4)
        >>> x = jax.random.normal(jax.random.key(1), (2, 5, 3))
        >>> y, state = layer(x, lengths=[5, 2], method="associative")
        >>> bool((y[1, 2:] == 0).all()), bool((state[1] == y[1, 1]).all())
        (True, True)
        """
        x = sequence(x, self.input_size)
        state = self._state(state, x.shape[:-2], x)
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[:-2], x.shape[-2])
        method = method or self.method
        if method == "diagonal":
            diagonal.require_eigenvectors(self.w_hh, state.dtype)
        return _evaluate(self, x, state, lengths, method)

    def step(self, x_t: ArrayLike, state: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        """One step, for generation: x_t (..., input_size) to (y_t, state), both (..., hidden_size).

        state: (..., hidden_size), zeros when None. Stepping through a sequence equals calling the
        layer on it. Raises ValueError for shapes that do not fit.

        >>> import jax, jax.numpy as jnp
        >>> layer = LinearRNN.init(jax.random.key(0), 3, 4)
        >>> y_0, state = layer.step(jnp.ones(3))
        >>> y_1, state = layer.step(jnp.ones(3), state)
        >>> bool(jnp.allclose(jnp.stack([y_0, y_1]), layer(jnp.ones((2, 3)))[0]))
        True
        """
        x_t = one_step(x_t, self.input_size)
        return _step(self, x_t, self._state(state, x_t.shape[:-1], x_t))

    def _state(self, state: ArrayLike | None, batch: tuple[int, ...], x: jax.Array) -> jax.Array:
        return initial_state(state, (*batch, self.hidden_size), self, x)


@partial(jax.jit, static_argnames="method")
def _evaluate(
    layer: LinearRNN, x: jax.Array, state: jax.Array, lengths: jax.Array | None, method: str
) -> tuple[jax.Array, jax.Array]:
    dtype = state.dtype
    layer, x, state = working(dtype, layer, x, state)
    valid = None if lengths is None else valid_steps(lengths, x.shape[-2])
    drive = masked(affine(masked(x, valid), layer.w_ih, layer.b), valid)
    # The padding restarts from zero: left to itself a growing state could overflow there.
    reset = None if valid is None else ~valid
    h = matrix_scan(layer.w_hh, drive, state, axis=-2, reset=reset, method=method)
    return h.astype(dtype), state_at(h, lengths, state).astype(dtype)


@jax.jit
def _step(layer: LinearRNN, x_t: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    dtype = state.dtype
    layer, x_t, state = working(dtype, layer, x_t, state)
    h = affine(x_t, layer.w_ih, layer.b) + product(state, layer.w_hh)
    return h.astype(dtype), h.astype(dtype)
