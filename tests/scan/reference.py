"""What a scan should give: NumPy loops in double precision, and how far rounding may move it."""

import dataclasses

import jax.numpy as jnp
import numpy as np


def unit_roundoff(dtype) -> float:
    return float(jnp.finfo(dtype).eps) / 2


def _wide(x):
    x = np.asarray(x)
    return x.astype(np.complex128 if jnp.issubdtype(x.dtype, jnp.complexfloating) else np.float64)


def _multiply(a, h):
    return a * h


def _matvec(a, h):
    return np.einsum("...ij,...j->...i", a, h)


def _sum_to(x, shape):
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    axes = tuple(i for i, (n, m) in enumerate(zip(x.shape, shape, strict=True)) if m == 1 != n)
    return x.sum(axis=axes, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Loop:
    """One recurrence, its operands spelled out with time in front and in scan order."""

    a: np.ndarray
    b: np.ndarray
    h0: np.ndarray
    reset: np.ndarray
    matrix: bool

    @property
    def _apply(self):
        return _matvec if self.matrix else _multiply

    def _carried(self, a, h, t):
        with np.errstate(all="ignore"):
            product = self._apply(a[t], h)
        return np.where(self.reset[t], 0, product)

    def states(self, b=None):
        b = self.b if b is None else b
        h = self.h0
        out = np.empty(b.shape, np.result_type(self.a, b, h))
        for t in range(len(b)):
            h = self._carried(self.a, h, t) + b[t]
            out[t] = h
        return out

    def adjoint(self, g):
        """l_t = g_t + a_{t+1}' l_{t+1}, and what reaches h0."""
        a = np.swapaxes(self.a, -1, -2) if self.matrix else self.a
        out = np.empty(g.shape, np.result_type(a, g))
        later = np.zeros(g.shape[1:])
        for t in reversed(range(len(g))):
            out[t] = g[t] + later
            later = self._carried(a, out[t], t)
        return out, later

    def before(self, h):
        h = np.concatenate([np.broadcast_to(self.h0, h.shape[1:])[None], h[:-1]]) if len(h) else h
        return np.where(self.reset, 0, h)

    def outer(self, adjoint, before):
        adjoint = np.where(self.reset, 0, adjoint)
        if self.matrix:
            return adjoint[..., :, None] * before[..., None, :]
        return adjoint * before


class Reference:
    """Values, gradients and error bounds for one call of `linear_scan` or `matrix_scan`."""

    def __init__(self, a, b, h0=None, *, axis=0, reverse=False, reset=None, matrix=False):
        self.a_shape, self.b_shape = np.shape(a), np.shape(b)
        rank = len(self.b_shape)
        self.axis, self.reverse, self.matrix = axis % rank, reverse, matrix
        rest = (*self.b_shape[: self.axis], *self.b_shape[self.axis + 1 :])
        self.h0_shape = () if h0 is None else np.shape(h0)
        full = (*self.b_shape, self.b_shape[-1]) if matrix else self.b_shape
        if reset is None:
            reset = np.zeros(self.b_shape, bool)
        reset = np.asarray(reset)
        if reset.ndim == 1:
            reset = reset.reshape([-1 if i == self.axis else 1 for i in range(rank)])
        self.loop = Loop(
            a=self.scan_order(np.broadcast_to(_wide(a), full)),
            b=self.scan_order(_wide(b)),
            h0=np.broadcast_to(0.0 if h0 is None else _wide(h0), rest),
            reset=self.scan_order(np.broadcast_to(reset, self.b_shape)),
            matrix=matrix,
        )

    def scan_order(self, x):
        x = np.moveaxis(x, self.axis, 0)
        return x[::-1] if self.reverse else x

    def given_order(self, x):
        return np.moveaxis(x[::-1] if self.reverse else x, 0, self.axis)

    def states(self):
        return self.given_order(self.loop.states())

    def _states_error(self, h, u):
        """Law 1: 4 * scan(|a|, u (|a_t h_{t-1}| + |h_t|)); for a matrix, n products a sum."""
        loop = self.loop
        drive = loop._apply(np.abs(loop.a), np.abs(loop.before(h)))
        terms = self.b_shape[-1] if self.matrix else 1
        drive = u * (terms * np.where(loop.reset, 0, drive) + np.abs(h))
        errors = dataclasses.replace(loop, a=np.abs(loop.a), h0=np.zeros(h.shape[1:]))
        return 4 * errors.states(b=drive)

    def states_bound(self, u):
        return self.given_order(self._states_error(self.loop.states(), u))

    def gradients(self, g):
        """Gradients of <g, h> (no conjugation) for a, b, h0, each in its own shape."""
        loop, g = self.loop, self.scan_order(_wide(g))
        adjoint, into_h0 = loop.adjoint(g)
        da = loop.outer(adjoint, loop.before(loop.states()))
        return (
            _sum_to(self.given_order(da), self.a_shape),
            self.given_order(adjoint),
            _sum_to(into_h0, self.h0_shape),
        )

    def gradient_bounds(self, g, u):
        """The same analysis on absolute values, for the adjoint, the product and the sums."""
        loop = self.loop
        sizes = dataclasses.replace(loop, a=np.abs(loop.a), b=np.abs(loop.b), h0=np.abs(loop.h0))
        errors = dataclasses.replace(sizes, h0=np.zeros_like(sizes.h0))
        terms = 1 + (self.b_shape[-1] if self.matrix else 1)
        h, (adjoint, into_h0) = sizes.states(), sizes.adjoint(np.abs(self.scan_order(_wide(g))))
        h_error, adjoint_error, into_error = self._carried_errors(h, adjoint, errors, g, u * terms)
        da = self.given_order(loop.outer(adjoint, sizes.before(h)))
        da_error = self.given_order(
            loop.outer(adjoint, errors.before(h_error)) + loop.outer(adjoint_error, sizes.before(h))
        )

        def summed(x, error, shape):
            count = x.size // max(int(np.prod(shape)), 1)
            return _sum_to(error, shape) + u * (count + 1) * _sum_to(x, shape)

        return (
            summed(da, da_error, self.a_shape),
            self.given_order(adjoint_error),
            summed(into_h0, into_error + u * terms * into_h0, self.h0_shape),
        )

    def _carried_errors(self, h, adjoint, errors, g, u):
        """Errors of the states, of their adjoint, and of what reaches h0, from bounds of both."""
        return errors.states(b=4 * u * h), *errors.adjoint(4 * u * adjoint)


class DiagonalReference(Reference):
    """The same where a constant A was replaced by V diag(l) V^-1, with k = cond(V) = |V| |V^-1|.

    The l and V found belong to A + E with |E| <= c n u k |A| (the residual of an eigenpair is c n u
    |A| |v|, and V^-1 enlarges it by k / |V|). V^-1 b_t is off by c n u k |V^-1| |b_t|, its inverse
    having been computed, and m_t = V^-1 h_t by u |V^-1| |h_t| a step. Each error reaches h_t by way
    of V l^k V^-1, at most k r^k with r the spectral radius. In the 2-norm, with c = 4 as in law 1:

        |error of h_t| <= scan(r, 4 n u k^2 (|A| |h_{t-1}| + |b_t| + |h_t|))
    """

    def _moduli(self):
        """n k^2, |A| and r for every batch entry, with an axis of size 1 for the state."""
        if not len(self.loop.a):
            return 1.0, 1.0, 1.0
        A = self.loop.a[0]
        values, vectors = np.linalg.eig(A)
        factors = A.shape[-1] * np.linalg.cond(vectors) ** 2
        norms, radii = np.linalg.norm(A, 2, axis=(-2, -1)), np.abs(values).max(-1)
        return factors[..., None], norms[..., None], radii[..., None]

    def _carried(self):
        """The recurrence of an error: one number a state, by the spectral radius."""
        loop, shape = self.loop, (*self.loop.b.shape[:-1], 1)
        radii = np.broadcast_to(self._moduli()[2], shape)
        reset = loop.reset[..., :1]
        return Loop(radii, np.zeros(shape), np.zeros(shape[1:]), reset, matrix=False)

    def _states_error(self, h, u):
        loop, (factor, norm, _) = self.loop, self._moduli()
        size = norm * _norm(loop.before(h)) + _norm(loop.b) + _norm(h)
        return np.broadcast_to(self._carried().states(b=4 * u * factor * size), h.shape)

    def _carried_errors(self, h, adjoint, errors, g, u):
        loop, (factor, norm, _) = self.loop, self._moduli()
        g = self.scan_order(_wide(g))
        adjoint, _ = loop.adjoint(g)
        later = np.concatenate([adjoint[1:], np.zeros_like(adjoint[:1])])
        size = norm * _norm(later) + _norm(g) + _norm(adjoint)
        errors = self._carried().adjoint(4 * u * factor * size)
        sizes = (h.shape, adjoint.shape, adjoint.shape[1:])
        errors = (self._states_error(loop.states(), u), *errors)
        return [np.broadcast_to(x, s) for x, s in zip(errors, sizes, strict=True)]


def _norm(x):
    return np.linalg.norm(x, axis=-1, keepdims=True)
