"""minGRU: a gated recurrent unit whose gate does not read the state.

    z_t = sigmoid(W_z x_t + b_z),    h~_t = g(W_h x_t + b_h)
    h_t = (1 - z_t) * h_{t-1} + z_t * h~_t

with g as in `minimal.py`. What makes a `GRU` sequential is that its gates read h_{t-1}; without
that the recurrence is linear in its state, and its decays are known for all steps at once.

Source: Feng et al., "Were RNNs all we needed?" (2024), arXiv:2410.01201: section 3.1, in the final
form of Appendix B (Algorithms 5 and 6), with a positive candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnscan.layers.minimal import Minimal, new_weights


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class MinGRU(Minimal):
    """h_t = (1 - z_t) * h_{t-1} + z_t * g(W_h x_t + b_h), y_t = h_t, on `linear_scan`.

    Shapes: x (..., time, input_size); y (..., time, hidden_size); state (..., hidden_size). Any
    number of batch axes, none too. float16 and bfloat16 are computed in float32; y and state are
    rounded.

    Cost: 4 * T * B * hidden * input_size operations for the products, all steps at once, and a scan
    over T * B * hidden numbers by `method` (see `linear_scan`). The backward pass keeps the
    products and h: 3 * T * B * hidden numbers.

    Source: Feng et al. (2024), Algorithms 5 and 6. There a first state h0 enters as g(h0); here a
    state is the state, zeros when None.

    >>> import jax, jax.numpy as jnp
    >>> layer = MinGRU.init(jax.random.key(0), input_size=10, hidden_size=20)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape, bool((y[:, -1] == state).all()), bool((y > 0).all())
    ((2, 5, 20), (2, 20), True, True)
    """

    w: jax.Array  # (2 * hidden, features): W_z, W_h
    b: jax.Array | None  # (2 * hidden,); None without biases
    method: str = field(default="auto", metadata={"static": True})

    @property
    def blocks(self) -> int:
        return 2

    def _logit(self, gates: Sequence[jax.Array]) -> jax.Array:
        (z,) = gates
        return z

    @classmethod
    def init(
        cls,
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        method: str = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> "MinGRU":
        """Every weight uniform in (-1/sqrt(input_size), 1/sqrt(input_size)).

        That is a `torch.nn.Linear`, as in the paper's code. The decay is then close to 1/2: a state
        is forgotten in a few steps. A negative bias of z (the first half of b) remembers for
        longer. Raises ValueError for sizes below 1, TypeError for a dtype that is not real
        floating.

        >>> import jax
        >>> layer = MinGRU.init(jax.random.key(0), 3, 8)
        >>> layer.w.shape, layer.b.shape
        ((16, 3), (16,))
        """
        return cls(*new_weights(key, input_size, hidden_size, 2, bias=bias, dtype=dtype), method)
