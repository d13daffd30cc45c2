"""The causal convolution: each output sees the last inputs through one set of weights.

    y_t = b + sum_{k=0}^{width-1} W_k x_{t - k * dilation}

with zeros before the start. Its weights are shared over time as those of an RNN are, but what it
sees ends (width - 1) * dilation steps back.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from rnnscan.layer_parts.affine import einsum, in_line, product
from rnnscan.layer_parts.arguments import floating, positive, random_key
from rnnscan.layer_parts.draws import uniform
from rnnscan.layer_parts.layer import Given, Layer
from rnnscan.layer_parts.padding import countable, masked
from rnnscan.layer_parts.resets import positions
from rnnscan.layer_parts.state import Slot, Slots
from rnnscan.scan import steps_before


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class CausalConv1D(Layer):
    """y_t = b + sum_k W_k x_{t - k * dilation}, as `torch.nn.Conv1d` with zeros on the left.

    Shapes: x (..., time, input_size); y (..., time, output_size); state, the last inputs, oldest
    first: (..., (width - 1) * dilation, input_size).

    Cost: 2 * T * B * width * input_size * output_size / groups operations, all steps at once. A
    step reads the whole window, so it is shifted rather than written around in a ring: its memory
    is that of the window, however many steps came before. Where time is split over devices each
    is sent the inputs before its chunk, as many as an output reaches back.

    Source: van den Oord et al., "WaveNet" (2016), section 2.1.

    >>> import jax, jax.numpy as jnp
    >>> layer = CausalConv1D.init(jax.random.key(0), input_size=10, output_size=20, width=3)
    >>> y, state = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, state.shape
    ((2, 5, 20), (2, 2, 10))
    """

    w: jax.Array  # (width, outputs, inputs / groups); w[k] acts on the input of k steps ago
    b: jax.Array | None  # (outputs,); None without a bias
    dilation: int = field(default=1, metadata={"static": True})
    groups: int = field(default=1, metadata={"static": True})

    @classmethod
    def init(
        cls,
        key: jax.Array,
        input_size: int,
        output_size: int,
        *,
        width: int = 3,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """Every weight uniform in +-1/sqrt(width * input_size / groups), as in torch.

        `groups`: inputs and outputs are divided into so many groups that do not mix; input_size of
        them is a depthwise convolution. Raises ValueError for sizes below 1 and for groups that do
        not divide both sizes.

        >>> import jax
        >>> layer = CausalConv1D.init(jax.random.key(0), 100, 128, width=3, bias=False)
        >>> layer.w.size
        38400
        """
        key = random_key(key)
        positive(
            input_size=input_size,
            output_size=output_size,
            width=width,
            dilation=dilation,
            groups=groups,
        )
        if input_size % groups or output_size % groups:
            raise ValueError(
                f"groups: expected a divisor of input_size = {input_size} and "
                f"output_size = {output_size}, got {groups}"
            )
        dtype = floating("dtype", dtype)
        shapes = ((width, output_size, input_size // groups), *([(output_size,)] if bias else []))
        bound = (width * input_size // groups) ** -0.5
        w, *b = uniform(key, shapes, -bound, bound, dtype)
        return cls(w, b[0] if bias else None, dilation, groups)

    @property
    def input_size(self) -> int:
        """Features of x."""
        return self.w.shape[-1] * self.groups

    @property
    def output_size(self) -> int:
        """Features of y."""
        return self.w.shape[-2]

    @property
    def width(self) -> int:
        """Inputs that an output is made of."""
        return self.w.shape[-3]

    @property
    def reach(self) -> int:
        """How many steps back the oldest of them is."""
        return (self.width - 1) * self.dilation

    def _slots(self, batch: tuple[int, ...]) -> Slots:
        return Slot((*batch, self.reach, self.input_size))

    def _evaluate(self, given: Given) -> tuple[jax.Array, jax.Array]:
        seen, count = self._before(given)
        window = jnp.concatenate([_lying_as(given.x, seen), given.x], axis=-2)
        steps = given.x.shape[-2]
        if given.lengths is not None or given.reset is not None:
            countable("lengths" if given.reset is None else "reset", steps, self.reach)
        last = self._last(window, given.lengths)
        if given.reset is None:
            return self._convolve(window, steps), given.at_the_end(last)
        position, end = positions(given.reset[..., 0], count, steps, given.lengths)
        back = self.reach - in_line(jnp.arange(self.reach, dtype=jnp.int32), count.ndim + 1)
        last = masked(last, (back <= end[..., None])[..., None])
        return self._convolve(window, steps, position), given.at_the_end(last)

    def _step(self, x_t: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        window = jnp.concatenate([state, x_t[..., None, :]], axis=-2)
        return self._convolve(window, 1)[..., 0, :], window[..., 1:, :]

    def _before(self, given: Given) -> tuple[jax.Array, jax.Array]:
        """The inputs before x, as many as it reaches back, and how many are of x's sequence."""
        state, x, reset, over = given.state, given.x, given.reset, given.axis_name
        count = jnp.full(x.shape[:-2], self.reach, jnp.int32)
        if over is None:
            return state, count
        if reset is None:
            return steps_before(x, state, over), count
        # Which of them are the first of a sequence comes along, as one feature more.
        flagged = jnp.concatenate([x, reset.astype(x.dtype)], axis=-1)
        unflagged = jnp.concatenate([state, jnp.zeros_like(state[..., :1])], axis=-1)
        seen = steps_before(flagged, unflagged, over)
        _, count = positions(seen[..., -1] != 0, count, self.reach, None)
        return seen[..., :-1], count

    @partial(jax.checkpoint, static_argnums=2)  # keeps the window once, not shifted by every k
    def _convolve(
        self, window: jax.Array, steps: int, position: jax.Array | None = None
    ) -> jax.Array:
        """y of the last so many steps of a window; `position`: of each in its own sequence.

        One product for each k. There are few, and XLA's convolution is no faster on CPUs, and
        thirty times as slow where it is depthwise.
        """

        def part(k: int) -> jax.Array:
            start = self.reach - k * self.dilation
            x = lax.slice_in_dim(window, start, start + steps, axis=window.ndim - 2)
            if position is not None and k:
                x = masked(x, (position >= k * self.dilation)[..., None])
            return _mix(x, self.w[k], self.groups)

        total = part(0)
        for k in range(1, self.width):
            total = total + part(k)
        return total if self.b is None else total + in_line(self.b, total.ndim)

    def _last(self, window: jax.Array, lengths: jax.Array | None) -> jax.Array:
        """The last inputs, before each length where there are lengths."""
        if lengths is None:
            start = window.shape[-2] - self.reach
            return lax.slice_in_dim(window, start, window.shape[-2], axis=window.ndim - 2)
        steps = in_line(jnp.arange(self.reach, dtype=jnp.int32)[:, None], window.ndim)
        return jnp.take_along_axis(window, lengths[..., None, None] + steps, axis=-2, mode="clip")


def _lying_as(x: jax.Array, seen: jax.Array) -> jax.Array:
    """Inputs before x, on the devices that have its batch: on explicit axes of a mesh nothing is
    joined that lies differently, and a state of zeros lies whole on each."""
    lies = jax.typeof(x).sharding
    if not any(lies.spec):
        return seen
    spec = PartitionSpec(*lies.spec[:-2], None, *lies.spec[-1:])
    return jax.sharding.reshard(seen, NamedSharding(lies.mesh, spec))


def _mix(x: jax.Array, w: jax.Array, groups: int) -> jax.Array:
    """x W^T, group by group: (..., inputs) to (..., outputs)."""
    if groups == 1:
        return product(x, w)
    inputs = w.shape[-1]
    if inputs == 1 and w.shape[-2] == groups:  # depthwise
        return x * in_line(w[:, 0], x.ndim)
    x = x.reshape((*x.shape[:-1], groups, inputs))
    w = w.reshape((groups, -1, inputs))
    y = einsum("...gi,goi->...go", x, w)
    return y.reshape((*y.shape[:-2], y.shape[-2] * y.shape[-1]))  # of no steps as well
