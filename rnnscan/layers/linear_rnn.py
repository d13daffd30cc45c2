"""The RNN without its activation: a dense linear recurrence, parallel over time.

    h_t = W_hh h_{t-1} + W_ih x_t + b

A composition of affine maps is an affine map, so neighbouring steps can be combined first.
A nonlinearity forbids just this: an `RNN` goes step by step, or guesses all steps and mends them
(`method="newton"`), by a recurrence like this one in each iteration.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Self

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnscan.layer_parts.affine import affine, product
from rnnscan.layer_parts.arguments import floating, positive, random_key
from rnnscan.layer_parts.draws import recurrent_matrix, uniform
from rnnscan.layer_parts.layer import Given, ScanLayer, output_dtype
from rnnscan.layer_parts.padding import masked
from rnnscan.layer_parts.state import Slot, Slots
from rnnscan.scan import MatrixMethodName, matrix_scan, matrix_table, require_eigenvectors


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class LinearRNN(ScanLayer):
    """h_t = W_hh h_{t-1} + W_ih x_t + b, and y_t = h_t: one dense layer on `matrix_scan`.

    Shapes: x (..., time, input_size); y (..., time, hidden_size); state (..., hidden_size).

    Cost: by `method` (see the table of `matrix_scan`): "sequential" 2 * T * B * hidden^2 operations
    in T steps; "blocked", by powers of W_hh, twice that in about 4 log2 T; "diagonal" four times
    that, among the eigenvectors of W_hh, and never what "auto" takes, as its error has their
    condition number; "associative" T * hidden^3 in about 2 log2 T. Nothing bounds the state: where
    an eigenvalue of W_hh exceeds 1 in modulus it grows without limit.

    A call with method "diagonal" looks at a concrete W_hh on the host, and raises ValueError where
    it has hardly any eigenvectors.

    Source: the recurrence of `RNN` with phi(z) = z; for its parallel evaluation Blelloch, "Prefix
    sums and their applications" (1990), section 1.4.

    >>> import jax, jax.numpy as jnp
    >>> layer = LinearRNN.init(jax.random.key(0), input_size=10, hidden_size=20)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape, bool((y[:, -1] == state).all())
    ((2, 5, 20), (2, 20), True)
    """

    table = matrix_table
    masks_y = False
    w_ih: jax.Array  # (hidden, features)
    w_hh: jax.Array  # (hidden, hidden)
    b: jax.Array | None  # (hidden,); None without a bias
    method: MatrixMethodName = field(default="auto", metadata={"static": True})

    @classmethod
    def init(
        cls,
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        recurrent_init: Callable[..., jax.Array] | None = None,
        method: MatrixMethodName = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """Every weight uniform in (-1/sqrt(hidden_size), 1/sqrt(hidden_size)), as in `RNN`.

        `recurrent_init(key, shape, dtype)`, any of `jax.nn.initializers`, draws W_hh instead.
        Raises ValueError for sizes below 1 and an unknown method.

        >>> import jax
        >>> orthogonal = jax.nn.initializers.orthogonal()
        >>> layer = LinearRNN.init(jax.random.key(0), 3, 8, recurrent_init=orthogonal)
        >>> layer.w_ih.shape, layer.w_hh.shape, layer.b.shape
        ((8, 3), (8, 8), (8,))
        """
        key = random_key(key)
        positive(input_size=input_size, hidden_size=hidden_size)
        dtype = floating("dtype", dtype)
        square = (hidden_size, hidden_size)
        shapes = ((hidden_size, input_size), square, *([(hidden_size,)] if bias else []))
        key, recurrent_key = jax.random.split(key)
        bound = hidden_size**-0.5
        w_ih, w_hh, *b = uniform(key, shapes, -bound, bound, dtype)
        if recurrent_init is not None:
            w_hh = recurrent_matrix(recurrent_init, recurrent_key, hidden_size, dtype)
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

    def _slots(self, batch: tuple[int, ...]) -> Slots:
        return Slot((*batch, self.hidden_size))

    def _check(self, x: jax.Array, state: jax.Array | None) -> None:
        if self.method == "diagonal":
            require_eigenvectors(self.w_hh, output_dtype(self, x, state))

    def _evaluate(self, given: Given) -> tuple[jax.Array, jax.Array]:
        drive = masked(affine(given.x, self.w_ih, self.b), given.valid)
        # The padding restarts from zero: left to itself a growing state could overflow there.
        flags = [] if given.reset is None else [given.reset]
        flags += [] if given.valid is None else [~given.valid]
        reset = reduce(jnp.logical_or, flags) if flags else None
        h = matrix_scan(
            self.w_hh,
            drive,
            given.state,
            axis=-2,
            reset=reset,
            method=self.method,
            axis_name=given.axis_name,
        )
        return h, given.last(h)

    def _step(self, x_t: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = affine(x_t, self.w_ih, self.b) + product(state, self.w_hh)
        return h, h
