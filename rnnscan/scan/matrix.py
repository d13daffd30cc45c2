"""`matrix_scan`: h_t = A_t @ h_{t-1} + b_t, dense."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rnnscan.scan import arguments, target
from rnnscan.scan.linear_lowering import Spec, case_of
from rnnscan.scan.linear_method import ScanOperands
from rnnscan.scan.linear_rules import over, recurrence
from rnnscan.scan.matrix_methods import MatrixMethodName, diagonal, matrix_table
from rnnscan.scan.precision import matmul_precision
from rnnscan.scan.product import matrix
from rnnscan.scan.split_time import AxisName
from rnnscan.scan.table import MethodRow, MethodRows
from rnnscan.scan.target import Platform


def matrix_scan(
    A: ArrayLike,
    b: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    reset: ArrayLike | None = None,
    method: MatrixMethodName = "auto",
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Evaluate `h_t = A_t @ h_{t-1} + b_t` for all t, differentiable in every mode.

    Arguments:
      A: transition matrices: `(n, n)`, one for every step, or with one axis more than b, the last
        two `(n, n)`, those before them as b's or 1; size 1 on `axis` is a constant A.
      b: drive `(..., n)` with time on `axis`, which is never the last; h has its shape.
      h0: the state before the first step; broadcasts to b without `axis`. `None` is exactly zeros.
      axis: the time axis of b, 0 unless said; for batch first, as layers have it, `axis=1`.
        T = 0 and T = 1 are fine.
      reverse: run from the last step to the first, `h_t = A_t @ h_{t+1} + b_t`; h0 is then the
        state after the end.
      reset: boolean, `(T,)`, or broadcasting to b with a last axis of size 1. Where true, the state
        before that step in scan order is dropped: `h_t = b_t`, whatever A_t and the past were.
      method: `"auto"`, or a name of `explain_matrix_scan`: `"sequential"`, `"associative"`,
        `"blocked"`, `"diagonal"` (for a constant A).
      axis_name: inside of `jax.shard_map`, the mesh axis along which time is split, as in
        `linear_scan`: n^2 + n words a state are exchanged, and n for a constant A, of which each
        device forms the power it needs.

    Returns:
      h, with the shape of b and the promoted dtype of A, b and h0 (those of `linear_scan`).

    Raises:
      TypeError: an operand is not of such a dtype, or reset is not boolean.
      ValueError: shapes that do not fit b, an axis that b lacks or its last, an unknown method, or
        one that cannot serve: `"diagonal"` with an A that varies in time, on a TPU, or with a
        concrete A whose eigenvectors have a condition number, times u, above 2^-10 (16,384 in
        float32). A traced A cannot be looked at and is not checked, under `jit` and `grad` that is.
        An axis_name, or arrays on a mesh, as in `linear_scan`.

    Cost and accuracy, for B states side by side that one real A (n, n) moves on T times. Work in
    multiplications, span in products that wait for each other, memory beside operands and result:

    | method | work | span | memory | error |
    |---|---|---|---|---|
    | sequential | T B n^2 | T | a state | e |
    | associative | 2 T n^3 + 2 T B n^2 | 2 log2 T | 2 T n^2 to 4 T n^2 | e |
    | blocked | 2.1 T B n^2 + n^3 log2 T | 3.7 log2 T | 2 b | e |
    | diagonal | 4 T B n^2 + 17 n^3 | 2 + that of `linear_scan` | 4 b | cond(V) e |

    e is a few roundings a step, n in a sum, carried on by |A|: `4 scan(|A|, u (n |A| |h_{t-1}| +
    |h_t|))`; V are the eigenvectors of A (see `rnnscan/scan/matrix_methods/diagonal.py`), whose
    condition number `explain_matrix_scan` returns. `associative` spells a constant A out over time,
    the others never do. For an A that varies in time `blocked` is a reduction and a scan of chunks,
    side by side: work T n^3 + 2 T B n^2 in about 2 sqrt(T) steps (at most 64 a chunk), memory T n^2
    / 64 and more. Programs grow with log T (`associative`, `blocked`) or not at all.

    `auto` takes `blocked` for a constant A: on a CPU for at least 1,024 steps of narrow states
    (12 <= n <= 24 for one state, 32 <= B n <= 128 for several), where it was measured to be 1.1 to
    3 times as fast as `sequential`; on accelerators, an estimate, unless a step is work enough by
    itself (B n^2 > 2^26). Else `sequential`, on accelerators `associative` for a small A that
    varies. On kinds of accelerators that are known (`rnnscan/scan/devices.py`) it takes what is
    predicted to be fastest.

    The backward pass costs once more the same and keeps A and h only; a constant A gets its
    gradient from one product after it, and no derivative of eigenvectors is taken. Matrix products
    use the highest precision (TF32 silently halves the digits) unless
    `jax.default_matmul_precision` says otherwise. Complex gradients follow JAX: no conjugation.

    Exactness: as `linear_scan`, with |A| for |a|: `associative` and `blocked` form powers of A,
    which may overflow where h does not. `diagonal` mixes the components of a step: an inf or nan in
    one is in all.

    Source: Blelloch 1990, "Prefix sums and their applications", section 1.4.1 (first-order
    recurrences over a semiring, here of matrices).

    Example: a rotation by a quarter turn, driven once.

    >>> import jax.numpy as jnp
    >>> quarter = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    >>> b = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    >>> matrix_scan(quarter, b).tolist()
    [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    """
    matrix_table.check(method)
    reverse = arguments.direction(reverse)
    operands, axis = _in_line(A, b, h0, reset, axis=axis)
    if method == "diagonal" and operands.a.shape[axis] == 1:
        diagonal.require_eigenvectors(A, operands.b.dtype)
    product = matrix(matmul_precision())
    time = over(axis_name, operands)
    return recurrence(Spec(product, matrix_table, method, axis, reverse, time), operands)


def explain_matrix_scan(
    A, b, h0=None, *, axis=0, reverse=False, reset=None, platform: Platform | None = None
) -> MethodRows:
    """The rows that `matrix_scan(..., method="auto")` reads: method, available, reason, chosen.

    Arguments: those of `matrix_scan`, as arrays or `jax.ShapeDtypeStruct`s (only shapes and dtypes
    are read, and the numbers of A where there are any); `platform`: "cpu", "cuda", "rocm" or "tpu",
    by default the one in use.

    Returns: a tuple, printed as a table, of one `MethodRow` for each method of h_t = A_t @
    h_{t-1} + b_t. Where A is constant and its numbers are known, that of `"diagonal"` has the
    condition number of the eigenvectors, in the 2-norm, as `condition` (the largest of several A),
    and is not available where it is too large.

    Raises what `matrix_scan` raises for its operands. Cost: no computation but those eigenvectors,
    on the host, some 25 n^3. Source: the method table of `rnnscan/scan/matrix_methods`.

    Example:

    >>> import jax.numpy as jnp
    >>> rows = explain_matrix_scan(jnp.eye(8), jnp.zeros((1000, 8)), platform="cpu")
    >>> [row.method for row in rows if row.chosen]
    ['sequential']
    >>> rows[-1].method, rows[-1].condition
    ('diagonal', 1.0)
    """
    arguments.direction(reverse)  # checked, though no method depends on it
    operands = arguments.by_shapes(lambda *given: _in_line(*given, axis=axis)[0], A, b, h0, reset)
    axis = arguments.time_axis(axis, operands.b.shape, trailing=1)
    b, constant = operands.b, operands.a.shape[axis] == 1
    product = matrix(matmul_precision())
    case = case_of(product, target.named(platform), b.dtype, b.shape, axis, constant)
    return MethodRows(_with_condition(row, A, b.dtype) for row in matrix_table.explain(case))


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


def _in_line(A, b, h0, reset, *, axis) -> tuple[ScanOperands, int]:
    """The operands, checked, with their axes in line, and the axis of time."""
    A, b, h0 = arguments.promote(A=A, b=b, h0=h0)
    if b.ndim < 2:
        raise ValueError(
            f"b: got shape {b.shape}, expected (..., T, ..., n), the last axis the state"
        )
    axis = arguments.time_axis(axis, b.shape, trailing=1)
    n = b.shape[-1]
    expected = (*b.shape[:-1], n, n)
    if A.ndim not in (2, b.ndim + 1) or not (
        A.shape[-2:] == (n, n) and arguments.broadcasts(A.shape, expected)
    ):
        cure = "; for a diagonal A use linear_scan" if A.ndim < 2 else ""
        if A.shape[-2:] == (n, n):
            cure = arguments.lined_up("A", A.shape, expected)
        raise ValueError(
            f"A: got shape {A.shape} for b {b.shape}, whose last axis is the state, expected "
            f"({n}, {n}) or {expected}, where axes before the last two may have size 1{cure}"
        )
    A = arguments.in_line(A, b.ndim + 1)
    reset = arguments.reset_flags(reset, b, axis, trailing=1)
    h0 = arguments.initial_state(h0, b, axis)
    if h0.shape[-1] != n:
        h0 = jnp.broadcast_to(h0, (*h0.shape[:-1], n))
    return ScanOperands(A, b, h0, reset), axis
