"""The ways to compute the selective scan, and which one `auto` takes."""

from typing import Literal

from rnnscan.scan.selective_method import SelectiveCase, SelectiveTable
from rnnscan.scan.selective_methods import cpu_kernel, sequential, stretches
from rnnscan.scan.table import MethodTable

SelectiveMethodName = Literal[
    "auto", "native", "stretches", "sequential", "associative", "blocked", "cuda"
]


def _prefer(case: SelectiveCase) -> tuple[str, str]:
    if case.symbolic:
        return "sequential", "the number of steps is not known yet"
    if case.platform == "cpu" and cpu_kernel.why_not(case) is None:
        return "native", "on a CPU no state is written, and exponentials are what it costs"
    return "stretches", "states of some steps at once, by the linear scan that suits the platform"


_METHODS = (
    cpu_kernel.method,
    stretches.by("auto", "decay, drive and states of some steps at once, by `linear_scan`"),
    sequential.method,
    stretches.by("associative", "as stretches, each scanned by a tree"),
    stretches.by("blocked", "as stretches, each scanned in blocks"),
    stretches.by("cuda", "as stretches, each scanned by the CUDA kernel"),
)
selective_table: SelectiveTable = MethodTable(_METHODS, _prefer)
