"""Every kind of layer, and all that experiments know of it: a row in the table `KINDS`.

`layer_options.py` has the classes of their options, and `layer_configs.py` makes of all rows what a
config takes. The least work of a layer is counted, not measured, and no method avoids it. A word is
a float32; n is the width of input, units and output; x, y, g (the cotangent of y) and dx are n
words a step each. Words of a step and sequence (a state that the backward pass keeps is written and
read), and operations of a step, forward:

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

from collections.abc import Callable, Iterable
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
    INDIGO,
    OLIVE,
    ORANGE,
    PINK,
    PURPLE,
    RED,
    SKY,
)
from experiments.harness.layer_options import (
    Attention,
    Convolution,
    Dense,
    Diagonal,
    FullyConnected,
    Minimal,
    Options,
    StateSpace,
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
    DIAGONAL = "Linear, diagonal"
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


class Between(NamedTuple):
    """What lies between products and recurrence: words moved, numbers taken singly and operations,
    forward and with the backward pass. It depends on what XLA fuses."""

    words: tuple[float, float]
    numbers: tuple[float, float] = (0, 0)
    operations: tuple[float, float] = (0, 0)


NOTHING = Between((0, 0))


@dataclass(frozen=True)
class Kind:
    """A layer, by the name of its class.

    options: what a config may say of it. cost: of a layer, whose arrays may be shapes alone
    (`jax.eval_shape`). state_space: the layer in it that makes states of N numbers a channel, a
    stretch of time after another. as_wide_as_input: it has no `hidden` of its own. one_output: for
    a whole sequence, of the length that it is made for. attends: to each step of a window, of
    `context` steps by its options; its state holds them, and its newest input is its query too.

    between, of a feature of a step, and between_states, of a number of a state that is made from x
    or of a score, are measured: set once, to what two cores showed (results/). None: not yet.
    """

    layer: Any
    options: type[Options]
    recurrence: Recurrence
    color: str
    marker: str
    cost: CostOf
    between: Between | None = None
    between_states: Between = NOTHING
    state_space: Callable[[Any], SelectiveSSM] | None = None
    as_wide_as_input: bool = False
    complex_state: bool = False
    one_output: bool = False
    attends: bool = False

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


class Need(NamedTuple):
    """What an experiment asks of a kind, and in words what a kind without it is and lacks."""

    met: Callable[[Kind], bool]
    without: str
    wanted: str


EACH_STEP = Need(
    lambda kind: not kind.one_output, "has one output for a whole sequence", "one at each step"
)
STATE = Need(
    lambda kind: kind.recurrent, "has no recurrent state", "one that carries all of the past"
)
OWN_WIDTH = Need(
    lambda kind: not kind.as_wide_as_input, "is as wide as its input", "one of any width"
)


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


class _Kinds(dict[str, Kind]):
    def __missing__(self, name: str) -> Kind:
        raise LookupError(_unknown(name))


def _unknown(name: str) -> str:
    return f"no such kind of layer as {name!r}; should be one of {', '.join(KINDS)}"


# By name, in the order in which tables and legends have them.
KINDS = _Kinds()


def add(*kinds: Kind) -> None:
    """Rows of the table; `layer_configs.py` takes those that are there when it is imported."""
    KINDS.update({kind.name: kind for kind in kinds})


# With a kernel for cells no array lies between.
add(
    Kind(
        *(RNN, Dense, Recurrence.TANH, BLUE, "o", _cell(1, both=6, held=1)),
        Between((0, 4), (0, 0), (14, 46)),
    ),
    Kind(
        *(LSTM, Dense, Recurrence.READS_STATE, SKY, "D", _cell(4, both=8, held=3)),
        Between((0, 3), (0, 4.5), (11, 31)),
    ),
    Kind(
        *(GRU, Dense, Recurrence.READS_STATE, INDIGO, "v", _cell(3, both=6, held=3)),
        Between((0, 2), (0, 3.3), (6, 28)),
    ),
    Kind(
        *(LinearRNN, Dense, Recurrence.DENSE, RED, "s", _cell(1, both=6, held=1)),
        Between((34, 20), (0, 2.5), (0, 12)),
    ),
    Kind(
        *(LRU, Diagonal, Recurrence.DIAGONAL, GREEN, "^", _lru),
        Between((20, 25), (0, 2.5), (2, 29)),
        complex_state=True,
    ),
    Kind(
        *(MinGRU, Minimal, Recurrence.READS_INPUT, ORANGE, "P", _minimal),
        Between((21, 24), (0, 4.6), (0, 16)),
    ),
    Kind(
        *(MinLSTM, Minimal, Recurrence.READS_INPUT, BROWN, "p", _minimal),
        Between((38, 31), (0, 9.7), (4, 11)),
    ),
    Kind(
        *(SelectiveSSM, StateSpace, Recurrence.READS_INPUT, PINK, "h", _selective),
        Between((23, 0), (0, 0.9), (37, 140)),
        Between((3.1, 0), (0, 1.15)),
        state_space=lambda layer: layer,
        as_wide_as_input=True,
    ),
    Kind(
        *(Mamba, StateSpace, Recurrence.READS_INPUT, PURPLE, "*", _mamba),
        Between((2, 0), (0, 1), (32, 109)),
        Between((6.5, 0), (0, 1.8)),
        state_space=lambda layer: layer.ssm,
        as_wide_as_input=True,
    ),
    Kind(
        *(CausalSelfAttention, Attention, Recurrence.NONE, BLACK, "X", _attention),
        Between((1, 2), (22, 13), (14, 17)),
        Between((0.5, 2.4), (1.8, 6.2)),
        attends=True,
    ),
    Kind(
        *(CausalConv1D, Convolution, Recurrence.NONE, GREY, "<", _convolution),
        Between((5, 44), (0, 0), (3, 8)),
    ),
    Kind(
        *(MLP, FullyConnected, Recurrence.NONE, OLIVE, ">", _fully_connected),
        Between((17, 27), (0, 0), (0, 4)),
        one_output=True,
    ),
)


def check_kinds(experiment: str, where: str, kinds: Iterable[str], *needs: Need) -> None:
    """Raises where an experiment cannot have a kind, for a validator of its config.

    >>> check_kinds("recall", "layers[{}].kind", ["LRU", "MLP"], EACH_STEP)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: layers[1].kind = "MLP": has one output for a whole sequence; recall ...
    """
    faults = []
    for index, name in enumerate(kinds):
        place = f'{where.format(index)} = "{name}"'
        if name not in KINDS:
            faults.append(f"{place}: {_unknown(name)}")
            continue
        faults += [
            f"{place}: {need.without}; {experiment} needs {need.wanted}"
            for need in needs
            if not need.met(KINDS[name])
        ]
    if faults:
        raise ValueError("; ".join(faults))


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
