"""Long short-term memory: a cell that forgets by a gate instead of by every product.

    i_t, f_t, o_t = sigmoid(W x_t + b + U h_{t-1} + b'), each with weights of its own
    g_t = tanh(W_g x_t + b_g + U_g h_{t-1} + b'_g)
    c_t = f_t * c_{t-1} + i_t * g_t,    h_t = o_t * tanh(c_t)

as `torch.nn.LSTM` computes it. Along c alone a gradient is multiplied by the forget gates, whatever
the weights are: with f near 1 it neither vanishes nor explodes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnscan.layer_parts.recurrent import Cells, Recurrent
from rnnscan.layer_parts.torch_weights import Cell
from rnnscan.scan import CellKind, CellMethodName


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class LSTM(Recurrent):
    """c_t = f_t * c_{t-1} + i_t * g_t, h_t = o_t * tanh(c_t), layer upon layer.

    Shapes: x (..., time, input_size); y (..., time, directions * hidden_size), the last layer's h
    at every step; state: the pair (h, c), each (num_layers * directions, ..., hidden_size), in
    torch's order.

    Cost: T steps one after another, 8 * T * B * hidden * (features + hidden) operations for a layer
    and direction, forward and backward 3 times that; the backward pass keeps h, c and the gates,
    6 * T * B * hidden numbers.
    `method="newton"` and its siblings solve for all steps at once (`with_convergence` says whether
    they did).

    Source: Hochreiter & Schmidhuber, "Long short-term memory" (1997), with the forget gate of Gers,
    Schmidhuber & Cummins (2000), in the form of `torch.nn.LSTM`.

    >>> import jax, jax.numpy as jnp
    >>> layer = LSTM.init(jax.random.key(0), input_size=10, hidden_size=20)
    >>> y, (h, c) = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, h.shape, c.shape, bool((y[:, -1] == h[0]).all())
    ((2, 5, 20), (1, 2, 20), (1, 2, 20), True)
    """

    gates = 4
    cells: Cells  # of a cell: gates in the order i f g o
    method: CellMethodName = field(default="auto", metadata={"static": True})

    @property
    def kind(self) -> CellKind:
        return "lstm"

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
        forget_bias: float | None = None,
        recurrent_init: Callable[..., jax.Array] | None = None,
        method: CellMethodName = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """Every weight uniform in (-1/sqrt(hidden_size), 1/sqrt(hidden_size)), as in torch.

        `forget_bias`: the sum of the two biases of f at the start, in place of random ones. Where
        nothing else opens or closes the gate, c halves in one step with 0, in 2.2 steps with 1, the
        advice of Jozefowicz et al. (2015). `recurrent_init(key, shape, dtype)`, any of
        `jax.nn.initializers`, draws the square matrix of each gate. Raises ValueError for sizes
        below 1, and for a forget_bias without biases.

        >>> import jax
        >>> layer = LSTM.init(jax.random.key(0), 3, 8, forget_bias=1.0)
        >>> float((layer.cells[0][0].b_ih + layer.cells[0][0].b_hh)[8:16].mean())
        1.0
        """
        layer = super().init(
            key,
            input_size,
            hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            bias=bias,
            recurrent_init=recurrent_init,
            method=method,
            dtype=dtype,
        )
        if forget_bias is None:
            return layer
        if not bias:
            raise ValueError(f"forget_bias: expected None with bias=False, got {forget_bias!r}")

        def of_f(b: jax.Array | None, value: float) -> jax.Array | None:
            part = slice(hidden_size, 2 * hidden_size)
            return None if b is None else b.at[part].set(value)

        def forgetting(cell: Cell) -> Cell:
            return replace(cell, b_ih=of_f(cell.b_ih, forget_bias), b_hh=of_f(cell.b_hh, 0))

        return replace(layer, cells=tuple(tuple(map(forgetting, cells)) for cells in layer.cells))

    def _slots(self, batch):
        slot = super()._slots(batch)
        return replace(slot, name="h"), replace(slot, name="c")
