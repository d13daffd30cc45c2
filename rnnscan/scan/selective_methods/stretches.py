"""`stretches`: decay, drive and states of some steps at once, by `linear_scan`.

These arrays are N times as large as x. They are made, scanned and read for a stretch of time that
fits into a cache, and on an accelerator for as long as fills it without filling its memory.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan.linear import linear_scan
from rnnscan.scan.linear_method import LinearCase
from rnnscan.scan.linear_methods import LinearMethodName, linear_table
from rnnscan.scan.selective_method import (
    EVERY,
    SelectiveCase,
    SelectiveMethod,
    SelectiveProblem,
)
from rnnscan.scan.selective_methods import chunks
from rnnscan.scan.selective_methods.chunks import Constants, Steps
from rnnscan.scan.selective_methods.step import coefficients, read, times
from rnnscan.scan.table import Case

# On CPUs an array of a stretch is 2^18 numbers at most, 1 MB of float32, so that all of them stay
# in the cache: measured on two cores for states of 2^6 to 2^14 numbers.
NUMBERS_ON_CPU, NUMBERS_ELSEWHERE = 2**18, 2**24
SHORTEST, LONGEST_ON_CPU = 16, 256  # steps


def stretch(asked: int | None, width: int, platform: str) -> int:
    """How many steps a stretch has at most, for states of `width` numbers: a power of two below
    EVERY, or a multiple of it.

    asked: at most so many, by default as many as suit the platform.

    >>> width = 8 * 64 * 16
    >>> stretch(None, width, "cpu"), stretch(None, width, "cuda"), stretch(100, 1, "cpu")
    (32, 2048, 64)
    """
    if asked is None and platform == "cpu":
        asked = min(max(SHORTEST, NUMBERS_ON_CPU // max(width, 1)), LONGEST_ON_CPU)
    elif asked is None:
        asked = max(SHORTEST, NUMBERS_ELSEWHERE // max(width, 1))
    return asked // EVERY * EVERY if asked >= EVERY else 1 << (asked.bit_length() - 1)


def selective_stretches(
    asked: int | None, steps: int, width: int, platform: str
) -> tuple[int, int]:
    """How many stretches so many steps are, and the steps of each; for arguments see `stretch`.

    >>> selective_stretches(None, 2048, 8 * 64 * 16, "cpu")
    (64, 32)
    """
    length = min(steps, stretch(asked, width, platform))
    return -(-steps // max(length, 1)), length


def _length(problem: SelectiveProblem, steps: int, width: int) -> int:
    """Of a chunk: a stretch, or several that are EVERY steps, or all there are."""
    if not isinstance(steps * width, int):
        return EVERY  # a symbol (`jax.export`)
    most = stretch(problem.stretch, width, problem.platform)
    if steps <= max(most, EVERY):
        return -(-steps // most) * most if most < steps else steps
    return max(most, EVERY)


def _evaluate(
    name: LinearMethodName,
    problem: SelectiveProblem,
    constants: Constants,
    state: jax.Array,
    steps: Steps,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A chunk: one stretch, or several one after another."""
    length, axis = steps.x.shape[-2], steps.x.ndim - 2
    known = isinstance(state.size, int)
    short = stretch(problem.stretch, state.size, problem.platform) if known else length
    one = partial(_stretch, name, problem, constants)
    if short >= length:
        return one(state, steps)

    def cut(x):
        count = length // short
        x = x.reshape((*x.shape[:axis], count, short, *x.shape[axis + 1 :]))
        return jnp.moveaxis(x, axis, 0)

    def body(state, steps):
        last, y, _ = jax.checkpoint(one)(state, steps)
        return last, y

    last, y = lax.scan(body, state, jax.tree.map(cut, steps))
    y = jnp.moveaxis(y, 0, axis)
    return last, lax.collapse(y, axis, axis + 2), state[None]


def _stretch(
    name: LinearMethodName,
    problem: SelectiveProblem,
    constants: Constants,
    state: jax.Array,
    steps: Steps,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    delta = times(problem, steps.delta, constants.bias)
    reset = None if steps.reset is None else steps.reset[..., None, None]
    decay, drive = coefficients(problem, constants.a, steps.x, delta, steps.b, reset)
    h = linear_scan(decay, drive, state, axis=-3, reset=reset, method=name)
    at = jnp.moveaxis(h[..., EVERY - 1 : -1 : EVERY, :, :], -3, 0)  # before every EVERY-th step
    before = jnp.concatenate([state[None], at])
    return h[..., -1, :, :], read(problem, h, steps.c, constants.d, steps.x), before


def by(name: LinearMethodName, summary: str) -> SelectiveMethod:
    """The method whose stretches are scanned by this method of `linear_scan`."""
    label = "stretches" if name == "auto" else name
    options = {"length": _length, "why_not": partial(_why_not, name)}
    return chunks.method(label, summary, partial(_evaluate, name), **options)


def _why_not(name: LinearMethodName, case: SelectiveCase) -> str | None:
    """What that method says of a stretch."""
    if name == "auto":
        return None
    shared: dict[str, Any] = {f.name: getattr(case, f.name) for f in dataclasses.fields(Case)}
    shared["length"] = EVERY
    one = LinearCase(**shared, inner=case.inner, size=1, constant=False)
    return linear_table.named(name).why_not(one)
