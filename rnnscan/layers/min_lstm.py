"""minLSTM: a long short-term memory whose gates do not read the state, and add up to one.

    f_t = sigmoid(W_f x_t + b_f),    i_t = sigmoid(W_i x_t + b_i),    h~_t = g(W_h x_t + b_h)
    f'_t = f_t / (f_t + i_t),    i'_t = i_t / (f_t + i_t)
    h_t = f'_t * h_{t-1} + i'_t * h~_t

with g as in `rnnscan/layer_parts/minimal.py`. The quotients are sigmoids of the difference of
logarithms, i' = sigmoid(log i - log f) and f' = sigmoid(log f - log i), which stay exact where f
and i are both too small for a number: the quotient itself would be 0 / 0.

Source: Feng et al., "Were RNNs all we needed?" (2024), arXiv:2410.01201: section 3.2, in the final
form of Appendix B (Algorithms 7 and 8), with gates that are normalised and a positive candidate.
"""

from dataclasses import dataclass

import jax

from rnnscan.layer_parts.minimal import Minimal


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class MinLSTM(Minimal):
    """h_t = f'_t * h_{t-1} + i'_t * g(W_h x_t + b_h), f' + i' = 1, y_t = h_t, on `linear_scan`.

    Shapes: x (..., time, input_size); y (..., time, hidden_size); state (..., hidden_size).
    Weights: w stacks W_f, W_i and W_h, b their biases. A positive bias of f, the first third of b,
    remembers for longer; with `signed` a negative one does too, and turns the sign at each step.

    signed: h_t = a_t * h_{t-1} + (1 - |a_t|) * g(W_h x_t + b_h), a_t = f'_t - i'_t in (-1, 1). The
    state can change its sign, as parity needs, so y may be negative; |y| is at most the largest of
    |h0| and g. What was there is forgotten at f_t = i_t alone. Zeros have no sign to change: let a
    sequence begin with a token of its own, or give a state.

    Cost: 6 * T * B * hidden * input_size operations for the products, all steps at once, and a scan
    over T * B * hidden numbers by `method` (see `linear_scan`). The backward pass keeps the
    products and h: 4 * T * B * hidden numbers. `signed` adds no array.

    Source: Feng et al. (2024), Algorithms 7 and 8. There a first state h0 enters as g(h0); here a
    state is the state, zeros when None.

    >>> import jax, jax.numpy as jnp
    >>> layer = MinLSTM.init(jax.random.key(0), input_size=10, hidden_size=20)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape, bool((y[:, -1] == state).all()), bool((y > 0).all())
    ((2, 5, 20), (2, 20), True, True)
    """

    blocks = 3

    def _logit(self, gates: list[jax.Array]) -> jax.Array:
        f, i = gates
        return jax.nn.softplus(-f) - jax.nn.softplus(-i)  # log sigmoid(i) - log sigmoid(f)
