"""What a layer does by one of its ways, counted, for `rnnscan.scan.cost` to say how long it takes.

A layer is its products over all steps (counted in `harness/kinds.py`), its recurrence (each method
of a linear one states its own counts) and what lies between: arrays written by one operation and
read by the next, and numbers taken singly, exponentials most of all. These last stand in the table
of kinds, measured on two cores; on another machine they are what is put to the test. Of a kind that
was never measured they are guessed from what it holds: its prediction is shown as a guess, and no
verdict rests on it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pydantic

from experiments.harness.experiment import Record
from experiments.harness.figures import line_style
from experiments.harness.kinds import KINDS, Between, Kind, Recurrence, cost, kind_of
from experiments.harness.layer_configs import LayerConfig
from experiments.harness.predictions import Prediction, made
from experiments.wallclock import work
from experiments.wallclock.contenders import BOTH, STEP_BY_STEP, make_layer
from rnnscan.scan import LinearCase, LinearTable, linear_table, matrix_table
from rnnscan.scan.cost import Cost

_WORD = 4
_CONFIG = pydantic.TypeAdapter(LayerConfig)
# On CPUs threads share an operation over all steps, which takes as long to hand out as so many
# launches of small ones.
_SHARED = 50
# Of a step by step cell without a kernel: its product and what follows.
_OF_A_STEP = 3
# Of a state-space layer by the native kernel, whose states are in registers: how many numbers of a
# plain loop take as long as one of a state, measured on two cores.
_IN_REGISTERS = Between((0, 0), (0.2, 0.65))


class Call(NamedTuple):
    """A layer, whose arrays may be shapes alone, on a batch of sequences.

    method: of its scan, "auto" resolved; where it has none, the way in which it is evaluated.
    platform: of the machine, as JAX calls it.
    """

    layer: Any
    method: str
    batch: int
    length: int
    platform: str


def taken(layer: Any, way: str, batch: int, length: int) -> str:
    """The method that a way of evaluating stands for here.

    Of a state-space layer, that of a stretch: `native`, if its kernel was compiled, is that of
    `selective_scan`, which has no stretches; "stretches" are scanned by what this says.
    """
    kind = kind_of(layer)
    if not kind.linear:
        return way
    call = Call(layer, way, batch, length, jax.default_backend())
    return _table(kind).resolve(way, _scan(call)[1]).name


def predictions(records: Iterable[Record]) -> list[Prediction]:
    """Of layers, by their names."""
    return made(records, _of_record, _name)


def _name(record: Record) -> str:
    return record["layer"] + ("" if measured(record) else ", a guess")


def measured(record: Record) -> bool:
    return KINDS[record["kind"]].between is not None


def rivals(record: Record) -> tuple:
    """What is told apart by more than a method."""
    return (*record["point"].values(), record["layer"])


def distinct(records: Sequence[Record]) -> list[Record]:
    """Without auto where the method that it takes was timed by its name: the same program."""
    named = {(rivals(record), record["method"]) for record in records}
    return [
        record
        for record in records
        if record["method"] != "auto" or (rivals(record), record.get("takes")) not in named
    ]


def look(record: Record) -> dict[str, Any]:
    return line_style(record["kind"])


def _of_record(record: Record) -> Cost | None:
    point = record["point"]
    layer = _shapes(json.dumps(record["config"]), record["width"], point["length"])
    facts = record["takes"], record["batch"], point["length"], record["platform"]
    return counted(Call(layer, *facts), point["direction"] == BOTH)


@functools.cache
def _shapes(config: str, width: int, length: int) -> Any:
    """The layer of a config, its arrays as shapes alone."""
    layer: Any = _CONFIG.validate_json(config)
    return jax.eval_shape(functools.partial(make_layer, layer, length=length, width=width, seed=0))


def counted(call: Call, backward: bool) -> Cost | None:
    """Nothing of a method that states no counts."""
    layer, steps, kind = call.layer, call.batch * call.length, kind_of(call.layer)
    each, recurrence = cost(layer, call.batch, call.length), _recurrence(call, backward)
    if recurrence is None:
        return None
    # A guess: what a step holds is written and read once, and twice more in the backward pass.
    held = each.held / layer.input_size
    feature = kind.between or Between((2 * held, 6 * held))
    state = _IN_REGISTERS if _fused(call) else kind.between_states
    # The recurrence of a dense layer is a product of its own at every step.
    flops = each.flops / (2 if recurrence.flops else 1) * (3 if backward else 1) * steps
    n, made = layer.input_size * steps, each.exponentials * steps
    words = each.words[backward] * steps
    words += n * feature.words[backward] + made * state.words[backward]
    between = Cost(
        launches=feature.operations[backward] * (_SHARED if call.platform == "cpu" else 1),
        bytes=_WORD * words,
        fresh=_WORD * words / 3,
        elements=n * feature.numbers[backward] + made * state.numbers[backward],
        flops=flops,
    )
    return between + recurrence


def _recurrence(call: Call, backward: bool) -> Cost | None:
    kind = kind_of(call.layer)
    if call.method == STEP_BY_STEP and call.platform != "cpu":
        turns = call.length * (2 if backward else 1)
        return Cost(steps=turns, launches=_OF_A_STEP * turns)
    # Of a kernel for cells the products are counted with the others, of that for state spaces what
    # the states take.
    if not kind.linear or _fused(call):
        return Cost()
    methods = {method.name: method for method in _table(kind).methods}
    counts = methods[call.method].cost
    if counts is None:
        return None
    stretches, case = _scan(call)
    once = counts(case, backward)
    if stretches and backward:  # states are made again
        once += counts(case, False)
    return once.times(max(1, stretches))


def _fused(call: Call) -> bool:
    """Whether no state is written, because the native kernel of `selective_scan` is taken."""
    return kind_of(call.layer).state_space is not None and call.method == "native"


def _table(kind: Kind) -> LinearTable:
    return matrix_table if kind.recurrence is Recurrence.DENSE else linear_table


def _scan(call: Call) -> tuple[int, LinearCase]:
    """The scan of a layer, and over how many stretches of time; 0 where none is evaluated again."""
    layer, kind = call.layer, kind_of(call.layer)
    stretches, length, width = 0, call.length, call.batch
    if kind.state_space is None:
        width *= layer.hidden_size
    else:
        stretches, length, width = work.stretches_of(layer, call.batch, length, call.platform)
    return stretches, LinearCase(
        platform="cuda" if call.platform == "gpu" else call.platform,
        dtype=np.dtype("complex64" if kind.complex_state else "float32"),
        length=length,
        width=width,
        inner=width // call.batch,
        size=layer.hidden_size if kind.recurrence is Recurrence.DENSE else 1,
        constant=kind.recurrence is not Recurrence.READS_INPUT,
    )
