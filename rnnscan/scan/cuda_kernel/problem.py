"""What one launch of the CUDA kernel is asked: problem.h, in Python.

A `Launch` is all that the kernel knows: `problem` is `struct Problem` as a flat list, which becomes
constants of the compiled program. See problem.h for chains, units, lanes and tiles.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
import numpy as np

Kind = Literal["forward", "tangent", "transpose"]
Mode = Literal["walk", "reduce", "apply", "chained"]

# In the order of the enumerations of maps.h and problem.h.
KINDS = ("forward", "tangent", "transpose")
TYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
MODES = ("walk", "reduce", "apply", "chained")
STREAMS = ("decay", "drive", "before", "decay_tangent", "reset")
# Of `struct Pointers`: operands, then results.
RESULTS = ("out", "d_decay", "d_state", "products", "drives", "tags")
SLOTS = (*STREAMS, "state", "first", "messages", *RESULTS)

WARP = 32


@dataclasses.dataclass(frozen=True)
class View:
    """How one operand or result lies in memory; strides over the axes of the chains."""

    present: bool = False
    step: int = 0
    strides: tuple[int, ...] = ()
    width: int = 1
    place: int = 0

    def numbers(self, axes: int) -> tuple[int, ...]:
        strides = (*self.strides, *(0,) * (axes - len(self.strides)))
        return (int(self.present), self.step, *strides, self.width, self.place)


@dataclasses.dataclass(frozen=True)
class Launch:
    """One launch: `struct Problem`, who takes part, and which slots are operands and results."""

    kind: Kind
    mode: Mode
    dtype: str
    backward: bool
    steps: int
    sizes: tuple[int, ...]
    inner: int
    vector: int
    along_time: bool
    lanes: int
    segments: int
    length: int
    stages: int
    stage_bytes: int
    warps: int
    chunk: int
    chunks: int
    sums: bool
    views: Mapping[str, View]

    @property
    def chains(self) -> int:
        return math.prod(self.sizes)

    @property
    def itemsize(self) -> int:
        return jnp.dtype(self.dtype).itemsize

    @property
    def unit_steps(self) -> int:
        return self.vector if self.along_time else 1

    @property
    def unit_chains(self) -> int:
        return 1 if self.along_time else self.vector

    @property
    def units(self) -> int:
        """Of the chains that lie side by side."""
        return self.inner // self.unit_chains

    @property
    def tile_steps(self) -> int:
        return self.segments * self.length * self.unit_steps

    @property
    def pitch(self) -> int:
        """One more than lanes, so that a turned tile meets every bank."""
        return WARP + (self.segments > 1)

    @property
    def groups(self) -> int:
        """Of chains, each a warp's."""
        return self.chains // self.inner * -(-self.units // self.lanes)

    @property
    def grid(self) -> int:
        if self.mode == "chained":
            return self.groups * self.chunks
        return -(-self.groups * self.chunks // self.warps)

    @property
    def block(self) -> int:
        return WARP * self.warps

    @property
    def shared_bytes(self) -> int:
        stages = self.warps * self.stages * self.stage_bytes
        if self.mode != "chained":
            return stages
        states = self.warps * self.lanes * self.unit_chains
        return stages + states * (3 * self.wide.itemsize + 4) + 16

    @property
    def wide(self) -> np.dtype:
        return np.dtype("float32" if "16" in self.dtype else self.dtype)

    @property
    def messages(self) -> int:
        """Words of 32 bits: a ticket, and for each chunk and chain a state with its marks."""
        return 2 + 2 * self.chunks * self.chains * (self.wide.itemsize // 4)

    @property
    def operands(self) -> tuple[str, ...]:
        """Slots that are read, in order; `messages`, which is written too, is the last."""
        names = [name for name in (*STREAMS, "state", "first") if self.view(name).present]
        names += ["products", "drives", "tags"] if self.mode == "apply" else []
        return (*names, *(["messages"] if self.mode == "chained" else []))

    @property
    def results(self) -> tuple[str, ...]:
        if self.mode == "reduce":
            return ("products", "drives", "tags")
        decay = self.sums or self.view("d_decay").present
        state = self.kind == "transpose"
        return ("out", *(["d_decay"] if decay else []), *(["d_state"] if state else []))

    def view(self, name: str) -> View:
        return self.views.get(name, View())

    def problem(self, axes: int | None = None) -> tuple[int, ...]:
        """`struct Problem`, with room for so many axes of chains."""
        axes = axes or max(1, len(self.sizes))
        views = (*STREAMS, "state", "first", "out", "d_decay")
        return (
            *(TYPES.index(self.dtype), KINDS.index(self.kind), MODES.index(self.mode)),
            *(int(self.backward), self.steps),
            *(len(self.sizes), *self.sizes, *(1,) * (axes - len(self.sizes))),
            *(self.chains, self.inner, self.vector, int(self.along_time)),
            *(self.lanes, self.segments, self.length, self.pitch),
            *(self.stages, self.stage_bytes, self.warps, self.chunk, self.chunks, int(self.sums)),
            *(number for name in views for number in self.view(name).numbers(axes)),
        )
