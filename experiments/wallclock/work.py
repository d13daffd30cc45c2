"""What a task needs at least, and what a method of doing it will need: counted, not measured.

A word is a float32. x, y, g and dx are B * T * n words each (n = width of input, state and output).
The least traffic: what comes from memory and what must go there, each once for each pass over time,
and for the backward pass the states that it keeps. Activations, additions and weights are left out:
n times fewer operations, B * T / n times fewer words.
"""

from __future__ import annotations

from experiments.harness.limits import Work
from experiments.wallclock.contenders import BOTH

_WORD = 4


def least(layer: str, direction: str, batch: int, length: int, width: int) -> Work:
    """Bytes and operations that no method avoids: the same for all methods of a layer.

    | layer | forward, words | with backward | operations of a step, forward |
    |---|---|---|---|
    | RNN, LinearRNN | x, y | 2 x, y written and read, g, dx | W_ih x, W_hh h: 4 n^2 |
    | LRU | x, y | 2 x, y, h written and read (complex), g, dx | B x, C h: 8 n^2; the state: 10 n |

    The backward pass has twice the operations of the forward pass: one product for what flows back,
    one for the weights.
    """
    steps = batch * length
    forward_words, both_words, flops = 2, 6, 4 * width**2
    if layer == "LRU":
        both_words, flops = 9, 8 * width**2 + 10 * width
    words, passes = (both_words, 3) if direction == BOTH else (forward_words, 1)
    return Work(_WORD * words * steps * width, passes * steps * flops)


def composition_flops(layer: str, method: str, direction: str, length: int, width: int) -> float:
    """Operations that a tree over time adds: 2 T products of n x n matrices, once for each pass."""
    if (layer, method) != ("LinearRNN", "associative"):
        return 0.0
    return (2 if direction == BOTH else 1) * 2 * length * 2 * width**3


def predicted_bytes(
    layer: str, method: str, direction: str, batch: int, length: int, width: int
) -> int:
    """What a program will hold at its peak beside its arguments, generously.

    A tree over dense matrices holds them at every level, T n^2 (1 + 1/2 + 1/4 ...) words, forward
    and backward; every other way some arrays of the size of the states.
    """
    backward = direction == BOTH
    arrays = (12 if backward else 6) * (2 if layer == "LRU" else 1)
    words = arrays * batch * length * width
    if (layer, method) == ("LinearRNN", "associative"):
        words += (4 if backward else 2.5) * length * width**2
    return int(_WORD * words)
