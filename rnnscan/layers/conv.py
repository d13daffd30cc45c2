"""The causal convolution: each output sees the last inputs through one set of weights.

    y_t = b + sum_{k=0}^{width-1} W_k x_{t - k * dilation}

with zeros before the start. Its weights are shared over time as those of an RNN are, but what it
sees ends (width - 1) * dilation steps back.
"""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from rnnscan.layers.affine import product
from rnnscan.layers.arguments import floating, initial_state, one_step, positive, sequence, working
from rnnscan.layers.draws import uniform
from rnnscan.layers.lengths import checked_lengths, masked, valid_steps


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class CausalConv1D:
    """y_t = b + sum_k W_k x_{t - k * dilation}, as `torch.nn.Conv1d` with zeros on the left.

    Shapes: x (..., time, input_size); y (..., time, output_size); state, the last inputs, oldest
    first: (..., (width - 1) * dilation, input_size). Any number of batch axes, none too.

    Cost: 2 * T * B * width * input_size * output_size / groups operations, all steps at once. A
    step reads the whole window, so it is shifted rather than written around in a ring: its memory
    is that of the window, however many steps came before. float16 and bfloat16 are computed in
    float32; y and state are rounded.

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
    ) -> "CausalConv1D":
        """Every weight uniform in +-1/sqrt(width * input_size / groups), as in torch.

        `groups`: inputs and outputs are divided into so many groups that do not mix; input_size of
        them is a depthwise convolution. Raises ValueError for sizes below 1 and for groups that do
        not divide both sizes.

        >>> import jax
        >>> layer = CausalConv1D.init(jax.random.key(0), 100, 128, width=3, bias=False)
        >>> layer.w.size
        38400
        """
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

    def __call__(
        self, x: ArrayLike, state: ArrayLike | None = None, lengths: ArrayLike | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Every step of the sequences x, after those in `state` (zeros when None): (y, state).

        x: (..., time, input_size); state: (..., reach, input_size), the inputs before x. lengths:
        integers of shape (...), how many steps of each sequence count. In the padding y is zero
        and x is never looked at, nan included; the returned state holds the last inputs before
        each length. time = 0 returns the state as it came.

        Raises ValueError for shapes that do not fit and for concrete lengths outside 0..time
        (traced ones are clipped), TypeError for dtypes that are not real floating.

        >>> import jax, jax.numpy as jnp
        >>> layer = CausalConv1D.init(jax.random.key(0), 3, 4)
        >>> x = jax.random.normal(jax.random.key(1), (6, 3))
        >>> y_1, state = layer(x[:4])
        >>> y_2, state = layer(x[4:], state)
        >>> bool(jnp.allclose(jnp.concatenate([y_1, y_2]), layer(x)[0], atol=1e-6))
        True
        """
        x = sequence(x, self.input_size)
        state = self._state(state, x.shape[:-2], x)
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[:-2], x.shape[-2])
        return _evaluate(self, x, state, lengths)

    def step(self, x_t: ArrayLike, state: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        """One step, for generation: x_t (..., input_size) to (y_t (..., output_size), state).

        state: (..., reach, input_size), zeros when None. Stepping through a sequence equals calling
        the layer on it. Raises ValueError for shapes that do not fit.

        >>> import jax, jax.numpy as jnp
        >>> layer = CausalConv1D.init(jax.random.key(0), 3, 4)
        >>> y_0, state = layer.step(jnp.ones(3))
        >>> y_1, state = layer.step(jnp.ones(3), state)
        >>> bool(jnp.allclose(jnp.stack([y_0, y_1]), layer(jnp.ones((2, 3)))[0], atol=1e-6))
        True
        """
        x_t = one_step(x_t, self.input_size)
        return _step(self, x_t, self._state(state, x_t.shape[:-1], x_t))

    def _state(self, state: ArrayLike | None, batch: tuple[int, ...], x: jax.Array) -> jax.Array:
        return initial_state(state, (*batch, self.reach, self.input_size), self, x)


@jax.jit
def _evaluate(
    layer: CausalConv1D, x: jax.Array, state: jax.Array, lengths: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    dtype, steps = state.dtype, x.shape[-2]
    layer, x, state = working(dtype, layer, x, state)
    valid = None if lengths is None else valid_steps(lengths, steps)
    window = jnp.concatenate([state, masked(x, valid)], axis=-2)
    y = masked(_convolve(layer, window, steps), valid)
    return y.astype(dtype), _last(window, layer.reach, lengths).astype(dtype)


@jax.jit
def _step(layer: CausalConv1D, x_t: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    dtype = state.dtype
    layer, x_t, state = working(dtype, layer, x_t, state)
    window = jnp.concatenate([state, x_t[..., None, :]], axis=-2)
    y = _convolve(layer, window, 1)[..., 0, :]
    return y.astype(dtype), window[..., 1:, :].astype(dtype)


@partial(jax.checkpoint, static_argnums=2)  # keeps the window once, not shifted by every k
def _convolve(layer: CausalConv1D, window: jax.Array, steps: int) -> jax.Array:
    """y of the last so many steps of a window.

    One product for each k. There are few, and XLA's convolution is no faster on CPUs, and thirty
    times as slow where it is depthwise.
    """

    def part(k: int) -> jax.Array:
        start = layer.reach - k * layer.dilation
        x = lax.slice_in_dim(window, start, start + steps, axis=window.ndim - 2)
        return _mix(x, layer.w[k], layer.groups)

    total = part(0)
    for k in range(1, layer.width):
        total = total + part(k)
    if layer.b is not None:
        total = total + layer.b.reshape((1,) * (total.ndim - 1) + layer.b.shape)
    return total


def _mix(x: jax.Array, w: jax.Array, groups: int) -> jax.Array:
    """x W^T, group by group: (..., inputs) to (..., outputs)."""
    if groups == 1:
        return product(x, w)
    inputs = w.shape[-1]
    if inputs == 1 and w.shape[-2] == groups:  # depthwise
        return x * w.reshape((1,) * (x.ndim - 1) + (groups,))
    x = x.reshape((*x.shape[:-1], groups, inputs))
    w = w.reshape((groups, -1, inputs))
    y = jnp.einsum("...gi,goi->...go", x, w, precision=lax.Precision.HIGHEST)
    return y.reshape((*y.shape[:-2], y.shape[-2] * y.shape[-1]))  # of no steps as well


def _last(window: jax.Array, count: int, lengths: jax.Array | None) -> jax.Array:
    """The last inputs, before each length where there are lengths."""
    if lengths is None:
        return lax.slice_in_dim(
            window, window.shape[-2] - count, window.shape[-2], axis=window.ndim - 2
        )
    steps = jnp.arange(count, dtype=jnp.int32).reshape((1,) * lengths.ndim + (count, 1))
    return jnp.take_along_axis(window, lengths[..., None, None] + steps, axis=-2, mode="clip")
