"""One recurrent cell and its derivatives, as three operations above every method.

    forward    s_t  = step(W_ih x_t + b, W_hh h_{t-1}, s_{t-1})                             (1)
    tangent    ds_t = D step . (du_t, dq_t + W_hh dh_{t-1}, ds_{t-1})                       (2)
    transpose  of (2): from cotangents of all h and of the last state to those of           (3)
               u, q and the first state, which is backpropagation through time

with u = W_ih x + b, and q what a cell keeps apart (`cell_kinds/cell.py`). (2) is linear in its
drives. Those hold the tangents of x and of all weights, as large products over all steps, before
(2) and behind (3), so neither loop has any. The backward pass keeps x, the states and what the cell
keeps.

Derivatives of higher order are those of the plain scan, whatever method computes the first.

Where time is split over devices each holds a chunk of it, and the three are maps on all devices
together (`cell_turns.py`): the state that they read, and whose cotangent they return, is that of
the first device.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnnscan.scan import cell_turns
from rnnscan.scan.cell_method import (
    CellCase,
    CellMethod,
    CellProblem,
    Drives,
    Evolution,
    ForwardOperands,
    Residuals,
    TangentOperands,
    Trajectory,
    TransposeOperands,
)
from rnnscan.scan.cell_methods import cell_table, nonlinear, scan
from rnnscan.scan.nonlinear_method import Convergence
from rnnscan.scan.primitive import (
    Operation,
    instantiated,
    is_zero,
    mapped,
    no_tangent,
    with_axis,
)
from rnnscan.scan.sharding import Layout, Names, like, merged, parted
from rnnscan.scan.target import Target


@dataclasses.dataclass(frozen=True)
class Spec(CellProblem):
    """What is static about a call; `over`: the mesh axes over which time is split."""

    method: str = "auto"
    over: tuple[str, ...] = ()


# Shapes, and the method.


def _like(aval, *shape):
    return like(aval, shape)


def _forward_results(operands, *, spec):
    x, (batch, steps, _) = operands.x, operands.x.shape
    hidden, cell = operands.weights.w_hh.shape[-1], spec.cell
    states = (_like(x, batch, steps, hidden),) * (len(cell.states) if spec.keep else 1)
    keeps = spec.keep and cell.kept
    kept = _like(x, batch, steps, cell.kept * hidden) if keeps else None
    found = None
    if spec.certify:
        number = _like(x, batch)
        converged, iterations = (number.update(dtype=jnp.dtype(d)) for d in (bool, jnp.int32))
        found = Convergence(converged, iterations, number, number)
    state = (_like(x, batch, hidden),) * len(cell.states)
    return Trajectory(states, state, kept, found, state if spec.keep and spec.over else None)


def _tangent_results(operands, *, spec):
    del spec
    h = operands.residuals.states[0]
    return Evolution(_like(h, *h.shape), tuple(_like(h, *s.shape) for s in operands.drives.state))


def _transpose_results(operands, *, spec):
    h = operands.residuals.states[0]
    batch, steps, hidden = h.shape
    u, q = _like(h, batch, steps, spec.cell.gates * hidden), _like(h, batch, steps, hidden)
    state = (_like(h, batch, hidden),) * len(spec.cell.states)
    return Drives(u, q if spec.cell.apart else None, state)


def case_of(spec: Spec, target: Target, like: jax.Array, hidden: int, inputs: int = 1) -> CellCase:
    """The case of a call whose x or h, batch first, is `like` this."""
    batch, steps, _ = like.shape
    return CellCase(
        platform=target.platform,
        exported=target.exported,
        dtype=like.dtype,
        length=steps,
        width=batch * hidden * len(spec.cell.states),
        kind=spec.cell.name,
        batch=batch,
        hidden=hidden,
        inputs=inputs,
    )


def _run_forward(operands, *, spec, target):
    if spec.over:
        return _over_time("forward", _of_chunk(forward), spec, operands)
    x, hidden = operands.x, operands.weights.w_hh.shape[-1]
    method = _resolved(spec, case_of(spec, target, x, hidden, x.shape[-1]))
    return _forward_by(method, spec, operands)


def _forward_by(method: CellMethod, spec: Spec, operands: ForwardOperands) -> Trajectory:
    """With a certificate where one is asked for, and only there."""
    if not spec.certify:
        return method.forward(spec, operands)._replace(found=None)
    whole = method.forward(dataclasses.replace(spec, keep=True), operands)
    if whole.found is None:
        whole = whole._replace(found=nonlinear.certificate(spec, operands, whole.states))
    return whole if spec.keep else whole._replace(states=whole.states[:1], kept=None)


def _run_tangent(operands, *, spec, target):
    if spec.over:
        return _over_time("tangent", _of_chunk(tangent), spec, operands)
    h = operands.residuals.states[0]
    return _resolved(spec, case_of(spec, target, h, h.shape[-1])).tangent(spec, operands)


def _run_transpose(operands, *, spec, target):
    if spec.over:
        return _over_time("transpose", _of_chunk(transpose), spec, operands)
    h = operands.residuals.states[0]
    return _resolved(spec, case_of(spec, target, h, h.shape[-1])).transpose(spec, operands)


def _of_chunk(operation: Operation) -> Any:
    """An operation as the program of one device's chunk, which other mesh axes may divide."""
    return lambda spec, operands: operation(operands, spec=dataclasses.replace(spec, over=()))


_IN_TURNS: dict[str, tuple[Any, Any]] = {
    "forward": (cell_turns.forward, _forward_results),
    "tangent": (cell_turns.tangent, _tangent_results),
    "transpose": (cell_turns.transpose, _transpose_results),
}


def _over_time(name: str, program: Any, spec: Spec, operands: Any) -> Any:
    """One of the three maps by the program of a chunk, which without `over` is all of time."""
    if not spec.over:
        return program(spec, operands)
    in_turns, results = _IN_TURNS[name]
    shapes = results(jax.tree.map(jax.typeof, operands), spec=spec)
    return in_turns(program, spec.over, shapes, spec, operands)


def _resolved(spec: Spec, case: CellCase) -> CellMethod:
    """The method; empty results need none in particular."""
    if 0 in (case.batch, case.hidden):
        return scan.method
    return cell_table.resolve(spec.method, case)


# Differentiation.


def _require_countable(name: str, operands: Any) -> None:
    """Raise where a plain scan that is no operation of ours cannot count the steps."""
    steps = (operands.x if name == "forward" else operands.residuals.states[0]).shape[1]
    if isinstance(steps, int) and steps > jnp.iinfo(jnp.result_type(int)).max:
        raise ValueError(
            f"x: got {steps} steps; weights that are mapped (vmap) and derivatives of higher order "
            "take a loop of JAX that counts in int32 without "
            'jax.config.update("jax_enable_x64", True)'
        )


def _jvp_of_scan(name, primals, tangents, *, spec):
    """Of the plain scan, as any function of JAX."""
    _require_countable(name, primals)

    def smooth(operands):
        operands = operands._replace(valid=primals.valid, reset=primals.reset)
        return _over_time(name, getattr(scan.method, name), spec, operands)

    pair = (x._replace(valid=None, reset=None) for x in (primals, tangents))
    primals_out, tangents_out = (tuple([x]) for x in pair)
    return jax.jvp(smooth, primals_out, instantiated(tangents_out))


def _forward_jvp(primals, tangents, *, spec):
    if spec.keep:  # the second derivative
        results, moved = _jvp_of_scan("forward", primals, tangents, spec=spec)
        if spec.certify:
            found = forward(primals, spec=spec).found
            moved = moved._replace(found=jax.tree.map(no_tangent, found))
            results = results._replace(found=found)
        return results, moved
    whole = forward(primals, spec=dataclasses.replace(spec, keep=True))
    first = whole.first if spec.over else primals.state
    residuals = Residuals(first, whole.states, whole.kept)
    moving = jax.tree.map(lambda t: None if is_zero(t) else t, tangents, is_leaf=is_zero)

    @jax.checkpoint  # keeps the trajectory alone, not the same shifted by one step
    def evolve(residuals, operands, moving):
        drives = _drives(spec, residuals, operands, moving)
        _, (_, _, w_hh, _), _, valid, reset = operands
        return tangent(TangentOperands(w_hh, residuals, drives, valid, reset), spec=spec)

    h, last = evolve(residuals, primals, moving._replace(valid=None, reset=None))
    results = Trajectory(whole.states[:1], whole.last, None, whole.found)
    return results, Trajectory((h,), last, None, jax.tree.map(no_tangent, whole.found))


def _drives(
    spec: Spec, residuals: Residuals, operands: ForwardOperands, moving: ForwardOperands
) -> Drives:
    """The tangents of u, and of what else does not wait for the step before, in large products."""
    dot = functools.partial(scan.dot, precision=spec.precision)
    zero = lax.full_like(residuals.states[0], 0)
    u = jnp.concatenate([zero] * spec.cell.gates, -1)
    q = zero if spec.cell.apart else None
    dx, (dw_ih, dbias, dw_hh, dbias_hn), dstate, _, _ = moving
    if dx is not None:
        u = u + dot(dx, operands.weights.w_ih)
    if dw_ih is not None:
        u = u + dot(scan.looked_at(operands.x, operands.valid), dw_ih)
    if dbias is not None:
        u = u + scan.in_row(dbias, u)
    if dw_hh is not None:
        (earlier, *_) = scan.before(spec, residuals, operands.reset)
        y = dot(earlier, dw_hh)
        if q is not None:
            hidden = zero.shape[-1]
            y, q = y[..., :-hidden], y[..., -hidden:]
            y = jnp.concatenate([y, zero], -1)
        u = u + y
    if dbias_hn is not None and q is not None:
        q = q + scan.in_row(dbias_hn, q)
    return Drives(u, q, tuple(zero[:, 0] if ds is None else ds for ds in dstate))


# Transposition: (2) is linear in the drives, (3) in the cotangents of (2).


def _tangent_transpose(cotangents, operands, *, spec):
    w_hh, residuals, _, valid, reset = operands
    known = TransposeOperands(w_hh, residuals, cotangents, valid, reset)
    return {"drives": transpose(known, spec=spec)}


def _transpose_transpose(cotangents, operands, *, spec):
    w_hh, residuals, _, valid, reset = operands
    known = TangentOperands(w_hh, residuals, cotangents, valid, reset)
    return {"cotangents": tangent(known, spec=spec)}


# Batching: where all share their weights the mapped axis joins the batch, else a method that is
# made of functions of JAX is mapped, the plain scan unless another is named.


def _batch(name: str, operands: Any, dims: Any, *, spec: Spec):
    if mapped(operands.weights, dims.weights):
        empty = any(0 in leaf.shape for leaf in jax.tree.leaves(operands))
        by_scan = empty or spec.method == "auto"
        method = scan.method if by_scan else cell_table.named(spec.method)
        if not method.any_weights:
            able = ", ".join(repr(m.name) for m in cell_table.methods if m.any_weights)
            raise ValueError(
                f"method={spec.method!r} cannot serve this call: its weights are mapped (vmap), "
                f"which only these can do: {able}"
            )
        by_itself = functools.partial(_forward_by, method)
        program = by_itself if name == "forward" else getattr(method, name)

        def whole(operands):
            if method is scan.method:
                _require_countable(name, operands)
            return _over_time(name, program, spec, operands)

        return jax.vmap(whole, in_axes=(dims,))(operands), 0
    x, place = mapped(operands, dims)[0]
    size = x.shape[place]

    def joined(x):
        return merged(jnp.broadcast_to(x, (size, *x.shape[1:])))

    rest = with_axis(operands._replace(weights=None), dims._replace(weights=None), 0)
    batch = jax.tree.leaves(rest)[0].shape[1]
    joint = jax.tree.map(joined, rest)._replace(weights=operands.weights)
    operation = {"forward": forward, "tangent": tangent, "transpose": transpose}[name]
    outputs = operation(joint, spec=spec)
    return jax.tree.map(lambda y: parted(y, (size, batch)), outputs), 0


# On a mesh: sequences may be divided; all else is whole on each device.


def _names(operands, results, *, structure, **_):
    given = structure.unflatten(operands)
    of_weights = {id(leaf) for leaf in jax.tree.leaves(given.weights)}

    def of(x) -> Names:
        return (None if id(x) in of_weights else "batch", *[None] * (x.ndim - 1))

    return list(map(of, operands)), list(map(of, results))


_layout = Layout(
    _names,
    on_device=lambda static, places, sizes: static,
    composed=lambda static: bool(static["spec"].over),
)

forward = Operation(
    "cell_forward",
    results=_forward_results,
    run=_run_forward,
    jvp=_forward_jvp,
    batch=functools.partial(_batch, "forward"),
    layout=_layout,
)
tangent = Operation(
    "cell_tangent",
    results=_tangent_results,
    run=_run_tangent,
    jvp=functools.partial(_jvp_of_scan, "tangent"),
    batch=functools.partial(_batch, "tangent"),
    layout=_layout,
    linear=("drives",),
    transpose=_tangent_transpose,
)
transpose = Operation(
    "cell_transpose",
    results=_transpose_results,
    run=_run_transpose,
    jvp=functools.partial(_jvp_of_scan, "transpose"),
    batch=functools.partial(_batch, "transpose"),
    layout=_layout,
    linear=("cotangents",),
    transpose=_transpose_transpose,
)
