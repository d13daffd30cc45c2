"""How long a step should take on accelerators that are not here: counts times seconds for one.

    seconds = passes over memory + turns of loops + collectives

The first two are those of `rnnscan/scan/cost.py` for a kind of device, the last of a ring of nodes
of eight devices, each with a network port of its own:

    one collective = latency of starting + hops x latency of a hop + bytes received / bandwidth

by the faster of NCCL's two ways to send, for short messages (LL, which sends a flag with each word)
and long ones (Simple).

Left out: overlap of the three, contention, skew between devices, and what the compiler for that
platform does otherwise than that of CPUs, whose collectives and turns are counted.

Sources: latencies and the share of the bandwidth that LL reaches: the tuning tables of NCCL,
src/graph/tuning.cc (as of commit 01afd20); NVLink: 900 GB/s both ways for an H100 (its data sheet);
network: a port of 400 Gb/s for each of the eight (DGX H100 User Guide).
"""

import dataclasses
from typing import Any

import numpy as np

from rnnscan.scan import target
from rnnscan.scan.cost import Cost, seconds
from rnnscan.scan.devices import DEVICES
from rnnscan.scan.linear_lowering import case_of
from rnnscan.scan.linear_method import LinearCase
from rnnscan.scan.linear_methods import associative, cuda
from rnnscan.scan.product import elementwise

KIND = "NVIDIA H100 80GB HBM3"
NODE = 8  # devices
NVLINK, PORT = 450e9, 50e9  # bytes a second, one way, for each device


@dataclasses.dataclass(frozen=True)
class _Way:
    """Of NCCL to send around a ring: seconds, and the share of the bandwidth."""

    start: float
    inside: float  # a hop within a node
    between: float
    share: float


def _ways(nodes: int) -> tuple[_Way, _Way]:
    slower = 1.8 if nodes > 1 else 1.0
    low_latency = _Way(3.6e-6, slower * 0.47e-6, 2.7e-6, 1 / 4 if nodes > 1 else 1 / 3)
    return low_latency, _Way(8.4e-6, 3.4e-6, 9.6e-6, 1.0)


def of_collective(kind: str, received: float, devices: int) -> float:
    """Seconds of one, by which a device receives so many bytes.

    >>> round(1e6 * of_collective("all-gather", 3584, 8), 1)
    6.9
    """
    nodes = -(-devices // NODE)
    if kind in (
        "collective-permute",
        "all-to-all",
    ):  # to all at once: of several nodes, by the port
        hops, outside = 1, int(nodes > 1)
        bandwidth = PORT if nodes > 1 else NVLINK
    else:
        passes = 2 if kind == "all-reduce" else 1
        hops, outside = passes * (devices - 1), passes * (nodes - 1) if nodes > 1 else 0
        bandwidth = min(NVLINK, NODE * PORT) if nodes > 1 else NVLINK
    return min(
        way.start
        + (hops - outside) * way.inside
        + outside * way.between
        + received / (bandwidth * way.share)
        for way in _ways(nodes)
    )


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Of a step, forward and backward."""

    memory: float
    loops: float = 0.0
    network: float = 0.0

    @property
    def total(self) -> float:
        return self.memory + self.loops + self.network


def _case(steps: int, channels: int) -> LinearCase:
    shape = (1, steps, channels)
    return case_of(elementwise, target.named("cuda"), np.dtype("float32"), shape, 1, False)


def on_one(steps: int, channels: int) -> Seconds:
    """`linear_scan` and its gradient on one device."""
    return Seconds(seconds(cuda.cost(_case(steps, channels), True), DEVICES[KIND]))


def of_record(record: dict[str, Any]) -> Seconds:
    """The program that was counted."""
    device, devices, sizes = DEVICES[KIND], record["devices"], record["sizes"]
    case = _case(sizes["long"] // devices, sizes["channels"])
    if record["program"] == "tree":
        local = associative.cost(case, True)
    else:  # reduce first: a and b are read once more, and g and a in the backward pass
        array = case.states * case.dtype.itemsize
        local = cuda.cost(case, True) + Cost(bytes=4 * array)
    network = sum(
        count * of_collective(kind, record["received"][kind] / count, devices)
        for kind, count in record["collectives"].items()
    )
    return Seconds(seconds(local, device), seconds(Cost(steps=record["turns"]), device), network)
