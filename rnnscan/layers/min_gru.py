"""minGRU: a gated recurrent unit whose gate does not read the state.

    z_t = sigmoid(W_z x_t + b_z),    h~_t = g(W_h x_t + b_h)
    h_t = (1 - z_t) * h_{t-1} + z_t * h~_t

with g as in `rnnscan/layer_parts/minimal.py`. What makes a `GRU` sequential is that its gates read
h_{t-1}; without that the recurrence is linear in its state, and its decays are known for all steps
at once.

Source: Feng et al., "Were RNNs all we needed?" (2024), arXiv:2410.01201: section 3.1, in the final
form of Appendix B (Algorithms 5 and 6), with a positive candidate.
"""

from dataclasses import dataclass

import jax

from rnnscan.layer_parts.minimal import Minimal


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class MinGRU(Minimal):
    """h_t = (1 - z_t) * h_{t-1} + z_t * g(W_h x_t + b_h), y_t = h_t, on `linear_scan`.

    Shapes: x (..., time, input_size); y (..., time, hidden_size); state (..., hidden_size).
    Weights: w stacks W_z and W_h, b their biases. A negative bias of z, the first half of b,
    remembers for longer; with `signed` a positive one does too, and turns the sign at each step.

    signed: h_t = a_t * h_{t-1} + (1 - |a_t|) * g(W_h x_t + b_h), a_t = 1 - 2 z_t in (-1, 1). The
    state can change its sign, as parity needs, so y may be negative; |y| is at most the largest of
    |h0| and g. What was there is forgotten at z_t = 1/2 alone. Zeros have no sign to change: let a
    sequence begin with a token of its own, or give a state.

    Cost: 4 * T * B * hidden * input_size operations for the products, all steps at once, and a scan
    over T * B * hidden numbers by `method` (see `linear_scan`). The backward pass keeps the
    products and h: 3 * T * B * hidden numbers. `signed` adds no array.

    Source: Feng et al. (2024), Algorithms 5 and 6. There a first state h0 enters as g(h0); here a
    state is the state, zeros when None.

    >>> import jax, jax.numpy as jnp
    >>> layer = MinGRU.init(jax.random.key(0), input_size=10, hidden_size=20)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape, bool((y[:, -1] == state).all()), bool((y > 0).all())
    ((2, 5, 20), (2, 20), True, True)
    """

    blocks = 2

    def _logit(self, gates: list[jax.Array]) -> jax.Array:
        (z,) = gates
        return z
