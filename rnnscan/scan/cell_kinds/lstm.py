"""lstm: two states, h and c.

    i, f, o = sigmoid and g = tanh of their parts of z,    in the order i f g o
    c = f * c_- + i * g,    h = o * tanh(c)

Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000, as in `torch.nn`.
"""

import jax
import jax.numpy as jnp

from rnnscan.scan.cell_kinds.cell import Cell


def _step(z, q, state):
    del q
    _, c = state
    i, f, g, o = jax.nn.sigmoid(z[0]), jax.nn.sigmoid(z[1]), jnp.tanh(z[2]), jax.nn.sigmoid(z[3])
    c = f * c + i * g
    return (o * jnp.tanh(c), c), (i, f, g, o)


def _tangent(kept, before, after, dz, dq, dstate):
    del dq
    i, f, g, o = kept
    di, df, dg, do = dz
    (_, c_before), (_, c), (_, dc) = before, after, dstate
    tanh_c = jnp.tanh(c)
    dc = f * dc + f * (1 - f) * c_before * df + i * (1 - i) * g * di + i * (1 - g * g) * dg
    return o * (1 - tanh_c * tanh_c) * dc + o * (1 - o) * tanh_c * do, dc


cell = Cell("lstm", gates=4, states=("h", "c"), kept=4, step=_step, tangent=_tangent)
