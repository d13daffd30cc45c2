"""`nonlinear_scan`: h_t = f(h_{t-1}, x_t), for any f."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import keystr
from jax.typing import ArrayLike

from rnnscan.scan import arguments, target
from rnnscan.scan.nonlinear_certificate import certified
from rnnscan.scan.nonlinear_method import TOL, Convergence, NonlinearOperands, Solution
from rnnscan.scan.nonlinear_methods import NonlinearMethodName, nonlinear_table
from rnnscan.scan.nonlinear_rules import Spec, case_of, nonlinear
from rnnscan.scan.nonlinear_step import traced
from rnnscan.scan.precision import matmul_precision
from rnnscan.scan.sharding import whole
from rnnscan.scan.table import MethodRows
from rnnscan.scan.target import Platform

State = TypeVar("State")


def nonlinear_scan(
    f: Callable[[State, Any], State],
    h0: State,
    xs: Any,
    *,
    guess: State | None = None,
    axis: int = 0,
    reverse: bool = False,
    reset: ArrayLike | None = None,
    method: NonlinearMethodName = "auto",
    tol: float | None = None,
    max_iterations: int | None = None,
) -> tuple[State, Convergence]:
    """All h_t of `h_t = f(h_{t-1}, x_t)`, in parallel over time where that pays, for any f.

    Arguments:
      f: a pure function `(h, x) -> h` of JAX: from a state and the input of one step to the next
        state (not a carry and an output), of the same structure, shapes and dtypes. What it closes
        over (weights, a layer, an Equinox module) is differentiated as arguments are. It needs a
        derivative in forward mode, and no collectives.
      h0: the state before the first step: a pytree of floating or complex arrays.
      xs: a pytree of arrays of any dtype with time on `axis`, of one length T; f gets each without
        it. For an f without inputs give `jnp.zeros(T)`. T = 0 and T = 1 are fine.
      guess: states to begin from, of the shapes that are returned, such as the last trajectory in
        training; no derivative is taken of it. By default f(f(0, x_{t-1}), x_t).
      axis: the time axis of xs and of what is returned.
      reverse: run from the last step to the first, `h_t = f(h_{t+1}, x_t)`; h0 is then the state
        after the end.
      reset: boolean (T,). Where true, the state before that step in scan order (h0 included) is
        zeros, whatever it was, inf and nan included, forward and backward.
      method: `"auto"`, or a name of `explain_nonlinear_scan`: `"sequential"`, `"newton"`,
        `"quasi_newton"`, `"chunked_newton"`, `"damped_newton"`.
      tol: residual, in units of rounding, up to which a step is taken to be solved; 8 unless said.
      max_iterations: after which a method that iterates gives up: 128 unless said, for `"auto"` 32;
        T are enough but for `"damped_newton"`, whose rejected steps count.

    One problem is solved; for a batch use `jax.vmap`, by which each sequence has its own count of
    iterations and stands still once it has converged.

    Returns:
      hs, the state after every step, and a `Convergence`: `converged`, `iterations`, `residual`,
      `error_bound`. With `"auto"` hs are right in any case: what has not converged is completed
      step by step, from the first step that is not settled. A named method that fails says so, and
    its hs are of no use.

    Raises:
      TypeError: f returns another structure, shape or dtype than h0 has, has side effects or keeps
        its arguments; h0 is not floating; reset is not boolean.
      ValueError: lengths in xs that differ, a guess or reset of another shape, an unknown method or
        one that cannot serve.

    Cost: D numbers in a state, K iterations:

    | method | work | span | memory |
    |---|---|---|---|
    | sequential | T f | T | a state |
    | newton | K T (D f + D^2 to D^3) | K times that of `matrix_scan` | T D^2 |
    | quasi_newton | K T D f | K times that of `linear_scan` | T D |
    | chunked_newton | K T (D f + D^2) | K 2 sqrt(T) | sqrt(T) D^2 + T D |
    | damped_newton | as newton | as newton | T D^2 |

    Where f works elementwise (its operations are looked at), Jacobians are blocks as wide as the
    state has arrays of one shape, and D becomes that width. K is about log T where errors shrink
    along the trajectory (a negative Lyapunov exponent) and up to T where they grow: sequential
    evaluation is right in chaos. Programs do not grow with T, but where `matrix_scan` uses a tree.

    The derivative is implicit, at the solution, and the same for every method: one linear
    recurrence with the true Jacobians, forward or backward, and one tangent or pullback of f for
    all steps at once. It keeps hs, xs and what f closes over, not the Jacobians; these are formed
    again, in stretches of time of at most 1 GiB (on a CPU 1 MiB; and there, where they have more
    than 16 columns, the recurrence goes step by step, by tangents of f). Every mode and order.

    What of `Convergence` is not used is not computed, under `jit`; else it takes three evaluations
    of f at all steps, and for `error_bound` three tangents, up to ten times what `sequential` does.
    It carries no derivative.

    Numerics: f is evaluated in the dtypes that it is given; linear recurrences are solved in
    float32 at least. Products use the highest precision, those of f too, unless
    `jax.default_matmul_precision` says otherwise. Complex arrays are pairs of real ones, so f need
    not be holomorphic. What `converged` and `error_bound` mean: see `Convergence`. A mesh with
    explicit axes needs `jax.shard_map` or `jax.sharding.auto_axes` around the call.

    Source: Lim et al. 2024, "Parallelizing non-linear sequential models over the sequence length"
    (arXiv 2309.12252); Gonzalez et al. 2024, "Towards scalable and stable parallelization of
    nonlinear RNNs" (arXiv 2407.19115); Bellen & Zennaro 1989, "Parallel algorithms for
    initial-value problems for difference and differential equations" (chunks).

    Example: a tanh RNN, and its gradient.

    >>> import jax, jax.numpy as jnp
    >>> W = jnp.array([[0.5, -0.2], [0.3, 0.4]])
    >>> xs = jnp.sin(jnp.arange(200.0)).reshape(100, 2)
    >>> def states(W):
    ...     return nonlinear_scan(
    ...         lambda h, x: jnp.tanh(W @ h + x), jnp.zeros(2), xs, method="newton"
    ...     )
    >>> hs, convergence = states(W)
    >>> hs.shape, bool(convergence.converged), int(convergence.iterations) < 9
    ((100, 2), True, True)
    >>> jax.grad(lambda W: jnp.sum(states(W)[0]))(W).shape
    (2, 2)
    """
    nonlinear_table.check(method)
    options = axis, reverse, method, tol, max_iterations
    spec, operands = _checked(f, (h0, xs, guess, reset), options)
    layout = spec.step.layout
    if spec.length == 0 or layout.size == 0:
        h, found = jnp.zeros(spec.shape, layout.wide), nothing_to_do(layout.wide)
    else:
        h, found = nonlinear(operands, spec=spec)
        found = jax.tree.map(lambda x: x[0], found)
    h = lax.rev(h, (0,)) if reverse else h
    hs = layout.tree(h[:, 0])
    return jax.tree_util.tree_map_with_path(lambda path, h: _put(h, axis, path), hs), found


def certificate(f, h0, xs, hs, *, axis=0, reverse=False, reset=None) -> Convergence:
    """Of states hs that another program of this recurrence computed, one after another.

    Arguments: those of `nonlinear_scan`. `converged`: whether all are finite.
    """
    spec, operands = _checked(f, (h0, xs, hs, reset), (axis, reverse, "sequential", None, None))
    h = operands.guess
    assert h is not None
    solution = Solution(
        h=h,
        settled=lax.full_like(h, True, shape=spec.shape[:2], dtype=bool),
        iterations=lax.full_like(h, 0, shape=(spec.batch,), dtype=jnp.int32),
    )
    with jax.default_matmul_precision(spec.precision):
        found = certified(spec, operands, solution)
    return jax.tree.map(lambda x: x[0], found)


def explain_nonlinear_scan(
    f,
    h0,
    xs,
    *,
    guess=None,
    axis=0,
    reverse=False,
    reset=None,
    tol=None,
    max_iterations=None,
    platform: Platform | None = None,
) -> MethodRows:
    """The rows that `nonlinear_scan(..., method="auto")` reads: method, available, reason, chosen.

    Arguments: those of `nonlinear_scan`, as arrays or `jax.ShapeDtypeStruct`s (only shapes and
    dtypes are read); `platform`: "cpu", "cuda", "rocm" or "tpu", by default the one in use.

    Returns: a tuple, printed as a table, of one `MethodRow` for each method of h_t = f(h_{t-1},
    x_t). Raises what `nonlinear_scan` raises for its operands. Cost: f is traced, not computed.
    Source: the method table of `rnnscan/scan/nonlinear_methods`.

    Example:

    >>> import jax.numpy as jnp
    >>> rows = explain_nonlinear_scan(
    ...     lambda h, x: jnp.tanh(h[::-1] + x), jnp.zeros(32), jnp.ones((1000, 32)), platform="cpu"
    ... )
    >>> [row.method for row in rows if row.chosen]
    ['sequential']
    """
    specs = []

    def prepared(*given):
        specs.append(_checked(f, given, (axis, reverse, "auto", tol, max_iterations))[0])
        return ()

    arguments.by_shapes(prepared, h0, xs, guess, reset)
    return nonlinear_table.explain(case_of(specs[0], target.named(platform)))


def _checked(f, given: tuple, options: tuple) -> tuple[Spec, NonlinearOperands]:
    """The call, checked: what is static, and one problem with time first, in scan order."""
    h0, xs, guess, reset = given
    axis, reverse, method, tol, max_iterations = options
    if not callable(f):
        raise TypeError(f"f: got {f!r}, expected a function (h, x) -> h")
    reverse = arguments.direction(reverse)
    tol, max_iterations = _tolerance(tol), _most(max_iterations)
    if h0 is None:
        raise TypeError("h0: got None, expected a state: its structure and shapes are f's")
    h0 = jax.tree_util.tree_map_with_path(_state, h0)
    xs, axis, length = _time_first(xs, axis)
    for path, leaf in jax.tree_util.tree_leaves_with_path(h0):
        _place(axis, leaf.ndim + 1, f"h0{keystr(path)}")
        if not isinstance(leaf.size, int):
            raise ValueError(
                f"h0{keystr(path)}: got shape {leaf.shape}, expected numbers; a symbol "
                "(`jax.export`) may stand for T, and by jax.vmap for a batch"
            )
    reset = _reset(reset, length)
    guess = None if guess is None else _guess(guess, h0, axis, length)
    if reverse:
        xs, reset, guess = jax.tree.map(lambda x: lax.rev(x, (0,)), (xs, reset, guess))
    h0, xs, reset, guess = _vary_alike((h0, xs, reset, guess))

    precision = matmul_precision()
    x = jax.tree.map(lambda x: whole(jax.typeof(x), x.shape[1:]), xs)
    with jax.default_matmul_precision(precision):
        h0, step, params = _traced(f, h0, x)
        given = h0, xs, reset, guess
        varied = _vary_alike((given, params))[0]
        if jax.tree.map(jax.typeof, varied) != jax.tree.map(jax.typeof, given):
            # What f closes over varies over more axes of a mesh than what it is given.
            h0, xs, reset, guess = varied
            x = jax.tree.map(lambda x: whole(jax.typeof(x), x.shape[1:]), xs)
            h0, step, params = _traced(f, h0, x)
    layout = step.layout
    operands = NonlinearOperands(
        params=params,
        h0=layout.flat(h0)[None],
        xs=tuple(x[:, None] for x in jax.tree.leaves(xs)),
        reset=None if reset is None else reset[:, None],
        guess=None if guess is None else layout.flat(guess)[:, None],
    )
    spec = Spec(
        step=step,
        mapped=(False,) * len(params),
        length=length,
        batch=1,
        precision=precision,
        tol=tol,
        max_iterations=max_iterations,
        method=method,
    )
    return spec, operands


def _traced(f, h0, x):
    """f as a program; a number of Python in h0 takes the dtype that f gives it."""

    avals = jax.tree.map(jax.typeof, h0)
    if any(aval.weak_type for aval in jax.tree.leaves(avals)):
        new = jax.make_jaxpr(f, return_shape=True)(avals, x)[1]
        if jax.tree.structure(new) == jax.tree.structure(h0):
            dtypes = jax.tree.map(lambda a, n: n.dtype if a.weak_type else a.dtype, avals, new)
            h0 = jax.tree.map(lambda h, dtype: h.astype(dtype), h0, dtypes)
        avals = jax.tree.map(lambda h: jax.typeof(h).update(weak_type=False), h0)
    step, params = traced(f, avals, x)
    return h0, step, params


def _vary_alike(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(arguments.vary_alike(*leaves))


def nothing_to_do(dtype, batch: tuple[int, ...] = ()) -> Convergence:
    """Of a trajectory without a step, or of states without a number."""
    zero = jnp.zeros(batch, dtype)
    return Convergence(jnp.ones(batch, bool), jnp.zeros(batch, jnp.int32), zero, zero)


def _tolerance(tol) -> float:
    if tol is None:
        return TOL
    number = isinstance(tol, (int, float, np.floating, np.integer)) and not isinstance(tol, bool)
    if not number:
        raise TypeError(f"tol: got {tol!r}, expected a number, in units of rounding")
    if not tol > 0:
        raise ValueError(f"tol: got {tol!r}, expected more than 0 units of rounding")
    return float(tol)


def _most(max_iterations) -> int | None:
    if max_iterations is None:
        return None
    count = arguments.integer("max_iterations", max_iterations)
    if count < 1:
        raise ValueError(f"max_iterations: got {count}, expected 1 or more")
    return count


def _state(path, leaf) -> jax.Array:
    """A leaf of h0, as an array; a number of Python leaves the dtype to f."""
    if type(leaf) in (float, complex):
        return jnp.asarray(leaf)
    (array,) = arguments.promote(**{f"h0{keystr(path)}": leaf})
    return array


def _input(path, leaf) -> jax.Array:
    name = f"xs{keystr(path)}"
    if isinstance(leaf, (jax.Array, np.ndarray)) or hasattr(leaf, "__array__"):
        return jnp.asarray(leaf)
    raise TypeError(f"{name}: got {leaf!r}, expected an array with time on its axis")


def _time_first(xs, axis) -> tuple[Any, int, int]:
    """xs with time first, where it was, and T."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.tree_util.tree_map_with_path(_input, xs))
    if not leaves:
        raise ValueError(
            "xs: has no arrays, so there is no T; for an f without inputs give jnp.zeros(T)"
        )
    axis = arguments.integer("axis", axis)
    lengths = {}
    for path, leaf in leaves:
        name = f"xs{keystr(path)}"
        if not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(f"{name}: got shape {leaf.shape}, which has no axis {axis} for time")
        lengths[name] = leaf.shape[axis]
    if len(set(lengths.values())) > 1:
        raise ValueError(f"xs: got different lengths on axis {axis}: {lengths}, expected one T")
    moved = [jnp.moveaxis(leaf, axis, 0) for _, leaf in leaves]
    xs = jax.tree.structure(xs).unflatten(moved)
    return xs, axis, next(iter(lengths.values()))


def _reset(reset, length) -> jax.Array | None:
    reset = arguments.flags(reset=reset)
    if reset is not None and reset.shape != (length,):
        raise ValueError(
            f"reset: got shape {reset.shape}, expected ({length},), one flag a step; for a batch "
            "use jax.vmap over reset too"
        )
    return None if reset is None else jnp.asarray(reset)


def _guess(guess, h0, axis, length):
    """Its leaves with time first, in the dtypes of h0."""
    if jax.tree.structure(guess) != jax.tree.structure(h0):
        raise ValueError(
            f"guess: got {jax.tree.structure(guess)}, expected the structure of h0, "
            f"{jax.tree.structure(h0)}"
        )

    def leaf(path, given, h):
        name = f"guess{keystr(path)}"
        place = _place(axis, h.ndim + 1, f"h0{keystr(path)}")
        expected = (*h.shape[:place], length, *h.shape[place:])
        (given,) = arguments.promote(**{name: given})
        if given.shape != expected:
            raise ValueError(
                f"{name}: got shape {given.shape}, expected {expected}, that of the states"
            )
        if jnp.iscomplexobj(given) and not jnp.iscomplexobj(h):
            raise TypeError(f"{name}: got dtype {given.dtype}, expected {h.dtype}, as h0")
        return jnp.moveaxis(given.astype(h.dtype), place, 0)

    return jax.tree_util.tree_map_with_path(leaf, guess, h0)


def _place(axis: int, rank: int, name: str) -> int:
    """Where time is in a state of this rank, counted from the front."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis: got {axis}, but the states of {name} have {rank} axes with time")
    return axis % rank


def _put(h: jax.Array, axis: int, path) -> jax.Array:
    """A leaf of the states with time on its axis."""
    return jnp.moveaxis(h, 0, _place(axis, h.ndim, f"h0{keystr(path)}"))
