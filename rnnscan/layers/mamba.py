"""The Mamba block: a selective state-space model between a short convolution and a gate.

    (u_t, z_t) = W_in x_t
    v_t = SiLU(causal depthwise convolution of u, width 4)
    y_t = W_out (S6(v)_t * SiLU(z_t))

The convolution shows the step, the write and the read of S6 a few neighbours instead of one input
alone; the gate is what a second layer would otherwise do.

Source: Gu & Dao, "Mamba: Linear-time sequence modeling with selective state spaces" (2023),
arXiv:2312.00752, section 3.4 and figure 3.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from rnnscan.layers.affine import product
from rnnscan.layers.arguments import floating, initial_state, one_step, positive, sequence, working
from rnnscan.layers.conv import CausalConv1D
from rnnscan.layers.draws import uniform
from rnnscan.layers.lengths import checked_lengths, masked, valid_steps
from rnnscan.layers.selective_ssm import SelectiveSSM

State = tuple[jax.Array, jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class Mamba:
    """y_t = W_out (S6(SiLU(conv(u)))_t * SiLU(z_t)), (u_t, z_t) = W_in x_t.

    Shapes: x and y (..., time, input_size); state: the pair (window, h) of the last conv_width - 1
    inputs of the convolution (..., conv_width - 1, inner), oldest first, and the state of
    `SelectiveSSM` (..., inner, state_size), with inner = expand * input_size. Any number of batch
    axes, none too. float16 and bfloat16 are computed in float32; y and state are rounded.

    Cost: 6 * T * B * inner * input_size operations for W_in and W_out, and those of a
    `SelectiveSSM` of inner channels. No state grows with the steps that came before.

    Source: Gu & Dao (2023), section 3.4; the parameters are those of its published code.

    >>> import jax, jax.numpy as jnp
    >>> layer = Mamba.init(jax.random.key(0), input_size=10, state_size=4)
    >>> y, (window, h) = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, window.shape, h.shape
    ((2, 5, 10), (2, 3, 20), (2, 20, 4))
    """

    w_in: jax.Array  # (2 * inner, inputs): u above z
    conv: CausalConv1D
    ssm: SelectiveSSM
    w_out: jax.Array  # (inputs, inner)

    @classmethod
    def init(
        cls,
        key: jax.Array,
        input_size: int,
        *,
        expand: int = 2,
        state_size: int = 16,
        conv_width: int = 4,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        method: str = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> "Mamba":
        """As the published code: W_in and W_out uniform in +-1/sqrt(their inputs), no biases.

        The convolution has one, and is drawn as `CausalConv1D` draws it; S6 as `SelectiveSSM`, but
        with dt_rank = ceil(input_size / 16), of the block's own input, when None. Raises ValueError
        for sizes below 1 and unless 0 < dt_min <= dt_max, TypeError for a dtype that is not real
        floating.

        >>> import jax
        >>> layer = Mamba.init(jax.random.key(0), 64)
        >>> sum(leaf.size for leaf in jax.tree.leaves(layer))  # 6 * 64^2 and a little
        32640
        """
        positive(input_size=input_size, expand=expand, conv_width=conv_width)
        dtype = floating("dtype", dtype)
        inner = expand * input_size
        key, conv_key, ssm_key = jax.random.split(key, 3)
        ssm = SelectiveSSM.init(
            ssm_key,
            inner,
            state_size=state_size,
            dt_rank=-(-input_size // 16) if dt_rank is None else dt_rank,
            dt_min=dt_min,
            dt_max=dt_max,
            method=method,
            dtype=dtype,
        )
        conv = CausalConv1D.init(
            conv_key, inner, inner, width=conv_width, groups=inner, dtype=dtype
        )
        w_in, w_out = uniform(key, ((2 * inner, input_size), (input_size, inner)), -1, 1, dtype)
        return cls(w_in * input_size**-0.5, conv, ssm, w_out * inner**-0.5)

    @property
    def input_size(self) -> int:
        """Features of x."""
        return self.w_in.shape[-1]

    @property
    def output_size(self) -> int:
        """Features of y."""
        return self.input_size

    @property
    def inner_size(self) -> int:
        """Channels between W_in and W_out."""
        return self.w_out.shape[-1]

    @property
    def state_size(self) -> int:
        """Numbers of the state of each channel."""
        return self.ssm.state_size

    def __call__(
        self,
        x: ArrayLike,
        state: State | None = None,
        lengths: ArrayLike | None = None,
        method: str | None = None,
    ) -> tuple[jax.Array, State]:
        """Every step of the sequences x, from `state` (zeros when None): (y, state after the end).

        x and y: (..., time, input_size); state: the pair (window, h) of shapes
        (..., conv_width - 1, inner) and (..., inner, state_size). method: of the scan, instead of
        the layer's own.
        lengths: integers of shape (...), how many steps of each sequence count. In the padding y
        is zero and x is never looked at, nan included; the returned state is the one at each
        length (`state` itself at length 0). time = 0 returns the state as it came.

        Raises ValueError for shapes that do not fit, for concrete lengths outside 0..time (traced
        ones are clipped) and for a method that cannot serve, TypeError for dtypes that are not
        real floating.

        >>> import jax, jax.numpy as jnp
        >>> layer = Mamba.init(jax.random.key(0), 3, state_size=4)
        >>> x = jax.random.normal(jax.random.key(1), (2, 5, 3))
        >>> y, (window, h) = layer(x, lengths=[5, 2])
        >>> y_2, (window_2, h_2) = layer(x[1, :2])
        >>> bool((y[1, 2:] == 0).all()), bool(jnp.allclose(h[1], h_2, atol=1e-6))
        (True, True)
        """
        x = sequence(x, self.input_size)
        state = self._state(state, x.shape[:-2], x)
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[:-2], x.shape[-2])
        return _evaluate(self, x, state, lengths, method or self.ssm.method)

    def step(self, x_t: ArrayLike, state: State | None = None) -> tuple[jax.Array, State]:
        """One step, for generation: x_t (..., input_size) to (y_t (..., input_size), state).

        state: the pair (window, h), zeros when None. Stepping through a sequence equals calling
        the layer on it. Raises ValueError for shapes that do not fit.

        >>> import jax, jax.numpy as jnp
        >>> layer = Mamba.init(jax.random.key(0), 3, state_size=4)
        >>> y_0, state = layer.step(jnp.ones(3))
        >>> y_1, state = layer.step(jnp.ones(3), state)
        >>> bool(jnp.allclose(jnp.stack([y_0, y_1]), layer(jnp.ones((2, 3)))[0], atol=1e-6))
        True
        """
        x_t = one_step(x_t, self.input_size)
        return _step(self, x_t, self._state(state, x_t.shape[:-1], x_t))

    def _state(self, state: Any, batch: tuple[int, ...], x: jax.Array) -> State:
        window = (*batch, self.conv.reach, self.inner_size)
        h = (*batch, self.inner_size, self.state_size)
        state = (None, None) if state is None else state
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            shape = getattr(state, "shape", None)
            got = f"a {type(state).__name__}" if shape is None else f"one array of shape {shape}"
            got = f"{len(state)} arrays" if isinstance(state, (tuple, list)) else got
            raise ValueError(
                f"state: expected a pair (window, h) of arrays of shapes {window} and {h}, "
                f"got {got}"
            )
        pair = [
            initial_state(part, shape, self, x)
            for part, shape in zip(state, (window, h), strict=True)
        ]
        dtype = jnp.result_type(*pair)
        return pair[0].astype(dtype), pair[1].astype(dtype)


@partial(jax.jit, static_argnames="method")
def _evaluate(
    layer: Mamba, x: jax.Array, state: State, lengths: jax.Array | None, method: str
) -> tuple[jax.Array, State]:
    dtype = state[0].dtype
    layer, x, (window, h) = working(dtype, layer, x, state)
    valid = None if lengths is None else valid_steps(lengths, x.shape[-2])
    u, z = jnp.split(product(masked(x, valid), layer.w_in), 2, axis=-1)
    u, window = layer.conv(u, window, lengths)
    y, h = layer.ssm(_silu(u), h, lengths, method)
    y = masked(product(_gated(y, z), layer.w_out), valid)
    return y.astype(dtype), (window.astype(dtype), h.astype(dtype))


@jax.jit
def _step(layer: Mamba, x_t: jax.Array, state: State) -> tuple[jax.Array, State]:
    dtype = state[0].dtype
    layer, x_t, (window, h) = working(dtype, layer, x_t, state)
    u, z = jnp.split(product(x_t, layer.w_in), 2, axis=-1)
    u, window = layer.conv.step(u, window)
    y, h = layer.ssm.step(_silu(u), h)
    y = product(_gated(y, z), layer.w_out)
    return y.astype(dtype), (window.astype(dtype), h.astype(dtype))


# Checkpoints: kept are the arguments, not the sigmoids and products beside them.
_silu = jax.checkpoint(jax.nn.silu)


@jax.checkpoint
def _gated(y: jax.Array, z: jax.Array) -> jax.Array:
    return y * jax.nn.silu(z)
