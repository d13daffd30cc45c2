"""The ways to find a nonlinear trajectory, and which one `auto` takes."""

from typing import Literal

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


def _prefer(case: NonlinearCase) -> tuple[str, str]:
    return "sequential", "todo"


_METHODS = (
    sequential.method,
    newton.method,
    quasi_newton.method,
    chunked_newton.method,
    damped_newton.method,
)
nonlinear_table: NonlinearTable = MethodTable(_METHODS, _prefer)
