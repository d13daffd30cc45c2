"""`selective_scan`: h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t, y_t = h_t C_t + D x_t."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from rnnscan.scan import arguments, split_time, target
from rnnscan.scan import selective_over_devices as over_devices
from rnnscan.scan.precision import carry_dtype, matmul_precision
from rnnscan.scan.selective_method import (
    DISCRETISATIONS,
    Discretisation,
    ForwardOperands,
    Inputs,
)
from rnnscan.scan.selective_methods import SelectiveMethodName, selective_table
from rnnscan.scan.selective_methods.step import coefficients, read
from rnnscan.scan.selective_rules import Spec, case_of, forward
from rnnscan.scan.sharding import merged, parted
from rnnscan.scan.split_time import AxisName
from rnnscan.scan.table import MethodRows
from rnnscan.scan.target import Platform


def selective_scan(
    x: ArrayLike,
    delta: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    reset: ArrayLike | None = None,
    reverse: bool = False,
    method: SelectiveMethodName = "auto",
    delta_bias: ArrayLike | None = None,
    delta_softplus: bool = False,
    discretisation: Discretisation = "euler",
    signed: bool = False,
    stretch: int | None = None,
    axis_name: AxisName | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The recurrence of Mamba, without its states in memory; differentiable in every mode.

        h_t = a_t * h_{t-1} + delta_t x_t B_t,    a_t = exp(delta_t A)
        y_t = h_t C_t + D x_t

    Each channel has a state of N numbers, h (channels, N); B_t and C_t (N,) are the same for all
    channels. delta_t is a time: a long one forgets the state and takes the input, one of 0 holds
    the state exactly.

    Arguments:
      x: (..., T, channels). Time is the axis before the last, as in layers; batch axes may be
        missing.
      delta: (..., T, channels), >= 0 as a rule. It broadcasts to x, as do the leading axes of
        B, C and h0.
      A: (channels, N), or of size 1 where all channels or all N are alike: real and <= 0, or
        complex with a real part <= 0.
      B, C: (..., T, N).
      D: (channels,), what of x skips the state; `None` is nothing.
      h0: (..., channels, N), the state before the first step; `None` is exactly zeros.
      reset: boolean, (T,) or (..., T). Where true, the state before that step in scan order (h0
        included) is dropped, whatever it and a_t were, inf and nan included, forward and backward
        (the gradients of A and D sum over all steps, those before it too). With `reverse`, a packed
        batch marks the last element of each segment.
      reverse: from the last step to the first.
      method: `"auto"`, or a name of `explain_selective_scan`: `"native"` (CPUs, real float32 and
        halves, Euler's step), `"stretches"`, `"sequential"`, and `"associative"`, `"blocked"`,
        `"cuda"`, which are stretches that this method of `linear_scan` evaluates.
      delta_bias, delta_softplus: the times are delta + delta_bias, (channels,), and of that the
        softplus, as in the published code: -inf is then a time of 0.
      discretisation: `"euler"`, the drive as above; `"zoh"`, that of an x that is held for the
        time delta_t: x_t B_t (exp(delta_t A) - 1) / A.
      signed: a_t = 2 exp(delta_t A) - 1, in (-1, 1), so that a state can change its sign; Euler's
        drive is the same, that of `"zoh"` x_t B_t (1 - |a_t|) / |A|. Real A alone.
      stretch: steps whose states are in memory at once, at most, by the methods made of stretches;
        by default as many as suit the platform.
      axis_name: inside `jax.shard_map`, the mesh axis, or a tuple of them, over which time is split
        in order. x, delta, B, C, reset and y are then this device's chunk, of the same T on every
        device; h0 and h are those before and after the *whole* sequence, alike on every device.

    Returns: y (..., T, channels), and h (..., channels, N), the last state in scan order, in the
    dtype that all operands promote to: halves, float32, float64, complex64 or complex128; real ones
    beside complex ones are fine. Halves are carried in float32 and rounded. Of a complex A y is
    complex; where A stands for pairs of conjugates, as in the published code, what is wanted is
    2 Re(h_t C_t) + D x_t.

    Raises TypeError for other dtypes, ValueError for shapes that do
    not fit, an A that is concrete and grows, an unknown method or one that cannot serve, and an
    `axis_name` that is no axis of a `jax.shard_map` around the call.

    Cost: T B channels N exponentials and about 3 operations for each, twice as many backward.
    States are not in memory, but those before every 64th step, for the backward pass: N / 64 of x.
    `"native"` writes no others. `"stretches"` has arrays of N times x for as many steps as fit into
    a cache. Span T on CPUs; on accelerators that of `linear_scan`. Complex gradients follow JAX: no
    conjugation. Time over devices: each scans its chunk twice, first to find what it makes of a
    state (and `signed` once more, for the product of its decays); one state and its decay are sent.

    Source: Gu & Dao, "Mamba: Linear-time sequence modeling with selective state spaces" (2023),
    arXiv:2312.00752, equations 2-4, Algorithm 2 and section 3.3.2 (no states in memory); signed
    decays: Grazzi et al. (2024), arXiv:2411.12537, table 2.

    Example: two numbers that are held, then forgotten.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[3.0], [9.0], [5.0]])
    >>> delta = jnp.array([[1.0], [0.0], [1.0]])
    >>> one = jnp.ones((3, 1))
    >>> y, h = selective_scan(x, delta, jnp.array([[-100.0]]), one, one)
    >>> y[:, 0].tolist(), h.tolist()
    ([3.0, 3.0, 5.0], [[5.0]])
    """
    selective_table.check(method)
    spec = _spec(reverse, method, discretisation, signed, delta_softplus, stretch)
    given, dtype = _checked(spec, x, delta, A, B, C, D, h0, reset, delta_bias)
    over = None if axis_name is None else split_time.names_of(axis_name)
    batch, steps = given.inputs.x.shape[:-2], given.inputs.x.shape[-2]
    operands = _merged(given, over)
    if isinstance(steps, int) and steps == 0:
        y, last = operands.inputs.x, _alike(operands.inputs.h0, over)
    elif over is None:
        y, last, _ = forward(operands, spec=spec)
    else:
        spec, operands = over_devices.with_times(spec, operands)
        inputs = operands.inputs._replace(h0=over_devices.entering(spec, operands, over))
        y, last, _ = forward(operands._replace(inputs=inputs), spec=spec)
        last = split_time.at_the_end(last, over, reverse=spec.reverse)
    return parted(y, batch).astype(dtype), parted(last, batch).astype(dtype)


def explain_selective_scan(
    x,
    delta,
    A,
    B,
    C,
    D=None,
    h0=None,
    *,
    reset=None,
    reverse=False,
    delta_bias=None,
    delta_softplus=False,
    discretisation: Discretisation = "euler",
    signed=False,
    platform: Platform | None = None,
) -> MethodRows:
    """The rows that `selective_scan(..., method="auto")` reads: method, available, reason, chosen.

    Arguments: those of `selective_scan`, as arrays or `jax.ShapeDtypeStruct`s (only shapes and
    dtypes are read); `platform`: "cpu", "cuda", "rocm" or "tpu", by default the one in use.

    Returns: a tuple, printed as a table, of one `MethodRow` for each method. Raises what
    `selective_scan` raises for its operands. Cost: no computation. Source: the method table of
    `rnnscan/scan/selective_methods`.

    Example:

    >>> import jax.numpy as jnp
    >>> x, A, b = jnp.ones((100, 8)), -jnp.ones((8, 4)), jnp.ones((100, 4))
    >>> rows = explain_selective_scan(x, x, A, b, b, platform="cuda")
    >>> [row.method for row in rows if row.chosen]
    ['stretches']
    """
    spec = _spec(reverse, "auto", discretisation, signed, delta_softplus, None)

    def batched(*operands):
        return _merged(_checked(spec, *operands)[0], None)

    given = arguments.by_shapes(batched, x, delta, A, B, C, D, h0, reset, delta_bias)
    return selective_table.explain(case_of(spec, target.named(platform), given.inputs))


def selective_step(
    x_t: jax.Array,
    delta_t: jax.Array,
    a: jax.Array,
    b_t: jax.Array,
    c_t: jax.Array,
    d: jax.Array | None,
    h: jax.Array,
    *,
    discretisation: Discretisation = "euler",
    signed: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """One step of the time delta_t: x_t and delta_t (..., channels), b_t and c_t (..., N), h
    (..., channels, N)."""
    spec = _spec(False, "auto", discretisation, signed, False, None)
    decay, drive = coefficients(spec, a, x_t, delta_t, b_t)
    h = decay * h + drive
    return read(spec, h, c_t, d, x_t), h


def _spec(reverse, method, discretisation, signed, softplus, stretch) -> Spec:
    if discretisation not in DISCRETISATIONS:
        known = " or ".join(map(repr, DISCRETISATIONS))
        hint = arguments.nearest(discretisation, DISCRETISATIONS)
        raise ValueError(f"discretisation: got {discretisation!r}, expected {known}{hint}")
    if stretch is not None and arguments.integer("stretch", stretch) < 1:
        raise ValueError(f"stretch: got {stretch!r}, expected an integer >= 1")
    return Spec(
        reverse=arguments.direction(reverse),
        signed=arguments.boolean("signed", signed),
        discretisation=discretisation,
        softplus=arguments.boolean("delta_softplus", softplus),
        precision=matmul_precision(),
        stretch=None if stretch is None else int(stretch),
        method=method,
    )


def _checked(
    spec: Spec, x, delta, a, b, c, d, h0, reset, bias
) -> tuple[ForwardOperands, jnp.dtype]:
    """The operands in the dtype to be carried, broadcast to x, and the dtype of the results."""
    reset = arguments.flags(reset=reset)
    given = {"x": x, "delta": delta, "A": a, "B": b, "C": c}
    more = {"D": d, "delta_bias": bias, "h0": h0}
    given |= {name: value for name, value in more.items() if value is not None}
    promoted = dict(zip(given, arguments.promote(mixed=True, **given), strict=True))
    dtype = promoted["x"].dtype
    # Before anything is broadcast: what broadcasts has a gradient that is a sum.
    promoted = {name: v.astype(carry_dtype(dtype)) for name, v in promoted.items()}
    x, delta, a, b, c = (promoted[name] for name in ("x", "delta", "A", "B", "C"))
    if spec.signed and jnp.iscomplexobj(x):
        raise ValueError(
            "signed: got complex operands, expected real ones; a complex A has its phases already"
        )
    if x.ndim < 2 or b.ndim < 1:
        raise ValueError(
            f"x, B: got shapes {x.shape} and {b.shape}, expected (..., T, channels) and (..., T, N)"
        )
    lead, channels, size = x.shape[:-1], x.shape[-1], b.shape[-1]

    def full(name: str, shape: tuple[int, ...]) -> jax.Array:
        array = promoted[name]
        if not arguments.broadcasts(array.shape, shape):
            raise ValueError(
                f"{name}: got shape {array.shape}, which does not broadcast to {shape}: x is "
                f"{x.shape}, (..., T, channels), and B {b.shape}, (..., T, N)"
                f"{arguments.lined_up(name, array.shape, shape)}"
            )
        return jnp.broadcast_to(array, shape)

    b, c = full("B", (*lead, size)), full("C", (*lead, size))
    if a.ndim != 2 or a.shape[0] not in (1, channels) or a.shape[1] not in (1, size):
        raise ValueError(
            f"A: got shape {a.shape}, expected (channels, N) = {(channels, size)}, or "
            f"{(channels, 1)}: channels are those of x {x.shape}, N is that of B {b.shape}"
        )
    _check_decay(a)
    state = (*lead[:-1], channels, size)
    first = full("h0", state) if h0 is not None else lax.full_like(x, 0, shape=state)
    inputs = Inputs(
        x=x,
        delta=full("delta", x.shape),
        a=jnp.broadcast_to(_finite(a), (channels, a.shape[1])),
        b=b,
        c=c,
        d=None if d is None else full("D", (channels,)),
        bias=None if bias is None else full("delta_bias", (channels,)),
        h0=first,
    )
    if inputs.bias is not None and not spec.softplus:
        bias = arguments.in_line(inputs.bias, x.ndim)
        inputs = inputs._replace(delta=inputs.delta + bias, bias=None)
    if reset is not None:
        over_time = reset.ndim != 1 or reset.shape == lead[-1:]
        if not over_time or not arguments.broadcasts(reset.shape, lead):
            raise ValueError(
                f"reset: got shape {reset.shape}, expected (T,) or {lead}, one for each step of x"
            )
        reset = jnp.broadcast_to(jnp.asarray(reset), lead)
    return ForwardOperands(inputs, reset), dtype


def _check_decay(a: jax.Array) -> None:
    """Of concrete values, that none grows."""
    if isinstance(a, Tracer) or not a.is_fully_addressable:
        return
    rates = np.real(np.asarray(a))
    if rates.size and (positive := rates > 0).any():
        place = tuple(map(int, np.argwhere(positive)[0]))
        raise ValueError(
            f"A: got {np.asarray(a)[place]} at {place}, expected a real part <= 0, or the state "
            "grows as exp(delta A); the published parametrisation is A = -exp(A_log)"
        )


@jax.custom_jvp  # the identity, in derivatives: the backward pass keeps nothing of it
def _finite(a: jax.Array) -> jax.Array:
    """A rate of -inf is one that is vast, of which a time of 0 is a decay of 1 and not nan."""
    vast = float(jnp.finfo(a.dtype).min) / 4  # so is its product with log2(e)
    if jnp.iscomplexobj(a):
        return lax.complex(jnp.maximum(a.real, vast), a.imag)
    return jnp.maximum(a, vast)


_finite.defjvps(lambda tangent, out, a: tangent)


def _merged(given: ForwardOperands, over: tuple[str, ...] | None) -> ForwardOperands:
    """As the operations want them: one batch axis, all operands varying alike over a mesh, over
    the axes along which time is split in any case."""
    inputs, reset = given
    lead = inputs.x.ndim - 2
    inputs = Inputs(
        x=merged(inputs.x, lead),
        delta=merged(inputs.delta, lead),
        a=inputs.a[None],
        b=lax.expand_dims(merged(inputs.b, lead), (2,)),
        c=lax.expand_dims(merged(inputs.c, lead), (2,)),
        d=None if inputs.d is None else inputs.d[None],
        bias=None if inputs.bias is None else inputs.bias[None],
        h0=merged(inputs.h0, lead),
    )
    reset = None if reset is None else merged(reset, lead)
    leaves, structure = jax.tree.flatten(ForwardOperands(inputs, reset))
    place = split_time.index_and_size(over)[0] if over else None
    *leaves, _ = arguments.vary_alike(*leaves, place)
    return structure.unflatten(leaves)


def _alike(h0: jax.Array, over: tuple[str, ...] | None) -> jax.Array:
    """The state itself, the same on all devices by its type too."""
    return h0 if over is None else split_time.at_the_end(h0, over)
