"""What a method of `linear_scan` does on a shape, counted, and so how long it should take."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from experiments.harness import predictions
from experiments.harness.experiment import Record
from experiments.harness.predictions import Prediction
from experiments.scan_limits import contenders
from experiments.scan_limits.shapes import BOTH, BY_NAME, Shape
from rnnscan.scan import LinearCase, linear_table
from rnnscan.scan.cost import Cost


def of(records: Iterable[Record]) -> list[Prediction]:
    """Of what was timed on a shape of the list."""
    return predictions.made(records, _counted, method_of)


def counted(method: str, shape: Shape, direction: str) -> Cost | None:
    """Nothing of what is no method of `linear_scan`, or states no counts."""
    if method not in linear_table.names:
        return None
    cost = linear_table.methods[linear_table.names.index(method)].cost
    case = LinearCase(
        platform="other",  # no count depends on it
        dtype=np.dtype(shape.dtype),
        length=shape.length,
        width=shape.lanes,
        inner=shape.inner,
        size=1,
        constant=shape.decay == "constant",
    )
    return cost and cost(case, direction == BOTH)


def method_of(record: Record) -> str:
    return record["contender"].removeprefix("linear_scan ")


def _counted(record: Record) -> Cost | None:
    """Of auto, that of the method which it takes."""
    point, auto = record["point"], record["contender"] == contenders.AUTO
    method = record["auto_takes"] if auto else method_of(record)
    return counted(method, BY_NAME[point["shape"]], point["direction"])
