"""The plain recurrent network (Elman): one state, folded forward step by step.

    h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh),    phi = tanh or relu

as `torch.nn.RNN` computes it, with its weights, its shapes (batch first) and its gradients.

Only `W_hh h_{t-1}` waits for the step before it: see `rnnscan/scan/cell_rules.py` for what
is done with all steps at once, ahead of the recurrence and behind it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnscan.layer_parts.arguments import one_of
from rnnscan.layer_parts.recurrent import Cells, Recurrent
from rnnscan.scan import CellKind, CellMethodName

Nonlinearity = Literal["tanh", "relu"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class RNN(Recurrent):
    """h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), layer upon layer, one or both directions.

    Shapes: x (..., time, input_size); y (..., time, directions * hidden_size), the last layer's
    state at every step; state (num_layers * directions, ..., hidden_size), in torch's order
    (layer 0 forward, layer 0 reverse, layer 1 forward, ...). With lengths the reverse direction
    starts at each sequence's own end; `step` of a bidirectional layer raises ValueError.

    Cost: T steps one after another, 2 * T * B * hidden * (features + hidden) operations for a
    layer and direction, forward and backward 3 times that, by `method` (see `cell_scan`); memory
    for the backward pass T * B * hidden. `method="newton"` and its siblings solve for all steps at
    once (`with_convergence` says whether they did).

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

    gates = 1
    cells: Cells
    nonlinearity: Nonlinearity = field(default="tanh", metadata={"static": True})
    method: CellMethodName = field(default="auto", metadata={"static": True})

    def __post_init__(self) -> None:
        one_of(get_args(Nonlinearity), nonlinearity=self.nonlinearity)
        super().__post_init__()

    @property
    def kind(self) -> CellKind:
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
        nonlinearity: Nonlinearity = "tanh",
        recurrent_init: Callable[..., jax.Array] | None = None,
        method: CellMethodName = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """Every weight uniform in (-1/sqrt(hidden_size), 1/sqrt(hidden_size)), as in torch.

        `recurrent_init(key, shape, dtype)`, any of `jax.nn.initializers`, draws W_hh instead.
        Raises ValueError for sizes below 1, an unknown nonlinearity or method.

        >>> import jax
        >>> orthogonal = jax.nn.initializers.orthogonal()
        >>> layer = RNN.init(jax.random.key(0), 3, 8, num_layers=2, recurrent_init=orthogonal)
        >>> sum(p.size for p in jax.tree.leaves(layer)) == 8 * (3 + 8 + 2) + 8 * (8 + 8 + 2)
        True
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
        return replace(layer, nonlinearity=nonlinearity)

    @classmethod
    def from_torch(
        cls,
        arrays: Mapping[str, Any],
        nonlinearity: Nonlinearity = "tanh",
        *,
        method: CellMethodName = "auto",
    ) -> Self:
        """`Recurrent.from_torch`; the nonlinearity is in no weight and must be said.

        >>> import numpy as np
        >>> arrays = {"weight_ih_l0": np.ones((4, 3)), "weight_hh_l0": np.eye(4)}
        >>> layer = RNN.from_torch(arrays, nonlinearity="relu")
        >>> layer.num_layers, layer.nonlinearity, layer.input_size, layer.hidden_size
        (1, 'relu', 3, 4)
        """
        return replace(super().from_torch(arrays, method=method), nonlinearity=nonlinearity)
