"""A state of any structure as one vector of real numbers, and back.

Leaves lie one after another, a complex leaf as its real and then its imaginary parts. Vectors are
carried in the widest real dtype of all leaves, halves in float32: rounding to what a leaf can hold
is `flat(tree(v))`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnscan.scan.precision import carry_dtype


@dataclasses.dataclass(frozen=True)
class StateLayout:
    """Of a pytree of arrays.

    Attributes:
      structure: of the pytree.
      shapes, dtypes: of its leaves.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]

    @classmethod
    def of(cls, state: Any) -> "StateLayout":
        leaves, structure = jax.tree.flatten(state)
        shapes = tuple(tuple(leaf.shape) for leaf in leaves)
        return cls(structure, shapes, tuple(np.dtype(leaf.dtype) for leaf in leaves))

    @property
    def wide(self) -> np.dtype:
        """What vectors are carried in."""
        real = (carry_dtype(jnp.finfo(dtype).dtype) for dtype in self.dtypes)
        return max(real, key=lambda dtype: dtype.itemsize, default=np.dtype(np.float32))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Real numbers of each leaf."""
        return tuple(
            math.prod(shape) * (2 if jnp.issubdtype(dtype, jnp.complexfloating) else 1)
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        )

    @property
    def size(self) -> int:
        """D, real numbers of a state."""
        return sum(self.sizes)

    @property
    def roundoff(self) -> tuple[float, ...]:
        """The unit roundoff of each leaf."""
        return tuple(float(jnp.finfo(dtype).eps) / 2 for dtype in self.dtypes)

    def flat(self, state: Any) -> jax.Array:
        """(..., D) from leaves (..., *shape)."""
        parts = []
        for leaf, shape in zip(self.structure.flatten_up_to(state), self.shapes, strict=True):
            rows = leaf.reshape((*leaf.shape[: leaf.ndim - len(shape)], math.prod(shape)))
            both = (rows.real, rows.imag) if jnp.iscomplexobj(rows) else (rows,)
            parts += [part.astype(self.wide) for part in both]
        if not parts:
            return jnp.zeros(0, self.wide)
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)

    def tree(self, vector: jax.Array) -> Any:
        """Leaves (..., *shape) from (..., D)."""
        leaves, start, lead = [], 0, vector.shape[:-1]
        for shape, dtype, size in zip(self.shapes, self.dtypes, self.sizes, strict=True):
            part = vector
            if size != self.size:
                part = lax.slice_in_dim(vector, start, start + size, axis=-1)
            start += size
            if jnp.issubdtype(dtype, jnp.complexfloating):
                half = jnp.finfo(dtype).dtype
                part = lax.complex(*(p.astype(half) for p in jnp.split(part, 2, axis=-1)))
            leaves.append(part.reshape((*lead, *shape)).astype(dtype))
        return self.structure.unflatten(leaves)

    def rounded(self, vector: jax.Array) -> jax.Array:
        """What the leaves can hold of it."""
        exact = all(jnp.finfo(dtype).dtype == self.wide for dtype in self.dtypes)
        return vector if exact else self.flat(self.tree(vector))

    def largest(self, vector: jax.Array) -> jax.Array:
        """The largest number of each leaf, in the place of all of its numbers; none is negative."""
        parts, start = [], 0
        for size in self.sizes:
            part = lax.slice_in_dim(vector, start, start + size, axis=-1)
            most = jnp.max(part, axis=-1, keepdims=True, initial=0.0)
            parts.append(jnp.broadcast_to(most, part.shape))
            start += size
        return jnp.concatenate(parts, -1) if parts else vector
