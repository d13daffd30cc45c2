"""`sequential`: one step after another.

Work T evaluations of f, span T. It also ends what others have begun: from the first step that is
not settled, since the states before it are exact.
"""

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan.nonlinear_method import (
    NonlinearMethod,
    NonlinearOperands,
    NonlinearProblem,
    Solution,
    forgotten,
)


def finished(
    problem: NonlinearProblem, operands: NonlinearOperands, h: jax.Array, first: jax.Array
) -> jax.Array:
    """The trajectory, whose states before step `first` (B,) are those of h, and stand."""
    layout = problem.step.layout
    step = problem.side_by_side(problem.step)

    def at(x, t):
        return lax.dynamic_index_in_dim(x, t, keepdims=False)

    def body(t, carry):
        state, h = carry
        if operands.reset is not None:
            state = forgotten(at(operands.reset, t), state)
        x = jax.tree.map(lambda x: at(x, t), operands.xs)
        state = step(operands.params, state, x)
        state = jnp.where((t < first)[:, None], at(h, t), state)
        return state, lax.dynamic_update_index_in_dim(h, state, t, 0)

    start = jnp.min(first)
    state = jnp.where(start == 0, operands.h0, at(h, jnp.maximum(start - 1, 0)))
    return lax.fori_loop(start, problem.length, body, (layout.rounded(state), h))[1]


def _solve(problem: NonlinearProblem, operands: NonlinearOperands) -> Solution:
    """In the loop states are the arrays that f has, and one problem has no axis: XLA would copy xs
    and every state to make vectors (1, D) of them."""
    layout, step = problem.step.layout, problem.side_by_side(problem.step.of_tree)
    params, state, xs, reset, _ = operands
    if problem.batch == 1:
        step = problem.step.of_tree
        params = tuple(p[0] if m else p for p, m in zip(params, problem.mapped, strict=True))
        state = state[0]
        xs, reset = jax.tree.map(lambda x: x[:, 0], (xs, reset))

    def kept(leaf, reset):
        flags = reset.reshape(reset.shape + (1,) * (leaf.ndim - reset.ndim))
        return jnp.where(flags, jnp.zeros((), leaf.dtype), leaf)

    def body(state, over_time):
        x, reset = over_time
        if reset is not None:
            state = jax.tree.map(lambda leaf: kept(leaf, reset), state)
        state = step(params, state, x)
        return state, state

    h = layout.flat(lax.scan(body, layout.tree(state), (xs, reset))[1]).reshape(problem.shape)
    settled = lax.full_like(h, True, shape=problem.shape[:2], dtype=bool)
    return Solution(h, settled, lax.full_like(h, 0, shape=(problem.batch,), dtype=jnp.int32))


method = NonlinearMethod(
    name="sequential",
    summary="one step after another: least work, span T",
    solve=_solve,
)
