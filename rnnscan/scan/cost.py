"""How long a method should take: what it does, counted, times what a device takes for one of each.

    seconds = sum over what is counted of  (how many)  x  (seconds for one on this device)

Every method states its counts next to its program (`cost` in its file); a device is the same list,
in seconds. The counts are of the method alone and hold on any device, the seconds of the device
alone and hold for any method: so a crossover is predicted for a machine on which no method ran yet.

What is left out: overlap of memory and arithmetic (the parts are added up), threads that wait, and
caches, of which only the bandwidth of the arrays in question is known. Within a factor of 1.5 at
four fifths of the points of `experiments/scan_limits` on two cores, less often for microseconds
(`experiments/machine` says how that was found).
"""

import dataclasses
from typing import Self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a program does, counted; or, of a device, the seconds that one of each takes.

    Attributes:
      launches: operations that run one after another, outside of loops.
      steps: turns of compiled loops that wait for one another: the span.
      bytes: that pass between processor and memory: the traffic.
      fresh: of these, bytes of results, whose memory the system has to find (CPUs, large arrays).
      elements: numbers that a plain loop takes, one after another in the order of memory: the work.
      lines: places in memory that are far from the one before.
      flops: operations of products of matrices.
    """

    launches: float = 0.0
    steps: float = 0.0
    bytes: float = 0.0
    fresh: float = 0.0
    elements: float = 0.0
    lines: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Self) -> Self:
        theirs = vars(other)
        return type(self)(**{name: count + theirs[name] for name, count in vars(self).items()})

    def times(self, factor: float) -> Self:
        """The same, so many times over."""
        return type(self)(**{name: factor * n for name, n in vars(self).items()})


def seconds(cost: Cost, device: Cost) -> float:
    """The time of a program of this cost on that device.

    >>> round(seconds(Cost(steps=1000, bytes=1e6), Cost(steps=1e-6, bytes=1e-9)), 6)
    0.002
    """
    counts, each = vars(cost), vars(device)
    return sum(counts[name] * each[name] for name in counts)
