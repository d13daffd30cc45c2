"""The same network around any layer: what a fair comparison of layers needs.

    h = encode(x)                        an embedding of tokens, or a linear map of features
    h = h + back(mixer(norm(h)))         depth times
    y = head(read(norm(h)))              every step, the last one, or their mean

The mixer is what mixes steps: any layer of this package, or one of your own with its interface. All
else acts on each step alone, so that what the model can remember is what its mixers can.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jax.typing import ArrayLike, DTypeLike

from rnnscan.layer_parts.affine import affine, in_line, product
from rnnscan.layer_parts.arguments import (
    MadeByInit,
    accepts,
    floating,
    named,
    one_step,
    positive,
    random_key,
    sequence,
)
from rnnscan.layer_parts.draws import normal
from rnnscan.layer_parts.layer import working
from rnnscan.layer_parts.padding import (
    checked_lengths,
    countable,
    integers,
    masked,
    state_at,
    valid_steps,
)
from rnnscan.layer_parts.resets import checked_reset
from rnnscan.layer_parts.shown import Shown
from rnnscan.layer_parts.split import lengths_here, where_it_ends
from rnnscan.layer_parts.state import described
from rnnscan.layers.mlp import MLP
from rnnscan.scan import AxisName, index_and_size

Read = Literal["every", "last", "mean"]
READS = get_args(Read)
_EPS = 1e-6


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # equality and hash by identity, as for arrays
class Block(Shown):
    """h + back(mixer(norm(h)))."""

    scale: jax.Array  # (width,), of the norm
    mixer: Any
    back: jax.Array | None  # (width, outputs of the mixer); None where those are `width`


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SequenceModel(Shown, MadeByInit):
    """Encoder, blocks of (norm, mixer, residual), a reading of the steps, and a linear head.

    Shapes: x (..., time) of integers where the model has tokens, else (..., time, input_size); y
    (..., time, outputs) with read = "every", else (..., outputs); state: the tuple of the mixers'
    states. Any number of batch axes, none too.

    Cost, beside that of the mixers: 2 * T * B * width * (input_size + depth * mixer outputs)
    operations, the latter where they are not `width`, and 2 * width * outputs for every step that
    is read. float16 and bfloat16 are computed in float32 between the mixers; y is rounded.

    Source: pre-norm residual blocks as in Xiong et al., "On layer normalization in the transformer
    architecture" (2020); the norm: Zhang & Sennrich, "Root mean square layer normalization" (2019),
    equation 4.

    >>> import jax, jax.numpy as jnp
    >>> from rnnscan import GRU
    >>> def mixer(key, width):
    ...     return GRU.init(key, width, 32)
    >>> model = SequenceModel.init(jax.random.key(0), mixer, width=16, depth=2, outputs=5, tokens=9)
    >>> y, state = model(jnp.zeros((3, 7), int))
    >>> y.shape, len(state)
    ((3, 7, 5), 2)
    >>> y_7, state = model.step(jnp.zeros(3, int), state)
    >>> y_7.shape
    (3, 5)
    """

    encoder: jax.Array  # (tokens, width), or (width, features)
    encoder_bias: jax.Array | None  # (width,); None for tokens
    blocks: tuple[Block, ...]
    scale: jax.Array  # (width,), of the last norm
    head: jax.Array  # (outputs, width)
    head_bias: jax.Array  # (outputs,)
    read: Read = field(default="every", metadata={"static": True})

    @classmethod
    def init(
        cls,
        key: jax.Array,
        mixer: Callable[[jax.Array, int], Any],
        *,
        width: int,
        depth: int,
        outputs: int,
        tokens: int | None = None,
        input_size: int | None = None,
        read: Read = "every",
        dtype: DTypeLike = jnp.float32,
    ) -> "SequenceModel":
        """`mixer(key, width)` makes the mixer of each block, a layer of `width` input features.

        One of tokens (how many there are) and input_size (features of x) says what x is. The maps
        are Gaussian with variance 1 / inputs, embeddings with variance 1, biases 0 and scales 1,
        all of `dtype`, which should be that of the mixers too.

        Raises ValueError for sizes below 1, an unknown `read`, and an `MLP` as mixer with
        read = "every": its one output knows all steps.

        >>> import jax
        >>> from rnnscan import LRU
        >>> model = SequenceModel.init(
        ...     jax.random.key(0), lambda key, width: LRU.init(key, width, 32),
        ...     width=16, depth=1, outputs=10, input_size=3, read="last",
        ... )
        >>> model.width, model.output_size
        (16, 10)
        """
        key = random_key(key)
        positive(width=width, depth=depth, outputs=outputs)
        if (tokens is None) == (input_size is None):
            raise ValueError(
                f"tokens, input_size: expected one of them, got tokens={tokens}, "
                f"input_size={input_size}"
            )
        if read not in READS:
            raise ValueError(f"read: expected one of {', '.join(map(repr, READS))}, got {read!r}")
        dtype = floating("dtype", dtype)
        keys = jax.random.split(key, depth + 1)
        mixers = _mixers(mixer, keys[1:], width)
        if read == "every" and any(isinstance(m, MLP) for m in mixers):
            raise ValueError(
                'read: expected "last" or "mean" with an MLP as mixer, whose output depends on all '
                'steps, got "every"'
            )
        if input_size is None:
            positive(tokens=tokens)
            encoder, gain = (tokens, width), 1.0
        else:
            positive(input_size=input_size)
            encoder, gain = (width, input_size), input_size**-0.5
        backs = [None if m.output_size == width else (width, m.output_size) for m in mixers]
        shapes = (encoder, (outputs, width), *(back for back in backs if back))
        encoder, head, *maps = normal(keys[0], shapes, dtype)
        maps = iter(maps)
        ones = jnp.ones(width, dtype)
        blocks = tuple(
            Block(ones, m, None if back is None else next(maps) * back[1] ** -0.5)
            for m, back in zip(mixers, backs, strict=True)
        )
        return cls(
            encoder * gain,
            None if tokens is not None else jnp.zeros(width, dtype),
            blocks,
            ones,
            head * width**-0.5,
            jnp.zeros(outputs, dtype),
            read,
        )

    @property
    def tokens(self) -> int | None:
        """How many tokens there are; None where x has features."""
        return self.encoder.shape[-2] if self.encoder_bias is None else None

    @property
    def input_size(self) -> int | None:
        """Features of x; None where x is tokens."""
        return None if self.encoder_bias is None else self.encoder.shape[-1]

    @property
    def width(self) -> int:
        """Features between the blocks."""
        return self.scale.shape[-1]

    @property
    def output_size(self) -> int:
        """Features of y."""
        return self.head.shape[-2]

    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        *,
        axis_name: AxisName | None = None,
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """What is read of the sequences x, from `state` (the mixers' own zeros when None).

        lengths: integers of shape (...), how many steps of each sequence count; the padding is
        never looked at, nan included. "every" is zero there, "last" reads the step before each
        length, "mean" all before it; of no steps at all both read zeros, so that y is the head's
        bias.
        reset: booleans of shape (..., time), or (time,) for all sequences, true at the first step
        of a sequence: the mixers forget all before it, and "mean" does.
        axis_name: inside `jax.shard_map`, the mesh axis, or a tuple of them, over which time is
        split in order, as for the mixers: x and reset are this device's chunk, and so is the y of
        "every"; lengths, states and the y of "last" and "mean" are of the whole sequence, alike on
        all devices.

        Raises ValueError for shapes that do not fit, tokens outside 0 ... tokens - 1 before the
        length, lengths outside 0 ... time (where they are concrete; traced ones are clipped), a
        reset where a mixer takes none, an `MLP`, and an axis_name that is no axis of a
        `jax.shard_map` around the call, or where the time of a mixer cannot be split.

        >>> import jax, jax.numpy as jnp
        >>> from rnnscan import MinGRU
        >>> model = SequenceModel.init(
        ...     jax.random.key(0), lambda key, width: MinGRU.init(key, width, width),
        ...     width=8, depth=1, outputs=2, input_size=3, read="mean",
        ... )
        >>> y, _ = model(jnp.ones((4, 5, 3)), lengths=[5, 3, 1, 0])
        >>> y.shape
        (4, 2)
        """
        devices = 1 if axis_name is None else index_and_size(axis_name)[1]
        x = self._checked(x, lengths, in_part=axis_name is not None)
        batch, steps = (x.shape[:-1], x.shape[-1]) if self.tokens else (x.shape[:-2], x.shape[-2])
        if lengths is not None:
            lengths = checked_lengths(lengths, batch, steps * devices)
        self._check_takes(reset=reset, axis_name=axis_name)
        reset = checked_reset(reset, batch, steps)
        return _evaluate(self, x, self._states(state), lengths, reset, axis_name=axis_name)

    def step(
        self, x_t: ArrayLike, state: Any = None, reset: ArrayLike | None = None
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """One step, for generation: x_t (...) of integers or (..., input_size) to (y_t, state).

        y_t (..., outputs) is the output at this step, for read = "every" and "last" alike.
        reset: booleans of shape (...), or one for all: where true, the state is forgotten first.
        Raises ValueError with read = "mean" and with mixers that cannot step.

        >>> import jax, jax.numpy as jnp
        >>> from rnnscan import LSTM
        >>> model = SequenceModel.init(
        ...     jax.random.key(0), lambda key, width: LSTM.init(key, width, width),
        ...     width=8, depth=1, outputs=4, tokens=4,
        ... )
        >>> y, state = model.step(jnp.array(2), model.initial_state())
        >>> y.shape
        (4,)
        """
        if self.read == "mean":
            raise ValueError('step: expected read = "every" or "last", got "mean", of all steps')
        if any(isinstance(block.mixer, MLP) for block in self.blocks):
            raise ValueError("step: expected mixers that see the past alone, got an MLP")
        x_t = self._checked(x_t, one=True)
        batch = x_t.shape if self.tokens else x_t.shape[:-1]
        self._check_takes(one=True, reset=reset)
        return _step(self, x_t, self._states(state), checked_reset(reset, batch))

    def initial_state(self, batch: tuple[int, ...] = ()) -> tuple[Any, ...]:
        """The state in which a sequence begins, spelled out: as `lax.scan` over steps needs it.

        >>> import jax
        >>> from rnnscan import CausalSelfAttention
        >>> model = SequenceModel.init(
        ...     jax.random.key(0),
        ...     lambda key, width: CausalSelfAttention.init(key, width, context=6),
        ...     width=8, depth=1, outputs=4, tokens=4,
        ... )
        >>> model.initial_state((2,))[0].keys.shape
        (2, 6, 4, 2)
        """
        if not isinstance(batch, (tuple, list)):
            raise TypeError(f"batch: expected the batch axes, ({batch!r},) say, got {batch!r}")
        if self.tokens is None:
            dtype = self.encoder.dtype
            x_t = jax.ShapeDtypeStruct((*batch, self.encoder.shape[-1]), dtype)
        else:
            x_t = jax.ShapeDtypeStruct(batch, jnp.int32)
        _, state = jax.eval_shape(_step, self, x_t, self._states(None), None)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)

    def _check_takes(self, one: bool = False, **given: Any) -> None:
        """Raise unless every mixer takes those of these arguments that are given."""
        names = [name for name, value in given.items() if value is not None]
        for block in self.blocks if names else ():
            signature = inspect.signature(block.mixer.step if one else block.mixer)
            for name in names:
                if name not in signature.parameters:
                    raise ValueError(f"{name}: the mixer {type(block.mixer).__name__} takes none")

    def _states(self, state: Any) -> tuple[Any, ...]:
        if state is None:
            return (None,) * len(self.blocks)
        if not isinstance(state, (tuple, list)) or len(state) != len(self.blocks):
            raise ValueError(
                f"state: expected a tuple of {len(self.blocks)} states, one for each block, got "
                f"{described(state)}"
            )
        return tuple(state)

    def _checked(
        self, x: ArrayLike, lengths: Any = None, one: bool = False, in_part: bool = False
    ) -> jax.Array:
        """`in_part`: x is a chunk of time, and it is not known which of its steps count."""
        name = "x_t" if one else "x"
        if self.tokens is None:
            size = self.encoder.shape[-1]
            return one_step(x, size) if one else sequence(x, size)
        traced = isinstance(x, core.Tracer)
        given = jnp.asarray(x) if traced else integers(name, x)
        if not jnp.issubdtype(given.dtype, jnp.integer):
            raise TypeError(f"{name}: expected integers, the tokens, got {given.dtype}")
        if not one and given.ndim < 1:
            raise ValueError(f"{name}: expected shape (..., time), got {given.shape}")
        unknown = in_part and lengths is not None
        if not traced and not unknown and not isinstance(lengths, core.Tracer):
            seen = given
            if lengths is not None:  # any number may stand in the padding
                checked_lengths(lengths, given.shape[:-1], given.shape[-1])
                seen = given[np.arange(given.shape[-1]) < integers("lengths", lengths)[..., None]]
            wrong = seen[(seen < 0) | (seen >= self.tokens)]
            if wrong.size:
                raise ValueError(f"{name}: expected tokens in 0..{self.tokens - 1}, got {wrong[0]}")
        # In their own dtype: a large unsigned one would turn negative.
        largest = min(self.tokens - 1, int(jnp.iinfo(given.dtype).max))
        return jnp.asarray((jnp if traced else np).clip(given, 0, largest), jnp.int32)


def _mixers(mixer: Callable[[jax.Array, int], Any], keys: jax.Array, width: int) -> list[Any]:
    """One for each key, checked."""
    name = mixer.__name__ if isinstance(mixer, type) else "GRU"
    expected = (
        "mixer: expected a function (key, width) that makes a layer, for instance lambda key, "
        f"width: {name}.init(key, width, ...)"
    )
    if isinstance(mixer, type) or hasattr(mixer, "output_size"):
        what = "the class itself" if isinstance(mixer, type) else "a layer, made already"
        raise TypeError(f"{expected}, got {what}")
    accepts(expected, mixer, keys[0], width)
    made = [mixer(key, width) for key in keys]
    for layer in made:
        if isinstance(layer, type) or not hasattr(layer, "output_size"):
            raise TypeError(f"{expected}, got one that returns {named(layer)}")
        if jax.tree_util.all_leaves([layer]):
            raise TypeError(
                "mixer: expected a layer that is a pytree (jax.tree_util.register_dataclass), got "
                f"{named(layer)}"
            )
        if getattr(layer, "input_size", width) != width:
            raise ValueError(
                f"mixer: expected a layer of {width} input features, the width, got a "
                f"{type(layer).__name__} of {layer.input_size}"
            )
    return made


def _dtype(model: SequenceModel, x: jax.Array) -> jnp.dtype:
    return model.encoder.dtype if model.tokens else jnp.result_type(x, model.encoder)


def _encoded(model: SequenceModel, x: jax.Array, valid: jax.Array | None) -> jax.Array:
    encoder, bias = working(_dtype(model, x), model.encoder, model.encoder_bias)
    if model.tokens:
        return masked(jnp.take(encoder, x, axis=0, mode="clip"), valid)
    return affine(masked(x.astype(encoder.dtype), valid), encoder, bias)


@jax.checkpoint  # keeps x alone
def _normed(x: jax.Array, scale: jax.Array) -> jax.Array:
    """x / sqrt(mean of its squares) * scale."""
    x = x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + _EPS)
    return x * in_line(scale, x.ndim)


def _run(
    model: SequenceModel,
    x: jax.Array,
    states: tuple[Any, ...],
    mix: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]],
    valid: jax.Array | None = None,
) -> tuple[jax.Array, tuple[Any, ...]]:
    """The steps as the head sees them, and the states. All but the mixers has the working dtype."""
    h, new = _encoded(model, x, valid), []
    dtype, wide = _dtype(model, x), h.dtype
    for block, state in zip(model.blocks, states, strict=True):
        y, state = mix(block.mixer, _normed(h, block.scale.astype(wide)).astype(dtype), state)
        y = y.astype(wide)
        if block.back is not None:
            y = product(y, block.back.astype(wide))
        h = h + jnp.broadcast_to(y, h.shape)
        new.append(state)
    return _normed(h, model.scale.astype(wide)), tuple(new)


def _headed(model: SequenceModel, h: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return affine(h, *working(dtype, model.head, model.head_bias)).astype(dtype)


@partial(jax.jit, static_argnames="axis_name")
def _evaluate(
    model: SequenceModel,
    x: jax.Array,
    states: tuple[Any, ...],
    lengths: jax.Array | None,
    reset: jax.Array | None,
    *,
    axis_name: AxisName | None,
) -> tuple[jax.Array, tuple[Any, ...]]:
    given = {"reset": reset, "axis_name": axis_name}  # a mixer from elsewhere may take neither
    given = {name: value for name, value in given.items() if value is not None}
    steps = x.shape[-1] if model.tokens else x.shape[-2]
    here = None if lengths is None else lengths_here(lengths, steps, axis_name)
    valid = None if here is None else valid_steps(here, steps)
    h, states = _run(model, x, states, lambda mixer, u, s: mixer(u, s, lengths, **given), valid)
    h = masked(h, valid)
    if model.read == "last":
        h = state_at(h, here, jnp.zeros((*h.shape[:-2], model.width), h.dtype))
        h = where_it_ends(h, lengths, steps, axis_name)
    elif model.read == "mean":
        index, devices = (0, 1) if axis_name is None else index_and_size(axis_name)
        if reset is not None:
            countable("reset", steps * devices)
        # Where no count is taken away from it, it may be one that no int32 holds.
        kind = h.dtype if reset is None else jnp.int32
        count = jnp.full(h.shape[:-2], steps * devices, kind) if lengths is None else lengths
        if reset is not None:  # of the last sequence alone
            begins = jnp.broadcast_to(reset, h.shape[:-1])
            begins = begins if valid is None else begins & valid[..., 0]
            t = lax.broadcasted_iota(jnp.int32, begins.shape, begins.ndim - 1) + index * steps
            start = jnp.max(jnp.where(begins, t, 0), axis=-1, initial=0)
            start = start if axis_name is None else lax.pmax(start, axis_name)
            h = masked(h, ~valid_steps(lengths_here(start, steps, axis_name), steps))
            count = count - start
        h = jnp.sum(h, axis=-2)
        h = h if axis_name is None else lax.psum(h, axis_name)
        h = h / jnp.maximum(count, 1)[..., None].astype(h.dtype)
    y = _headed(model, h, _dtype(model, x))
    return masked(y, valid) if model.read == "every" else y, states


@jax.jit
def _step(
    model: SequenceModel, x_t: jax.Array, states: tuple[Any, ...], reset: jax.Array | None
) -> tuple[jax.Array, tuple[Any, ...]]:
    given = {} if reset is None else {"reset": reset}
    h, states = _run(model, x_t, states, lambda mixer, u, s: mixer.step(u, s, **given))
    return _headed(model, h, _dtype(model, x_t)), states
