"""`newton`: a Newton iteration on all states at once.

    d_t = J_t d_{t-1} + f(h_{t-1}, x_t) - h_t,    h <- h + d,    J_t = df/dh at (h_{t-1}, x_t)

which is the recurrence linearised about the last trajectory: one `matrix_scan`, or for a step that
works elementwise one scan of small blocks. Corrections are solved for, not states, so that their
rounding errors shrink with them.

Near the solution digits double with each iteration; from far away there are about log T iterations
where errors shrink along the trajectory (a negative Lyapunov exponent), up to T where they grow.
A last correction, which is not counted, leaves roundings alone.
Work of an iteration: L tangents of f a step and the scan; memory T D L numbers.

Source: Lim et al. 2024, "Parallelizing non-linear sequential models over the sequence length"
(DEER, arXiv 2309.12252); Gonzalez et al. 2024, "Towards scalable and stable parallelization of
nonlinear RNNs" (arXiv 2407.19115), for the bound of T iterations.
"""

import jax

from rnnscan.scan import nonlinear_linearised as linearised
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


def corrected(
    problem: NonlinearProblem,
    operands: NonlinearOperands,
    iterate: Iterate,
    scale: jax.Array | None = None,
) -> jax.Array:
    """The next trajectory, by Jacobians times the `scale` (B,) of their problem.

    As f + J d: where d is zero, so is what it adds to f, and the states before it stand exactly.
    """
    h, f = iterate.h, iterate.residual.f
    before = problem.before(h, operands.h0, operands.reset)
    J = linearised.jacobians(problem, operands, before)
    if scale is not None:
        J = J * scale[None, :, None, None, None]
    drive = f - h
    d = linearised.solve(J, drive[:, :, None], None, operands.reset)[:, :, 0]
    return f + (d - drive)


def _update(problem: NonlinearProblem, operands: NonlinearOperands, iterate: Iterate):
    return corrected(problem, operands, iterate), iterate.memory


def _solve(problem: NonlinearProblem, operands: NonlinearOperands) -> Solution:
    last = iterated(problem, operands, _update, guess(problem, operands))
    return polished(problem, operands, last)


method = NonlinearMethod(
    name="newton",
    summary="all steps at once by their Jacobians: few iterations, T D^2 memory",
    solve=_solve,
    why_not=why_not,
)
