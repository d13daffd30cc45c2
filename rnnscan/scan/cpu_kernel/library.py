"""Finds, checks and registers the shared library that was compiled when rnnscan was installed."""

import ctypes
import functools
import importlib.metadata
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import jax

from rnnscan.scan.cpu_kernel.shared_object import extent
from rnnscan.scan.cpu_kernel.sources import source_hash
from rnnscan.scan.table import Case

FOLDER = Path(__file__).parent
NAME = "librnnscan_cpu.so"
TARGETS = (
    *("rnnscan_forward", "rnnscan_tangent", "rnnscan_transpose", "rnnscan_transpose_drive"),
    *("rnnscan_cell_forward", "rnnscan_cell_backward"),
    *("rnnscan_selective_forward", "rnnscan_selective_backward"),
)
CUDA_TARGET = "rnnscan_cuda_launch"
REMEDY = (
    "install a C++ compiler (g++ 11, clang 14 or newer) and, in its source folder, rnnscan again: "
    "RNNSCAN_NATIVE=1 pip install --force-reinstall --no-deps -e . (which fails where it cannot be "
    "compiled, and says why)"
)
_AGAIN = "install rnnscan again and restart Python"
NOTE = "_rnnscan_cpu_kernel"  # in `sys`: where the registered copy lies in memory
ANOTHER_COPY = (
    "another copy of the CPU kernel is in this process, as after an upgrade of rnnscan; restart "
    "Python"
)


@functools.cache
def why_not() -> str | None:
    """Registers the kernels with XLA, once; or the reason why there is none, and what to do."""
    path = _find()
    if path is None:
        return f"the CPU kernel was not compiled when rnnscan was installed; {REMEDY}"
    try:
        if (size := path.stat().st_size) < (whole := extent(path)):
            return f"the CPU kernel is cut short, to {size:,} of {whole:,} bytes; {REMEDY}"
        library = ctypes.CDLL(str(path))
        compiled = _text(library.rnnscan_source_hash)
        version = int(library.rnnscan_ffi_version())
        sources, supported = source_hash(FOLDER), _ffi_version()
    except (OSError, AttributeError, KeyError) as fault:
        return f"the CPU kernel does not load ({fault}); {REMEDY}"
    if compiled != sources:
        # The system loads a path once in a process, whatever is installed there later.
        before = NOTE in sys.__dict__
        cure = ", as before an upgrade of rnnscan; restart Python" if before else f"; {_AGAIN}"
        return f"the CPU kernel was compiled from other sources{cure}"
    if version > supported:
        # Registered all the same, it would keep the whole CPU backend from starting.
        return f"the CPU kernel was compiled for a newer jaxlib; {_AGAIN}"
    return _registers(library, TARGETS, "cpu")


@functools.cache
def why_no_launcher() -> str | None:
    """Registers the launcher of CUDA kernels, once, for who asks for it alone; or the reason."""
    return why_not() or _registers(ctypes.CDLL(str(_find())), [CUDA_TARGET], "CUDA")


def why_not_for(case: Case) -> str | None:
    """Why no kernel serves this case, whatever it computes."""
    if case.platform != "cpu":
        return "it is a kernel for CPUs"
    if case.exported:
        return "an exported program must run where rnnscan is not installed"
    if case.unsized:
        return "a size is a symbol (`jax.export`), and the kernel wants numbers"
    return why_not()


def instruction_set() -> str:
    """What the kernels use on this machine; `why_not()` must be `None`."""
    return _text(ctypes.CDLL(str(_find())).rnnscan_instruction_set)


def compiler() -> str:
    """What compiled them; `why_not()` must be `None`."""
    return _text(ctypes.CDLL(str(_find())).rnnscan_compiler)


def _registers(library: ctypes.CDLL, targets: Iterable[str], platform: str) -> str | None:
    """Tells XLA of the kernels; or why it does not take them."""
    # XLA takes a name once in a process, and where no backend has started yet it says so only when
    # that fails to start. Whoever was first is noted where every copy of this module looks.
    mine = ctypes.cast(library.rnnscan_ffi_version, ctypes.c_void_p).value
    if sys.__dict__.setdefault(NOTE, mine) != mine:
        return ANOTHER_COPY
    for target in targets:
        capsule = jax.ffi.pycapsule(getattr(library, target))
        try:
            jax.ffi.register_ffi_target(target, capsule, platform=platform)
        except Exception as fault:  # of which type is not documented
            if "Duplicate" in str(fault):  # of a version that noted nothing
                return ANOTHER_COPY
            return f"XLA does not take the CPU kernel ({fault}); {REMEDY}"
    return None


def _find() -> Path | None:
    """Beside this file, or, where a source tree hides an installed package, in that package."""
    if (FOLDER / NAME).is_file():
        return FOLDER / NAME
    try:
        files = importlib.metadata.files("rnnscan") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.name == NAME)
    return next((path for path in found if path.is_file()), None)


def _text(function) -> str:
    function.restype = ctypes.c_char_p
    return function().decode()


def _ffi_version() -> int:
    """Of the XLA in use, as `rnnscan_ffi_version` counts: 1000 major + minor."""
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    text = header.read_text(encoding="utf-8")
    numbers = {name: int(n) for name, n in re.findall(r"#define XLA_FFI_API_(M\w+) (\d+)", text)}
    return numbers["MAJOR"] * 1000 + numbers["MINOR"]
