"""What `RNN`, `LSTM` and `GRU` share: layers upon layers in one or both directions, on `cell_scan`.

A layer reads the outputs of the layer below it, those of both directions side by side; its own
recurrence is in `rnnscan/scan/cell_kinds`. Shapes, names and initial weights are those of
`torch.nn`.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, cast

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from rnnscan.layer_parts.arguments import floating, positive, random_key
from rnnscan.layer_parts.draws import recurrent_matrix, uniform
from rnnscan.layer_parts.layer import Given, ScanLayer, enter
from rnnscan.layer_parts.state import Slot, Slots, State
from rnnscan.layer_parts.torch_weights import Cell, cells_from_torch
from rnnscan.scan import (
    CELLS,
    AxisName,
    CellKind,
    CellMethodName,
    CellWeights,
    Convergence,
    before,
    cell_scan,
    cell_scan_with_convergence,
    cell_step,
    cell_table,
)

Cells = tuple[tuple[Cell, ...], ...]  # cells[layer][direction]


class Recurrent(ScanLayer):
    """Base of the recurrent layers; the fields are those of its subclasses."""

    table = cell_table
    gates: ClassVar[int]  # stacked in the weights of a cell
    cells: Cells

    @property
    def kind(self) -> CellKind:
        """Of the cell, as `cell_scan` names it."""
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
        recurrent_init: Callable[..., jax.Array] | None = None,
        method: CellMethodName = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """Every weight uniform in (-1/sqrt(hidden_size), 1/sqrt(hidden_size)), as in torch.

        `recurrent_init(key, shape, dtype)`, any of `jax.nn.initializers`, draws the square matrix
        of each gate instead. Raises ValueError for sizes below 1 and an unknown method.

        >>> import jax
        >>> from rnnscan import GRU
        >>> layer = GRU.init(jax.random.key(0), 3, 8, num_layers=2)
        >>> sum(p.size for p in jax.tree.leaves(layer)) == 3 * 8 * (3 + 8 + 2 + 8 + 8 + 2)
        True
        """
        key = random_key(key)
        positive(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        dtype = floating("dtype", dtype)
        directions = 2 if bidirectional else 1
        widths = [input_size] + [directions * hidden_size] * (num_layers - 1)
        rows = cls.gates * hidden_size
        shapes = [
            ((rows, width), (rows, hidden_size), *([(rows,), (rows,)] if bias else []))
            for width in widths
            for _ in range(directions)
        ]
        key, recurrent_key = jax.random.split(key)
        bound = hidden_size**-0.5
        weights = iter(uniform(key, sum(shapes, ()), -bound, bound, dtype))
        recurrent_keys = iter(jax.random.split(recurrent_key, len(shapes) * cls.gates))

        def cell() -> Cell:
            w_ih, w_hh = next(weights), next(weights)
            if recurrent_init is not None:
                keys = (next(recurrent_keys) for _ in range(cls.gates))
                squares = [recurrent_matrix(recurrent_init, k, hidden_size, dtype) for k in keys]
                w_hh = jnp.concatenate(squares)
            b_ih, b_hh = (next(weights), next(weights)) if bias else (None, None)
            return Cell(w_ih, w_hh, b_ih, b_hh)

        cells = tuple(tuple(cell() for _ in range(directions)) for _ in range(num_layers))
        return cls(cells, method=method)  # pyright: ignore[reportCallIssue]

    @classmethod
    def from_torch(cls, arrays: Mapping[str, Any], *, method: CellMethodName = "auto") -> Self:
        """The layer with the weights of the `torch.nn` module of its name: its state_dict.

        num_layers, bidirectional and bias are read off the names. The arrays, or tensors of torch,
        are copied and keep their dtype. Raises ValueError that lists every missing, unexpected or
        misshapen key; torch's `proj_size` is not offered. Raises TypeError for what has no names.

        >>> import numpy as np
        >>> from rnnscan import GRU
        >>> arrays = {"weight_ih_l0": np.ones((12, 3)), "weight_hh_l0": np.ones((12, 4))}
        >>> layer = GRU.from_torch(arrays)
        >>> layer.num_layers, layer.bidirectional, layer.input_size, layer.hidden_size
        (1, False, 3, 4)
        """
        cells = cells_from_torch(arrays, cls.__name__, cls.gates)
        return cls(cells, method=method)  # pyright: ignore[reportCallIssue]

    def with_convergence(
        self,
        x: ArrayLike,
        state: State | None = None,
        lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        *,
        method: CellMethodName | None = None,
    ) -> tuple[jax.Array, State, Convergence]:
        """`layer(x, ...)`, and how far to trust it: (y, state, `Convergence`).

        Arguments and errors are those of a call. The fields of the `Convergence` have the shape
        (num_layers * directions, ...), in the order of the state: one for each recurrence that was
        solved, given the outputs of the layer below it. y is the layer's where all that it was
        made of converged. A method that goes step by step always does, in 0 iterations, unless its
        states are not finite. Steps of the padding count as roundings in `error_bound`, and the
        rounding of results to halves does not. Where gated cells that remember for long do not
        converge by "newton", "damped_newton" may. Cost: that of a call and of `Convergence`, whose
        parts are not computed where they are not used, under `jit`; Jacobians take T * B * D^2
        numbers, D = hidden, of an LSTM 2 * hidden.

        >>> import jax, jax.numpy as jnp
        >>> from rnnscan import RNN
        >>> layer = RNN.init(jax.random.key(0), 3, 8, num_layers=2)
        >>> x = jax.random.normal(jax.random.key(1), (2, 100, 3))
        >>> y, state, found = layer.with_convergence(x, method="newton")
        >>> bool(found.converged.all()), found.iterations.shape, bool((found.iterations < 9).all())
        (True, (2, 2), True)
        >>> bool(jnp.allclose(y, layer(x)[0], atol=1e-6))
        True
        """
        layer = self if method is None else self._by(method)
        return _call_with_convergence(layer, *layer._checked(x, state, lengths, reset))

    def step(
        self, x_t: ArrayLike, state: State | None = None, reset: ArrayLike | None = None
    ) -> tuple[jax.Array, State]:
        if self.bidirectional:  # its output at any step depends on the steps to come
            raise ValueError("step: expected a layer of one direction, got bidirectional=True")
        return super().step(x_t, state, reset)

    def _slots(self, batch: tuple[int, ...]) -> Slots:
        return Slot((sum(map(len, self.cells)), *batch, self.hidden_size), leading=1)

    def _evaluate(self, given: Given) -> tuple[jax.Array, State]:
        return self._through(given, cell_scan)[:2]

    def _through(self, given: Given, scan: Callable[..., Any]) -> tuple[jax.Array, State, list]:
        """y, the state, and what `scan` says beside (h, last), of every layer and direction."""
        states, structure = jax.tree.flatten(given.state)
        valid = None if given.valid is None else given.valid[..., 0]
        resets = _both_ways(given.reset, given.axis_name)
        over = {"method": self.method, "axis_name": given.axis_name}
        h, last, found = given.x, [], []
        for n, directions in enumerate(self.cells):
            outputs = []
            for d, cell in enumerate(directions):
                first = tuple(s[n * len(directions) + d] for s in states)
                args = self.kind, _weights(cell, self.kind), h, first, valid, resets[d]
                y, end, *said = scan(*args, reverse=d == 1, **over)
                outputs.append(y)
                last.append(end)
                found.append(said)
            h = jnp.concatenate(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
        state = structure.unflatten([jnp.stack(parts) for parts in zip(*last, strict=True)])
        return h, state, jax.tree.map(lambda *parts: jnp.stack(parts), *found)

    def _step(self, x_t: jax.Array, state: State) -> tuple[jax.Array, State]:
        states, structure = jax.tree.flatten(state)
        h, new = x_t, []
        for n, (cell,) in enumerate(self.cells):
            now = cell_step(self.kind, _weights(cell, self.kind), h, tuple(s[n] for s in states))
            h = now[0]
            new.append(now)
        return h, structure.unflatten([jnp.stack(parts) for parts in zip(*new, strict=True)])


@jax.jit
def _call_with_convergence(
    layer: Recurrent,
    x: jax.Array,
    state: State | None,
    lengths: jax.Array | None,
    reset: jax.Array | None,
) -> tuple[jax.Array, State, Convergence]:
    given = enter(layer, x, state, lengths, reset)
    wide = cast(Recurrent, given.layer)  # with its weights in the dtype of the arithmetic
    y, state, (found,) = wide._through(given, cell_scan_with_convergence)
    return *given.returned(y, state), found


def _both_ways(
    reset: jax.Array | None, axis_name: AxisName | None
) -> tuple[jax.Array | None, jax.Array | None]:
    """Flags (..., time) onward and in reverse, where the last step of a sequence is the first."""
    if reset is None:
        return None, None
    reset = reset[..., 0]
    first, after_the_end = reset[..., :1], jnp.zeros_like(reset[..., :1])
    if axis_name is not None:  # the first step of the chunk after this one
        after_the_end = before(first, after_the_end, axis_name, reverse=True)
    return reset, jnp.concatenate([reset[..., 1:], after_the_end], axis=-1)


def _weights(cell: Cell, kind: CellKind) -> CellWeights:
    """As `cell_scan` takes them: the biases summed, but for the one of a gate that stays apart."""
    zero = jnp.zeros(cell.w_hh.shape[:1], cell.w_hh.dtype)
    b_ih = zero if cell.b_ih is None else cell.b_ih
    b_hh = zero if cell.b_hh is None else cell.b_hh
    if not CELLS[kind].apart:
        return CellWeights(cell.w_ih, b_ih + b_hh, cell.w_hh)
    hidden = cell.w_hh.shape[-1]
    bias = b_ih.at[:-hidden].add(b_hh[:-hidden])
    return CellWeights(cell.w_ih, bias, cell.w_hh, b_hh[-hidden:])
