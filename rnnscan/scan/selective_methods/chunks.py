"""All three maps of a method that says how it evaluates some steps: chunk after chunk of time.

A chunk is made and read as a whole, and only the state goes on to the next. What is kept is the
state before every `EVERY`-th step; the backward pass takes those before each chunk, makes the chunk
again and goes back through it. The tangent map is JAX's own, of the chunks.

Steps are in scan order here, the last chunk filled up with steps of no time: the decay is exactly
1 and the drive 0.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan.selective_method import (
    EVERY,
    ForwardOperands,
    Inputs,
    Results,
    SelectiveMethod,
    SelectiveProblem,
    TangentOperands,
    TransposeOperands,
    kept_states,
)


class Constants(NamedTuple):
    """What is the same at every step: a (channels, N), d and the bias of delta (channels,), or each
    with a batch axis."""

    a: jax.Array
    d: jax.Array | None
    bias: jax.Array | None


class Steps(NamedTuple):
    """Of a chunk: x, delta (..., steps, channels), b, c (..., steps, N), reset (..., steps)."""

    x: jax.Array
    delta: jax.Array
    b: jax.Array
    c: jax.Array
    reset: jax.Array | None


# From a state to the one after these steps, to y, and to the states before every EVERY-th of them,
# (count, ..., channels, N).
Evaluate = Callable[
    [SelectiveProblem, Constants, jax.Array, Steps], tuple[jax.Array, jax.Array, jax.Array]
]


def method(name: str, summary: str, evaluate: Evaluate, **options: Any) -> SelectiveMethod:
    """The method of a function that evaluates chunks. Options: `length(problem, steps, width)`, how
    long a chunk is, a multiple of EVERY unless it is the only one; what else a method has."""
    length = options.pop("length", _short)
    maps = partial(_forward, evaluate, length), partial(_transpose, evaluate, length)
    forward, transpose = maps
    return SelectiveMethod(
        name=name,
        summary=summary,
        forward=forward,
        tangent=partial(_tangent, forward),
        transpose=transpose,
        **options,
    )


def _short(problem: SelectiveProblem, steps: int, width: int) -> int:
    del problem, width
    return min(steps, EVERY) if isinstance(steps, int) else EVERY  # else a symbol (`jax.export`)


def _forward(evaluate, length, problem: SelectiveProblem, operands: ForwardOperands) -> Results:
    cut = _Cut(length, problem, operands.inputs)
    # Not the states of a chunk are kept by whoever differentiates this, but those between chunks.
    chunk = jax.checkpoint(partial(evaluate, problem), prevent_cse=cut.count == 1)
    constants, h0 = cut.constants(operands.inputs)

    def body(state, steps):
        state, y, before = chunk(constants, state, steps)
        return state, (y, before if problem.keep else None)

    last, (y, before) = lax.scan(body, h0, cut.chunks(operands.inputs, operands.reset))
    kept = None
    if before is not None:  # (chunks, in each, ..., channels, N)
        kept = jnp.moveaxis(lax.collapse(before, 0, 2), 0, h0.ndim - 2)
        kept = lax.slice_in_dim(kept, 0, cut.kept, axis=kept.ndim - 3)
        kept = kept.reshape((cut.batch, cut.kept, *kept.shape[-2:]))
    return Results(cut.whole(y), last.reshape((cut.batch, *last.shape[-2:])), kept)


def _tangent(forward, problem: SelectiveProblem, operands: TangentOperands) -> Results:
    def differentiable(inputs: Inputs) -> Results:
        return forward(problem, ForwardOperands(inputs, operands.reset))._replace(kept=None)

    return jax.jvp(differentiable, (operands.inputs,), (operands.tangents,))[1]


def _transpose(evaluate, length, problem: SelectiveProblem, operands: TransposeOperands) -> Inputs:
    inputs = operands.inputs
    cut = _Cut(length, problem, inputs)
    constants, h0 = cut.constants(inputs)
    first = operands.kept[:, :: max(1, cut.length // EVERY)][:, : cut.count]  # of each chunk
    first = jnp.moveaxis(first.reshape((*h0.shape[:-2], *first.shape[1:])), -3, 0)
    g_last = operands.cotangents.last.reshape(h0.shape)

    def body(carry, chunk):
        d_state, d_constants = carry
        steps, state, g = chunk

        def of_chunk(constants, state, steps):
            return evaluate(problem, constants, state, steps._replace(reset=reset))[:2]

        reset, steps = steps.reset, steps._replace(reset=None)
        _, backward = jax.vjp(of_chunk, constants, state, steps)
        more, d_state, d_steps = backward((d_state, g))
        return (d_state, jax.tree.map(jnp.add, d_constants, more)), d_steps

    given = cut.chunks(inputs, operands.reset), first, cut.divided(operands.cotangents.y)
    start = g_last, jax.tree.map(lambda x: lax.full_like(x, 0), constants)
    (d_h0, shared), steps = lax.scan(body, start, given, reverse=True)
    dx, d_delta, db, dc = map(cut.whole, steps[:4])
    return Inputs(
        x=dx,
        delta=d_delta,
        a=shared.a.reshape(inputs.a.shape),
        b=db[:, :, None, :],
        c=dc[:, :, None, :],
        d=None if inputs.d is None else shared.d.reshape(inputs.d.shape),
        bias=None if inputs.bias is None else shared.bias.reshape(inputs.bias.shape),
        h0=d_h0.reshape(inputs.h0.shape),
    )


class _Cut:
    """How time is cut: from arrays (B, T, ...) to chunks (count, [B,] length, ...) and back.

    A batch axis of size 1 is left out: beside one, XLA's sums on CPUs are ten times slower.
    """

    def __init__(self, length, problem: SelectiveProblem, inputs: Inputs):
        self.batch, self.steps, _ = inputs.x.shape
        width = inputs.h0.size
        self.softplus = problem.softplus
        self.reverse, self.kept = problem.reverse, kept_states(self.steps)
        self.length = max(1, length(problem, self.steps, width))
        self.count = -(-self.steps // self.length)
        self.several = not (isinstance(self.batch, int) and self.batch == 1)

    def divided(self, x: jax.Array, fill: float = 0) -> jax.Array:
        more = self.count * self.length - self.steps
        x = jnp.flip(x, 1) if self.reverse else x
        x = jnp.pad(x, [(0, 0), (0, more), *[(0, 0)] * (x.ndim - 2)], constant_values=fill)
        x = x.reshape((self.batch, self.count, self.length, *x.shape[2:]))
        return jnp.moveaxis(x, 1, 0) if self.several else x[0]

    def whole(self, x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, 1) if self.several else x[None]
        x = x.reshape((self.batch, self.count * self.length, *x.shape[3:]))
        x = lax.slice_in_dim(x, 0, self.steps, axis=1)
        return jnp.flip(x, 1) if self.reverse else x

    def chunks(self, inputs: Inputs, reset: jax.Array | None) -> Steps:
        b, c = inputs.b[:, :, 0, :], inputs.c[:, :, 0, :]
        no_time = -math.inf if self.softplus else 0
        return Steps(
            x=self.divided(inputs.x),
            delta=self.divided(inputs.delta, no_time),
            b=self.divided(b),
            c=self.divided(c),
            reset=None if reset is None else self.divided(reset),
        )

    def constants(self, inputs: Inputs) -> tuple[Constants, jax.Array]:
        def alone(x: jax.Array) -> jax.Array:
            return x[0] if x.shape[0] == 1 else x

        shared = jax.tree.map(alone, Constants(inputs.a, inputs.d, inputs.bias))
        return shared, inputs.h0 if self.several else inputs.h0[0]
