"""The plain recurrent network (Elman): one state, folded forward step by step.

    h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh),    phi = tanh or relu

as `torch.nn.RNN` computes it, with its weights, its shapes (batch first) and its gradients.

Only `W_hh h_{t-1}` waits for the step before it. The products with the inputs of all steps are one
matrix product ahead of the scan, and so is every weight gradient behind it: with phi'_t a function
of h_t alone (1 - h_t^2, or [h_t > 0]), a tangent of the trajectory solves the linear recurrence

    dh_t = phi'_t * (du_t + W_hh dh_{t-1}),    du_t = d(W_ih x_t + b) + dW_hh h_{t-1}

whose drive du is again known for all steps at once. Transposed, it is backpropagation through time
that keeps h and nothing else, and sums the gradient of W_hh in one product instead of T small ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from rnnscan.layers.affine import affine, product
from rnnscan.layers.arguments import floating, initial_state, one_step, positive, sequence, working
from rnnscan.layers.cells import Cell, cells_from_torch
from rnnscan.layers.draws import uniform
from rnnscan.layers.lengths import checked_lengths, masked, valid_steps
from rnnscan.scan.arguments import vary_alike

# Each nonlinearity with its derivative, written in terms of its own value h = phi(z).
NONLINEARITIES: dict[str, tuple[Callable, Callable]] = {
    "tanh": (jnp.tanh, lambda h: 1 - h * h),
    "relu": (lambda z: jnp.maximum(z, 0), lambda h: (h > 0).astype(h.dtype)),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class RNN:
    """h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), layer upon layer, one or both directions.

    `layer(x)` evaluates a whole sequence, `layer.step(x_t, state)` one step of it. The layer is a
    pytree of its weights: `jax.grad`, `jax.tree.map` and optax take it as it is.

    Shapes: x (..., time, input_size); y (..., time, directions * hidden_size), the last layer's
    state at every step; state (num_layers * directions, ..., hidden_size), in torch's order
    (layer 0 forward, layer 0 reverse, layer 1 forward, ...). Any number of batch axes, none too.

    Cost: T steps one after another, 2 * T * B * hidden * (features + hidden) multiply-adds for a
    layer and direction, forward and backward 3 times that; memory for the backward pass T * B *
    hidden. float16 and bfloat16 are computed in float32; y and state are rounded.

    Source: Elman, "Finding structure in time" (1990), in the form of `torch.nn.RNN`.

    >>> import jax, jax.numpy as jnp
    >>> layer = RNN.init(jax.random.key(0), input_size=10, hidden_size=20)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape
    ((2, 5, 20), (1, 2, 20))
    >>> y_5, state = layer.step(jnp.ones((2, 10)), state)
    >>> y_5.shape
    (2, 20)
    """

    cells: tuple[tuple[Cell, ...], ...]  # cells[layer][direction]
    nonlinearity: str = field(default="tanh", metadata={"static": True})

    def __post_init__(self) -> None:
        if self.nonlinearity not in NONLINEARITIES:
            known = " or ".join(map(repr, NONLINEARITIES))
            raise ValueError(f"nonlinearity: expected {known}, got {self.nonlinearity!r}")

    @classmethod
    def init(
        cls,
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        bias: bool = True,
        nonlinearity: str = "tanh",
        recurrent_init: Callable[..., jax.Array] | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> "RNN":
        """Every weight uniform in (-1/sqrt(hidden_size), 1/sqrt(hidden_size)), as in torch.

        `recurrent_init(key, shape, dtype)`, any of `jax.nn.initializers`, draws W_hh instead.
        Raises ValueError for sizes below 1 or an unknown nonlinearity.

        >>> import jax
        >>> orthogonal = jax.nn.initializers.orthogonal()
        >>> layer = RNN.init(jax.random.key(0), 3, 8, num_layers=2, recurrent_init=orthogonal)
        >>> sum(p.size for p in jax.tree.leaves(layer)) == 8 * (3 + 8 + 2) + 8 * (8 + 8 + 2)
        True
        """
        positive(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        dtype = floating("dtype", dtype)
        directions = 2 if bidirectional else 1
        widths = [input_size] + [directions * hidden_size] * (num_layers - 1)
        square, vector = (hidden_size, hidden_size), (hidden_size,)
        shapes = [
            ((hidden_size, width), square, *([vector, vector] if bias else []))
            for width in widths
            for _ in range(directions)
        ]
        key, recurrent_key = jax.random.split(key)
        bound = hidden_size**-0.5
        weights = iter(uniform(key, sum(shapes, ()), -bound, bound, dtype))
        recurrent_keys = iter(jax.random.split(recurrent_key, len(shapes)))

        def cell() -> Cell:
            w_ih, w_hh = next(weights), next(weights)
            if recurrent_init is not None:
                w_hh = recurrent_init(next(recurrent_keys), square, dtype)
            b_ih, b_hh = (next(weights), next(weights)) if bias else (None, None)
            return Cell(w_ih, w_hh, b_ih, b_hh)

        cells = tuple(tuple(cell() for _ in range(directions)) for _ in range(num_layers))
        return cls(cells, nonlinearity)

    @classmethod
    def from_torch(cls, arrays: Mapping[str, Any], nonlinearity: str = "tanh") -> "RNN":
        """The layer with the weights of a `torch.nn.RNN`: its state_dict, as arrays.

        num_layers, bidirectional and bias are read off the names; the nonlinearity is in no
        weight and must be said. The arrays are copied and keep their dtype. Raises ValueError that
        lists every missing, unexpected or misshapen key.

        >>> import numpy as np
        >>> arrays = {"weight_ih_l0": np.ones((4, 3)), "weight_hh_l0": np.eye(4)}
        >>> layer = RNN.from_torch(arrays, nonlinearity="relu")
        >>> layer.num_layers, layer.bidirectional, layer.input_size, layer.hidden_size
        (1, False, 3, 4)
        """
        return cls(cells_from_torch(arrays), nonlinearity)

    @property
    def num_layers(self) -> int:
        """Layers, one upon the other."""
        return len(self.cells)

    @property
    def bidirectional(self) -> bool:
        """Whether every layer also reads its input from the end."""
        return len(self.cells[0]) == 2

    @property
    def input_size(self) -> int:
        """Features of x."""
        return self.cells[0][0].w_ih.shape[-1]

    @property
    def hidden_size(self) -> int:
        """Width of one state."""
        return self.cells[0][0].w_hh.shape[-1]

    def __call__(
        self, x: ArrayLike, state: ArrayLike | None = None, lengths: ArrayLike | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Every step of the sequences x, from `state` (zeros when None): (y, state after the end).

        x: (..., time, input_size); state: (num_layers * directions, ..., hidden_size).
        lengths: integers of shape (...), how many steps of each sequence count. In the padding y
        is zero and x is never looked at, nan included; the returned state is the one at each
        length (`state` itself at length 0), and the reverse direction starts at each sequence's
        own end. time = 0 returns the state as it came.

        Raises ValueError for shapes that do not fit and for concrete lengths outside 0..time
        (traced ones are clipped), TypeError for dtypes that are not real floating.

        >>> import jax, jax.numpy as jnp
        >>> layer = RNN.init(jax.random.key(0), 3, 4, bidirectional=True)
        >>> y, state = layer(jnp.ones((2, 5, 3)), lengths=[5, 2])
        >>> bool((y[1, 2:] == 0).all()), bool((state[0, 1] == y[1, 1, :4]).all())
        (True, True)
        """
        x = sequence(x, self.input_size)
        state = self._state(state, x.shape[:-2], x)
        valid = None
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[:-2], x.shape[-2])
            valid = valid_steps(lengths, x.shape[-2])
        return _evaluate(self, x, state, valid)

    def step(self, x_t: ArrayLike, state: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        """One step, for generation: x_t (..., input_size) to (y_t (..., hidden_size), state).

        state: (num_layers, ..., hidden_size), zeros when None. Stepping through a sequence equals
        calling the layer on it. Raises ValueError for shapes that do not fit, and for a
        bidirectional layer, whose output at any step depends on the steps to come.

        >>> import jax, jax.numpy as jnp
        >>> layer = RNN.init(jax.random.key(0), 3, 4, num_layers=2)
        >>> y_0, state = layer.step(jnp.ones(3))
        >>> y_1, state = layer.step(jnp.ones(3), state)
        >>> bool(jnp.allclose(jnp.stack([y_0, y_1]), layer(jnp.ones((2, 3)))[0]))
        True
        """
        if self.bidirectional:
            raise ValueError("step: expected a layer of one direction, got bidirectional=True")
        x_t = one_step(x_t, self.input_size)
        return _step(self, x_t, self._state(state, x_t.shape[:-1], x_t))

    def _state(self, state: ArrayLike | None, batch: tuple[int, ...], x: jax.Array) -> jax.Array:
        shape = (sum(map(len, self.cells)), *batch, self.hidden_size)
        return initial_state(state, shape, self, x)


@jax.jit  # so that a call outside of any jit is one compiled program too
def _evaluate(
    layer: RNN, x: jax.Array, state: jax.Array, valid: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    dtype = state.dtype
    layer, x, state = working(dtype, layer, x, state)
    h = jnp.moveaxis(masked(x, valid), -2, 0)  # time first, once for the whole stack
    valid = None if valid is None else jnp.moveaxis(valid, -2, 0)
    states = iter(state)
    last = []
    for directions in layer.cells:
        outputs = []
        for cell, reverse in zip(directions, (False, True), strict=False):
            drive = affine(h, cell.w_ih, cell.b_ih, cell.b_hh)
            operands = vary_alike(drive, cell.w_hh, next(states), valid)
            out, end = _recurrence(layer.nonlinearity, reverse, *operands)
            outputs.append(out)
            last.append(end)
        h = jnp.concatenate(outputs, axis=-1)
    y = jnp.moveaxis(masked(h, valid), 0, -2)
    return y.astype(dtype), jnp.stack(last).astype(dtype)


@jax.jit
def _step(layer: RNN, x_t: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    dtype = state.dtype
    layer, h, state = working(dtype, layer, x_t, state)
    phi, _ = NONLINEARITIES[layer.nonlinearity]
    new = []
    for (cell,), h_0 in zip(layer.cells, state, strict=True):
        h = phi(affine(h, cell.w_ih, cell.b_ih, cell.b_hh) + product(h_0, cell.w_hh))
        new.append(h)
    return h.astype(dtype), jnp.stack(new).astype(dtype)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _recurrence(
    nonlinearity: str,
    reverse: bool,
    drive: jax.Array,
    w_hh: jax.Array,
    h0: jax.Array,
    valid: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """h_t = phi(drive_t + W_hh h_{t-1}), time first: (all h, the last in scan order).

    A step that is not valid passes the state on, so that the state at a sequence's length is the
    one at the end, and a reverse scan enters the sequence with h0.
    """
    phi, _ = NONLINEARITIES[nonlinearity]

    def body(h, inputs):
        drive_t, valid_t = inputs
        new = phi(drive_t + product(h, w_hh))
        new = new if valid_t is None else jnp.where(valid_t, new, h)
        return new, new

    last, h = lax.scan(body, h0, (drive, valid), reverse=reverse)
    return h, last


@_recurrence.defjvp
def _recurrence_jvp(nonlinearity, reverse, primals, tangents):
    drive, w_hh, h0, valid = primals
    h, last = _recurrence(nonlinearity, reverse, drive, w_hh, h0, valid)

    @jax.checkpoint  # keeps h alone: the slopes and the shifted h are rebuilt in the backward pass
    def tangent(h, w_hh, h0, valid, d_drive, d_w_hh, d_h0):
        _, slope = NONLINEARITIES[nonlinearity]
        before = (
            jnp.concatenate([h, h0[None]])[1:] if reverse else jnp.concatenate([h0[None], h])[:-1]
        )
        drive = d_drive + product(before, d_w_hh)

        def body(dh, inputs):
            slope_t, drive_t, valid_t = inputs
            new = slope_t * (drive_t + product(dh, w_hh))
            new = new if valid_t is None else jnp.where(valid_t, new, dh)
            return new, new

        return lax.scan(body, d_h0, (slope(h), drive, valid), reverse=reverse)[::-1]

    return (h, last), tangent(h, w_hh, h0, valid, *tangents[:3])
