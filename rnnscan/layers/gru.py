"""The gated recurrent unit: one state, a gate between keeping it and replacing it.

    r_t, z_t = sigmoid(W x_t + b + U h_{t-1} + b'), each with weights of its own
    n_t = tanh(W_n x_t + b_n + r_t * (U_n h_{t-1} + b'_n))
    h_t = (1 - z_t) * n_t + z_t * h_{t-1}

as `torch.nn.GRU` computes it: the reset gate acts behind the product with U_n, where Cho et al.
have it before, so that all products of a step are one.
"""

from dataclasses import dataclass, field

import jax

from rnnscan.layer_parts.recurrent import Cells, Recurrent
from rnnscan.scan import CellKind, CellMethodName


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class GRU(Recurrent):
    """h_t = (1 - z_t) * n_t + z_t * h_{t-1}, layer upon layer, one or both directions.

    Shapes: x (..., time, input_size); y (..., time, directions * hidden_size), the last layer's
    state at every step; state (num_layers * directions, ..., hidden_size), in torch's order.

    Cost: T steps one after another, 6 * T * B * hidden * (features + hidden) operations for a layer
    and direction, forward and backward 3 times that; the backward pass keeps h, the gates and
    U_n h, 5 * T * B * hidden numbers.
    `method="newton"` and its siblings solve for all steps at once (`with_convergence` says whether
    they did).

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014),
    equations 5 to 8, in the form of `torch.nn.GRU`.

    >>> import jax, jax.numpy as jnp
    >>> layer = GRU.init(jax.random.key(0), input_size=10, hidden_size=20)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape, bool((y[:, -1] == state[0]).all())
    ((2, 5, 20), (1, 2, 20), True)
    """

    gates = 3
    cells: Cells  # of a cell: gates in the order r z n
    method: CellMethodName = field(default="auto", metadata={"static": True})

    @property
    def kind(self) -> CellKind:
        return "gru"
