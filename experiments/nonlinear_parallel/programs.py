"""The compiled programs: one for each cell, length, width and method, for every gain and seed."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.nonlinear_parallel.cells import CELLS, Params, State, Task, draw
from rnnscan import nonlinear_scan
from rnnscan.scan.nonlinear_method import Convergence

PLAIN = "lax.scan"  # the loop that everybody writes, to compare with
SEQUENTIAL, NEWTON = "sequential", "newton"
METHODS = (SEQUENTIAL, NEWTON, "quasi_newton", "chunked_newton", "damped_newton")
# Whose bound on the error is looked at: it is one function of a trajectory, whoever found it, and
# takes longer to compile than the methods themselves.
CERTIFIED = (SEQUENTIAL, NEWTON)


@dataclass(frozen=True)
class Program:
    """A compiled function of (params, h0, xs), and what it took.

    temporary_bytes: beside arguments and results; nan where the backend does not say.
    """

    call: Callable[..., Any]
    compile_seconds: float
    temporary_bytes: float


@dataclass(frozen=True)
class Way:
    """One way to evaluate a cell: by which method, in how many iterations at most, and up to which
    residual in units of rounding."""

    method: str
    most: int
    tol: float = 8.0

    def solved(self, name: str, params: Params, h0: State, xs: jax.Array) -> Any:
        """(states, Convergence)."""
        return _solved(name, self.method, self.most, params, h0, xs, tol=self.tol)

    def answered(self, name: str, params: Params, h0: State, xs: jax.Array) -> Any:
        """(states, converged, iterations, residual): what a careful user needs, and no bound."""
        if self.method == PLAIN:
            return _loop(name, params, h0, xs), True, 0, 0.0
        states, found = self.solved(name, params, h0, xs)
        return states, found.converged, found.iterations, found.residual


@functools.cache
def certified(name: str, length: int, width: int, way: Way) -> Program:
    """-> (states, Convergence), with the bound on the error."""
    return _compiled(functools.partial(way.solved, name), shapes(name, length, width))


@functools.cache
def timed(name: str, length: int, width: int, way: Way) -> Program:
    """-> (states, converged, iterations, residual)."""
    return _compiled(functools.partial(way.answered, name), shapes(name, length, width))


@functools.cache
def one_iteration(name: str, length: int, width: int) -> Program:
    """(params, h0, xs, h) -> the trajectory one Newton iteration after h."""

    def function(params: Params, h0: State, xs: jax.Array, h: State) -> State:
        return _solved(name, NEWTON, 1, params, h0, xs, guess=h)[0]

    params, h0, xs = shapes(name, length, width)
    h = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((length, *leaf.shape), leaf.dtype), h0)
    return _compiled(function, (params, h0, xs, h))


@functools.cache
def start(name: str, length: int, width: int) -> Program:
    """-> f(f(0, x_{t-1}), x_t), where Newton's iteration begins."""

    def function(params: Params, h0: State, xs: jax.Array) -> State:
        def swept(h: State) -> State:
            before = jax.tree.map(
                lambda first, all: jnp.concatenate([first[None], all[:-1]]), h0, h
            )
            return jax.vmap(lambda h, x: CELLS[name].step(params, h, x))(before, xs)

        with jax.default_matmul_precision("highest"):
            zeros = jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), h0)
            return swept(swept(zeros))

    return _compiled(function, shapes(name, length, width))


def on_device(task: Task) -> tuple[Any, Any, Any]:
    """The arguments of a program."""
    return jax.block_until_ready(jax.device_put((task.params, task.h0, task.xs)))


def _solved(
    name: str, method: Any, most: int, params: Params, h0: State, xs: jax.Array, **options: Any
) -> tuple[State, Convergence]:
    def f(h: State, x: jax.Array) -> State:
        return CELLS[name].step(params, h, x)

    return nonlinear_scan(f, h0, xs, method=method, max_iterations=most, **options)


def _loop(name: str, params: Params, h0: State, xs: jax.Array) -> State:
    def body(h: State, x: jax.Array) -> tuple[State, State]:
        h = CELLS[name].step(params, h, x)
        return h, h

    with jax.default_matmul_precision("highest"):  # as nonlinear_scan has it
        return lax.scan(body, h0, xs)[1]


def shapes(name: str, length: int, width: int) -> Any:
    """Of the arguments of a program, (params, h0, xs)."""
    task = draw(name, width, 1.0, 1.0, length, 0)
    given = (task.params, task.h0, task.xs)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), given)


def _compiled(function: Callable[..., Any], given: Any) -> Program:
    begun = time.perf_counter()
    call = jax.jit(function).lower(*given).compile()
    seconds = time.perf_counter() - begun
    memory = call.memory_analysis()
    return Program(call, seconds, float(memory.temp_size_in_bytes) if memory else math.nan)
