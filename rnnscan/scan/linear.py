"""`linear_scan`: h_t = a_t * h_{t-1} + b_t, elementwise."""

import jax
from jax.typing import ArrayLike

from rnnscan.scan import arguments, target
from rnnscan.scan.linear_lowering import Spec, case_of
from rnnscan.scan.linear_method import ScanOperands
from rnnscan.scan.linear_methods import LinearMethodName, linear_table
from rnnscan.scan.linear_rules import over, recurrence
from rnnscan.scan.product import elementwise
from rnnscan.scan.split_time import AxisName
from rnnscan.scan.table import MethodRows
from rnnscan.scan.target import Platform


def linear_scan(
    a: ArrayLike,
    b: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    reset: ArrayLike | None = None,
    method: LinearMethodName = "auto",
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Evaluate `h_t = a_t * h_{t-1} + b_t`, elementwise, for all t, differentiable in every mode.

    Arguments:
      a: decay. Broadcasts against b by NumPy's rule: a decay that is constant in time has size 1 on
        `axis`, or lacks leading axes. No guessing: `(T,)` against b `(T, B)` lines up with B.
        Nothing that a broadcast says is spelled out in memory (`associative` over time excepted).
      b: drive, with time on `axis`; h has its shape, so a must not be larger.
      h0: the state before the first step; broadcasts to b without `axis`. `None` is exactly zeros.
      axis: the time axis of b, 0 unless said; for batch first, as layers have it, `axis=1`.
        T = 0 and T = 1 are fine.
      reverse: run from the last step to the first, `h_t = a_t * h_{t+1} + b_t`; h0 is then the
        state after the end.
      reset: boolean. Where true, the state before that step in scan order (h0 included) is dropped:
        `h_t = b_t` and the gradient of a_t is 0, whatever a_t and the past were, inf and nan
        included. One axis: over time, of length T; otherwise it broadcasts to b. With `reverse`, a
        packed batch marks the last element of each segment. (The gradient of a *constant* decay
        sums over all steps: a nan elsewhere in the past still makes that sum nan, as in any loop.)
      method: `"auto"`, or a name of `explain_linear_scan`: `"sequential"`, `"associative"`,
        `"blocked"`, `"native"` (CPUs), `"cuda"` (NVIDIA's GPUs).
      axis_name: inside of `jax.shard_map`, the mesh axis (or a tuple of them) along which time is
        split: a, b and reset are this device's chunk of time, all equally long, h0 the state before
        the whole sequence. One that is not divided evenly is padded with a = 1, b = 0 at its end.

    Returns:
      h, with the shape of b and the promoted dtype of a, b and h0: float16, bfloat16, float32,
      float64, complex64 or complex128. Halves are carried in float32 and rounded when written.

    Raises:
      TypeError: an operand is not of such a dtype, or reset is not boolean.
      ValueError: shapes that do not broadcast to b, an axis that b lacks, an unknown method, an
        axis_name that is no axis of a `jax.shard_map` around, operands on explicit axes of a mesh
        that lie differently.

    Cost: work O(T); span T (`sequential`), 2 log2 T (`associative`) or about 2 sqrt(T) (`blocked`);
    compile time independent of T (`associative`, `blocked`: grows with log T). `native`, the
    default on CPUs, and `cuda`, the default on NVIDIA's GPUs, move 3 words an element forward and
    5 backward; `native` was measured at the speed of memory, `cuda` has not run on a card yet. The
    backward pass is one reversed scan (equation 3 of `rnnscan/scan/linear_rules.py`) and keeps a
    and h only. Complex gradients follow JAX: no conjugation.

    Sharding: arrays that lie on a mesh of devices are evaluated where they are, on automatic axes
    by a rule for the compiler and on explicit ones by their types, under `jit` and `vmap` and
    inside of `jax.shard_map`. Over batch axes and channels nothing is exchanged, but for the
    gradient of what broadcasts over them: one sum of its own size. Where time is split, the devices
    exchange what a chunk does to a state, 2 words a channel of each (3 with resets), once forward
    and once backward, and reduce their chunks before they scan them: twice the work divided by
    their number, no larger temporaries (`rnnscan/scan/linear_over_devices.py`, docs/sharding.md).

    Exactness: within a few roundings of the state, propagated by the recurrence itself (Higham
    2002, section 3.1, for the inner products that it is made of). `associative` and `blocked`
    multiply decays with each other, the kernels those of long stretches. Where such products of
    |a| > 1 overflow, the trees and `cuda` may give nan where `sequential` and `native` do not;
    where they underflow, they may lose of a state as much as the smallest number times it
    (`native` does not), and all of them the past if it grows again. `auto` is right for |a| <= 1.

    Source: Blelloch 1990, "Prefix sums and their applications", section 1.4.1; Martin & Cundy
    2018, "Parallelizing linear recurrent neural nets over sequence length", equations 5-8.

    Example: an exponential moving average of three numbers, then two sequences in one call.

    >>> import jax.numpy as jnp
    >>> linear_scan(0.5, jnp.array([1.0, 1.0, 1.0]))
    Array([1.  , 1.5 , 1.75], dtype=float32)
    >>> starts = jnp.array([True, False, True])
    >>> linear_scan(0.5, jnp.array([1.0, 1.0, 1.0]), reset=starts)
    Array([1. , 1.5, 1. ], dtype=float32)
    """
    linear_table.check(method)
    reverse = arguments.direction(reverse)
    operands, axis = _in_line(a, b, h0, reset, axis=axis)
    time = over(axis_name, operands)
    return recurrence(Spec(elementwise, linear_table, method, axis, reverse, time), operands)


def explain_linear_scan(
    a, b, h0=None, *, axis=0, reverse=False, reset=None, platform: Platform | None = None
) -> MethodRows:
    """The rows that `linear_scan(..., method="auto")` reads: method, available, reason, chosen.

    Arguments: those of `linear_scan`, as arrays or `jax.ShapeDtypeStruct`s (only shapes and dtypes
    are read); `platform`: "cpu", "cuda", "rocm" or "tpu", by default the one in use.

    Returns: a tuple, printed as a table, of one `MethodRow` for each method of h_t = a_t *
    h_{t-1} + b_t. Raises what `linear_scan` raises. Cost: no computation. Source: the method table
    of `rnnscan/scan/linear_methods`.

    Example:

    >>> import jax.numpy as jnp
    >>> rows = explain_linear_scan(0.5, jnp.zeros((1000, 16)), platform="tpu")
    >>> [row.method for row in rows if row.chosen]
    ['associative']
    """
    arguments.direction(reverse)  # checked, though no method depends on it
    operands = arguments.by_shapes(lambda *given: _in_line(*given, axis=axis)[0], a, b, h0, reset)
    axis = arguments.time_axis(axis, operands.b.shape, trailing=0)
    b, constant = operands.b, operands.a.shape[axis] == 1
    case = case_of(elementwise, target.named(platform), b.dtype, b.shape, axis, constant)
    return linear_table.explain(case)


def _in_line(a, b, h0, reset, *, axis) -> tuple[ScanOperands, int]:
    """The operands, checked, with their axes in line, and the axis of time."""
    a, b, h0 = arguments.promote(a=a, b=b, h0=h0)
    if b.ndim == 0:
        raise ValueError("b: got shape (), expected the drive, with the time axis at least")
    axis = arguments.time_axis(axis, b.shape, trailing=0)
    if not arguments.broadcasts(a.shape, b.shape):
        raise ValueError(
            f"a: shape {a.shape} does not broadcast to b {b.shape}, the shape of h; axes line up "
            f"from the last one{arguments.lined_up('a', a.shape, b.shape)}"
        )
    a = arguments.in_line(a, b.ndim)
    reset = arguments.reset_flags(reset, b, axis, trailing=0)
    h0 = arguments.initial_state(h0, b, axis)
    return ScanOperands(a, b, h0, reset), axis
