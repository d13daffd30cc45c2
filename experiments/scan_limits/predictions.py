"""What `rnnscan.scan.cost` says of a contender, for a record to keep."""

from __future__ import annotations

import jax
import numpy as np

from experiments.harness import predictions
from experiments.scan_limits import contenders
from experiments.scan_limits.shapes import BOTH, Shape
from rnnscan.scan import LinearCase, linear_table
from rnnscan.scan.cost import Cost


def fields(name: str, shape: Shape, direction: str, device: Cost) -> dict[str, dict[str, float]]:
    """Counts and machine; nothing of who is no method of `linear_scan`, or states no counts.

    name: of the contender; auto is the method that it takes.
    """
    method = name.removeprefix("linear_scan ")
    if name == contenders.AUTO:
        method = next((m for m, taken in contenders.methods(shape).items() if taken), "")
    if not name.startswith("linear_scan") or method not in linear_table.names:
        return {}
    cost = linear_table.methods[linear_table.names.index(method)].cost
    if cost is None:
        return {}
    return predictions.fields(cost(_case(shape), direction == BOTH), device)


def _case(shape: Shape) -> LinearCase:
    platform = jax.default_backend()
    return LinearCase(
        platform="cuda" if platform == "gpu" else platform,
        dtype=np.dtype(shape.dtype),
        length=shape.length,
        width=shape.lanes,
        inner=shape.inner,
        size=1,
        constant=shape.decay == "constant",
    )
