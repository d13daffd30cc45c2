"""One step h = f(h, x) of any function, as a program on vectors, with its Jacobian.

What f closes over becomes an operand (`params`), so that it is differentiated, batched and moved
about like any other. A step that works on each place of its arrays alone (`elementwise.py`) has a
Jacobian of N blocks L x L, for N places and L real arrays; any other has one block, N = 1, L = D.
"""

import dataclasses
import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr

from rnnscan.scan.elementwise import is_elementwise
from rnnscan.scan.program import Program, evaluated, opened, operations
from rnnscan.scan.state_layout import StateLayout

Params = tuple[jax.Array, ...]
Inputs = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Step:
    """f, traced.

    Attributes:
      program: from `params`, h's leaves and x's to h's.
      layout: of h.
      parts: L.
    """

    program: Program
    layout: StateLayout
    parts: int

    @property
    def places(self) -> int:
        """N."""
        return self.layout.size // max(1, self.parts)

    def __call__(self, params: Params, h: jax.Array, x: Inputs) -> jax.Array:
        """f of one state (D,) and the leaves of one x."""
        return self.layout.flat(self.of_tree(params, self.layout.tree(h), x))

    def of_tree(self, params: Params, h: Any, x: Inputs) -> Any:
        """f of one state as f has it."""
        new = self.program(*params, *jax.tree.leaves(h), *x)
        return self.layout.structure.unflatten(new)

    @property
    def basis(self) -> jax.Array:
        """L tangents (L, D) that tell the columns of every block apart."""
        return jnp.repeat(jnp.eye(self.parts, dtype=self.layout.wide), self.places, axis=1)

    def blocks(self, columns: jax.Array) -> jax.Array:
        """(..., N, L, L) from what these tangents became, (..., L, D)."""
        parts, places = self.parts, self.places
        columns = columns.reshape((*columns.shape[:-2], parts, parts, places))
        return jnp.moveaxis(columns, (-1, -2, -3), (-3, -2, -1))

    def pushed(self, params: Params, at: tuple[jax.Array, jax.Array], x: Inputs):
        """f at a state h, and what tangents d (K, D) of it become, from (h, d)."""
        h, d = at

        def tangent(d):
            return jax.jvp(lambda h: self(params, h, x), (h,), (d,))

        return jax.vmap(tangent, out_axes=(None, 0))(d)

    def jacobian(self, params: Params, h: jax.Array, x: Inputs) -> jax.Array:
        """df/dh at one state, (N, L, L), from L tangents at once."""
        return self.blocks(self.pushed(params, (h, self.basis), x)[1])

    def diagonal(self, params: Params, h: jax.Array, x: Inputs) -> jax.Array:
        """The diagonal of df/dh, (D,), from L tangents one after another."""
        size = self.layout.size

        def entry(part, found):
            of_part = jnp.arange(size) // self.places == part
            tangent = of_part.astype(h.dtype)
            moved = jax.jvp(lambda h: self(params, h, x), (h,), (tangent,))[1]
            return jnp.where(of_part, moved, found)

        return lax.fori_loop(0, self.parts, entry, jnp.zeros_like(h))


def traced(f: Callable[[Any, Any], Any], h: Any, x: Any) -> tuple[Step, Params]:
    """f as a program for a state and an input of these shapes, and what it closes over."""
    given = []

    def watched(h, x):
        given.extend(map(weakref.ref, jax.tree.leaves((h, x))))
        return f(h, x)

    closed, new = jax.make_jaxpr(watched, return_shape=True)(h, x)
    _require_alike(h, new)
    _require_pure(closed, given)
    params, states, inputs = tuple(closed.consts), jax.tree.leaves(h), jax.tree.leaves(x)
    jaxpr, layout = opened(closed), StateLayout.of(h)
    derivative = _derivative(jaxpr, tuple(map(jax.typeof, params)), states, inputs)
    return Step(Program(jaxpr, derivative), layout, _parts(derivative.jaxpr, layout)), params


def _derivative(jaxpr: Jaxpr, params: Any, states: Any, inputs: Any) -> ClosedJaxpr:
    """Of f, from params, h's leaves, x's, and tangents of h's."""

    def pushed(params, states, inputs, tangents):
        def f(*states):
            return evaluated(jaxpr, *params, *states, *inputs)

        return jax.jvp(f, tuple(states), tuple(tangents))[1]

    derivative = jax.make_jaxpr(pushed)(params, states, inputs, states)
    if "custom_lin" in operations(derivative.jaxpr):  # JAX's mark of a tangent that there is not
        raise TypeError(
            "f: needs a derivative in forward mode, and has a part that is known backwards alone "
            "(jax.custom_vjp); give that part a jax.custom_jvp"
        )
    return derivative


def _parts(derivative: Jaxpr, layout: StateLayout) -> int:
    """L: how many numbers of a state the Jacobian mixes."""
    first = layout.shapes[0] if layout.shapes else ()
    places, count = math.prod(first), len(layout.shapes)
    if places > 1 and set(layout.shapes) == {first}:
        # Operands come as params, h, x, and tangents of h; the last are all that is followed.
        others = len(derivative.invars) - count
        if is_elementwise(derivative, (False,) * others + (True,) * count, first):
            return layout.size // places
    return layout.size


def _require_pure(program: ClosedJaxpr, given: list[weakref.ref]) -> None:
    """f does nothing but return a state: `given` are the tracers that it got."""
    pure = "expected a pure function: it is evaluated at many states, not in the order of time"
    if program.effects:
        names = ", ".join(sorted({type(effect).__name__ for effect in program.effects}))
        raise TypeError(f"f: has side effects or collectives ({names}), {pure}")
    if any(tracer() is not None for tracer in given):
        gc.collect()
        if any(tracer() is not None for tracer in given):
            raise TypeError(
                "f: keeps its arguments, or what it made of them, outside of itself (in a list, an "
                f"attribute or a global), {pure}"
            )


def _require_alike(h: Any, new: Any) -> None:
    """The state after a step has the structure, shapes and dtypes of the one before."""

    def shown(tree):
        return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)

    same = jax.tree.structure(h) == jax.tree.structure(new)
    if not same or jax.tree.leaves(shown(h)) != jax.tree.leaves(shown(new)):
        raise TypeError(
            "f: returned a state that differs from the one it was given, in structure, shape or "
            f"dtype\n  f returned {shown(new)}\n  h0 is      {shown(h)}"
        )
