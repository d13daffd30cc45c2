"""What the methods should give, in float64 numpy: the literal closed form, and the loop.

    literal   h_t = W^t h_0 + sum_{k=1..t} W^(t-k) u_k,    u_k = W_ih x_k
    loop      h_t = W h_{t-1} + u_t
    backward  l_t = g_t + W^T l_{t+1},   dW = sum_t l_t h_{t-1}^T,   du = l,   dh_0 = W^T l_1

Nothing here is shared with the library, so that a mistake there shows here.
"""

from __future__ import annotations

import numpy as np

Arrays = dict[str, np.ndarray]


def literal(W: np.ndarray, u: np.ndarray, h0: np.ndarray) -> np.ndarray:
    """All h_t from powers of W: T^2 / 2 products, none of which waits for another h."""
    powers = [np.eye(len(W))]
    for _ in range(len(u)):
        powers.append(powers[-1] @ W)
    return np.stack(
        [
            powers[t] @ h0 + sum(powers[t - k] @ u[k - 1] for k in range(1, t + 1))
            for t in range(1, len(u) + 1)
        ]
    )


def evaluate(W: np.ndarray, u: np.ndarray, h0: np.ndarray, g: np.ndarray | None = None) -> Arrays:
    """h of the loop and, for a cotangent g of h, the gradients of sum(g * h)."""
    W, u, h0 = (np.asarray(x, np.float64) for x in (W, u, h0))
    h = np.empty_like(u)
    state = h0
    for t in range(len(u)):
        state = h[t] = W @ state + u[t]
    if g is None:
        return {"h": h}
    adjoint = np.empty_like(h)
    state = np.zeros_like(h0)
    for t in reversed(range(len(u))):
        adjoint[t] = g[t] + state
        state = W.T @ adjoint[t]
    before = np.concatenate([h0[None], h[:-1]])
    return {"h": h, "W": adjoint.T @ before, "u": adjoint, "h0": state}
