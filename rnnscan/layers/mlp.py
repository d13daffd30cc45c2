"""The fully connected net over a window: every input of it has weights of its own.

    y = W_2 gelu(W_1 vec(x_1 ... x_L) + b_1) + b_2,    or gelu(W_1 vec(x) + b_1) alone

What an RNN is compared with: no weights are shared over time, so that their number grows with the
length, and no other length than the one it was made for fits.
"""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from rnnscan.layers.affine import affine
from rnnscan.layers.arguments import floating, initial_state, one_step, positive, sequence, working
from rnnscan.layers.draws import uniform
from rnnscan.layers.lengths import checked_lengths, masked, valid_steps


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class MLP:
    """One hidden layer over a window of exactly `length` steps; one output for the whole of it.

    Shapes: x (..., length, input_size); y (..., 1, output_size), as if at the last step; state, the
    window itself: (..., length, input_size). Any number of batch axes, none too.

    Cost: 2 * B * hidden * (length * input_size + output_size) operations, for a step as well.
    float16 and bfloat16 are computed in float32; y and state are rounded.

    Source: Rosenblatt 1958 and many since; over a window of words, Bengio et al., "A neural
    probabilistic language model" (2003), section 2.

    >>> import jax, jax.numpy as jnp
    >>> layer = MLP.init(jax.random.key(0), input_size=10, hidden_size=20, length=5)
    >>> y, window = layer(jnp.ones((2, 5, 10)))
    >>> y.shape, window.shape
    ((2, 1, 20), (2, 5, 10))
    """

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
    ) -> "MLP":
        """Every weight uniform in +-1/sqrt(inputs of its layer), as in `torch.nn.Linear`.

        Without `output_size` the hidden layer is the output. Raises ValueError for sizes below 1.

        >>> import jax
        >>> layer = MLP.init(jax.random.key(0), 100, 128, length=10, bias=False)
        >>> sum(p.size for p in jax.tree.leaves(layer))
        128000
        """
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

    def __call__(
        self, x: ArrayLike, state: ArrayLike | None = None, lengths: ArrayLike | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The output for the windows x: (y (..., 1, output_size), the window).

        x: (..., length, input_size). state: a window before x; x pushes all of it out, so only its
        shape is looked at. lengths: integers of shape (...); the steps from there on are padding,
        never looked at, nan included, and count as zeros.

        Raises ValueError for any other length, for shapes that do not fit and for concrete lengths
        outside 0..length (traced ones are clipped), TypeError for dtypes that are not real
        floating.

        >>> import jax, jax.numpy as jnp
        >>> layer = MLP.init(jax.random.key(0), 3, 4, length=5)
        >>> layer(jnp.ones((2, 6, 3)))
        Traceback (most recent call last):
          ...
        ValueError: x: expected exactly 5 steps, the hard limit of this MLP, got 6; pad or cut ...
        """
        x = sequence(x, self.input_size)
        if x.shape[-2] != self.length:
            raise ValueError(
                f"x: expected exactly {self.length} steps, the hard limit of this MLP, got "
                f"{x.shape[-2]}; pad or cut the sequence, or make an MLP of another length"
            )
        state = self._state(state, x.shape[:-2], x)
        valid = None
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[:-2], x.shape[-2])
            valid = valid_steps(lengths, x.shape[-2])
        return _evaluate(self, x, valid, state.dtype)

    def step(self, x_t: ArrayLike, state: ArrayLike | None = None) -> tuple[jax.Array, jax.Array]:
        """The output for the last `length` inputs: x_t (..., input_size) to (y_t, state).

        state: the window (..., length, input_size), zeros when None, which slides by one step; so
        after `length` steps y_t equals that of a call. Raises ValueError for shapes that do not
        fit.

        >>> import jax, jax.numpy as jnp
        >>> layer = MLP.init(jax.random.key(0), 3, 4, length=2)
        >>> _, state = layer.step(jnp.ones(3))
        >>> y_1, state = layer.step(jnp.ones(3), state)
        >>> bool(jnp.allclose(y_1, layer(jnp.ones((2, 3)))[0][0]))
        True
        """
        x_t = one_step(x_t, self.input_size)
        return _step(self, x_t, self._state(state, x_t.shape[:-1], x_t))

    def _state(self, state: ArrayLike | None, batch: tuple[int, ...], x: jax.Array) -> jax.Array:
        return initial_state(state, (*batch, self.length, self.input_size), self, x)


@partial(jax.jit, static_argnames="dtype")
def _evaluate(
    layer: MLP, x: jax.Array, valid: jax.Array | None, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    layer, x = working(dtype, layer, x)
    x = masked(x, valid)
    whole = (*x.shape[:-2], 1, x.shape[-2] * x.shape[-1])  # spelled out: no -1 in an empty batch
    h = affine(x.reshape(whole), layer.w_in, layer.b_in)
    y = jax.nn.gelu(h, approximate=False)
    if layer.w_out is not None:
        y = affine(y, layer.w_out, layer.b_out)
    return y.astype(dtype), x.astype(dtype)


@jax.jit
def _step(layer: MLP, x_t: jax.Array, window: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = jnp.concatenate([window[..., 1:, :], x_t[..., None, :].astype(window.dtype)], axis=-2)
    y, window = _evaluate(layer, x, None, window.dtype)
    return y[..., 0, :], window
