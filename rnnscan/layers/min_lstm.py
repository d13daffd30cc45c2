"""minLSTM: a long short-term memory whose gates do not read the state, and add up to one.

    f_t = sigmoid(W_f x_t + b_f),    i_t = sigmoid(W_i x_t + b_i),    h~_t = g(W_h x_t + b_h)
    f'_t = f_t / (f_t + i_t),    i'_t = i_t / (f_t + i_t)
    h_t = f'_t * h_{t-1} + i'_t * h~_t

with g as in `minimal.py`. The quotients are sigmoids of the difference of logarithms,
i' = sigmoid(log i - log f) and f' = sigmoid(log f - log i), which stay exact where f and i are both
too small for a number: the quotient itself would be 0 / 0.

Source: Feng et al., "Were RNNs all we needed?" (2024), arXiv:2410.01201: section 3.2, in the final
form of Appendix B (Algorithms 7 and 8), with gates that are normalised and a positive candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnscan.layers.minimal import Minimal, new_weights


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class MinLSTM(Minimal):
    """h_t = f'_t * h_{t-1} + i'_t * g(W_h x_t + b_h), f' + i' = 1, y_t = h_t, on `linear_scan`.

    Shapes: x (..., time, input_size); y (..., time, hidden_size); state (..., hidden_size). Any
    number of batch axes, none too. float16 and bfloat16 are computed in float32; y and state are
    rounded.

    Cost: 6 * T * B * hidden * input_size operations for the products, all steps at once, and a scan
    over T * B * hidden numbers by `method` (see `linear_scan`). The backward pass keeps the
    products and h: 4 * T * B * hidden numbers.

    Source: Feng et al. (2024), Algorithms 7 and 8. There a first state h0 enters as g(h0); here a
    state is the state, zeros when None.

    >>> import jax, jax.numpy as jnp
    >>> layer = MinLSTM.init(jax.random.key(0), input_size=10, hidden_size=20)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape, bool((y[:, -1] == state).all()), bool((y > 0).all())
    ((2, 5, 20), (2, 20), True, True)
    """

    w: jax.Array  # (3 * hidden, features): W_f, W_i, W_h
    b: jax.Array | None  # (3 * hidden,); None without biases
    method: str = field(default="auto", metadata={"static": True})

    @property
    def blocks(self) -> int:
        return 3

    def _logit(self, gates: Sequence[jax.Array]) -> jax.Array:
        f, i = gates
        # log sigmoid(i) - log sigmoid(f)
        return jax.nn.softplus(-f) - jax.nn.softplus(-i)

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
    ) -> "MinLSTM":
        """Every weight uniform in (-1/sqrt(input_size), 1/sqrt(input_size)).

        That is a `torch.nn.Linear`, as in the paper's code. f' is then close to 1/2: a state is
        forgotten in a few steps. A positive bias of f (the first third of b) remembers for longer.
        Raises ValueError for sizes below 1, TypeError for a dtype that is not real floating.

        >>> import jax
        >>> layer = MinLSTM.init(jax.random.key(0), 3, 8)
        >>> layer.w.shape, layer.b.shape
        ((24, 3), (24,))
        """
        return cls(*new_weights(key, input_size, hidden_size, 3, bias=bias, dtype=dtype), method)
