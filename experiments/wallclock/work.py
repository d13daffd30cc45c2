"""What a layer needs at least, and what a way of evaluating it will need: counted, not measured.

A word is a float32; n is the width of input, units and output; x, y, g (the cotangent of y) and dx
are B * T * n words each. Sizes are read off the layer, whose arrays may be shapes alone
(`jax.eval_shape`).
"""

from __future__ import annotations

import math
from typing import Any

import jax

from experiments.harness import limits
from experiments.harness.limits import Work
from experiments.wallclock.contenders import BOTH, FORWARD, ONE_PASS, STEP_BY_STEP
from rnnscan import (
    GRU,
    LRU,
    LSTM,
    MLP,
    RNN,
    CausalConv1D,
    CausalSelfAttention,
    LinearRNN,
    Mamba,
    MinGRU,
    MinLSTM,
    SelectiveSSM,
)
from rnnscan.layers import selective_ssm

_WORD = 4
# An exponential of an array, read and written, in operations of a product of matrices: estimated
# from attention and state-space layers on two cores, to leave out what would take too long.
_EXPONENTIAL = 400
# The float64 references, on a host: seconds of a step, and of each exponential in it.
_REFERENCE_STEP, _REFERENCE_EXPONENTIAL = 2e-5, 1e-7


def least(layer: Any, direction: str, batch: int, length: int) -> Work:
    """Bytes and operations that no method avoids: the same for all methods of a layer.

    Words of a step and sequence (a state that the backward pass keeps is written and read), and
    operations of a step, forward:

    | layer | words | with backward | operations |
    |---|---|---|---|
    | RNN, LinearRNN | x, y: 2 n | 2 x, y twice, g, dx: 6 n | W_ih x, W_hh h: 4 n^2 |
    | LSTM | 2 n | and c twice: 8 n | four gates of that: 16 n^2 |
    | GRU | 2 n | 6 n | three: 12 n^2 |
    | LRU | 2 n | 2 x, h twice (complex), y, g, dx: 9 n | B x, C h: 8 n^2; the state: 10 n |
    | MinGRU | 2 n | 6 n | gate, candidate: 4 n^2; the state: 3 n |
    | MinLSTM | 2 n | 6 n | two gates, candidate: 6 n^2; the state: 3 n |
    | SelectiveSSM | 2 n | 2 x, y, g, dx: 5 n | S(n) |
    | Mamba | 2 n | 5 n | W_in, W_out: 6 n m; convolution: 2 w m; S(m), m = expand n |
    | CausalSelfAttention | 2 n | 5 n | four maps: 8 n m; each key in sight, q k and p v: 4 m |
    | CausalConv1D | 2 n | 5 n | 2 w n^2 |
    | MLP | x, and W once: n + n^2 / B | 3 x, 3 W: 3 n + 3 n^2 / B | 2 n^2 |

    S(c), of c channels with N numbers each and a step of rank R, is 2 c (R + 2 N) and 2 c R for
    what depends on x, and 7 c N for the state: dt A, its exponential, the drive, decay and sum,
    and two for the read. Nobody has to keep that state, nor the scores of attention: they can be
    made again. m of attention is the width of its heads together; of the keys in sight, the past
    within the window, there are (T + 1) / 2 on average where that is all.

    The backward pass has twice the operations of the forward pass: one product for what flows back,
    one for the weights. Left out: activations, additions and weights, n times fewer operations and
    B * T / n times fewer words.
    """
    n = layer.input_size
    forward, both = 2 * n, 5 * n
    match layer:
        case RNN() | LinearRNN():
            both, flops = 6 * n, 4 * n**2
        case LSTM():
            both, flops = 8 * n, 16 * n**2
        case GRU():
            both, flops = 6 * n, 12 * n**2
        case LRU():
            both, flops = 9 * n, 8 * n**2 + 10 * n
        case MinGRU() | MinLSTM():
            both, flops = 6 * n, 2 * layer.blocks * n**2 + 3 * n
        case SelectiveSSM():
            flops = _state_space(layer)
        case Mamba():
            inner = layer.inner_size
            flops = 6 * n * inner + 2 * layer.conv.width * inner + _state_space(layer.ssm)
        case CausalSelfAttention():
            flops = 4 * layer.hidden_size * (2 * n + _keys_in_sight(layer.context, length))
        case CausalConv1D():
            flops = 2 * layer.width * n**2
        case MLP():
            forward, flops = n + n**2 / batch, 2 * n**2
            both = 3 * forward
        case _:
            raise TypeError(f"layer: got {type(layer).__name__}, expected one of rnnscan")
    words, passes = (both, 3) if direction == BOTH else (forward, 1)
    steps = batch * length
    return Work(_WORD * words * steps, passes * steps * flops)


def _state_space(layer: SelectiveSSM) -> int:
    channels, rank, state = layer.input_size, layer.dt_rank, layer.state_size
    return 2 * channels * (rank + 2 * state) + 2 * channels * rank + 7 * channels * state


def _keys_in_sight(context: int, length: int) -> float:
    """Steps that a step looks at, itself included, on average over a sequence."""
    full = max(0, length - context)  # steps with more past than they may see
    start = length - full
    return (start * (start + 1) / 2 + full * context) / length


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
    ssm = layer.ssm if isinstance(layer, Mamba) else layer
    count, stretch = 1, length
    if isinstance(ssm, SelectiveSSM):
        width = batch * ssm.input_size * ssm.state_size
        count, stretch = selective_ssm._stretches(ssm.stretch, length, width)
    return count * levels(stretch)


def levels(length: int) -> int:
    """Of a tree over so many steps, up and down again."""
    return max(1, 2 * math.ceil(math.log2(length)))


def predicted_seconds(layer: Any, way: str, direction: str, batch: int, length: int) -> float:
    """About how long an evaluation takes on this machine: products, exponentials, steps in turn,
    and the products of a tree of matrices."""
    passes = 3 if direction == BOTH else 1
    rate = limits.flop_rate(1024)
    flops = least(layer, direction, batch, length).flops
    flops += passes * _EXPONENTIAL * _exponentials(layer, batch, length)
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
    if isinstance(layer, (CausalSelfAttention, MLP)):
        direction = BOTH if backward else FORWARD
        return 6 * predicted_seconds(layer, ONE_PASS, direction, batch, length)
    exponentials = _exponentials(layer, batch, length)
    both = _REFERENCE_STEP * length + _REFERENCE_EXPONENTIAL * exponentials
    return both if backward else both / 3


def _exponentials(layer: Any, batch: int, length: int) -> float:
    """Of the state or of scores; gates and activations are few beside the products."""
    match layer:
        case SelectiveSSM():
            return batch * length * layer.input_size * layer.state_size
        case Mamba():
            return batch * length * layer.inner_size * layer.state_size
        case CausalSelfAttention():
            return batch * length * layer.num_heads * min(length, layer.context)
        case _:
            return 0


def composition_flops(layer: Any, way: str, direction: str, length: int) -> float:
    """Operations that a tree over time adds: 2 T products of n x n matrices, once for each pass."""
    if not isinstance(layer, LinearRNN) or way != "associative":
        return 0.0
    return (2 if direction == BOTH else 1) * 2 * length * 2 * layer.hidden_size**3


def predicted_bytes(layer: Any, way: str, direction: str, batch: int, length: int) -> int:
    """What a program will hold at its peak beside its arguments, generously.

    Some arrays of what a step holds: its states, gates or heads. Besides:

    - a tree over dense matrices holds them at every level, T n^2 (1 + 1/2 + 1/4 ...) words, forward
      and backward;
    - a state-space layer, some arrays of the states of a stretch of time, and a state for each
      stretch;
    - attention, the scores of a block of 256 queries;
    - a fully connected net, the gradient of its weights.
    """
    backward = direction == BOTH
    words = (12 if backward else 6) * batch * length * _held(layer)
    if isinstance(layer, LinearRNN) and way == "associative":
        words += (4 if backward else 2.5) * length * layer.hidden_size**2
    ssm = layer.ssm if isinstance(layer, Mamba) else layer
    if isinstance(ssm, SelectiveSSM):
        width = batch * ssm.input_size * ssm.state_size
        count, stretch = selective_ssm._stretches(ssm.stretch, length, width)
        words += (12 if backward else 6) * stretch * width + count * width
    if isinstance(layer, CausalSelfAttention):
        seen = min(length, layer.context + 256)
        words += (6 if backward else 3) * batch * layer.num_heads * min(256, length) * seen
    if isinstance(layer, MLP) and backward:
        words += 2 * sum(leaf.size for leaf in jax.tree.leaves(layer))
    return int(_WORD * words)


def _held(layer: Any) -> int:
    """Numbers that a step holds for one sequence."""
    n = layer.input_size
    match layer:
        case LSTM() | GRU():
            return 3 * n
        case LRU():
            return 2 * n
        case MinGRU() | MinLSTM():
            return layer.blocks * n
        case Mamba():
            return 2 * layer.inner_size
        case CausalSelfAttention():
            return 2 * layer.hidden_size
        case _:
            return n
