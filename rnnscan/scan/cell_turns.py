"""The three maps of a cell where time is split over devices: one device after another.

    forward, tangent   the state enters at the first device and leaves at the last
    transpose          cotangents of the state go back, from the last device to the first

A step waits for the one before it, so devices take turns: in turn k the k-th one computes its
chunk, and its last state moves on to the next. Only that state is ever sent. A turn is a branch
without a collective inside, so that no device waits for one that has nothing to do; the loop holds
the results of one chunk, whatever the number of devices.

Plain functions of JAX, differentiable where the program of a chunk is; then a loop over turns keeps
the residuals of every turn, which is why `cell_rules.py` has rules of its own above it.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan import arguments, split_time
from rnnscan.scan.cell_kinds.cell import States
from rnnscan.scan.cell_method import (
    CellProblem,
    Drives,
    Evolution,
    Forward,
    ForwardOperands,
    Tangent,
    TangentOperands,
    Trajectory,
    Transpose,
    TransposeOperands,
)

Over = tuple[str, ...]
Results = TypeVar("Results")


def forward(
    program: Forward, over: Over, like: Trajectory, problem: CellProblem, operands: ForwardOperands
) -> Trajectory:
    """`operands.state` is that before the whole sequence, `last` that after this chunk."""

    def chunk(received: States) -> Trajectory:
        first = _entering(over, problem.reverse, operands.state, received)
        found = program(problem, operands._replace(state=first))
        return found._replace(found=None, first=first if problem.keep else None)

    return _in_turns(chunk, lambda found: found.last, over, problem.reverse, operands.x, like)


def tangent(
    program: Tangent, over: Over, like: Evolution, problem: CellProblem, operands: TangentOperands
) -> Evolution:
    """As `forward`, of `operands.drives.state`."""
    drives = operands.drives

    def chunk(received: States) -> Evolution:
        first = _entering(over, problem.reverse, drives.state, received)
        return program(problem, operands._replace(drives=drives._replace(state=first)))

    return _in_turns(chunk, lambda found: found.last, over, problem.reverse, drives.u, like)


def transpose(
    program: Transpose, over: Over, like: Drives, problem: CellProblem, operands: TransposeOperands
) -> Drives:
    """Of `tangent`, as a map on all devices together: a state's cotangent is at the first alone."""
    own = operands.cotangents

    def chunk(received: States) -> Drives:
        last = jax.tree.map(jnp.add, own.last, received)
        return program(problem, operands._replace(cotangents=own._replace(last=last)))

    drives = _in_turns(chunk, lambda found: found.state, over, not problem.reverse, own.h, like)
    zeros = jax.tree.map(jnp.zeros_like, drives.state)
    return drives._replace(state=_entering(over, problem.reverse, drives.state, zeros))


def _entering(over: Over, reverse: bool, first: States, received: States) -> States:
    """The state before this device's chunk: the first one, or what the device before passed on."""
    turn, _ = _turn(over, reverse)
    return tuple(jnp.where(turn == 0, f, r) for f, r in zip(first, received, strict=True))


def _turn(over: Over, reverse: bool) -> tuple[jax.Array, int]:
    """Which turn is this device's, and of how many."""
    index, count = split_time.index_and_size(over)
    return (count - 1 - index if reverse else index), count


def _in_turns(
    chunk: Callable[[States], Results],
    leaving: Callable[[Results], States],
    over: Over,
    reverse: bool,
    like: jax.Array,
    shapes: Results,
) -> Results:
    """`chunk(received)` on one device after another; `leaving` of its results is passed on.

    The first receives zeros. What a device that had its turn passes on again changes nothing.
    """
    turn, count = _turn(over, reverse)
    # Zeros of a type that varies over the mesh as all operands do.
    nothing = jax.tree.map(lambda x: lax.full_like(like, 0, shape=x.shape, dtype=x.dtype), shapes)

    def mine(received):
        leaves, structure = jax.tree.flatten(chunk(received))
        *leaves, _ = arguments.vary_alike(*leaves, like)  # a kernel's results have no such type
        return structure.unflatten(leaves)

    def body(k, results):
        state = jnp.concatenate(leaving(results), -1)  # one message
        passed_on = split_time.before(state, jnp.zeros((), state.dtype), over, reverse=reverse)
        received = tuple(jnp.split(passed_on, len(leaving(shapes)), axis=-1))
        return lax.cond(turn == k, lambda: mine(received), lambda: results)

    return lax.fori_loop(0, count, body, nothing)
