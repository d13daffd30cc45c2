"""tanh: h = tanh(z), the plain recurrent network (Elman 1990)."""

import jax.numpy as jnp

from rnnscan.scan.cell_kinds.cell import Cell


def _step(z, q, state):
    del q, state
    return (jnp.tanh(z[0]),), ()


def _tangent(kept, before, after, dz, dq, dstate):
    del kept, before, dq, dstate
    (h,) = after
    return ((1 - h * h) * dz[0],)


cell = Cell("tanh", gates=1, step=_step, tangent=_tangent)
