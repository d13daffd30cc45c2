"""The product of a recurrence `h_t = a_t * h_{t-1} + b_t`: elementwise, or a matrix times a vector.

Everything else about a linear recurrence (its derivative, its transpose, its batching, what a reset
does) is the same for both, so the rest of this package is written once, over one of these.
A product knows how many trailing axes it acts on (`state_axes` of h, `decay_axes` of a); all axes
before them are batch and time, line up between operands, and broadcast where they have size 1.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True, eq=False)  # a constant: hashed by identity
class Product:
    """`apply(a, h)`, its transpose, its composition, and its derivative with respect to a.

    Attributes:
      name: for messages.
      state_axes: trailing axes of h that one product acts on.
      decay_axes: the same of a.
      apply: `(a, h) -> a * h`.
      transpose: `a -> a'`, such that `<g, a * h> = <a' * g, h>` without conjugation.
      compose: `(a2, a1) -> a`, such that `a * h = a2 * (a1 * h)`.
      outer: `(g, h, shape) -> da`, the gradient of `<g, a * h>` for an a of this shape, where axes
        of size 1 have been broadcast (and are therefore summed over).
      outer_per_step: whether the gradient of a constant a is best summed step by step (elementwise:
        nothing more is read), or after the last step by one large product (matrix).
    """

    name: str
    state_axes: int
    decay_axes: int
    apply: Callable[[jax.Array, jax.Array], jax.Array]
    transpose: Callable[[jax.Array], jax.Array]
    compose: Callable[[jax.Array, jax.Array], jax.Array]
    outer: Callable[[jax.Array, jax.Array, tuple[int, ...]], jax.Array]
    outer_per_step: bool

    def over_decay(self, flags: jax.Array) -> jax.Array:
        """Flags shaped for a state, reshaped to line up with a decay."""
        extra = self.decay_axes - self.state_axes
        return lax.expand_dims(flags, tuple(range(flags.ndim, flags.ndim + extra)))


def sum_to(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The transpose of broadcasting: sum the axes of x that have size 1 in `shape`."""
    axes = tuple(
        i for i, (n, m) in enumerate(zip(x.shape, shape, strict=True)) if m == 1 and n != 1
    )
    return jnp.sum(x, axis=axes, keepdims=True) if axes else x


elementwise = Product(
    name="elementwise",
    state_axes=0,
    decay_axes=0,
    apply=lambda a, h: a * h,
    transpose=lambda a: a,
    compose=lambda a2, a1: a2 * a1,
    outer=lambda g, h, shape: sum_to(g * h, shape),
    outer_per_step=True,
)


@functools.cache
def matrix(precision: str) -> Product:
    """A (n, n) times h (n,), in this precision."""

    def is_shared(a: jax.Array) -> bool:
        return math.prod(a.shape[:-2]) == 1

    def apply(a: jax.Array, h: jax.Array) -> jax.Array:
        if is_shared(a):  # one matrix for every state: a single large product
            a = a.reshape(a.shape[-2:])
            return lax.dot_general(h, a, (((h.ndim - 1,), (1,)), ((), ())), precision=precision)
        return jnp.matmul(a, h[..., None], precision=precision)[..., 0]

    def outer(g: jax.Array, h: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        g, h = jnp.broadcast_arrays(g, h)
        kept = tuple(i for i, n in enumerate(shape[:-2]) if n != 1)
        summed = tuple(i for i, n in enumerate(shape[:-2]) if n == 1)
        dims = ((summed, summed), (kept, kept))
        return lax.dot_general(g, h, dims, precision=precision).reshape(shape)

    return Product(
        name="matrix",
        state_axes=1,
        decay_axes=2,
        apply=apply,
        transpose=lambda a: jnp.swapaxes(a, -1, -2),
        compose=lambda a2, a1: jnp.matmul(a2, a1, precision=precision),
        outer=outer,
        outer_per_step=False,
    )
