"""`quasi_newton`: Newton's iteration with the diagonal of the Jacobians.

    d_t = diag(J_t) * d_{t-1} + f(h_{t-1}, x_t) - h_t,    h <- h + d

One `linear_scan` an iteration, and T D numbers of memory; the diagonal of a dense Jacobian still
takes D tangents of f, one after another. It pays where the diagonal says most of the Jacobian
(gated cells); for a dense tanh RNN it is hardly better than h <- f(h), some 30 to 250 iterations
where Newton's takes 4 to 12, and no longer converges where Newton's still does. Errors shrink
by the same part each time, so that what is left when it ends is all of one sign; a last correction
by the true Jacobians, in stretches of time, takes it away.

Source: Gonzalez et al. 2024, "Towards scalable and stable parallelization of nonlinear RNNs",
arXiv 2407.19115 (quasi-DEER).
"""

from rnnscan.scan.linear import linear_scan
from rnnscan.scan.nonlinear_method import (
    NonlinearMethod,
    NonlinearOperands,
    NonlinearProblem,
    Solution,
)
from rnnscan.scan.nonlinear_methods.iteration import (
    Iterate,
    guess,
    iterated,
    polished,
    why_not,
)


def _update(problem: NonlinearProblem, operands: NonlinearOperands, iterate: Iterate):
    h, f, reset = iterate.h, iterate.residual.f, operands.reset
    before = problem.before(h, operands.h0, reset)
    a = problem.everywhere(problem.step.diagonal)(operands.params, before, operands.xs)
    drive = f - h
    d = linear_scan(a, drive, reset=None if reset is None else reset[..., None])
    return f + (d - drive), iterate.memory


def _solve(problem: NonlinearProblem, operands: NonlinearOperands) -> Solution:
    last = iterated(problem, operands, _update, guess(problem, operands))
    return polished(problem, operands, last)


method = NonlinearMethod(
    name="quasi_newton",
    summary="Newton's with the diagonal of the Jacobians: T D memory, more iterations",
    solve=_solve,
    why_not=why_not,
)
