"""Hands a launch of the CUDA kernel to XLA: the one place that knows how.

Two launchers take a kernel as PTX, and buffers alone: operands, then results. `xla` is a target of
XLA's own, which wants nothing compiled at the install, but is internal to XLA. `own` is
`launcher.cc`. The environment variable RNNSCAN_CUDA_LAUNCHER names one of them, or `none`, and is
read once. The target is named in the program, and so tells apart what is stored of either.

Nothing checks text, entry or number of parameters before the first launch, so tests hand every kind
of program to the assembler.
"""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rnnscan.scan.arguments import nearest
from rnnscan.scan.cpu_kernel import library
from rnnscan.scan.cuda_kernel import nvrtc
from rnnscan.scan.cuda_kernel.problem import STREAMS, Launch

VARIABLE = "RNNSCAN_CUDA_LAUNCHER"
LAUNCHERS = ("xla", "own", "none")
TARGETS = {"xla": "__gpu$xla.gpu.ptx", "own": library.CUDA_TARGET}
LEAST_THREADS = 512  # that the registers of a core must suffice for: a quarter of the most


@functools.cache
def chosen() -> str:
    """The launcher, of `LAUNCHERS`."""
    name = os.environ.get(VARIABLE, "xla")
    if name not in LAUNCHERS:
        known = ", ".join(map(repr, LAUNCHERS))
        raise ValueError(
            f"environment variable {VARIABLE}: got {name!r}, expected one of {known}"
            f"{nearest(name, LAUNCHERS)}"
        )
    return name


@functools.cache
def why_not() -> str | None:
    """Why nothing is launched, and what to do; or nothing, and the launcher is registered."""
    if chosen() == "none":
        return f"{VARIABLE}=none rules it out; unset it, or name 'xla' or 'own'"
    if chosen() == "own" and (reason := library.why_no_launcher()):
        return f"{VARIABLE}=own asks for a launcher that is not there: {reason}"
    return None


def launch(
    what: Launch, arrays: Mapping[str, jax.Array], results: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """The results by slot; `arrays` has the operands."""
    operands = [arrays[name] for name in what.operands if name != "messages"]
    shapes, aliases = [results[name] for name in what.results], {}
    if what.mode == "chained":  # zeros at every launch; as a result, they may be written
        messages = jnp.zeros(what.messages, jnp.uint32)
        aliases = {len(operands): len(shapes)}
        operands.append(messages)
        shapes.append(jax.ShapeDtypeStruct(messages.shape, messages.dtype))
    sizes = what.grid, what.block, what.shared_bytes
    outputs = call(source(what), entry(what), *sizes, operands, shapes, aliases)
    return dict(zip(what.results, outputs, strict=False))


def call(
    source: str,
    entry: str,
    grid: int,
    block: int,
    shared_bytes: int,
    operands: Sequence[jax.Array],
    results: Sequence[jax.ShapeDtypeStruct],
    aliases: Mapping[int, int] | None = None,
    way_out: str = nvrtc.WAY_OUT,
) -> Sequence[jax.Array]:
    """The results of a program's kernel; `aliases`: operands that are results, by position."""
    name, ptx = chosen(), nvrtc.ptx(source, way_out)
    if name == "own":  # the digest stands for the text, which is long, where it is compared
        digest = hashlib.sha256(ptx.encode()).hexdigest()
        words = {"entry": entry, "text": ptx, "digest": digest}
        sizes = {"grid": grid, "block": block, "shared_bytes": shared_bytes}
    else:
        words = {"name": entry, "kernel_type": "ptx", "kernel_data": ptx}
        sizes = {"grid_x": grid, "block_x": block, "shared_mem_bytes": shared_bytes}
        sizes |= dict.fromkeys(("grid_y", "grid_z", "block_y", "block_z"), 1)
    run = jax.ffi.ffi_call(
        TARGETS[name], results, input_output_aliases=dict(aliases or {}), vmap_method=None
    )
    return run(*operands, **words, **{name: np.int32(size) for name, size in sizes.items()})


def entry(what: Launch) -> str:
    """The kernel's name, which messages bear: it says what to do where one fails."""
    return f"rnnscan_{what.kind}_{what.mode}_{what.dtype}__method_blocked_does_without"


def source(what: Launch) -> str:
    """The program: the problem as constants, then the kernel."""
    names = [*what.operands, *what.results]
    parameters = ", ".join(f"void* x{i}" for i in range(len(names)))
    pointers = "\n".join(map(_assigned, names, range(len(names))))
    bounds = f"__launch_bounds__({what.block}, {LEAST_THREADS // what.block})"
    numbers = ", ".join(map(str, what.problem()))
    return f"""
#define RNNSCAN_AXES {max(1, len(what.sizes))}
#define RNNSCAN_DEVICE "device.h"
#include "problem.h"
namespace rnnscan {{
constexpr Problem problem = {{{numbers}}};
}}
#include "linear.h"
extern "C" __global__ void {bounds} {entry(what)}({parameters}) {{
  rnnscan::Pointers at{{}};
{pointers}
  constexpr auto type = static_cast<rnnscan::Type>(rnnscan::problem.type);
  rnnscan::run<rnnscan::NumberOf<type>::N>(at);
}}
"""


def _assigned(name: str, i: int) -> str:
    member = f"views[{STREAMS.index(name)}]" if name in STREAMS else name
    value = f"static_cast<int*>(x{i})" if name == "tags" else f"x{i}"
    return f"  at.{member} = {value};"
