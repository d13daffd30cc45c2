"""What `RNN`, `LSTM` and `GRU` share: layers upon layers in one or both directions, on `cell_scan`.

A layer reads the outputs of the layer below it, those of both directions side by side; its own
recurrence is in `rnnscan/scan/cells.py`. Shapes, names and initial weights are those of `torch.nn`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from rnnscan.layers.arguments import floating, initial_state, one_step, positive, sequence, working
from rnnscan.layers.cells import Cell
from rnnscan.layers.draws import uniform
from rnnscan.layers.lengths import checked_lengths, masked, valid_steps
from rnnscan.scan.cells import Weights, cell_scan, cell_step

State = Any  # an array, or the pair (h, c) of an LSTM


class Recurrent:
    """Base of the recurrent layers; the fields are those of its subclasses."""

    cells: tuple[tuple[Cell, ...], ...]  # cells[layer][direction]

    @property
    def kind(self) -> str:
        """Of the cell: one of `rnnscan.scan.cells.KINDS`."""
        raise NotImplementedError

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

    @property
    def output_size(self) -> int:
        """Features of y: hidden_size for each direction."""
        return self.hidden_size * len(self.cells[0])

    def __call__(
        self, x: ArrayLike, state: State | None = None, lengths: ArrayLike | None = None
    ) -> tuple[jax.Array, State]:
        """Every step of the sequences x, from `state` (zeros when None): (y, state after the end).

        x: (..., time, input_size); y: (..., time, output_size). state: an array
        (num_layers * directions, ..., hidden_size), of an `LSTM` the pair (h, c) of two such.
        lengths: integers of shape (...), how many steps of each sequence count. In the padding y
        is zero and x is never looked at, nan included; the returned state is the one at each
        length (`state` itself at length 0), and the reverse direction starts at each sequence's
        own end. time = 0 returns the state as it came.

        Raises ValueError for shapes that do not fit and for concrete lengths outside 0..time
        (traced ones are clipped), TypeError for dtypes that are not real floating.

        >>> import jax, jax.numpy as jnp
        >>> from rnnscan import GRU
        >>> layer = GRU.init(jax.random.key(0), 3, 4, bidirectional=True)
        >>> y, state = layer(jnp.ones((2, 5, 3)), lengths=[5, 2])
        >>> bool((y[1, 2:] == 0).all()), bool((state[0, 1] == y[1, 1, :4]).all())
        (True, True)
        """
        x = sequence(x, self.input_size)
        states = self._states(state, x.shape[:-2], x)
        valid = None
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[:-2], x.shape[-2])
            valid = valid_steps(lengths, x.shape[-2])
        y, states = _evaluate(self, x, states, valid)
        return y, self._returned(states)

    def step(self, x_t: ArrayLike, state: State | None = None) -> tuple[jax.Array, State]:
        """One step, for generation: x_t (..., input_size) to (y_t (..., hidden_size), state).

        state: as in a call, zeros when None. Stepping through a sequence equals calling the layer
        on it. Raises ValueError for shapes that do not fit, and for a bidirectional layer, whose
        output at any step depends on the steps to come.

        >>> import jax, jax.numpy as jnp
        >>> from rnnscan import LSTM
        >>> layer = LSTM.init(jax.random.key(0), 3, 4, num_layers=2)
        >>> y_0, state = layer.step(jnp.ones(3))
        >>> y_1, (h, c) = layer.step(jnp.ones(3), state)
        >>> bool(jnp.allclose(jnp.stack([y_0, y_1]), layer(jnp.ones((2, 3)))[0], atol=1e-6))
        True
        """
        if self.bidirectional:
            raise ValueError("step: expected a layer of one direction, got bidirectional=True")
        x_t = one_step(x_t, self.input_size)
        y_t, states = _step(self, x_t, self._states(state, x_t.shape[:-1], x_t))
        return y_t, self._returned(states)

    def _states(
        self, state: State | None, batch: tuple[int, ...], x: jax.Array
    ) -> tuple[jax.Array, ...]:
        """(h,), checked, or zeros."""
        return (initial_state(state, self._state_shape(batch), self, x),)

    def _state_shape(self, batch: tuple[int, ...]) -> tuple[int, ...]:
        return (sum(map(len, self.cells)), *batch, self.hidden_size)

    def _returned(self, states: tuple[jax.Array, ...]) -> State:
        return states[0]


def new_cells(
    key: jax.Array,
    input_size: int,
    hidden_size: int,
    gates: int,
    *,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    recurrent_init: Callable[..., jax.Array] | None,
    dtype: DTypeLike,
) -> tuple[tuple[Cell, ...], ...]:
    """`cells[layer][direction]`, uniform in (-1/sqrt(hidden_size), 1/sqrt(hidden_size)).

    `recurrent_init(key, shape, dtype)` draws the square matrix of each gate instead.
    """
    positive(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
    dtype = floating("dtype", dtype)
    directions = 2 if bidirectional else 1
    widths = [input_size] + [directions * hidden_size] * (num_layers - 1)
    rows, square = gates * hidden_size, (hidden_size, hidden_size)
    shapes = [
        ((rows, width), (rows, hidden_size), *([(rows,), (rows,)] if bias else []))
        for width in widths
        for _ in range(directions)
    ]
    key, recurrent_key = jax.random.split(key)
    bound = hidden_size**-0.5
    weights = iter(uniform(key, sum(shapes, ()), -bound, bound, dtype))
    recurrent_keys = iter(jax.random.split(recurrent_key, len(shapes) * gates))

    def cell() -> Cell:
        w_ih, w_hh = next(weights), next(weights)
        if recurrent_init is not None:
            drawn = [recurrent_init(next(recurrent_keys), square, dtype) for _ in range(gates)]
            w_hh = jnp.concatenate(drawn)
        b_ih, b_hh = (next(weights), next(weights)) if bias else (None, None)
        return Cell(w_ih, w_hh, b_ih, b_hh)

    return tuple(tuple(cell() for _ in range(directions)) for _ in range(num_layers))


def _weights(cell: Cell, kind: str) -> Weights:
    """As `cell_scan` takes them: the biases summed, but for the one inside a GRU's candidate."""
    zero = jnp.zeros(cell.w_hh.shape[:1], cell.w_hh.dtype)
    b_ih = zero if cell.b_ih is None else cell.b_ih
    b_hh = zero if cell.b_hh is None else cell.b_hh
    if kind != "gru":
        return Weights(cell.w_ih, b_ih + b_hh, cell.w_hh)
    hidden = cell.w_hh.shape[-1]
    bias = b_ih.at[: 2 * hidden].add(b_hh[: 2 * hidden])
    return Weights(cell.w_ih, bias, cell.w_hh, b_hh[2 * hidden :])


@jax.jit  # so that a call outside of any jit is one compiled program too
def _evaluate(
    layer: Recurrent, x: jax.Array, states: tuple[jax.Array, ...], valid: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    dtype, batch, steps = states[0].dtype, x.shape[:-2], x.shape[-2]
    layer, x, states = working(dtype, layer, x, states)

    count = math.prod(batch)
    h = masked(x, valid).reshape(count, steps, x.shape[-1])
    flags = None if valid is None else valid.reshape(count, steps)
    last = []
    for n, directions in enumerate(layer.cells):
        outputs = []
        for d, cell in enumerate(directions):
            first = tuple(s[n * len(directions) + d].reshape(count, s.shape[-1]) for s in states)
            weights = _weights(cell, layer.kind)
            y, end = cell_scan(layer.kind, weights, h, first, flags, reverse=d == 1)
            outputs.append(y)
            last.append(end)
        h = jnp.concatenate(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
    y = masked(h.reshape((*batch, steps, h.shape[-1])), valid)
    ends = [jnp.stack(parts).reshape(states[0].shape) for parts in zip(*last, strict=True)]
    return y.astype(dtype), tuple(end.astype(dtype) for end in ends)


@jax.jit
def _step(
    layer: Recurrent, x_t: jax.Array, states: tuple[jax.Array, ...]
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    dtype = states[0].dtype
    layer, h, states = working(dtype, layer, x_t, states)
    new = []
    for n, (cell,) in enumerate(layer.cells):
        now = cell_step(layer.kind, _weights(cell, layer.kind), h, tuple(s[n] for s in states))
        h = now[0]
        new.append(now)
    ends = tuple(jnp.stack(parts).astype(dtype) for parts in zip(*new, strict=True))
    return h.astype(dtype), ends
