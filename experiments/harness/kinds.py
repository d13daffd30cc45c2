"""Every layer of rnnscan, and what experiments know of it: its groups, its look, its least work.

Each is stated once, in the table `KINDS`; `layer_configs.py` says how a config makes one. The least
work of a layer is counted, not measured, and no method avoids it. A word is a float32; n is the
width of input, units and output; x, y, g (the cotangent of y) and dx are n words a step each. Words
of a step and sequence (a state that the backward pass keeps is written and read), and operations of
a step, forward:

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

S(c), of c channels with N numbers each and a step of rank R, is 2 c (R + 2 N) and 2 c R for what
depends on x, and 7 c N for the state: dt A, its exponential, the drive, decay and sum, and two for
the read. Nobody has to keep that state, nor the scores of attention: they can be made again. m of
attention is the width of its heads together; of the keys in sight, the past within the window,
there are (T + 1) / 2 on average where that is all.

The backward pass has twice the operations of the forward pass: one product for what flows back, one
for the weights. Left out: activations, additions and weights, n times fewer operations and
B * T / n times fewer words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import jax

from experiments.harness.colours import (
    BLACK,
    BLUE,
    BROWN,
    GREEN,
    GREY,
    LIGHT,
    NAVY,
    ORANGE,
    PINK,
    PURPLE,
    RED,
    SKY,
)
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


class Recurrence(Enum):
    """How a state depends on the one before it; panels of a figure have this order and titles."""

    TANH = "tanh RNN"
    DENSE = "Linear RNN"
    DIAGONAL = "Linear, diagonal: LRU"
    READS_STATE = "Gates that read the state"
    READS_INPUT = "Gates that read the input alone"
    NONE = "No recurrent state"


class Cost(NamedTuple):
    """Of a step of one sequence: counts of numbers and of operations.

    words: the least that come from and go to memory, forward and with the backward pass. flops: the
    least operations of a forward pass. held: numbers that a program holds of a step, its states,
    gates or heads. exponentials: of the state or of scores; those of gates and activations are few
    beside the products. beside: numbers that a program holds besides, forward and with the backward
    pass.
    """

    words: tuple[float, float]
    flops: float
    held: int
    exponentials: int = 0
    beside: tuple[float, float] = (0, 0)


CostOf = Callable[[Any, int, int], Cost]  # of (layer, batch, length)


@dataclass(frozen=True)
class Kind:
    """A layer, by the name of its class.

    cost: of a layer, whose arrays may be shapes alone (`jax.eval_shape`). state_space: the layer in
    it that makes states of N numbers a channel, a stretch of time after another.
    as_wide_as_input: it has no `hidden` of its own. one_output: for a whole sequence, of the length
    that it is made for.
    """

    layer: type
    recurrence: Recurrence
    color: str
    marker: str
    cost: CostOf
    state_space: Callable[[Any], SelectiveSSM] | None = None
    as_wide_as_input: bool = False
    complex_state: bool = False
    one_output: bool = False

    @property
    def name(self) -> str:
        return self.layer.__name__

    @property
    def recurrent(self) -> bool:
        """What its state carries on is all it knows of the past."""
        return self.recurrence is not Recurrence.NONE

    @property
    def linear(self) -> bool:
        """Linear in its state, and so evaluated by a scan, with a choice of methods."""
        linear = (Recurrence.DENSE, Recurrence.DIAGONAL, Recurrence.READS_INPUT)
        return self.recurrence in linear


def _cell(gates: int, *, both: int, held: int) -> CostOf:
    def cost(layer: Any, batch: int, length: int) -> Cost:
        n = layer.input_size
        return Cost((2 * n, both * n), gates * 4 * n**2, held * n)

    return cost


def _lru(layer: LRU, batch: int, length: int) -> Cost:
    n = layer.input_size
    return Cost((2 * n, 9 * n), 8 * n**2 + 10 * n, 2 * n)


def _minimal(layer: MinGRU | MinLSTM, batch: int, length: int) -> Cost:
    n = layer.input_size
    return Cost((2 * n, 6 * n), 2 * layer.blocks * n**2 + 3 * n, layer.blocks * n)


def _selective(layer: SelectiveSSM, batch: int, length: int) -> Cost:
    n = layer.input_size
    return Cost((2 * n, 5 * n), _selection(layer), n, n * layer.state_size)


def _mamba(layer: Mamba, batch: int, length: int) -> Cost:
    n, inner = layer.input_size, layer.inner_size
    flops = 6 * n * inner + 2 * layer.conv.width * inner + _selection(layer.ssm)
    return Cost((2 * n, 5 * n), flops, 2 * inner, inner * layer.state_size)


def _selection(layer: SelectiveSSM) -> int:
    channels, rank, state = layer.input_size, layer.dt_rank, layer.state_size
    return 2 * channels * (rank + 2 * state) + 2 * channels * rank + 7 * channels * state


def _attention(layer: CausalSelfAttention, batch: int, length: int) -> Cost:
    """It holds the scores of a block of 256 queries besides."""
    n, heads = layer.input_size, layer.num_heads
    flops = 4 * layer.hidden_size * (2 * n + _keys_in_sight(layer.context, length))
    scores = batch * heads * min(256, length) * min(length, layer.context + 256)
    return Cost(
        (2 * n, 5 * n),
        flops,
        2 * layer.hidden_size,
        heads * min(length, layer.context),
        (3 * scores, 6 * scores),
    )


def _keys_in_sight(context: int, length: int) -> float:
    """Steps that a step looks at, itself included, on average over a sequence."""
    full = max(0, length - context)  # steps with more past than they may see
    start = length - full
    return (start * (start + 1) / 2 + full * context) / length


def _convolution(layer: CausalConv1D, batch: int, length: int) -> Cost:
    n = layer.input_size
    return Cost((2 * n, 5 * n), 2 * layer.width * n**2, n)


def _fully_connected(layer: MLP, batch: int, length: int) -> Cost:
    """It holds the gradient of its weights besides."""
    n = layer.input_size
    words, weights = n + n**2 / batch, sum(leaf.size for leaf in jax.tree.leaves(layer))
    return Cost((words, 3 * words), 2 * n**2, n, beside=(0, 2 * weights))


_KINDS = (
    Kind(RNN, Recurrence.TANH, BLUE, "o", _cell(1, both=6, held=1)),
    Kind(LSTM, Recurrence.READS_STATE, SKY, "D", _cell(4, both=8, held=3)),
    Kind(GRU, Recurrence.READS_STATE, NAVY, "v", _cell(3, both=6, held=3)),
    Kind(LinearRNN, Recurrence.DENSE, RED, "s", _cell(1, both=6, held=1)),
    Kind(LRU, Recurrence.DIAGONAL, GREEN, "^", _lru, complex_state=True),
    Kind(MinGRU, Recurrence.READS_INPUT, ORANGE, "P", _minimal),
    Kind(MinLSTM, Recurrence.READS_INPUT, BROWN, "p", _minimal),
    Kind(
        *(SelectiveSSM, Recurrence.READS_INPUT, PINK, "h", _selective),
        state_space=lambda layer: layer,
        as_wide_as_input=True,
    ),
    Kind(
        *(Mamba, Recurrence.READS_INPUT, PURPLE, "*", _mamba),
        state_space=lambda layer: layer.ssm,
        as_wide_as_input=True,
    ),
    Kind(CausalSelfAttention, Recurrence.NONE, BLACK, "X", _attention),
    Kind(CausalConv1D, Recurrence.NONE, GREY, "<", _convolution),
    Kind(MLP, Recurrence.NONE, LIGHT, ">", _fully_connected, one_output=True),
)
# By name, in the order in which tables and legends have them; and the names of each group.
KINDS = {kind.name: kind for kind in _KINDS}
RECURRENT = tuple(kind.name for kind in _KINDS if kind.recurrent)
LINEAR = tuple(kind.name for kind in _KINDS if kind.linear)
STATE_SPACE = tuple(kind.name for kind in _KINDS if kind.state_space)
AS_WIDE_AS_INPUT = tuple(kind.name for kind in _KINDS if kind.as_wide_as_input)
ONE_OUTPUT = tuple(kind.name for kind in _KINDS if kind.one_output)


def kind_of(layer: Any) -> Kind:
    """
    >>> import jax
    >>> kind_of(LRU.init(jax.random.key(0), 2, 3)).linear
    True
    """
    name = type(layer).__name__
    if name not in KINDS:
        raise TypeError(f"layer: got {name}, expected one of rnnscan")
    return KINDS[name]


def cost(layer: Any, batch: int, length: int) -> Cost:
    """Of a step of one sequence of so many, so long."""
    return kind_of(layer).cost(layer, batch, length)
