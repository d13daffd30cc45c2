"""The ways to compute a recurrent cell, and which one `auto` takes."""

from typing import Literal

from rnnscan.scan.cell_method import CellCase, CellTable
from rnnscan.scan.cell_methods import cpu_kernel, cuda, nonlinear, scan
from rnnscan.scan.table import MethodTable

CellMethodName = Literal[
    "auto",
    "scan",
    "native",
    "cuda",
    "sequential",
    "newton",
    "quasi_newton",
    "chunked_newton",
    "damped_newton",
]


def _prefer(case: CellCase) -> tuple[str, str]:
    if case.platform == "cpu" and cpu_kernel.why_not(case) is None:
        return "native", "on a CPU packed weights and fused gates beat a library's products"
    return "scan", "every step is one product and a few elementwise operations"


_METHODS = scan.method, cpu_kernel.method, cuda.method, *nonlinear.methods
cell_table: CellTable = MethodTable(_METHODS, _prefer)
