"""The front door of every layer: what is done before its own mathematics, and after it.

A call checks its arguments, then is one compiled program: arrays into the dtype of the arithmetic,
a missing state into zeros, the padding masked, the layer's own mathematics, y masked and rounded.
Of one step, the state is forgotten here as well where a sequence begins.
A layer says only what its state is made of (`_slots`), and computes all steps (`_evaluate`) or one
(`_step`).
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from rnnscan.layer_parts.arguments import MadeByInit, one_step, sequence
from rnnscan.layer_parts.padding import checked_lengths, masked, state_at, valid_steps
from rnnscan.layer_parts.resets import checked_reset, forgotten
from rnnscan.layer_parts.shown import Shown
from rnnscan.layer_parts.split import lengths_here, where_it_ends
from rnnscan.layer_parts.state import Slots, State, checked_state, completed, state_of_step
from rnnscan.scan import (
    AxisName,
    CellMethodName,
    LinearMethodName,
    MatrixMethodName,
    carry_dtype,
    index_and_size,
)


class Layer(Shown, MadeByInit):
    """A layer: its weights, and how to evaluate them over a sequence or for one step of it.

    `layer(x)` evaluates whole sequences, `layer.step(x_t, state)` one step of them. Any number of
    batch axes, none too. Layers are frozen dataclasses and pytrees of their weights: `jax.grad`,
    `jax.tree.map` and optax take them as they are.

    dtypes: y has the dtype that x, the weights and the given state promote to, and so has the state
    that is returned. float16 and bfloat16 are computed in float32; y and state are rounded, except
    for a complex state, which has no half.

    >>> import jax, jax.numpy as jnp
    >>> from rnnscan import GRU
    >>> layer = GRU.init(jax.random.key(0), input_size=3, hidden_size=4)
    >>> y, state = layer(jnp.ones((2, 5, 3)), lengths=[5, 2])
    >>> bool((y[1, 2:] == 0).all()), bool((state[0, 1] == y[1, 1]).all())
    (True, True)
    >>> y_5, state = layer.step(jnp.ones((2, 3)), state)
    >>> y_5.shape
    (2, 4)
    """

    masks_y: ClassVar[bool] = True  # in the padding: unless y is zero there, or has no steps
    no_reset: ClassVar[str] = ""  # why it takes none, where it does not
    no_split: ClassVar[str] = ""  # why its time cannot be split, and the way out, where it cannot

    @property
    def input_size(self) -> int:
        """Features of x."""
        raise NotImplementedError

    @property
    def output_size(self) -> int:
        """Features of y."""
        raise NotImplementedError

    def __call__(
        self,
        x: ArrayLike,
        state: State | None = None,
        lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        *,
        axis_name: AxisName | None = None,
    ) -> tuple[jax.Array, State]:
        """Every step of the sequences x, after those in `state`: (y, state after the end).

        x: (..., time, input_size); y: (..., time, output_size). state: as the class describes it;
        None, and None as a part of a pair, are zeros.
        lengths: integers of shape (...), how many steps of each sequence count. In the padding y
        is zero and x is never looked at, nan included; the returned state is the one at each
        length (`state` itself at length 0). time = 0 returns the state as it came.
        reset: booleans of shape (..., time), or (time,) for all sequences, true at the first step
        of a sequence: all before it, the given state included, is forgotten (zeros), then x_t is
        read. `done_t` of an environment is `reset_{t+1}`. The reverse direction of a bidirectional
        layer forgets at the same boundaries; its given state comes after the last step, and stays.
        In the padding a reset counts for nothing. inf and nan pass a reset in neither direction,
        to outputs, states and the gradients of these and of x; the gradient of a weight sums over
        all steps, so that a nan in any of them is in the sum.
        axis_name: inside `jax.shard_map`, the mesh axis over which time is split in order, or a
        tuple of them as one. x, reset and y are then this device's chunk of time, of the same
        number of steps on each; state and lengths are of the whole sequence, alike on all devices,
        and so is the state that is returned. What devices tell each other does not grow with time.

        Raises ValueError for shapes that do not fit, for concrete lengths outside 0..time (traced
        ones are clipped), for an axis_name that is no axis of a `jax.shard_map` around the call,
        and from layers whose time cannot be split; TypeError for dtypes that are not real floating,
        and for a reset that is not boolean.

        >>> import jax, jax.numpy as jnp
        >>> from rnnscan import LSTM
        >>> layer = LSTM.init(jax.random.key(0), 3, 4)
        >>> x = jax.random.normal(jax.random.key(1), (6, 3))
        >>> y_1, state = layer(x[:4])
        >>> y_2, state = layer(x[4:], state)
        >>> bool(jnp.allclose(jnp.concatenate([y_1, y_2]), layer(x)[0], atol=1e-6))
        True
        >>> y, state = layer(x, reset=jnp.arange(6) == 4)
        >>> bool(jnp.allclose(y[4:], layer(x[4:])[0], atol=1e-6))
        True
        """
        given = self._checked(x, state, lengths, reset, axis_name)
        return _call(self, *given, axis_name=axis_name)

    def step(
        self, x_t: ArrayLike, state: State | None = None, reset: ArrayLike | None = None
    ) -> tuple[jax.Array, State]:
        """One step, for generation: x_t (..., input_size) to (y_t (..., output_size), state).

        state: as in a call, zeros when None. It keeps its structure, shapes and dtypes, so that one
        compiled step serves for all. Stepping through a sequence equals calling the layer on it.
        reset: booleans of shape (...), or one for all sequences: where true, the state is forgotten
        first. Raises ValueError for shapes that do not fit, TypeError for a reset that is not
        boolean.

        >>> import jax, jax.numpy as jnp
        >>> from rnnscan import LRU
        >>> layer = LRU.init(jax.random.key(0), 3, 4)
        >>> y_0, state = layer.step(jnp.ones(3))
        >>> y_1, state = layer.step(jnp.ones(3), state)
        >>> bool(jnp.allclose(jnp.stack([y_0, y_1]), layer(jnp.ones((2, 3)))[0], atol=1e-6))
        True
        """
        x_t = one_step(x_t, self.input_size)
        state = state_of_step(state, self._slots, x_t.shape)
        self._check_reset(reset)
        return _step(self, x_t, state, checked_reset(reset, x_t.shape[:-1]))

    def _slots(self, batch: tuple[int, ...]) -> Slots:
        """What the state is made of: `Slot`s in its structure."""
        raise NotImplementedError

    def _checked(
        self,
        x: ArrayLike,
        state: State | None,
        lengths: ArrayLike | None,
        reset: ArrayLike | None,
        axis_name: AxisName | None = None,
    ) -> tuple[jax.Array, State | None, jax.Array | None, jax.Array | None]:
        """The arguments of a call, or an error that names the one that is wrong."""
        x = sequence(x, self.input_size)
        batch, steps = x.shape[:-2], x.shape[-2]
        devices = self._devices(axis_name)
        state = checked_state(state, self._slots(batch))
        if lengths is not None:
            lengths = checked_lengths(lengths, batch, steps * devices)
        self._check_reset(reset)
        reset = checked_reset(reset, batch, steps)
        self._check(x, state)
        return x, state, lengths, reset

    def _check(self, x: jax.Array, state: State | None) -> None:
        """Raise for what this layer cannot be called on; concrete values may be looked at here."""

    def _check_reset(self, reset: ArrayLike | None) -> None:
        if reset is not None and self.no_reset:
            raise ValueError(f"reset: {type(self).__name__} takes none: {self.no_reset}")

    def _devices(self, axis_name: AxisName | None) -> int:
        """Over how many time is split."""
        if axis_name is None:
            return 1
        if self.no_split:
            name = type(self).__name__
            raise ValueError(f"axis_name: {name} cannot split time over devices: {self.no_split}")
        return index_and_size(axis_name)[1]

    def _evaluate(self, given: "Given") -> tuple[jax.Array, State]:
        """y of all steps, and the state after them."""
        raise NotImplementedError

    def _step(self, x_t: jax.Array, state: State) -> tuple[jax.Array, State]:
        """y_t of one step, and the state after it."""
        raise NotImplementedError


class ScanLayer(Layer):
    """A layer on a scan that can be computed by several methods; `method` is a static field."""

    table: ClassVar[Any]  # of the methods there are
    method: Any  # by name

    def __post_init__(self) -> None:
        self.table.check(self.method)

    def __call__(
        self,
        x: ArrayLike,
        state: State | None = None,
        lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        *,
        method: LinearMethodName | MatrixMethodName | CellMethodName | None = None,
        axis_name: AxisName | None = None,
    ) -> tuple[jax.Array, State]:
        """`Layer.__call__`, by `method` instead of the layer's own.

        Raises ValueError for an unknown method and for one that cannot serve, too.

        >>> import jax, jax.numpy as jnp
        >>> from rnnscan import MinGRU
        >>> layer = MinGRU.init(jax.random.key(0), 3, 4)
        >>> y, state = layer(jnp.ones((2, 5, 3)), method="associative")
        >>> bool(jnp.allclose(y, layer(jnp.ones((2, 5, 3)), method="sequential")[0]))
        True
        """
        layer = self if method is None else self._by(method)
        return Layer.__call__(layer, x, state, lengths, reset, axis_name=axis_name)

    def _by(self, method: Any) -> Self:
        return dataclasses.replace(self, method=method)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Given:
    """What a layer computes with, in the dtype of its arithmetic.

    Attributes:
      layer: with its weights in that dtype.
      x: (..., time, features), zero in the padding; of one step (..., features).
      state: whole.
      fresh: whether it is zeros because none was given.
      lengths: int32 (...), how many steps of x count, or None where every step does.
      valid: booleans (..., time, 1), which steps those are, or None.
      reset: booleans (..., time, 1), which of these are the first of a sequence, or None. Of one
        step it is None: `state` is zeros there.
      dtype: of y and the real arrays of a state, on the way out.
      axis_name: of the mesh axes over which time is split: x, lengths, valid and reset are of one
        chunk of it, state is the one before all of them. None where it is not split.
      whole_lengths: of all chunks together, as the caller gave them.
    """

    layer: Layer
    x: jax.Array
    state: State
    fresh: bool
    lengths: jax.Array | None
    valid: jax.Array | None
    reset: jax.Array | None
    dtype: jnp.dtype
    axis_name: AxisName | None = None
    whole_lengths: jax.Array | None = None

    def last(self, h: jax.Array) -> jax.Array:
        """The state after the last step that counts, of all states h (..., time, n)."""
        return self.at_the_end(state_at(h, self.lengths, self.state))

    def at_the_end(self, state: jax.Array) -> jax.Array:
        """Of an array of a state after each chunk, the one whose chunk has the last step."""
        return where_it_ends(state, self.whole_lengths, self.x.shape[-2], self.axis_name)

    def returned(self, y: jax.Array, state: State) -> tuple[jax.Array, State]:
        """What the caller gets: y zero in the padding, and both rounded."""

        def rounded(array: jax.Array) -> jax.Array:
            real = jnp.issubdtype(array.dtype, jnp.floating)
            return array.astype(self.dtype) if real else array

        y = masked(y, self.valid) if self.layer.masks_y else y
        return rounded(y), jax.tree.map(rounded, state)


def enter(
    layer: Layer,
    x: jax.Array,
    state: State | None,
    lengths: jax.Array | None = None,
    reset: jax.Array | None = None,
    *,
    one: bool = False,
    axis_name: AxisName | None = None,
) -> Given:
    """Of checked arguments; `one`: x is one step."""
    batch = x.shape[: -1 if one else -2]
    steps = 1 if one else x.shape[-2]
    if axis_name is not None and steps == 0:
        axis_name = None  # there is no step to tell of
    whole_lengths = lengths
    if lengths is not None:
        lengths = lengths_here(lengths, steps, axis_name)
    slots = layer._slots(batch)
    dtype = output_dtype(layer, x, state)
    layer, x = working(dtype, layer, x)
    valid = None if lengths is None else valid_steps(lengths, steps)
    whole = completed(state, slots, carry_dtype(dtype))
    if reset is not None and one:
        whole, reset = forgotten(whole, slots, jnp.broadcast_to(reset, batch)), None
    elif reset is not None:
        reset = jnp.broadcast_to(reset, x.shape[:-1])[..., None]
        reset = reset if valid is None else reset & valid
    return Given(
        layer=layer,
        x=masked(x, valid),
        state=whole,
        fresh=state is None,
        lengths=lengths,
        valid=valid,
        reset=reset,
        dtype=dtype,
        axis_name=axis_name,
        whole_lengths=whole_lengths,
    )


def output_dtype(layer: Any, x: jax.Array, state: State | None) -> jnp.dtype:
    """What x, the weights and the state promote to.

    A complex state is never a half, and so widens y only beyond the dtype of the arithmetic.
    """
    dtypes = [array.dtype for array in jax.tree.leaves(state)]
    real = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    dtype = jnp.result_type(x, *jax.tree.leaves(layer), *real)
    carried = carry_dtype(dtype)
    parts = [jnp.finfo(d).dtype for d in dtypes if jnp.issubdtype(d, jnp.complexfloating)]
    wide = jnp.result_type(carried, *parts)
    return dtype if wide == carried else wide


def working(dtype: DTypeLike, *trees: Any) -> Any:
    """The trees with every array in the dtype of the arithmetic for a y of `dtype`."""
    wide = carry_dtype(dtype)
    return jax.tree.map(lambda leaf: leaf.astype(wide), trees)


# A jit, so that a call outside of any other is one compiled program too.
@partial(jax.jit, static_argnames="axis_name")
def _call(
    layer: Layer,
    x: jax.Array,
    state: State | None,
    lengths: jax.Array | None,
    reset: jax.Array | None,
    *,
    axis_name: AxisName | None,
) -> tuple[jax.Array, State]:
    given = enter(layer, x, state, lengths, reset, axis_name=axis_name)
    y, last = given.layer._evaluate(given)
    if axis_name is not None and x.shape[-2] == 0:
        last = given.state  # alike on all devices, by its type too
    return given.returned(y, last)


@jax.jit
def _step(
    layer: Layer, x_t: jax.Array, state: State | None, reset: jax.Array | None
) -> tuple[jax.Array, State]:
    given = enter(layer, x_t, state, None, reset, one=True)
    return given.returned(*given.layer._step(given.x, given.state))
