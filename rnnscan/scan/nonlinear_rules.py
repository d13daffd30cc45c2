"""A nonlinear recurrence and its derivatives, as one operation above every method.

    h_t  = f(h_{t-1}, x_t)                                                                   (1)
    dh_t = J_t dh_{t-1} + (df of params and x)_t,    dh_{-1} = dh0,    J_t = df/dh           (2)

(2) is the implicit derivative at the solution, which does not depend on how (1) was solved: one
linear recurrence with the true Jacobians, driven by one tangent of f for all steps at once.
Backwards it is the reversed scan and one pullback of f. Both are functions of JAX, so all modes and
orders follow. The backward pass keeps h and the operands; Jacobians are made again, in stretches
that fit in memory.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan import nonlinear_linearised as linearised
from rnnscan.scan.nonlinear_certificate import certified
from rnnscan.scan.nonlinear_method import (
    Convergence,
    NonlinearCase,
    NonlinearMethod,
    NonlinearOperands,
    NonlinearProblem,
    Solution,
)
from rnnscan.scan.nonlinear_methods import PATIENCE, nonlinear_table, sequential
from rnnscan.scan.primitive import (
    Operation,
    instantiated,
    is_zero,
    mapped,
    no_tangent,
    with_axis,
)
from rnnscan.scan.sharding import whole
from rnnscan.scan.target import Target

Results = tuple[jax.Array, Convergence]


@dataclasses.dataclass(frozen=True)
class Spec(NonlinearProblem):
    """What is static about a call."""

    method: str = "auto"


# Shapes, and the method.


def _results(operands: NonlinearOperands, *, spec: Spec) -> Results:
    h0: Any = operands.h0  # an aval

    def like(*shape, dtype=h0.dtype):
        return whole(h0, shape, dtype=dtype, weak_type=False)

    batch = spec.batch
    found = Convergence(
        like(batch, dtype=jnp.dtype(bool)),
        like(batch, dtype=jnp.dtype(jnp.int32)),
        like(batch),
        like(batch),
    )
    return like(*spec.shape), found


def case_of(problem: NonlinearProblem, target: Target) -> NonlinearCase:
    step = problem.step
    return NonlinearCase(
        platform=target.platform,
        exported=target.exported,
        device=target.device,
        dtype=step.layout.wide,
        length=problem.length,
        width=problem.batch * step.layout.size,
        batch=problem.batch,
        size=step.layout.size,
        parts=step.parts,
    )


def _run(operands: NonlinearOperands, *, spec: Spec, target: Target) -> Results:
    with jax.default_matmul_precision(spec.precision):
        method = sequential.method  # of no problems, which need none in particular
        if spec.batch != 0:
            method = nonlinear_table.resolve(spec.method, case_of(spec, target))
        if spec.method == "auto" and method is not sequential.method:
            solution = _in_any_case(method, spec, operands)
        else:
            solution = method.solve(spec, operands)
        return solution.h, certified(spec, operands, solution)


def _in_any_case(method: NonlinearMethod, problem: Spec, operands: NonlinearOperands) -> Solution:
    """By this method, and by steps from the first that it did not settle."""
    patient = dataclasses.replace(problem, max_iterations=problem.max_iterations or PATIENCE)
    solution = method.solve(patient, operands)
    settled = solution.settled
    first = jnp.where(jnp.all(settled, axis=0), problem.length, jnp.argmin(settled, axis=0))
    h = sequential.finished(problem, operands, solution.h, first)
    return Solution(h, lax.full_like(settled, True), solution.iterations)


# Differentiation.


def _jvp(primals: NonlinearOperands, tangents: NonlinearOperands, *, spec: Spec):
    results = h, found = nonlinear(primals, spec=spec)
    nothing = jax.tree.map(no_tangent, found)
    moving = jax.tree.map(is_zero, (tangents.params, tangents.h0, tangents.xs), is_leaf=is_zero)
    if all(jax.tree.leaves(moving)):
        return results, (no_tangent(h), nothing)
    params, dparams = _moving(primals.params, tangents.params)
    xs, dxs = _moving(primals.xs, tangents.xs)
    dh0 = instantiated(tangents.h0)

    def evolve(h, operands, params, xs, dparams, dxs, dh0):
        before = spec.before(h, operands.h0, operands.reset)

        def f(params, xs):
            whole = _filled(params, operands.params), before, _filled(xs, operands.xs)
            return spec.everywhere(spec.step)(*whole)

        drive = jnp.zeros_like(h)
        if dparams or dxs:
            drive = jax.jvp(f, (params, xs), (dparams, dxs))[1]
        dh = linearised.carried(spec, operands, h, drive[:, :, None], dh0[:, None])
        return dh[:, :, 0]

    with jax.default_matmul_precision(spec.precision):
        evolve = jax.checkpoint(evolve)  # keeps the trajectory alone
        dh = evolve(h, primals, params, xs, dparams, dxs, dh0)
    return results, (dh, nothing)


def _moving(primals, tangents) -> tuple[dict[int, Any], dict[int, Any]]:
    """Those that have a tangent, by their places."""
    places = [i for i, tangent in enumerate(tangents) if not is_zero(tangent)]
    return {i: primals[i] for i in places}, {i: tangents[i] for i in places}


def _filled(moving: dict[int, Any], whole: tuple) -> tuple:
    return tuple(moving.get(i, leaf) for i, leaf in enumerate(whole))


# Batching: the mapped axis joins the problems that stand side by side.


def _batch(operands: NonlinearOperands, dims: NonlinearOperands, *, spec: Spec):
    x, place = mapped(operands, dims)[0]
    count, batch = x.shape[place], spec.batch

    def joined(x, axis):
        """x, with the mapped axis before that of problems, and both as one."""
        x = jnp.broadcast_to(x, (*x.shape[:axis], count, batch, *x.shape[axis + 2 :]))
        return x.reshape((*x.shape[:axis], count * batch, *x.shape[axis + 2 :]))

    def all_joined(name, axis):
        moved = with_axis(getattr(operands, name), getattr(dims, name), axis)
        return jax.tree.map(lambda x: joined(x, axis), moved)

    axes = {"h0": 0, "xs": 1, "reset": 1, "guess": 1}
    joint = {name: all_joined(name, axis) for name, axis in axes.items()}
    params, are_mapped = [], []
    for leaf, dim, was_mapped in zip(operands.params, dims.params, spec.mapped, strict=True):
        is_mapped = was_mapped or dim is not None
        if is_mapped:
            leaf = with_axis(leaf, dim, 0)
            leaf = joined(leaf if was_mapped else lax.expand_dims(leaf, (1,)), 0)
        params.append(leaf)
        are_mapped.append(is_mapped)
    spec = dataclasses.replace(spec, batch=count * batch, mapped=tuple(are_mapped))
    h, found = nonlinear(NonlinearOperands(tuple(params), **joint), spec=spec)
    h = jnp.moveaxis(h.reshape((h.shape[0], count, batch, *h.shape[2:])), 1, 0)
    return (h, jax.tree.map(lambda x: x.reshape((count, batch)), found)), 0


nonlinear = Operation("nonlinear", results=_results, run=_run, jvp=_jvp, batch=_batch)
