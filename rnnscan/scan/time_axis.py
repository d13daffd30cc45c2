"""Small moves along the time axis, in scan order, that every method and every rule needs."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class TimeAxis:
    """Where time is, how long it is, and which way the scan runs over it.

    Steps are numbered in scan order: with `reverse`, step 0 is the last position. An operand with
    size 1 on the axis is constant in time.
    """

    axis: int
    length: int
    reverse: bool

    @property
    def backwards(self) -> "TimeAxis":
        return dataclasses.replace(self, reverse=not self.reverse)

    def _position(self, t):
        return self.length - 1 - t if self.reverse else t

    def at(self, x: jax.Array, t) -> jax.Array:
        """Step t of x, the axis kept with size 1."""
        return x if x.shape[self.axis] == 1 else self.slice(x, t)

    def slice(self, x: jax.Array, t) -> jax.Array:
        return lax.dynamic_slice_in_dim(x, self._position(t), 1, self.axis)

    def put(self, out: jax.Array, x: jax.Array, t) -> jax.Array:
        """`out` with step t replaced by x, in place where the compiler can."""
        x = x.astype(out.dtype)
        return lax.dynamic_update_slice_in_dim(out, x, self._position(t), self.axis)

    def one(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one step."""
        return (*shape[: self.axis], 1, *shape[self.axis + 1 :])

    def before(self, x: jax.Array, first: jax.Array) -> jax.Array:
        """What stood one step earlier: `first`, then all of x but its last step."""
        first = jnp.broadcast_to(first.astype(x.dtype), self.one(x.shape))
        if self.reverse:
            return lax.concatenate([lax.slice_in_dim(x, 1, None, axis=self.axis), first], self.axis)
        return lax.concatenate([first, lax.slice_in_dim(x, 0, -1, axis=self.axis)], self.axis)


def where(flags: jax.Array | None, x: jax.Array, y: jax.Array) -> jax.Array:
    """x where flagged, else y, broadcast; y itself without flags."""
    if flags is None:
        return y
    shape = jnp.broadcast_shapes(flags.shape, x.shape, y.shape)
    return lax.select(*(jnp.broadcast_to(operand, shape) for operand in (flags, x, y)))


def keep(reset: jax.Array | None, x: jax.Array) -> jax.Array:
    """x where there is no reset, else zero: a product with 0 would let inf and nan through."""
    return x if reset is None else where(reset, lax.full_like(x, 0), x)
