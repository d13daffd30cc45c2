"""The Mamba block: a selective state-space model between a short convolution and a gate.

    (u_t, z_t) = W_in x_t
    v_t = SiLU(causal depthwise convolution of u, width 4)
    y_t = W_out (S6(v)_t * SiLU(z_t))

The convolution shows the step, the write and the read of S6 a few neighbours instead of one input
alone; the gate is what a second layer would otherwise do.

Source: Gu & Dao, "Mamba: Linear-time sequence modeling with selective state spaces" (2023),
arXiv:2312.00752, section 3.4 and figure 3.
"""

from dataclasses import dataclass, replace
from typing import Self

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnscan.layer_parts.affine import product
from rnnscan.layer_parts.arguments import floating, positive, random_key
from rnnscan.layer_parts.draws import uniform
from rnnscan.layer_parts.layer import Given, ScanLayer
from rnnscan.layer_parts.state import Slot, Slots
from rnnscan.layers.conv import CausalConv1D
from rnnscan.layers.selective_ssm import SelectiveSSM
from rnnscan.scan import SelectiveMethodName

State = tuple[jax.Array, jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class Mamba(ScanLayer):
    """y_t = W_out (S6(SiLU(conv(u)))_t * SiLU(z_t)), (u_t, z_t) = W_in x_t.

    Shapes: x and y (..., time, input_size); state: the pair (window, h) of the last conv_width - 1
    inputs of the convolution (..., conv_width - 1, inner), oldest first, and the state of
    `SelectiveSSM` (..., inner, state_size), with inner = expand * input_size.

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

    def __post_init__(self) -> None:
        """Nothing: its `ssm` has checked its own method."""

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
        signed: bool = False,
        method: SelectiveMethodName = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """As the published code: W_in and W_out uniform in +-1/sqrt(their inputs), no biases.

        The convolution has one, and is drawn as `CausalConv1D` draws it; S6 as `SelectiveSSM`, but
        with dt_rank = ceil(input_size / 16), of the block's own input, when None. `signed`: decays
        in (-1, 1). Raises ValueError for sizes below 1, unless 0 < dt_min <= dt_max and for an
        unknown method, TypeError for a dtype that is not real floating.

        >>> import jax
        >>> layer = Mamba.init(jax.random.key(0), 64)
        >>> sum(leaf.size for leaf in jax.tree.leaves(layer))  # 6 * 64^2 and a little
        32640
        """
        key = random_key(key)
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
            signed=signed,
            method=method,
            dtype=dtype,
        )
        conv = CausalConv1D.init(
            conv_key, inner, inner, width=conv_width, groups=inner, dtype=dtype
        )
        w_in, w_out = uniform(key, ((2 * inner, input_size), (input_size, inner)), -1, 1, dtype)
        return cls(w_in * input_size**-0.5, conv, ssm, w_out * inner**-0.5)

    @property
    def method(self) -> SelectiveMethodName:
        """Of the scan: that of its `ssm`."""
        return self.ssm.method

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

    def _by(self, method: SelectiveMethodName) -> Self:
        return replace(self, ssm=replace(self.ssm, method=method))

    def _slots(self, batch: tuple[int, ...]) -> Slots:
        window = (*batch, self.conv.reach, self.inner_size)
        h = (*batch, self.inner_size, self.state_size)
        return Slot(window, name="window"), Slot(h, name="h")

    def _evaluate(self, given: Given) -> tuple[jax.Array, State]:
        window, h = given.state
        u, z = jnp.split(product(given.x, self.w_in), 2, axis=-1)
        reset = None if given.reset is None else given.reset[..., 0]
        lengths, over = given.whole_lengths, given.axis_name
        u, window = self.conv(u, window, lengths, reset, axis_name=over)
        y, h = self.ssm(_silu(u), h, lengths, reset, axis_name=over)
        return product(_gated(y, z), self.w_out), (window, h)

    def _step(self, x_t: jax.Array, state: State) -> tuple[jax.Array, State]:
        window, h = state
        u, z = jnp.split(product(x_t, self.w_in), 2, axis=-1)
        u, window = self.conv.step(u, window)
        y, h = self.ssm.step(_silu(u), h)
        return product(_gated(y, z), self.w_out), (window, h)


# Checkpoints: kept are the arguments, not the sigmoids and products beside them.
_silu = jax.checkpoint(jax.nn.silu)


@jax.checkpoint
def _gated(y: jax.Array, z: jax.Array) -> jax.Array:
    return y * jax.nn.silu(z)
