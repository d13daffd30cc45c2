"""The ways to compute a linear recurrence of matrices, and which one `auto` takes."""

from typing import Literal

from rnnscan.scan.linear_method import LinearCase, LinearTable, fastest
from rnnscan.scan.linear_methods import associative, sequential
from rnnscan.scan.matrix_methods import blocked, diagonal
from rnnscan.scan.table import MethodTable

MatrixMethodName = Literal["auto", "sequential", "associative", "blocked", "diagonal"]

# Estimates for accelerators, not measurements. Above this n, the n^3 of a composition outweighs the
# steps that a tree saves.
_LARGEST_TREE = 32
# Multiplications of a step from which it takes longer than to launch it, some 8 us: twice the work
# is then no bargain.
_LARGEST_BLOCKED_STEP = 2**26


def _prefer(case: LinearCase) -> tuple[str, str]:
    if case.symbolic or case.length < 8:
        return "sequential", "too few steps for a tree, or their number is not known yet"
    if case.platform == "cpu":
        return _prefer_on_cpu(case)
    if predicted := fastest(_METHODS, case):
        return predicted
    if not isinstance(case.size, int):
        return "sequential", "n is not known yet, and a tree has n^3 work"
    if case.constant:
        if not case.unsized and case.width * case.size > _LARGEST_BLOCKED_STEP:
            return "sequential", "a step is work enough, and blocks have twice as much of it"
        return "blocked", "A is constant: some 4 log2(T) dependent steps, for twice the work"
    if case.size > _LARGEST_TREE:
        return "sequential", f"n = {case.size}: a tree would multiply n x n matrices, n^3 work each"
    return "associative", f"n = {case.size} is small, and a tree has 2 log2(T) dependent steps"


def _prefer_on_cpu(case: LinearCase) -> tuple[str, str]:
    """Measured on two cores (docs/log.md): from 1.1 to 3 times as fast there, and not elsewhere.

    A step of XLA's loop takes half a microsecond or more where it has several states, and the
    products of blocks are too slim below these widths, too much work beyond.
    """
    if not case.constant:
        return "sequential", "on a CPU n^2 work a step beats the n^3 of a tree"
    if case.unsized:
        return (
            "sequential",
            "whether products of blocks are too slim depends on a size not known yet",
        )
    least, most = (12, 24) if case.width == case.size else (32, 128)
    if case.length >= 1024 and least <= case.width <= most:
        return "blocked", "steps are many and small: large products for twice the work"
    return "sequential", "on a CPU half the work of blocks beats fewer steps, at this size"


_METHODS = (sequential.method, associative.method, blocked.method, diagonal.method)
matrix_table: LinearTable = MethodTable(_METHODS, _prefer)
