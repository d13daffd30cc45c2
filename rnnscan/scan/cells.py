"""`cell_scan`: h_t = cell(W_ih x_t + b, W_hh h_{t-1}), the recurrences that are not linear."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from rnnscan.scan import arguments, split_time, target
from rnnscan.scan.cell_kinds import CELLS, CellKind
from rnnscan.scan.cell_kinds.cell import Cell, States
from rnnscan.scan.cell_method import CellWeights, ForwardOperands
from rnnscan.scan.cell_methods import CellMethodName, cell_table, scan
from rnnscan.scan.cell_rules import Spec, case_of, forward
from rnnscan.scan.nonlinear import nothing_to_do
from rnnscan.scan.nonlinear_method import Convergence
from rnnscan.scan.precision import carry_dtype, matmul_precision
from rnnscan.scan.sharding import merged, parted
from rnnscan.scan.split_time import AxisName
from rnnscan.scan.table import MethodRows
from rnnscan.scan.target import Platform

ORDER = "weights are w_ih (G H, I), bias (G H,), w_hh (G H, H)"  # for messages


def cell_scan(
    kind: CellKind,
    weights: CellWeights | Sequence[ArrayLike],
    x: ArrayLike,
    state: Sequence[ArrayLike],
    valid: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    *,
    reverse: bool = False,
    method: CellMethodName = "auto",
    axis_name: AxisName | None = None,
) -> tuple[jax.Array, States]:
    """All h_t of a recurrent cell, and the last state in scan order; differentiable in every mode.

        tanh, relu   h = phi(u + W_hh h_-)
        lstm         i, f, o = sigmoid, g = tanh of their parts of u + W_hh h_-,
                     c = f * c_- + i * g,   h = o * tanh(c)
        gru          r, z = sigmoid of their parts of u + W_hh h_-,   q = W_n h_- + b_hn,
                     n = tanh(u_n + r * q),   h = (1 - z) * n + z * h_-

    with u_t = W_ih x_t + b. Gates are stacked in the order of `torch.nn`: i f g o, and r z n.

    Arguments:
      kind: "tanh", "relu", "lstm" or "gru".
      weights: `CellWeights`, or its arrays: (G H, I), (G H,), (G H, H), and for a gru (H,), with
        G = 1, 1, 4 and 3 gates.
      x: (..., T, I). Time is the axis before the last, as in layers; batch axes may be missing.
      state: the tuple (h,), of an lstm (h, c), each (..., H): before the first step in scan order.
      valid: boolean (..., T). Where false, the state passes as it is, and x is not looked at.
      reset: boolean (..., T). Where true, the state before that step in scan order (the given one
        included) is zeros, whatever it was, inf and nan included, forward and backward (the
        gradients of weights sum over all steps, those before it too). With `reverse`, a packed
        batch marks the last element of each segment. A step that is not valid resets nothing.
      reverse: from the last step to the first.
      method: `"auto"`, or a name of `explain_cell_scan`: `"scan"`, `"native"`, `"cuda"`, and those
        of `nonlinear_scan`, `"newton"` and its siblings, in parallel over time.
      axis_name: inside `jax.shard_map`, the mesh axis, or a tuple of them, over which time is split
        in order. x, valid and reset are then this device's chunk, of the same T on every device,
        and so is h; `state` is that before, the last state that after the *whole* sequence, alike
        on every device.

    Returns: h (..., T, H), and the tuple of last states (..., H), in the dtype that all operands
    promote to. Halves are carried in float32 and rounded.

    Raises TypeError for dtypes that are not real floating, ValueError for shapes that do not fit,
    an unknown kind or method, a method that cannot serve, and an `axis_name` that is no axis of a
    `jax.shard_map` around the call.

    Cost: 2 T B G H (I + H) operations, span T; the backward pass twice as many. It keeps x, h, and
    of the gated cells c and the gates. By `"newton"` and its siblings K iterations on all steps at
    once, and D = H numbers a state, of an lstm 2 H: see the table of `nonlinear_scan`; their
    backward pass is one linear scan, in parallel over time (on a CPU for D <= 16). A method that
    is named returns what it ends with, converged or not: `cell_scan_with_convergence` says so.
    Products use the highest precision unless `jax.default_matmul_precision` says otherwise.

    Time over N devices (`axis_name`): a step waits for the one before it, so the devices compute
    one after another, and each passes its last state on. It takes the *time of one device*, forward
    and backward; what is split is the memory, 1/N of it on each. N states (B, H) are sent.
    Gradients are those of any function inside `jax.shard_map`: of what is alike on every device the
    sum over them where varying axes are checked, else each device's share. Derivatives of higher
    order are right, but hold the residuals of all N turns. On CPU devices XLA ends a process where
    one waits for more than 60 s, so that a turn must not take longer:
    `XLA_FLAGS=--xla_cpu_collective_call_terminate_timeout_seconds=...`.

    Source: Elman 1990; Hochreiter & Schmidhuber 1997; Cho et al. 2014; see
    `rnnscan/scan/cell_kinds`.

    Example: a running sum that forgets negative numbers.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 1))
    >>> x = jnp.array([[1.0], [2.0], [-9.0], [4.0]])
    >>> h, (last,) = cell_scan("relu", (one, jnp.zeros(1), one), x, (jnp.zeros(1),))
    >>> h[:, 0].tolist(), last.tolist()
    ([1.0, 3.0, 0.0, 4.0], [4.0])
    """
    operands = weights, x, state, valid, reset
    h, last, _ = _evaluated(kind, operands, reverse, method, False, axis_name)
    return h, last


def cell_scan_with_convergence(
    kind: CellKind,
    weights: CellWeights | Sequence[ArrayLike],
    x: ArrayLike,
    state: Sequence[ArrayLike],
    valid: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    *,
    reverse: bool = False,
    method: CellMethodName = "auto",
    axis_name: AxisName | None = None,
) -> tuple[jax.Array, States, Convergence]:
    """`cell_scan`, and how far to trust it: (h, last, `Convergence` with fields (...,)).

    By a method that iterates it is that of `nonlinear_scan`, one a sequence. One that goes step by
    step takes 0 iterations and converges unless its states are not finite; `residual` and
    `error_bound` are those of its own states. Arguments and errors: those of `cell_scan`, but there
    is no certificate over an `axis_name` yet, which raises ValueError. Cost: what `Convergence`
    costs, on top of it; the states of all steps are held.

    >>> import jax.numpy as jnp
    >>> w, b, x = jnp.full((1, 1), 0.5), jnp.zeros(1), jnp.ones((100, 1))
    >>> h, last, found = cell_scan_with_convergence(
    ...     "tanh", (w, b, w), x, (jnp.zeros(1),), method="newton"
    ... )
    >>> bool(found.converged), int(found.iterations) < 9, bool(found.error_bound < 1e-6)
    (True, True, True)
    """
    operands = weights, x, state, valid, reset
    return _evaluated(kind, operands, reverse, method, True, axis_name)


def _evaluated(
    kind, operands, reverse, method, certify, axis_name
) -> tuple[jax.Array, States, Any]:
    """A call, whose last result is None where there is no certificate."""
    cell_table.check(method)
    reverse = arguments.direction(reverse)
    over = _checked_axes(axis_name, method, certify)
    given, dtype = _checked(kind, *operands)
    spec = _spec(kind, reverse, method, certify, over)
    batch, hidden = given.x.shape[:-2], given.weights.w_hh.shape[-1]
    if certify and not isinstance(hidden, int):
        raise ValueError(
            f"weights.w_hh: got shape {given.weights.w_hh.shape}, but a certificate needs to know "
            "the hidden size, which is a symbol (`jax.export`); use cell_scan"
        )

    def whole(states: States) -> States:
        """Of the last state of a chunk, that of all of time."""
        if not over:
            return states
        return tuple(split_time.at_the_end(s, over, reverse=reverse) for s in states)

    if given.x.shape[-2] == 0:
        h = lax.full_like(given.x, 0, shape=(*batch, 0, hidden), dtype=dtype)
        found = nothing_to_do(given.x.dtype, batch) if certify else None
        return h, tuple(s.astype(dtype) for s in whole(given.state)), found
    (h,), last, _, found, _ = forward(_one_batch_axis(given, over), spec=spec)
    results = (h, whole(last), found)
    h, last, found = jax.tree.map(lambda y: parted(y, batch), results)
    return h.astype(dtype), tuple(s.astype(dtype) for s in last), found


def explain_cell_scan(
    kind: CellKind,
    weights,
    x,
    state,
    valid=None,
    reset=None,
    *,
    reverse=False,
    platform: Platform | None = None,
) -> MethodRows:
    """The rows that `cell_scan(..., method="auto")` reads: method, available, reason, chosen.

    Arguments: those of `cell_scan`, as arrays or `jax.ShapeDtypeStruct`s (only shapes and dtypes
    are read); `platform`: "cpu", "cuda", "rocm" or "tpu", by default the one in use.

    Returns: a tuple, printed as a table, of one `MethodRow` for each method.
    Raises what `cell_scan` raises for its operands. Cost: no computation. Source: the method table
    of `rnnscan/scan/cell_methods`.

    Example:

    >>> import jax.numpy as jnp
    >>> weights = jnp.ones((8, 3)), jnp.ones(8), jnp.ones((8, 8))
    >>> rows = explain_cell_scan(
    ...     "tanh", weights, jnp.ones((100, 3)), (jnp.ones(8),), platform="cuda"
    ... )
    >>> [row.method for row in rows if row.chosen]
    ['scan']
    """
    reverse = arguments.direction(reverse)

    def batched(*operands):
        return _one_batch_axis(_checked(kind, *operands)[0])

    given = arguments.by_shapes(batched, weights, x, state, valid, reset)
    hidden = given.weights.w_hh.shape[-1]
    spec = _spec(kind, reverse, "auto")
    where = target.named(platform)
    return cell_table.explain(case_of(spec, where, given.x, hidden, given.x.shape[-1]))


def cell_step(kind: CellKind, weights: CellWeights, x_t: jax.Array, state: States) -> States:
    """The state after one step: x_t (..., I), each state (..., H)."""
    cell, precision = CELLS[kind], matmul_precision()
    w_ih, bias, w_hh, bias_hn = weights
    u = scan.dot(x_t, w_ih, precision)
    u = u + scan.in_row(bias, u)
    z, q = scan.gates_of(cell, u, scan.dot(state[0], w_hh, precision), bias_hn)
    return cell.step(z, q, state)[0]


def _checked_axes(axis_name: AxisName | None, method: str, certify: bool) -> tuple[str, ...]:
    """The mesh axes over which time is split."""
    if axis_name is None:
        return ()
    over = split_time.names_of(axis_name)
    if certify:
        raise ValueError(
            f"axis_name: got {axis_name!r}, but a certificate needs all of time on one device; use "
            "cell_scan, or give every device whole sequences and no axis_name"
        )
    able = [m.name for m in cell_table.methods if m.in_turns]
    if method not in ("auto", *able):
        raise ValueError(
            f"method={method!r} cannot serve this call: it iterates on all of time, which is split "
            f"over devices (axis_name={axis_name!r}); these pass the state on, from one device to "
            f"the next: {', '.join(map(repr, able))}"
        )
    return over


def _spec(
    kind: CellKind, reverse: bool, method: str, certify: bool = False, over: tuple[str, ...] = ()
) -> Spec:
    return Spec(CELLS[kind], reverse, matmul_precision(), certify=certify, method=method, over=over)


def _one_batch_axis(operands: ForwardOperands, over: tuple[str, ...] = ()) -> ForwardOperands:
    """Batch axes merged to one, all operands varying alike over a mesh, over `over` in any case."""
    x, weights, *rest = operands
    x, *rest = jax.tree.map(lambda leaf: merged(leaf, x.ndim - 2), (x, *rest))
    operands = ForwardOperands(x, weights, *rest)
    leaves, structure = jax.tree.flatten(operands)
    place = split_time.index_and_size(over)[0] if over else None
    *leaves, _ = arguments.vary_alike(*leaves, place)
    return structure.unflatten(leaves)


def _checked(kind, weights, x, state, valid, reset) -> tuple[ForwardOperands, jnp.dtype]:
    """The operands, in the dtype to be carried, and the dtype of the results."""
    valid, reset = arguments.flags(valid=valid), arguments.flags(reset=reset)
    if kind not in tuple(CELLS):  # not by hash: kind may be anything
        known = ", ".join(map(repr, CELLS))
        hint = arguments.nearest(kind, CELLS)
        raise ValueError(f"kind: got {kind!r}, expected one of {known}{hint}")
    cell = CELLS[kind]
    names = CellWeights._fields[: 3 + cell.apart]
    if isinstance(weights, CellWeights) and not cell.apart and weights.bias_hn is None:
        weights = weights[:3]
    weights = _tuple_of("weights", weights, names)
    state = _tuple_of("state", state, cell.states)
    given = {"x": x} | dict(zip([f"weights.{name}" for name in names], weights, strict=True))
    given |= {f"state[{i}]": part for i, part in enumerate(state)}
    x, *rest = arguments.promote(**given)
    weights, state = CellWeights(*rest[: len(names)]), tuple(rest[len(names) :])
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x: got dtype {x.dtype} after promotion, expected a real one")
    _check_shapes(cell, weights, x, state)
    for name, flags in (("valid", valid), ("reset", reset)):
        if flags is not None and flags.shape != x.shape[:-1]:
            raise ValueError(
                f"{name}: got shape {flags.shape}, expected {x.shape[:-1]}, one for each step of x"
            )
    wide = carry_dtype(x.dtype)
    operands = ForwardOperands(x, weights, state, None, None)
    operands = jax.tree.map(lambda leaf: leaf.astype(wide), operands)
    valid, reset = (None if flags is None else jnp.asarray(flags) for flags in (valid, reset))
    if valid is not None and reset is not None:
        reset = reset & valid
    return operands._replace(valid=valid, reset=reset), x.dtype


def _tuple_of(name: str, given: Any, parts: tuple[str, ...]) -> tuple:
    if not isinstance(given, (tuple, list)) or len(given) != len(parts):
        got = f"a {type(given).__name__}"
        if isinstance(given, (tuple, list)):
            got = f"{got} of {len(given)}"
        elif hasattr(given, "shape"):
            got = f"one array of shape {given.shape}"
        alone = f": ({parts[0]},)" if len(parts) == 1 else ""
        raise ValueError(f"{name}: got {got}, expected a tuple of {', '.join(parts)}{alone}")
    return tuple(given)


def _check_shapes(cell: Cell, weights: CellWeights, x: jax.Array, state: States) -> None:
    if weights.w_hh.ndim != 2 or x.ndim < 2:
        raise ValueError(
            f"x, weights.w_hh: got shapes {x.shape} and {weights.w_hh.shape}, expected (..., T, I) "
            f"and (G H, H); {ORDER}"
        )
    hidden, inputs = weights.w_hh.shape[-1], x.shape[-1]
    rows = cell.gates * hidden
    expected = {
        "weights.w_ih": (weights.w_ih, (rows, inputs)),
        "weights.bias": (weights.bias, (rows,)),
        "weights.w_hh": (weights.w_hh, (rows, hidden)),
        "weights.bias_hn": (weights.bias_hn, (hidden,)),
    }
    expected |= {f"state[{i}]": (s, (*x.shape[:-2], hidden)) for i, s in enumerate(state)}
    for name, (array, shape) in expected.items():
        if array is not None and array.shape != shape:
            order = f"; {ORDER}" if name.startswith("weights") else ""
            raise ValueError(
                f"{name}: got shape {array.shape}, expected {shape}: {cell.name} with G = "
                f"{cell.gates}, H = {hidden} and x {x.shape}{order}"
            )
