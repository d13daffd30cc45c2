"""The ways to compute an elementwise linear recurrence, and which one `auto` takes."""

from typing import Literal

from rnnscan.scan.linear_method import LinearCase, LinearTable, fastest
from rnnscan.scan.linear_methods import associative, blocked, cpu_kernel, cuda, sequential
from rnnscan.scan.table import MethodTable

LinearMethodName = Literal["auto", "sequential", "associative", "blocked", "native", "cuda"]


def _prefer(case: LinearCase) -> tuple[str, str]:
    if case.symbolic:
        return "sequential", "the number of steps is not known yet"
    if case.platform == "cpu":
        return _prefer_on_cpu(case)
    if case.length > 3 and (predicted := fastest(_METHODS, case)):
        return predicted
    if case.platform == "cuda":
        return _prefer_on_cuda(case)
    if case.length < 8:
        return "sequential", "too few steps for a tree"
    return "associative", "a tree has 2 log2(T) dependent steps; never run on such a device"


def _prefer_on_cpu(case: LinearCase) -> tuple[str, str]:
    """Measured on two cores (docs/log.md)."""
    if case.length <= 3:  # so short that a tree multiplies no decays, exact as a loop
        return "associative", "so few steps that XLA fuses all of them into one pass"
    if cpu_kernel.method.why_not(case) is not None:
        return "sequential", "on a CPU one pass over memory beats the several passes of a tree"
    # Where XLA's own loop beats a call of the kernel (0.5 us) or the turning of its tiles.
    if case.length * case.width <= (1024 if case.width == 1 else 256):
        return "sequential", "so little work that a call of the kernel costs more"
    if case.length <= 8 and case.inner < 16:
        return "sequential", "time is too short to be turned into lanes"
    return "native", "one sweep over memory, on all threads"


def _prefer_on_cuda(case: LinearCase) -> tuple[str, str]:
    """Where the kind of card is not known, or time is too short for what is counted."""
    if case.length <= 3:
        return "associative", "so few steps that XLA fuses all of them into one pass"
    if cuda.method.why_not(case) is None:
        return "cuda", "one sweep over memory"
    return "blocked", "few dependent steps at 5 words an element, without the kernel"


_METHODS = (
    sequential.method,
    associative.method,
    blocked.method,
    cpu_kernel.method,
    cuda.method,
)
linear_table: LinearTable = MethodTable(_METHODS, _prefer)
