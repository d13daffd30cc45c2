"""What a layer does by one of its ways, counted, for `rnnscan.scan.cost` to say how long it takes.

A layer is its products over all steps (counted in `harness/kinds.py`), its recurrence (each method
of a linear one states its own counts) and what lies between: arrays written by one operation and
read by the next, and exponentials, which take about as long as a number of a plain loop. These last
are stated here, read off the programs, for each feature of a step and for each number of a state
that is made from x.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
import pydantic

from experiments.harness.experiment import Record
from experiments.harness.figures import line_style
from experiments.harness.kinds import Recurrence, cost, kind_of
from experiments.harness.layer_configs import LayerConfig
from experiments.harness.predictions import Prediction, made
from experiments.wallclock import work
from experiments.wallclock.contenders import BOTH, ONE_PASS, STEP_BY_STEP, make_layer
from rnnscan.scan import LinearCase, LinearTable, linear_table, matrix_table
from rnnscan.scan.cost import Cost

_WORD = 4
_CONFIG = pydantic.TypeAdapter(LayerConfig)
# Programs over all steps, and their launches, that a layer consists of beside its recurrence.
_PROGRAMS = {False: 6, True: 18}
# Of a step by step cell without a kernel: its product and what follows.
_OF_A_STEP = 3


class _Between(NamedTuple):
    """Words moved and exponentials taken, forward and with the backward pass."""

    words: tuple[float, float]
    exponentials: tuple[float, float]


_NOTHING = _Between((0, 0), (0, 0))
# For each feature of a step.
_FEATURE = {
    "RNN": _Between((4, 16), (1, 2)),
    "LSTM": _Between((12, 54), (5, 12)),
    "GRU": _Between((9, 44), (3, 8)),
    "LinearRNN": _Between((2, 6), (0, 0)),
    "LRU": _Between((14, 32), (0, 0)),
    "MinGRU": _Between((6, 24), (2, 5)),
    "MinLSTM": _Between((12, 44), (5, 12)),
    "SelectiveSSM": _Between((8, 36), (2, 6)),
    "Mamba": _Between((38, 136), (6, 16)),
    "CausalSelfAttention": _Between((14, 46), (0, 0)),
    "CausalConv1D": _Between((14, 75), (0, 0)),
    "MLP": _Between((0, 0), (0, 0)),
}
# For each number of a state that is made from x, or each score; in a cache.
_STATE = {
    "SelectiveSSM": _Between((5, 22), (1, 2)),
    "Mamba": _Between((5, 22), (1, 2)),
    "CausalSelfAttention": _Between((8, 40), (5, 24)),
}


def predictions(records: Iterable[Record]) -> list[Prediction]:
    """Of layers, by their names."""
    return made(records, _of_record, lambda record: record["layer"])


def look(record: Record) -> dict[str, Any]:
    return line_style(record["kind"])


def _of_record(record: Record) -> Cost | None:
    point = record["point"]
    layer = _shapes(json.dumps(record["config"]), record["width"], point["length"])
    return counted(layer, record["method"], point["direction"], record["batch"], point["length"])


@functools.cache
def _shapes(config: str, width: int, length: int) -> Any:
    """The layer of a config, its arrays as shapes alone."""
    layer: Any = _CONFIG.validate_json(config)
    return jax.eval_shape(functools.partial(make_layer, layer, length=length, width=width, seed=0))


def counted(layer: Any, way: str, direction: str, batch: int, length: int) -> Cost | None:
    """Nothing where the recurrence goes by a method that states no counts.

    layer: its arrays may be shapes alone. way, direction: of `contenders.py`.
    """
    backward = direction == BOTH
    recurrence = _recurrence(layer, way, backward, batch, length)
    if recurrence is None:
        return None
    each, steps = cost(layer, batch, length), batch * length
    name = kind_of(layer).name
    feature, state = _FEATURE[name], _STATE.get(name, _NOTHING)
    # The recurrence of a dense layer is a product of its own at every step.
    flops = each.flops / (2 if recurrence.flops else 1) * (3 if backward else 1) * steps
    n, made = layer.input_size * steps, each.exponentials * steps
    words = (
        each.words[backward] * steps + n * feature.words[backward] + made * state.words[backward]
    )
    exponentials = n * feature.exponentials[backward] + made * state.exponentials[backward]
    between = Cost(
        launches=_PROGRAMS[backward],
        bytes=_WORD * words,
        fresh=_WORD * words / 3,
        elements=exponentials,
        flops=flops,
    )
    return between + recurrence


def _recurrence(layer: Any, way: str, backward: bool, batch: int, length: int) -> Cost | None:
    kind = kind_of(layer)
    if way == ONE_PASS:
        return Cost()
    if way == STEP_BY_STEP:
        if jax.default_backend() == "cpu":  # a kernel: its products are counted with the others
            return Cost()
        turns = length * (2 if backward else 1)
        return Cost(steps=turns, launches=_OF_A_STEP * turns)
    if kind.recurrence is Recurrence.DENSE:
        return _of_scan(
            matrix_table,
            way,
            backward,
            _case(layer, batch, length, batch * layer.hidden_size, True),
        )
    if kind.recurrence is Recurrence.DIAGONAL:
        return _of_scan(
            linear_table,
            way,
            backward,
            _case(layer, batch, length, batch * layer.hidden_size, True),
        )
    if kind.state_space is None:
        return _of_scan(
            linear_table,
            way,
            backward,
            _case(layer, batch, length, batch * layer.hidden_size, False),
        )
    count, stretch, width = work.stretches_of(layer, batch, length)
    case = _case(layer, batch, stretch, width, False)
    once = _of_scan(linear_table, way, backward, case)
    if once is None or not backward:
        return once and once.times(count)
    again = _of_scan(linear_table, way, False, case)  # states are made again
    return again and (once + again).times(count)


def _case(layer: Any, batch: int, length: int, width: int, constant: bool) -> LinearCase:
    kind, platform = kind_of(layer), jax.default_backend()
    return LinearCase(
        platform="cuda" if platform == "gpu" else platform,
        dtype=np.dtype("complex64" if kind.complex_state else "float32"),
        length=length,
        width=width,
        inner=width // batch,
        size=layer.hidden_size if kind.recurrence is Recurrence.DENSE else 1,
        constant=constant,
    )


def _of_scan(table: LinearTable, way: str, backward: bool, case: LinearCase) -> Cost | None:
    cost_of = table.resolve(way, case).cost
    return cost_of and cost_of(case, backward)
