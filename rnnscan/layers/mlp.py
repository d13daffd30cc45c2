"""The fully connected net over a window: every input of it has weights of its own.

    y = W_2 gelu(W_1 vec(x_1 ... x_L) + b_1) + b_2,    or gelu(W_1 vec(x) + b_1) alone

What an RNN is compared with: no weights are shared over time, so that their number grows with the
length, and no other length than the one it was made for fits.
"""

from dataclasses import dataclass, field
from typing import Self

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnscan.layer_parts.affine import affine
from rnnscan.layer_parts.arguments import floating, positive, random_key
from rnnscan.layer_parts.draws import uniform
from rnnscan.layer_parts.layer import Given, Layer
from rnnscan.layer_parts.state import Slot, Slots, State


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class MLP(Layer):
    """One hidden layer over a window of exactly `length` steps; one output for the whole of it.

    Shapes: x (..., length, input_size); y (..., 1, output_size), as if at the last step; state, the
    window itself: (..., length, input_size). A step slides it by one, so that after `length` steps
    y_t equals that of a call; a call pushes out all of a given one.

    With lengths the padding counts as zeros; y is that of the whole window all the same. A call
    raises ValueError for any other number of steps than `length`.

    Cost: 2 * B * hidden * (length * input_size + output_size) operations, for a step as well.

    Source: Rosenblatt 1958 and many since; over a window of words, Bengio et al., "A neural
    probabilistic language model" (2003), section 2.

    >>> import jax, jax.numpy as jnp
    >>> layer = MLP.init(jax.random.key(0), input_size=10, hidden_size=20, length=5)
    >>> y, window = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, window.shape
    ((2, 1, 20), (2, 5, 10))
    >>> layer(jnp.ones((2, 6, 10)))
    Traceback (most recent call last):
      ...
    ValueError: x: expected exactly 5 steps, the hard limit of this MLP, got 6; pad or cut ...
    """

    masks_y = False
    no_reset = "its output is of one whole window"
    no_split = "its output is of one whole window; split the batch, or hidden_size"
    w_in: jax.Array  # (hidden, length * features), the features of a step side by side
    b_in: jax.Array | None  # (hidden,); None without biases
    w_out: jax.Array | None  # (outputs, hidden); None where the hidden layer is the output
    b_out: jax.Array | None  # (outputs,)
    length: int = field(metadata={"static": True})

    @classmethod
    def init(
        cls,
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        *,
        length: int,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """Every weight uniform in +-1/sqrt(inputs of its layer), as in `torch.nn.Linear`.

        Without `output_size` the hidden layer is the output. Raises ValueError for sizes below 1.

        >>> import jax
        >>> layer = MLP.init(jax.random.key(0), 100, 128, length=10, bias=False)
        >>> sum(p.size for p in jax.tree.leaves(layer))
        128000
        """
        key = random_key(key)
        positive(input_size=input_size, hidden_size=hidden_size, length=length)
        dtype = floating("dtype", dtype)
        into = length * input_size
        keys = jax.random.split(key)

        def layer(key, inputs, outputs):
            shapes = ((outputs, inputs), *([(outputs,)] if bias else []))
            w, *b = uniform(key, shapes, -(inputs**-0.5), inputs**-0.5, dtype)
            return w, b[0] if bias else None

        w_out = b_out = None
        if output_size is not None:
            positive(output_size=output_size)
            w_out, b_out = layer(keys[1], hidden_size, output_size)
        return cls(*layer(keys[0], into, hidden_size), w_out, b_out, length)

    @property
    def input_size(self) -> int:
        """Features of x."""
        return self.w_in.shape[-1] // self.length

    @property
    def hidden_size(self) -> int:
        """Hidden units."""
        return self.w_in.shape[-2]

    @property
    def output_size(self) -> int:
        """Features of y."""
        return self.hidden_size if self.w_out is None else self.w_out.shape[-2]

    def _slots(self, batch: tuple[int, ...]) -> Slots:
        return Slot((*batch, self.length, self.input_size))

    def _check(self, x: jax.Array, state: State | None) -> None:
        if x.shape[-2] != self.length:
            raise ValueError(
                f"x: expected exactly {self.length} steps, the hard limit of this MLP, got "
                f"{x.shape[-2]}; pad or cut the sequence, or make an MLP of another length"
            )

    def _evaluate(self, given: Given) -> tuple[jax.Array, jax.Array]:
        return self._output(given.x), given.x

    def _step(self, x_t: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        window = jnp.concatenate([state[..., 1:, :], x_t[..., None, :]], axis=-2)
        return self._output(window)[..., 0, :], window

    def _output(self, window: jax.Array) -> jax.Array:
        """(..., 1, outputs) of a window."""
        # Spelled out: no -1 in an empty batch.
        whole = window.reshape((*window.shape[:-2], window.shape[-2] * window.shape[-1]))
        h = affine(whole[..., None, :], self.w_in, self.b_in)
        y = jax.nn.gelu(h, approximate=False)
        return y if self.w_out is None else affine(y, self.w_out, self.b_out)
