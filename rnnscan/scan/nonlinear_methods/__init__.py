"""The ways to find a nonlinear trajectory, and which one `auto` takes."""

from typing import Literal

from rnnscan.scan import stretches
from rnnscan.scan.nonlinear_method import NonlinearCase, NonlinearTable
from rnnscan.scan.nonlinear_methods import (
    chunked_newton,
    damped_newton,
    newton,
    quasi_newton,
    sequential,
)
from rnnscan.scan.table import MethodTable

NonlinearMethodName = Literal[
    "auto", "sequential", "newton", "quasi_newton", "chunked_newton", "damped_newton"
]


# Iterations after which `auto` goes on step by step: what converges at all has mostly done so.
PATIENCE = 32

# Estimates for accelerators, not measurements. Bytes of one step's Jacobians above which some eight
# iterations over them should take longer than the step itself, some 20 us of launches.
_LARGEST_STEP = 2**18
# Above this many columns a tree's n^3 outweighs the steps that it saves.
_WIDEST = 32


def _prefer(case: NonlinearCase) -> tuple[str, str]:
    if case.unsized or case.length < 64:
        return "sequential", "too few steps to be worth an iteration, or a size is not known yet"
    if case.platform == "cpu":  # measured on two cores (docs/log.md)
        return "sequential", "on a CPU a loop beats every iteration over all steps"
    if case.jacobians // case.length > _LARGEST_STEP or case.parts > _WIDEST:
        return "sequential", "a step is work enough, and Jacobians have D times as much of it"
    if case.jacobians > stretches.LARGEST:
        return "chunked_newton", "Jacobians of all steps would not fit, those of chunks do"
    return "newton", "steps are many and small: some iterations over all of them"


_METHODS = (
    sequential.method,
    newton.method,
    quasi_newton.method,
    chunked_newton.method,
    damped_newton.method,
)
nonlinear_table: NonlinearTable = MethodTable(_METHODS, _prefer)
