"""One launch of the CUDA kernel of recurrent cells (cells.h), and how its work is laid out.

    forward    h_t = phi(u_t + W h_{t-1}),                 phi = tanh or relu
    backward   l_t = g_t + W^T d_{t+1},   d_t = phi'(h_t) l_t

A block keeps the whole of W for all steps and has 1, 2 or 4 sequences: as few as let one wave of
blocks have all of them on an H100 (132 cores), or 4. It has two threads for each unit of h, each
with H / 2 weights: up to H = 192 all in registers, beyond it 64 or 80, and the rest in shared
memory.

Cost of a step and sequence: 2 H^2 operations, 8 H bytes of global memory, backward 12 H; W is read
once by each block. What bounds a step of a block at H = 256 is reckoned here in cycles of a core,
which has 128 multiply-adds and 128 bytes of shared memory in one:

    sequences   multiply-adds   weights from shared memory   vectors and shuffles
    1           512             768                          320
    2           1024            768                          640
    4           2048            1024                         1280

The greater of arithmetic and the sum of the other two counts. With 200 to 300 cycles for the
barrier, the last of a sum and tanh, and at 1.7 GHz, that is an estimate of 1.3 million steps a
second for 132 sequences, 1.0 million for 264 and 0.7 million for 528: nothing of it is measured.
"""

import dataclasses
from typing import Literal

from rnnscan.scan.cuda_kernel.problem import TYPES

Activation = Literal["tanh", "relu"]
ACTIVATIONS = ("tanh", "relu")  # in the order of cells_problem.h
# Of `struct Pointers`: operands, then results.
SLOTS = ("drive", "states", "weights", "first", "valid", "reset", "out", "last")
WAY_OUT = "method='scan' does without"

CORES = 132  # of an H100
COLUMNS = 32  # of a chunk of weights
WIDEST = 256  # the largest H: more weights than a core holds beside them
AHEAD = 4  # the most steps that are read ahead
# Chunks of weights in registers, 16 each, by `rows`: what more sequences take for sums, or large
# arrays for places, is not there for weights. Of 448 or 512 threads (H > 192) each may have 128
# registers, of fewer at least 168.
KEPT = {1: 5, 2: 5, 4: 4}
ALL_KEPT = 6


@dataclasses.dataclass(frozen=True)
class CellLaunch:
    """`struct Problem`, and what follows from it."""

    activation: Activation
    backward: bool
    from_the_end: bool
    batch: int
    steps: int
    hidden: int
    padded: bool
    resets: bool
    rows: int
    kept: int
    ahead: int

    @property
    def chunks(self) -> int:
        return -(-self.hidden // COLUMNS)

    @property
    def block(self) -> int:
        return 2 * COLUMNS * self.chunks

    @property
    def grid(self) -> int:
        return -(-self.batch // self.rows)

    @property
    def shared_bytes(self) -> int:
        """Weights, 16 of each thread a chunk, and two vectors of each sequence."""
        weights = 64 * self.block * (self.chunks - self.kept)
        return weights + 2 * 4 * self.rows * COLUMNS * self.chunks

    @property
    def operands(self) -> tuple[str, ...]:
        names = ["drive", *(["states"] if self.backward else []), "weights", "first"]
        names += ["valid"] if self.padded else []
        return (*names, *(["reset"] if self.resets else []))

    @property
    def results(self) -> tuple[str, ...]:
        return ("out", "last") if self.backward else ("out",)

    def problem(self) -> tuple[int, ...]:
        return (
            *(TYPES.index("float32"), ACTIVATIONS.index(self.activation), int(self.backward)),
            *(int(self.from_the_end), self.batch, self.steps, self.hidden),
            *(int(self.padded), int(self.resets), self.rows, self.kept, self.ahead),
        )

    @property
    def entry(self) -> str:
        """The kernel's name, which XLA's messages bear: it says what to do where one fails."""
        way = "backward" if self.backward else "forward"
        return f"rnnscan_{self.activation}_{way}__method_scan_does_without"

    @property
    def source(self) -> str:
        """The program: the problem as constants, then the kernel."""
        names = [*self.operands, *self.results]
        parameters = ", ".join(f"void* x{i}" for i in range(len(names)))
        pointers = "\n".join(
            f"  at.{name} = static_cast<{_type_of(name)}>(x{i});" for i, name in enumerate(names)
        )
        index = "int64_t" if _wide(self.batch, self.steps, self.hidden) else "int"
        return f"""
#define RNNSCAN_DEVICE "device.h"
#define RNNSCAN_INDEX {index}
#include "cells_problem.h"
namespace rnnscan {{
constexpr Problem problem = {{{", ".join(map(str, self.problem()))}}};
}}
#include "cells.h"
extern "C" __global__ void __launch_bounds__({self.block}, 1) {self.entry}({parameters}) {{
  rnnscan::Pointers at{{}};
{pointers}
  rnnscan::run<rnnscan::F32>(at);
}}
"""


def _wide(batch: int, steps: int, hidden: int) -> bool:
    """Whether an `int` is too short for places in an array, some steps beyond it included."""
    return batch * (steps + AHEAD) * hidden >= 2**31


def _type_of(name: str) -> str:
    return "const uint8_t*" if name in ("valid", "reset") else "float*"


def plan(
    activation: Activation,
    shape: tuple[int, int, int],
    *,
    backward: bool,
    reverse: bool,
    padded: bool,
    resets: bool,
) -> CellLaunch:
    """The launch for h of this shape, (B, T, H); `reverse`: of the scan."""
    batch, steps, hidden = shape
    rows = rows_of(batch)
    chunks = -(-hidden // COLUMNS)
    return CellLaunch(
        activation=activation,
        backward=backward,
        from_the_end=reverse != backward,
        batch=batch,
        steps=steps,
        hidden=hidden,
        padded=padded,
        resets=resets,
        rows=rows,
        kept=chunks if chunks <= ALL_KEPT else KEPT[rows] - _wide(*shape),
        ahead=ahead_of(chunks),
    )


def rows_of(batch: int) -> int:
    """Sequences of a block."""
    return next((rows for rows in (1, 2) if batch <= rows * CORES), 4)


def ahead_of(chunks: int) -> int:
    """Steps that are read ahead: short ones are over before what they read has come."""
    return AHEAD if chunks <= 2 else 2 if chunks <= 4 else 1


def shared_bytes(batch: int, hidden: int) -> int:
    """That a block takes, either way."""
    options = {"reverse": False, "padded": False, "resets": False}
    return plan("tanh", (batch, 1, hidden), backward=False, **options).shared_bytes
