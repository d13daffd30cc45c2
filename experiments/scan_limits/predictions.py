"""What a method of `linear_scan` does on a shape, counted, and so how long it should take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from experiments.harness import predictions, race
from experiments.harness.experiment import Record
from experiments.harness.predictions import Prediction
from experiments.harness.records import median
from experiments.scan_limits import contenders
from experiments.scan_limits.shapes import BOTH, BY_NAME, Shape
from rnnscan.scan import LinearCase, linear_table
from rnnscan.scan.cost import Cost

# Streams are what XLA makes of a sum: our kernel passes them by 1.15 on a quiet machine.
NOISE = 1.25


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


def doubt(records: Sequence[Record]) -> str:
    """Why no verdict may rest on these times beside streaming."""
    return race.doubt(records, _share, NOISE)


def least_seconds(shape: Shape, direction: str, machine: Cost) -> float:
    """Of memory that is used again: by call, streams pay for new pages that a method can avoid."""
    return shape.words(direction) * shape.nbytes * machine.bytes


def _share(record: Record) -> float:
    """Of the speed of memory that was reached."""
    if "device" not in record:
        return 1 / record["ratio"]
    point = record["point"]
    shape = BY_NAME.get(point.get("shape")) or Shape(1, point["length"], point["lanes"])
    return least_seconds(shape, point["direction"], Cost(**record["device"])) / median(record)
