"""What a layer needs at least, and what a way of evaluating it will need: counted, not measured.

A word is a float32. Sizes are read off the layer, whose arrays may be shapes alone
(`jax.eval_shape`).
"""

from __future__ import annotations

import math
from typing import Any

import jax

from experiments.harness import limits
from experiments.harness.kinds import Recurrence, cost, kind_of
from experiments.harness.limits import Work
from experiments.wallclock import stepped
from experiments.wallclock.contenders import BOTH, FORWARD, ONE_PASS, STEP_BY_STEP
from rnnscan.scan import kept_states, selective_stretches

_WORD = 4
# An exponential of an array, read and written, in operations of a product of matrices: estimated
# from attention and state-space layers on two cores, to leave out what would take too long. A
# kernel that keeps states in registers takes less.
_EXPONENTIAL = 400
# The float64 references, on a host: seconds of a step, and of each exponential in it.
_REFERENCE_STEP, _REFERENCE_EXPONENTIAL = 2e-5, 1e-7


def least(layer: Any, direction: str, batch: int, length: int) -> Work:
    """Bytes and operations that no method avoids: the same for all methods of a layer.

    `harness/kinds.py` counts them for a step, and says how.
    """
    each, steps = cost(layer, batch, length), batch * length
    words, passes = (each.words[1], 3) if direction == BOTH else (each.words[0], 1)
    return Work(_WORD * words * steps, passes * steps * each.flops)


def span(layer: Any, way: str, batch: int, length: int) -> int | None:
    """Steps, or levels of a tree, that wait for one another in a forward pass; None for "auto",
    which chooses for itself.

    A tree over T steps has 2 log2 T levels. A state-space layer takes a stretch of time after
    another, as long as fits into a cache, and a tree over each.
    """
    if way == ONE_PASS:
        return 1
    if way == "auto":
        return None
    if way != "associative":
        return length
    count, stretch, _ = stretches_of(layer, batch, length)
    return count * levels(stretch)


def stretches_of(
    layer: Any, batch: int, length: int, platform: str | None = None
) -> tuple[int, int, int]:
    """Stretches of time, steps of each, and numbers of the states at one step: none where a layer
    has no states to be made again."""
    kind = kind_of(layer)
    if kind.state_space is None:
        return 1, length, 0
    ssm = kind.state_space(layer)
    width = batch * ssm.input_size * ssm.state_size
    return *selective_stretches(
        ssm.stretch, length, width, platform or jax.default_backend()
    ), width


def levels(length: int) -> int:
    """Of a tree over so many steps, up and down again."""
    return max(1, 2 * math.ceil(math.log2(length)))


def predicted_seconds(layer: Any, way: str, direction: str, batch: int, length: int) -> float:
    """About how long an evaluation takes on this machine: products, exponentials, steps in turn,
    and the products of a tree of matrices."""
    passes = 3 if direction == BOTH else 1
    rate = limits.flop_rate(1024)
    flops = least(layer, direction, batch, length).flops
    flops += passes * _EXPONENTIAL * batch * length * cost(layer, batch, length).exponentials
    seconds = flops / rate
    if way in (STEP_BY_STEP, "sequential"):
        seconds += passes * length * limits.step_seconds()
    tree = composition_flops(layer, way, direction, length)
    if tree:
        seconds += tree / limits.flop_rate(layer.input_size, count=256)
    return seconds


def reference_seconds(layer: Any, backward: bool, batch: int, length: int) -> float:
    """About how long the float64 reference takes: a loop on the host, or attention on the device,
    where a score was seen to take six times as long as in float32."""
    if stepped.on_device(layer):
        direction = BOTH if backward else FORWARD
        return 6 * predicted_seconds(layer, ONE_PASS, direction, batch, length)
    exponentials = batch * length * cost(layer, batch, length).exponentials
    both = _REFERENCE_STEP * length + _REFERENCE_EXPONENTIAL * exponentials
    return both if backward else both / 3


def composition_flops(layer: Any, way: str, direction: str, length: int) -> float:
    """Operations that a tree over time adds: 2 T products of n x n matrices, once for each pass."""
    if not _composes(layer, way):
        return 0.0
    return (2 if direction == BOTH else 1) * 2 * length * 2 * layer.hidden_size**3


def _composes(layer: Any, way: str) -> bool:
    return kind_of(layer).recurrence is Recurrence.DENSE and way == "associative"


def predicted_bytes(layer: Any, way: str, direction: str, batch: int, length: int) -> int:
    """What a program will hold at its peak beside its arguments, generously.

    Some arrays of what a step holds: its states, gates or heads. Besides:

    - what the layer holds but not for each step: scores of attention, a gradient of large weights;
    - a tree over dense matrices holds them at every level, T n^2 (1 + 1/2 + 1/4 ...) words, forward
      and backward;
    - a state-space layer, some arrays of the states of a stretch of time, and the states that are
      kept. The native kernel holds the latter alone.
    """
    backward, each = direction == BOTH, cost(layer, batch, length)
    arrays = 12 if backward else 6
    words = arrays * batch * length * each.held + each.beside[backward]
    if _composes(layer, way):
        words += (4 if backward else 2.5) * length * layer.hidden_size**2
    count, stretch, width = stretches_of(layer, batch, length)
    words += arrays * stretch * width + max(count, kept_states(length)) * width
    return int(_WORD * words)
