"""The gated recurrent unit: one state, a gate between keeping it and replacing it.

    r_t, z_t = sigmoid(W x_t + b + U h_{t-1} + b'), each with weights of its own
    n_t = tanh(W_n x_t + b_n + r_t * (U_n h_{t-1} + b'_n))
    h_t = (1 - z_t) * n_t + z_t * h_{t-1}

as `torch.nn.GRU` computes it: the reset gate acts behind the product with U_n, where Cho et al.
have it before, so that all products of a step are one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnscan.layers.cells import Cell, cells_from_torch
from rnnscan.layers.recurrent import Recurrent, new_cells


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class GRU(Recurrent):
    """h_t = (1 - z_t) * n_t + z_t * h_{t-1}, layer upon layer, one or both directions.

    Shapes: x (..., time, input_size); y (..., time, directions * hidden_size), the last layer's
    state at every step; state (num_layers * directions, ..., hidden_size), in torch's order. Any
    number of batch axes, none too.

    Cost: T steps one after another, 6 * T * B * hidden * (features + hidden) operations for a layer
    and direction, forward and backward 3 times that; the backward pass keeps h, the gates and
    U_n h, 5 * T * B * hidden numbers. float16 and bfloat16 are computed in float32; y and state are
    rounded.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014),
    equations 5 to 8, in the form of `torch.nn.GRU`.

    >>> import jax, jax.numpy as jnp
    >>> layer = GRU.init(jax.random.key(0), input_size=10, hidden_size=20)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape, bool((y[:, -1] == state[0]).all())
    ((2, 5, 20), (1, 2, 20), True)
    """

    cells: tuple[tuple[Cell, ...], ...]  # cells[layer][direction], gates in the order r z n

    @property
    def kind(self) -> str:
        return "gru"

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
        dtype: DTypeLike = jnp.float32,
    ) -> "GRU":
        """Every weight uniform in (-1/sqrt(hidden_size), 1/sqrt(hidden_size)), as in torch.

        `recurrent_init(key, shape, dtype)`, any of `jax.nn.initializers`, draws the square matrix
        of each gate instead. Raises ValueError for sizes below 1.

        >>> import jax
        >>> layer = GRU.init(jax.random.key(0), 3, 8, num_layers=2)
        >>> sum(p.size for p in jax.tree.leaves(layer)) == 3 * 8 * (3 + 8 + 2 + 8 + 8 + 2)
        True
        """
        cells = new_cells(
            key,
            input_size,
            hidden_size,
            3,
            num_layers=num_layers,
            bidirectional=bidirectional,
            bias=bias,
            recurrent_init=recurrent_init,
            dtype=dtype,
        )
        return cls(cells)

    @classmethod
    def from_torch(cls, arrays: Mapping[str, Any]) -> "GRU":
        """The layer with the weights of a `torch.nn.GRU`: its state_dict, as arrays.

        num_layers, bidirectional and bias are read off the names. The arrays are copied and keep
        their dtype. Raises ValueError that lists every missing, unexpected or misshapen key.

        >>> import numpy as np
        >>> arrays = {"weight_ih_l0": np.ones((12, 3)), "weight_hh_l0": np.ones((12, 4))}
        >>> layer = GRU.from_torch(arrays)
        >>> layer.num_layers, layer.bidirectional, layer.input_size, layer.hidden_size
        (1, False, 3, 4)
        """
        return cls(cells_from_torch(arrays, "GRU", 3))
