"""The ways to compute an elementwise linear recurrence, and which one `auto` takes."""

from rnnscan.scan.linear_methods import associative, blocked, native, sequential
from rnnscan.scan.product import elementwise
from rnnscan.scan.table import Case, MethodTable


def prefer(case: Case) -> tuple[str, str]:
    if case.platform == "cpu":
        if native.method.why_not(case) is None:
            return "native", "one sweep over memory, on all threads"
        return "sequential", "on a CPU one pass over memory beats the several passes of a tree"
    if case.symbolic or case.length < 8:
        return "sequential", "too few steps for a tree, or their number is not known yet"
    return "associative", "an accelerator pays for every sequential step, a tree has 2 log2(T)"


table = MethodTable(
    elementwise, (sequential.method, associative.method, blocked.method, native.method), prefer
)
