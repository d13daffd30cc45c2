"""The programs whose collectives are counted: recurrences on a mesh of N devices.

All have float32 arrays of 2^22 numbers (16 MiB), but for layers, whose inside is wider.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rnnscan import GRU, LRU, Mamba, linear_scan, matrix_scan

P = PartitionSpec
ALL = "devices"  # the mesh axis
BATCH, CHANNELS, TIME = P(ALL), P(None, None, ALL), P(None, ALL)
Draw = Callable[..., Any]  # (*shape) -> an array, or its type


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a batch of short sequences, and of one long sequence."""

    batch: int = 64
    short: int = 1024
    long: int = 65536
    channels: int = 64

    @classmethod
    def small(cls) -> "Sizes":
        """To run, not only to compile."""
        return cls(batch=8, short=48, long=192, channels=8)


@dataclasses.dataclass(frozen=True)
class Program:
    """One way to put a recurrence on a mesh.

    Attributes:
      name: for records.
      what: for readers.
      args: `(sizes, draw) -> ` arguments.
      specs: how the arguments lie on the mesh, one a piece.
      out: how the result lies.
      whole: the function, as on one device.
      split: the same on the mesh, where it is another.
      wrt: how many arguments, from the first on, have a gradient.
      kind: of mesh axis.
      deep: whether it takes long to compile for many devices.
    """

    name: str
    what: str
    args: Callable[[Sizes, Draw], Sequence[Any]]
    specs: tuple[PartitionSpec, ...]
    out: PartitionSpec
    whole: Callable[..., jax.Array]
    split: Callable[..., jax.Array] | None = None
    wrt: int = 2
    kind: AxisType = AxisType.Auto
    deep: bool = False

    def on_mesh(self, mesh: Any) -> Callable[..., jax.Array]:
        """The function to lower for this mesh."""
        if self.split is None:
            return self.whole
        return jax.shard_map(self.split, mesh=mesh, in_specs=self.specs, out_specs=self.out)


def gradient(f: Callable[..., jax.Array], wrt: int) -> Callable[..., Any]:
    """`(*args, g) -> ` the gradients of the sum of g times the result: no loss is reduced."""

    def gradients(*given: Any) -> Any:
        *args, g = given
        fixed = args[wrt:]
        return jax.vjp(lambda *free: f(*free, *fixed), *args[:wrt])[1](g)

    return gradients


def lowered(
    program: Program, sizes: Sizes, devices: int, backward: bool, draw: Draw = jax.ShapeDtypeStruct
) -> tuple[Any, Sequence[Any]]:
    """The jitted function on a mesh of so many devices, and its arguments, as they lie there."""
    mesh = jax.make_mesh((devices,), (ALL,), axis_types=(program.kind,))
    f, specs, out = program.on_mesh(mesh), program.specs, program.out
    args = list(program.args(sizes, draw))
    if backward:
        args.append(draw(jax.eval_shape(program.whole, *args).shape, jnp.float32))
        f, out, specs = gradient(f, program.wrt), specs[: program.wrt], (*specs, out)
    args = [_lying(x, NamedSharding(mesh, spec)) for x, spec in zip(args, specs, strict=True)]
    if program.kind == AxisType.Explicit:
        return jax.jit(f), args
    place = jax.tree.map(lambda spec: NamedSharding(mesh, spec), out, is_leaf=_is_spec)
    return jax.jit(f, out_shardings=place), args


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


def _lying(x: Any, sharding: NamedSharding) -> Any:
    def leaf(x: Any) -> Any:
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        return jax.device_put(x, sharding)

    return jax.tree.map(leaf, x)


# Arguments.


def _batched(sizes: Sizes, draw: Draw) -> Sequence[Any]:
    shape = (sizes.batch, sizes.short, sizes.channels)
    return draw(shape, jnp.float32), draw(shape, jnp.float32)


def _channel_decays(sizes: Sizes, draw: Draw) -> Sequence[Any]:
    _, b = _batched(sizes, draw)
    return draw((sizes.channels,), jnp.float32), b


def _long(sizes: Sizes, draw: Draw) -> Sequence[Any]:
    shape = (1, sizes.long, sizes.channels)
    return draw(shape, jnp.float32), draw(shape, jnp.float32)


def _packed(sizes: Sizes, draw: Draw) -> Sequence[Any]:
    return *_long(sizes, draw), draw((sizes.long,), jnp.bool_)


def _matrices(sizes: Sizes, draw: Draw) -> Sequence[Any]:
    n, steps = sizes.channels // 4, sizes.long // 4
    return draw((1, steps, n, n), jnp.float32), draw((1, steps, n), jnp.float32)


def _layer(cls: Any, long: bool) -> Callable[[Sizes, Draw], Sequence[Any]]:
    def args(sizes: Sizes, draw: Draw) -> Sequence[Any]:
        size = (sizes.channels,) if cls is Mamba else (sizes.channels, sizes.channels)

        def make() -> Any:
            return cls.init(jax.random.key(0), *size)

        layer = jax.eval_shape(make) if draw is jax.ShapeDtypeStruct else make()
        return layer, (_long if long else _batched)(sizes, draw)[1]

    return args


# Functions.


def _linear(a: Any, b: Any, reset: Any = None) -> jax.Array:
    return linear_scan(a, b, axis=1, reset=reset)


def _linear_split(a: Any, b: Any) -> jax.Array:
    return linear_scan(a, b, axis=1, axis_name=ALL)


def _matrix(a: Any, b: Any) -> jax.Array:
    return matrix_scan(a, b, axis=1)


def _called(layer: Any, x: Any) -> jax.Array:
    return layer(x)[0]


def _called_split(layer: Any, x: Any) -> jax.Array:
    return layer(x, axis_name=ALL)[0]


def _tree(a: Any, b: Any) -> jax.Array:
    def compose(earlier: Any, later: Any) -> Any:
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    return lax.associative_scan(compose, (a, b), axis=1)[1]


def _loop(a: Any, b: Any) -> jax.Array:
    def step(h: jax.Array, ab: Any) -> tuple[jax.Array, jax.Array]:
        h = ab[0] * h + ab[1]
        return h, h

    in_time = jnp.moveaxis(a, 1, 0), jnp.moveaxis(b, 1, 0)
    return jnp.moveaxis(lax.scan(step, jnp.zeros_like(b[:, 0]), in_time)[1], 0, 1)


EXPLICIT = AxisType.Explicit
PROGRAMS = (
    Program("batch", "`linear_scan`, batch", _batched, (BATCH, BATCH), BATCH, _linear),
    Program(
        "channels", "`linear_scan`, channels", _batched, (CHANNELS, CHANNELS), CHANNELS, _linear
    ),
    Program(
        "broadcast",
        "`linear_scan`, batch; a constant decay for each channel",
        _channel_decays,
        (P(), BATCH),
        BATCH,
        _linear,
    ),
    Program("gru_batch", "`GRU`, batch", _layer(GRU, False), (P(), BATCH), BATCH, _called),
    Program("lru_batch", "`LRU`, batch", _layer(LRU, False), (P(), BATCH), BATCH, _called),
    Program("mamba_batch", "`Mamba`, batch", _layer(Mamba, False), (P(), BATCH), BATCH, _called),
    Program("time", "`linear_scan`, time, automatic axes", _long, (TIME, TIME), TIME, _linear),
    Program(
        "time_explicit",
        "`linear_scan`, time, explicit axes",
        _long,
        (TIME, TIME),
        TIME,
        _linear,
        kind=EXPLICIT,
    ),
    Program(
        "time_named",
        "`linear_scan`, time, `axis_name=`",
        _long,
        (TIME, TIME),
        TIME,
        _linear,
        _linear_split,
    ),
    Program(
        "time_reset",
        "`linear_scan`, time, with resets",
        _packed,
        (TIME, TIME, P(ALL)),
        TIME,
        _linear,
    ),
    Program("matrix", "`matrix_scan`, time, 16 x 16", _matrices, (TIME, TIME), TIME, _matrix),
    Program(
        "lru_time",
        "`LRU`, time, `axis_name=`",
        _layer(LRU, True),
        (P(), TIME),
        TIME,
        _called,
        _called_split,
    ),
    Program(
        "gru_time",
        "`GRU`, time, `axis_name=` (memory only)",
        _layer(GRU, True),
        (P(), TIME),
        TIME,
        _called,
        _called_split,
    ),
    Program(
        "tree", "`jax.lax.associative_scan`, time", _long, (TIME, TIME), TIME, _tree, deep=True
    ),
    Program("loop", "`jax.lax.scan`, time", _long, (TIME, TIME), TIME, _loop),
)
