"""relu: h = max(z, 0); at 0 its slope is 0."""

import jax.numpy as jnp

from rnnscan.scan.cell_kinds.cell import Cell


def _step(z, q, state):
    del q, state
    return (jnp.maximum(z[0], 0),), ()


def _tangent(kept, before, after, dz, dq, dstate):
    del kept, before, dq, dstate
    (h,) = after
    return ((h > 0).astype(h.dtype) * dz[0],)


cell = Cell("relu", gates=1, step=_step, tangent=_tangent)
