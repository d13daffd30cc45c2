"""What `selective_scan` should give: a NumPy loop in double precision, its gradients by hand.

    h_t = a_t * h_{t-1} + (gain_t x_t) B_t,    y_t = h_t C_t + D x_t,    a_t = exp(s_t A)

with the times s_t = delta_t + bias, or softplus of that.

Every number carries how far rounding may move it (running error analysis: Higham 2002, "Accuracy
and stability of numerical algorithms", section 3.3), so that the loop that gives the values and the
gradients gives their bounds too. Law 1 in full: with u the unit roundoff, the states are within

    4 scan(|a|, |error of a_t| |h_{t-1}| + u |a_t h_{t-1}| + |error of the drive| + u |h_t|)

of those of the loop. The exponent s_t A is rounded before it is exponentiated, so that a_t is off
by (|s_t A| + EXP) u |a_t|, and by more where s_t is a sum.
"""

import dataclasses
from typing import Self

import jax.numpy as jnp
import numpy as np

EXP = 4  # roundings that an exponential, or a function made of one, may be off by
TINY = float(np.finfo(np.float32).tiny / np.finfo(np.float32).eps)  # what underflows, in roundings
NAMES = ("x", "delta", "A", "B", "C", "D", "h0", "delta_bias")


def wide(x) -> np.ndarray:
    """x in double precision."""
    x = np.asarray(x)
    return x.astype(np.complex128 if jnp.issubdtype(x.dtype, jnp.complexfloating) else np.float64)


@dataclasses.dataclass(frozen=True)
class Rounded:
    """Numbers, and how far computed ones may be from them, in units of the roundoff."""

    value: np.ndarray
    error: np.ndarray

    @classmethod
    def exact(cls, value) -> Self:
        return cls(value, np.zeros(np.shape(value)))

    def __add__(self, other: Self) -> Self:
        value = self.value + other.value
        return type(self)(value, self.error + other.error + np.abs(value))

    def __mul__(self, other: Self) -> Self:
        value = self.value * other.value
        error = self.error * np.abs(other.value) + np.abs(self.value) * other.error
        return type(self)(value, error + np.abs(value))

    def __getitem__(self, index) -> Self:
        return type(self)(self.value[index], self.error[index])

    def unless(self, dropped) -> Self:
        return type(self)(np.where(dropped, 0, self.value), np.where(dropped, 0, self.error))

    def each(self, function) -> Self:
        """What only moves numbers around."""
        return type(self)(function(self.value), function(self.error))

    def sum_to(self, shape) -> Self:
        """The sum over the axes that `shape` broadcasts over, in any order."""
        lead = self.value.ndim - len(shape)
        axes = [i + lead for i, n in enumerate(shape) if n == 1 != self.value.shape[i + lead]]
        axes = (*range(lead), *axes)
        count = int(np.prod([self.value.shape[i] for i in axes]))

        def total(x):
            return x.sum(axes, keepdims=True).reshape(shape)

        error = total(self.error) + max(count - 1, 0) * total(np.abs(self.value))
        return type(self)(total(self.value), error)

    def bound(self, dtype) -> np.ndarray:
        """How far a result in this dtype may be; halves are carried in float32."""
        half = jnp.dtype(dtype).itemsize == 2
        carried = jnp.finfo(jnp.float32 if half else dtype)
        bound = 4 * float(carried.eps) / 2 * self.error
        if half:
            own = jnp.finfo(dtype)
            bound = bound * (1 + float(own.eps)) + float(own.eps) / 2 * np.abs(self.value)
            bound = bound + float(own.smallest_subnormal)
        return bound


def _stack(parts, like: np.ndarray) -> Rounded:
    if not parts:
        return Rounded.exact(like)
    return Rounded(np.stack([p.value for p in parts]), np.stack([p.error for p in parts]))


def softplus(s: Rounded) -> tuple[Rounded, Rounded]:
    """log(1 + exp(s)) and its slope."""
    value, slope = np.logaddexp(s.value, 0), 1 / (1 + np.exp(-s.value))
    error = value * EXP + TINY
    return (
        Rounded(value, slope * s.error + error),
        Rounded(slope, slope * (1 - slope) * s.error + slope * EXP + TINY),
    )


def phi(z):
    """(exp(z) - 1) / z."""
    small = np.abs(z) < 1e-150
    return np.where(small, 1 + z / 2, np.expm1(z) / np.where(small, 1, z))


def phi_slope(z):
    """Its derivative, by the series where the quotient cancels."""
    small = np.abs(z) < 1e-2
    terms = (1 / 2, 1 / 3, 1 / 8, 1 / 30, 1 / 144, 1 / 840)
    series = sum(c * z**k for k, c in enumerate(terms))
    return np.where(small, series, (np.exp(z) - phi(z)) / np.where(small, 1, z))


@dataclasses.dataclass(frozen=True)
class Discretised:
    """a_t and gain_t as functions of s_t and A, with their derivatives."""

    a: Rounded
    a_delta: Rounded
    a_A: Rounded
    gain: Rounded
    gain_delta: Rounded
    gain_A: Rounded


def discretised(s: Rounded, A, *, discretisation="euler", signed=False) -> Discretised:
    """Of times s."""
    delta, z = s.value, s.value * A
    of_z = s.error * np.abs(A) + np.abs(z)  # its error; it is that of exp(z), relatively
    e, twice = np.exp(z), 2.0 if signed else 1.0

    def computed(value: np.ndarray, more: np.ndarray | float = 0.0) -> Rounded:
        return Rounded(value, np.abs(value) * (of_z + EXP + more) + TINY)

    decay = computed(twice * e)
    a = decay + Rounded.exact(np.full(z.shape, -1.0)) if signed else decay
    if discretisation == "euler":
        one = Rounded.exact(np.ones(z.shape))
        gains = Rounded(one.value * delta, s.error + one.error), one, Rounded.exact(0 * one.value)
    else:
        gain = twice * delta * phi(z), twice * e, twice * delta**2 * phi_slope(z)
        if signed:  # (1 - |a|) / |A|, where a < 0
            below, safe = e < 1 / 2, np.where(A == 0, -1, A)
            turned = -2 * e / safe, -2 * e, 2 * e / safe**2 - 2 * delta * e / safe
            gain = tuple(np.where(below, t, g) for t, g in zip(turned, gain, strict=True))
        factors = (s.error / np.where(delta == 0, 1, np.abs(delta)) * k for k in (1, 0, 2))
        gains = map(computed, gain, factors)
    return Discretised(a, decay * Rounded.exact(A), decay * s, *gains)


class SelectiveReference:
    """Values, gradients and bounds of one call.

    Inside, time is in front and in scan order, and every array has the axes (T, *batch, channels,
    N) of the states, some of them of size 1.
    """

    def __init__(
        self,
        x,
        delta,
        A,
        B,
        C,
        D=None,
        h0=None,
        *,
        delta_bias=None,
        reset=None,
        reverse=False,
        delta_softplus=False,
        discretisation="euler",
        signed=False,
    ):
        given = dict(zip(NAMES, (x, delta, A, B, C, D, h0, delta_bias), strict=True))
        self.given = {name: np.asarray(v) for name, v in given.items() if v is not None}
        self.reverse = reverse
        *self.batch, self.steps, self.channels = np.shape(x)
        self.size = np.shape(B)[-1]
        rank, dims = len(self.batch), (*self.batch, self.channels, self.size)
        self.x = self._over_time(x, -1)
        self.B, self.C = (self._over_time(v, -2) for v in (B, C))
        self.A = wide(A).reshape((1,) * (rank + 1) + np.shape(A))
        self.D = self._per_channel(D)
        self.h0 = np.broadcast_to(0.0 if h0 is None else wide(h0), dims)
        reset = np.zeros(self.steps, bool) if reset is None else np.asarray(reset)
        reset = np.broadcast_to(reset, (*self.batch, self.steps))
        self.reset = self._scan_order(reset[..., None, None], -3)
        with np.errstate(all="ignore"):
            options = {"discretisation": discretisation, "signed": signed}
            times = Rounded.exact(self._over_time(delta, -1))
            if delta_bias is not None:
                times = times + Rounded.exact(self._per_channel(delta_bias))
            self.slope = None
            if delta_softplus:
                times, self.slope = softplus(times)
            self.d = discretised(times, self.A, **options)
            drive = self._drive()
            self.before, self.h, self.last = self._states(drive)

    def _scan_order(self, v, axis) -> np.ndarray:
        v = np.moveaxis(v, axis, 0)
        return v[::-1] if self.reverse else v

    def _over_time(self, v, new_axis) -> np.ndarray:
        """(..., T, size) with time in front and an axis of size 1 for channels or N."""
        v = wide(v)
        v = v.reshape((1,) * (len(self.batch) + 2 - v.ndim) + v.shape)
        return self._scan_order(np.expand_dims(v, new_axis), -3)

    def _per_channel(self, v) -> np.ndarray:
        v = np.zeros(self.channels) if v is None else wide(v)
        return v.reshape((1,) * (len(self.batch) + 1) + (-1, 1))

    def _given_order(self, v: Rounded, name: str, dropped_axis: int) -> Rounded:
        """Back from (T, ..., channels, N), one of the last two of size 1, to the argument's."""
        shape = self.given[name].shape

        def back(v):
            v = np.moveaxis(v[::-1] if self.reverse else v, 0, -3)
            return np.squeeze(v, dropped_axis)

        return v.each(back).sum_to(shape)

    def _drive(self) -> Rounded:
        x, B = Rounded.exact(self.x), Rounded.exact(self.B)
        return self.d.gain * x * B

    def _states(self, drive: Rounded) -> tuple[Rounded, Rounded, Rounded]:
        """h_{t-1} and h_t for every t, and the last: all of law 1."""
        h, before, states = Rounded.exact(self.h0), [], []
        dims = (self.steps, *self.h0.shape)
        for t in range(self.steps):
            before.append(h.unless(self.reset[t]))
            h = (self.d.a[t] * h).unless(self.reset[t]) + drive[t]
            states.append(h)
        return _stack(before, np.zeros(dims)), _stack(states, np.zeros(dims)), h

    def outputs(self) -> tuple[Rounded, Rounded]:
        """(y, the last state)."""
        time = (self.steps, *self.batch, self.channels, 1)
        with np.errstate(all="ignore"):
            y = (self.h * Rounded.exact(self.C)).sum_to(time)
            y = y + Rounded.exact(self.D) * Rounded.exact(self.x)
        return self._given_order(y, "x", -1), self.last

    def gradients(self, dy, dlast) -> dict[str, Rounded]:
        """Those of <dy, y> + <dlast, last> without conjugation, each in its argument's shape.

        A real argument's is the real part: it was promoted to what was complex.
        """
        with np.errstate(all="ignore"):
            found = self._gradients(Rounded.exact(self._over_time(dy, -1)), wide(dlast))
        return {
            name: g if np.iscomplexobj(self.given[name]) else Rounded(np.real(g.value), g.error)
            for name, g in found.items()
            if name in self.given
        }

    def _gradients(self, dy: Rounded, dlast) -> dict[str, Rounded]:
        x, B, C, D = map(Rounded.exact, (self.x, self.B, self.C, self.D))
        adjoint, into_h0 = self._adjoint(dy * C, np.broadcast_to(dlast, self.h0.shape))
        d = self.d
        da = (adjoint * self.before).unless(self.reset)
        dgain = adjoint * (x * B)
        lead = (self.steps, *self.batch)
        per_channel, per_state = (*lead, self.channels, 1), (*lead, 1, self.size)
        into_x = (adjoint * d.gain * B).sum_to(per_channel) + dy * D
        into_delta = (da * d.a_delta + dgain * d.gain_delta).sum_to(per_channel)
        into_delta = into_delta if self.slope is None else into_delta * self.slope
        into_B = (adjoint * d.gain * x).sum_to(per_state)
        into_C = (dy * self.h).sum_to(per_state)
        return {
            "x": self._given_order(into_x, "x", -1),
            "delta": self._given_order(into_delta, "delta", -1),
            "A": (da * d.a_A + dgain * d.gain_A).sum_to(self.given["A"].shape),
            "B": self._given_order(into_B, "B", -2),
            "C": self._given_order(into_C, "C", -2),
            "D": (dy * x).each(lambda v: v[..., 0]).sum_to((self.channels,)),
            "delta_bias": into_delta.each(lambda v: v[..., 0]).sum_to((self.channels,)),
            "h0": into_h0.sum_to(self.given["h0"].shape) if "h0" in self.given else into_h0,
        }

    def _adjoint(self, read: Rounded, dlast) -> tuple[Rounded, Rounded]:
        """l_t = dy_t C_t + a_{t+1} l_{t+1} for every t, and what reaches h0."""
        later, found = Rounded.exact(dlast), []
        for t in reversed(range(self.steps)):
            total = read[t] + later
            found.append(total)
            later = (self.d.a[t] * total).unless(self.reset[t])
        return _stack(found[::-1], np.zeros((self.steps, *self.h0.shape))), later
