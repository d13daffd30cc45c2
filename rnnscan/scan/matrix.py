"""`matrix_scan`: h_t = A_t @ h_{t-1} + b_t, dense."""

import operator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rnnscan.scan import arguments
from rnnscan.scan.evaluate import Target, case_of
from rnnscan.scan.matrix_methods import current_table, diagonal
from rnnscan.scan.recurrence import recurrence
from rnnscan.scan.table import MethodRow, checked_platform


def matrix_scan(
    A: ArrayLike,
    b: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    reset: ArrayLike | None = None,
    method: str = "auto",
) -> jax.Array:
    """Evaluate `h_t = A_t @ h_{t-1} + b_t` for all t, differentiable in every mode.

    Arguments:
      A: transition matrices: `(n, n)`, one for every step, or with one axis more than b, the last
        two `(n, n)`, those before them as b's or 1; size 1 on `axis` is a constant A.
      b: drive `(..., n)` with time on `axis`, which is never the last; h has its shape.
      h0: the state before the first step; broadcasts to b without `axis`. `None` is exactly zeros.
      axis: the time axis of b. T = 0 and T = 1 are fine.
      reverse: run from the last step to the first, `h_t = A_t @ h_{t+1} + b_t`; h0 is then the
        state after the end.
      reset: boolean, `(T,)`, or broadcasting to b with a last axis of size 1. Where true, the state
        before that step in scan order is dropped: `h_t = b_t`, whatever A_t and the past were.
      method: `"auto"`, or a name of `explain_matrix_scan`: `"sequential"`, `"associative"`.

    Returns:
      h, with the shape of b and the promoted dtype of A, b and h0 (those of `linear_scan`).

    Raises:
      TypeError: an operand is not of such a dtype, or reset is not boolean.
      ValueError: shapes that do not fit b, an axis that b lacks or its last, an unknown method.

    Cost: for B states side by side, `sequential` has work T B n^2 and span T; `associative` has
    work O(T n^3), span O(log T) and memory T n^2, also where A is constant. The backward pass is
    one reversed scan and keeps A and h only; a constant A gets its gradient from one product after
    it. Matrix products use the highest precision (TF32 silently halves the digits) unless
    `jax.default_matmul_precision` says otherwise. Complex gradients follow JAX: no conjugation.

    Exactness: as `linear_scan`, with |A| for |a|.

    Source: Blelloch 1990, "Prefix sums and their applications", section 1.4.1 (first-order
    recurrences over a semiring, here of matrices).

    Example: a rotation by a quarter turn, driven once.

    >>> import jax.numpy as jnp
    >>> quarter = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    >>> b = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    >>> matrix_scan(quarter, b).tolist()
    [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    """
    table = current_table()
    table.check(method)
    reverse = arguments.direction(reverse)
    operands = _in_line(A, b, h0, reset, axis)
    axis = operator.index(axis) % operands[1].ndim
    if method == "diagonal" and operands[0].shape[axis] == 1 and diagonal.is_concrete(A):
        reason = diagonal.why_not_this(diagonal.condition_number(A), operands[1].dtype)
        if reason is not None:
            raise ValueError(f"method='diagonal' cannot serve this call: {reason}")
    return recurrence(table, *operands, axis=axis, reverse=reverse, method=method)


def explain_matrix_scan(
    A, b, h0=None, *, axis=0, reverse=False, reset=None, platform: str | None = None
) -> tuple[MethodRow, ...]:
    """The rows that `matrix_scan(..., method="auto")` reads: method, available, reason, chosen.

    Arguments: those of `matrix_scan`, as arrays or `jax.ShapeDtypeStruct`s (only shapes and dtypes
    are read); `platform`: "cpu", "cuda", "rocm" or "tpu", by default the one in use.

    Returns: one `MethodRow` for each method of h_t = A_t @ h_{t-1} + b_t. Raises what `matrix_scan`
    raises. Cost: no computation. Source: the method table of `rnnscan/scan/matrix.py`.

    Example:

    >>> import jax.numpy as jnp
    >>> rows = explain_matrix_scan(jnp.eye(8), jnp.zeros((1000, 8)), platform="cpu")
    >>> [row.method for row in rows if row.chosen]
    ['sequential']
    """
    arguments.direction(reverse)  # checked, though no method depends on it
    if isinstance(reset, (list, tuple)):
        reset = np.asarray(reset, None if reset else bool)
    given = A
    A, b, *_ = jax.eval_shape(partial(_in_line, axis=axis), A, b, h0, reset)
    axis = operator.index(axis) % len(b.shape)
    case = case_of(
        current_table(),
        Target(checked_platform(platform or jax.default_backend())),
        b.dtype,
        b.shape,
        axis,
        constant=A.shape[axis] == 1,
    )
    rows = current_table().explain(case)
    return tuple(_with_condition(row, given, b.dtype) for row in rows)


def _with_condition(row: MethodRow, A, dtype) -> MethodRow:
    """The row of `diagonal` with what the numbers of A say, where they are known."""
    if row.method != "diagonal" or not row.available:
        return row
    if not diagonal.is_concrete(A):
        return row._replace(reason=f"{row.reason}, not known here")
    condition = diagonal.condition_number(A)
    reason = diagonal.why_not_this(condition, dtype)
    return row._replace(
        available=reason is None,
        reason=reason or f"{row.reason}, {condition:.3g}",
        condition=condition,
    )


def _in_line(A, b, h0, reset, axis):
    A, b, h0 = arguments.promote(A=A, b=b, h0=h0)
    if b.ndim < 2:
        raise ValueError(f"b: got shape {b.shape}, expected (..., T, ..., n) with two axes or more")
    axis = arguments.time_axis(axis, b.shape, trailing=1)
    n = b.shape[-1]
    expected = (*b.shape[:-1], n, n)
    if A.ndim not in (2, b.ndim + 1) or not (
        A.shape[-2:] == (n, n) and arguments.broadcasts(A.shape, expected)
    ):
        raise ValueError(
            f"A: got shape {A.shape} for b {b.shape}, expected ({n}, {n}) or {expected}, where "
            "axes before the last two may have size 1"
        )
    A = arguments.in_line(A, b.ndim + 1)
    reset = arguments.reset_flags(reset, b, axis, trailing=1)
    h0 = arguments.initial_state(h0, b, axis)
    if h0.shape[-1] != n:
        h0 = jnp.broadcast_to(h0, (*h0.shape[:-1], n))
    return arguments.vary_alike(A, b, h0, reset)
