"""gru: the reset gate acts behind the product of the candidate, which is therefore kept apart.

    r, z = sigmoid of their parts of z,    q = W_n h_- + b_hn,    in the order r z n
    n = tanh(z_n + r * q),    h = (1 - z) * n + z * h_-

Source: Cho et al. 2014, equations 5 to 8, in the form of `torch.nn`.
"""

import jax
import jax.numpy as jnp

from rnnscan.scan.cell_kinds.cell import Cell


def _step(z, q, state):
    (h,) = state
    r, z, n = jax.nn.sigmoid(z[0]), jax.nn.sigmoid(z[1]), z[2]
    n = jnp.tanh(n + r * q)
    return (n + z * (h - n),), (r, z, n, q)


def _tangent(kept, before, after, dz, dq, dstate):
    del after
    r, z, n, q = kept
    dr, dz, dn = dz
    (h_before,), (dh,) = before, dstate
    dr, dz = r * (1 - r) * dr, z * (1 - z) * dz
    dn = (1 - n * n) * (dn + q * dr + r * dq)
    return ((1 - z) * dn + z * dh + (h_before - n) * dz,)


cell = Cell("gru", gates=3, kept=4, apart=True, step=_step, tangent=_tangent)
