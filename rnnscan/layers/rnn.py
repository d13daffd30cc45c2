"""The plain recurrent network (Elman): one state, folded forward step by step.

    h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh),    phi = tanh or relu

as `torch.nn.RNN` computes it, with its weights, its shapes (batch first) and its gradients.

Only `W_hh h_{t-1}` waits for the step before it: see `rnnscan/scan/cells.py` for what is done with
all steps at once, ahead of the recurrence and behind it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnscan.layers.cells import Cell, cells_from_torch
from rnnscan.layers.recurrent import Recurrent, new_cells

NONLINEARITIES = ("tanh", "relu")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class RNN(Recurrent):
    """h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), layer upon layer, one or both directions.

    `layer(x)` evaluates a whole sequence, `layer.step(x_t, state)` one step of it. The layer is a
    pytree of its weights: `jax.grad`, `jax.tree.map` and optax take it as it is.

    Shapes: x (..., time, input_size); y (..., time, directions * hidden_size), the last layer's
    state at every step; state (num_layers * directions, ..., hidden_size), in torch's order
    (layer 0 forward, layer 0 reverse, layer 1 forward, ...). Any number of batch axes, none too.

    Cost: T steps one after another, 2 * T * B * hidden * (features + hidden) operations for a
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

    @property
    def kind(self) -> str:
        return self.nonlinearity

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
        cells = new_cells(
            key,
            input_size,
            hidden_size,
            1,
            num_layers=num_layers,
            bidirectional=bidirectional,
            bias=bias,
            recurrent_init=recurrent_init,
            dtype=dtype,
        )
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
        return cls(cells_from_torch(arrays, "RNN", 1), nonlinearity)
