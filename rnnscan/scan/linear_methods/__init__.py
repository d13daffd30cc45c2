"""The ways to compute an elementwise linear recurrence, and which one `auto` takes."""

from rnnscan.scan.linear_methods import associative, blocked, native, sequential
from rnnscan.scan.product import elementwise
from rnnscan.scan.table import Case, MethodTable


def _is_tiny(case: Case) -> bool:
    """Where XLA's own loop, fused with its neighbours, beats a call of the kernel (0.5 us)."""
    shortest = 1024 if case.width == 1 else 256
    return case.length == 1 or case.length * case.width <= shortest


def prefer(case: Case) -> tuple[str, str]:
    if case.platform == "cpu":
        if native.method.why_not(case) is None:
            if _is_tiny(case):
                return "sequential", "so little work that a call of the kernel costs more"
            return "native", "one sweep over memory, on all threads"
        return "sequential", "on a CPU one pass over memory beats the several passes of a tree"
    if case.symbolic or case.length < 8:
        return "sequential", "too few steps for a tree, or their number is not known yet"
    return "associative", "an accelerator pays for every sequential step, a tree has 2 log2(T)"


table = MethodTable(
    elementwise, (sequential.method, associative.method, blocked.method, native.method), prefer
)
