"""How strongly the last state still depends on states and inputs k steps back, as logarithms.

The chain rule multiplies one Jacobian per step,

    dh_T/dh_{T-k} = J_T J_{T-1} ... J_{T-k+1},        J_t = df(h_{t-1}, x_t)/dh_{t-1},

and the norm of the product rises or falls about exponentially in k. In float32 a falling one
reaches zero after 2^-126, which looks like vanishing and is arithmetic. So rows V^T are pulled
back through one step at a time, and after each step they are divided by a power of two (which
rounds nothing), whose exponent is counted as an integer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnscan.scan import matmul_precision

PyTree = Any


class LogNorms(NamedTuple):
    """Natural logarithms of gradient norms by lag k, the newest step first.

    Attributes:
      state: (T + 1,), lag 0 ... T; `state[0]` is 0.
      input: (T,), lag 0 ... T-1; lag 0 is the last input.
    """

    state: jax.Array
    input: jax.Array


def log_gradient_norms(
    step: Callable[[PyTree, PyTree], PyTree],
    h0: PyTree,
    xs: PyTree,
    *,
    cotangents: PyTree | None = None,
) -> LogNorms:
    """Logarithms of the gradient's norm against lag, for any recurrence and without underflow.

        state[k] = ln(‖Vᵀ dh_T/dh_{T-k}‖_F / ‖V‖_F),    k = 0 ... T
        input[k] = ln(‖Vᵀ dh_T/dx_{T-k}‖_F / ‖V‖_F),    k = 0 ... T-1

    where h_t = step(h_{t-1}, x_t) and x_T is the last input. With the default V, the identity,
    `state` is the root mean square singular value of the Jacobian. With the gradient of a loss at
    h_T as the only row, `state` and `input` are the norms of dL/dh_{T-k} and dL/dx_{T-k}, relative
    to that of dL/dh_T.

    A complex number counts as two real coordinates, (re, im), so that the norm is that of the true
    Jacobian, whether or not `step` is holomorphic. Rows follow JAX's convention, in which
    `jax.grad(loss)(h_T)[None]` is a row as it is (JAX's complex gradient is dL/dre - i dL/dim, and
    its complex VJP does not conjugate; the norm is the same either way).

    Args:
      step: `(h, x) -> h` for one sequence; the state keeps its structure, shapes and dtypes. For a
        batch use `jax.vmap` over this function.
      h0: the first state, a pytree of float or complex arrays with n numbers in all.
      xs: inputs, a pytree of arrays with time first, all of the same length T. Integer leaves
        (tokens) carry no gradient and are left out of `input`.
      cotangents: the rows of Vᵀ at h_T: a pytree like h0, every leaf with a new first axis of size
        p. None is the identity, p = n (2n when complex). For large states a few random normal rows
        estimate what the identity gives.

    Returns:
      LogNorms in the real dtype of the state (float32 for halves), -inf where the gradient is
      exactly zero. The lengths are T + 1 and T, so T = 0 gives `[0]` and `[]`.

    Raises:
      TypeError: if the state has integer leaves, or `step` changes its structure, shapes or dtypes.
      ValueError: if leaves of xs disagree in length, or cotangents do not fit h0.

    Cost: one forward pass, then p vector-Jacobian products of `step` for each of T steps, one step
    after another (for a dense state and the identity 2 T n^3 operations); memory T n for the states
    and p n for the rows.
    Matrix products inside `step` run in full precision unless `step` names another, or
    `jax.default_matmul_precision` does.

    Source: the chain rule as in Pascanu, Mikolov & Bengio 2013 (arXiv:1211.5063), equation (5).

    >>> import jax.numpy as jnp
    >>> norms = log_gradient_norms(lambda h, x: 0.5 * h + x, jnp.zeros(3), jnp.ones((1000, 3)))
    >>> norms.state.shape, norms.input.shape
    ((1001,), (1000,))
    >>> print(f"{norms.state[1000] / 1000:.6f}")      # ln 0.5; 0.5^1000 itself is no float32
    -0.693147
    """
    h0 = jax.tree.map(jnp.asarray, h0)
    xs = jax.tree.map(jnp.asarray, xs)
    length = _check(step, h0, xs)
    rows = _identity(h0) if cotangents is None else _checked_rows(h0, cotangents)
    if length == 0:
        dtype = _real_dtype(h0)
        return LogNorms(jnp.zeros((1,), dtype), jnp.zeros((0,), dtype))

    def forward(h, x):
        return step(h, x), h

    with jax.default_matmul_precision(matmul_precision()):
        _, before = lax.scan(forward, h0, xs)
        rows, exponent = _normalised(rows)
        start = _log_norm(rows, exponent)
        start = jnp.where(start == -jnp.inf, 0, start)  # of no numbers, or zeros: none is left

        def backward(carry, h_and_x):
            rows, exponent = carry
            h, x = h_and_x
            leaves, structure = jax.tree.flatten(x)
            smooth = [i for i, leaf in enumerate(leaves) if _is_inexact(leaf)]

            def of_smooth(h, values):
                merged = list(leaves)
                for i, value in zip(smooth, values, strict=True):
                    merged[i] = value
                return step(h, jax.tree.unflatten(structure, merged))

            _, pull_back = jax.vjp(of_smooth, h, [leaves[i] for i in smooth])
            rows_h, rows_x = jax.vmap(pull_back)(rows)
            rows_x, exponent_x = _normalised(rows_x)
            rows_h, exponent_h = _normalised(rows_h)
            of_state = _log_norm(rows_h, exponent + exponent_h)
            of_input = _log_norm(rows_x, exponent + exponent_x)
            return (rows_h, exponent + exponent_h), (of_state, of_input)

        _, (of_state, of_input) = lax.scan(backward, (rows, exponent), (before, xs), reverse=True)
    of_state = jnp.concatenate([jnp.zeros_like(start)[None], of_state[::-1] - start])
    return LogNorms(of_state, of_input[::-1].astype(of_state.dtype) - start)


def _normalised(tree: PyTree) -> tuple[PyTree, jax.Array]:
    """The tree divided by a power of two that brings its largest number near 1, and that power."""
    dtype = _real_dtype(tree)
    largest = jnp.zeros((), dtype)
    for leaf in jax.tree.leaves(tree):
        for part in _real_parts(leaf):
            largest = jnp.maximum(largest, jnp.max(jnp.abs(part), initial=0.0).astype(dtype))
    _, exponent = jnp.frexp(largest)
    exponent = jnp.where(jnp.isfinite(largest), exponent, 0)
    # The factor stays in the range of the narrowest leaf; the next step takes up what remains.
    limits = [int(jnp.finfo(leaf.dtype).maxexp) - 2 for leaf in jax.tree.leaves(tree)]
    exponent = jnp.clip(exponent, -min(limits, default=0), min(limits, default=0))

    def scaled(leaf):
        factor = jnp.ldexp(jnp.ones((), jnp.finfo(leaf.dtype).dtype), -exponent)
        return leaf * factor.astype(leaf.dtype)

    return jax.tree.map(scaled, tree), exponent


def _log_norm(tree: PyTree, exponent: jax.Array) -> jax.Array:
    """ln(2^exponent times the Frobenius norm of a normalised tree)."""
    dtype = _real_dtype(tree)
    total = jnp.zeros((), dtype)
    for leaf in jax.tree.leaves(tree):
        for part in _real_parts(leaf):
            total = total + jnp.sum(jnp.square(part.astype(dtype)))
    return 0.5 * jnp.log(total) + exponent.astype(dtype) * np.log(2.0).astype(dtype)


def _identity(h0: PyTree) -> PyTree:
    """One row for each real coordinate of the state."""
    leaves, structure = jax.tree.flatten(h0)
    coordinates = [leaf.size * len(_real_parts(leaf)) for leaf in leaves]
    stops = np.cumsum(coordinates)
    rows = []
    for leaf, count, stop in zip(leaves, coordinates, stops, strict=True):
        block = jnp.eye(stops[-1], count, k=count - stop, dtype=jnp.finfo(leaf.dtype).dtype)
        if jnp.iscomplexobj(leaf):
            block = lax.complex(block[:, : leaf.size], block[:, leaf.size :])
        rows.append(block.reshape(int(stops[-1]), *leaf.shape))
    return jax.tree.unflatten(structure, rows)


def _checked_rows(h0: PyTree, cotangents: PyTree) -> PyTree:
    if jax.tree.structure(cotangents) != jax.tree.structure(h0):
        raise ValueError(
            f"cotangents: structure {jax.tree.structure(cotangents)}; should be that of h0, "
            f"{jax.tree.structure(h0)}"
        )
    leaves = jax.tree.leaves(cotangents)
    count = np.shape(leaves[0])[0] if np.ndim(leaves[0]) else 0
    for leaf, state in zip(leaves, jax.tree.leaves(h0), strict=True):
        if count == 0 or np.shape(leaf) != (count, *state.shape):
            raise ValueError(
                f"cotangents: a leaf has shape {np.shape(leaf)}; should be (p, *shape of h0) = "
                f"(p, {str(state.shape)[1:]}, with the same p > 0 in every leaf"
            )
        if jnp.iscomplexobj(leaf) and not jnp.iscomplexobj(state):
            raise ValueError(
                f"cotangents: a leaf is {leaf.dtype} where h0 is {state.dtype}; should be real"
            )
    return jax.tree.map(lambda leaf, state: jnp.asarray(leaf, state.dtype), cotangents, h0)


def _check(step: Callable, h0: PyTree, xs: PyTree) -> int:
    """The length T, or an error that names what does not fit."""
    leaves = jax.tree.leaves(h0)
    if not leaves:
        raise TypeError("h0: has no arrays; should hold at least one float or complex array")
    for leaf in leaves:
        if not _is_inexact(leaf):
            raise TypeError(f"h0: a leaf has dtype {leaf.dtype}; states should be float or complex")
    shapes = [leaf.shape for leaf in jax.tree.leaves(xs)]
    if not all(shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(f"xs: shapes {shapes}; should all begin with the same length T")
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), xs)
    after = jax.eval_shape(step, h0, first)
    same_structure = jax.tree.structure(after) == jax.tree.structure(h0)
    if not same_structure or [(s.shape, s.dtype) for s in jax.tree.leaves(after)] != [
        (s.shape, s.dtype) for s in leaves
    ]:
        given = jax.tree.map(lambda s: f"{s.dtype}{list(s.shape)}", h0)
        returned = jax.tree.map(lambda s: f"{s.dtype}{list(s.shape)}", after)
        raise TypeError(f"step: returns {returned} for a state {given}; should return the same")
    length = shapes[0][0]
    if isinstance(length, int) and length > jnp.iinfo(jnp.result_type(int)).max:
        raise ValueError(
            f"xs: got T = {length}, but the loop over steps counts in int32 without "
            'jax.config.update("jax_enable_x64", True)'
        )
    return length


def _is_inexact(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _real_parts(leaf: jax.Array) -> tuple[jax.Array, ...]:
    return (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)


def _real_dtype(tree: PyTree) -> np.dtype:
    """float64 if a leaf has that precision, else float32."""
    wide = any(jnp.finfo(leaf.dtype).bits == 64 for leaf in jax.tree.leaves(tree))
    return np.dtype(np.float64 if wide else np.float32)
