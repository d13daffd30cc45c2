"""Finds NVIDIA's run-time compiler, and compiles the kernel with it: C++ to PTX, on any machine.

NVRTC is a library that JAX for GPUs brings; neither a GPU nor a driver nor a host compiler is asked
for. What is made is for every card from sm_80 on, and every driver from that of CUDA 12.3 on.
"""

import ctypes
import ctypes.util
import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
INCLUDED = (FOLDER, FOLDER.parent / "cpu_kernel")
ARCHITECTURE = "compute_80"  # cp.async; no instruction of a later one is used
# NVRTC names the newest PTX that it knows, which an older driver refuses; nothing that the kernel
# uses is newer than this one, and tests hand it to the assembler.
PTX_VERSION = (8, 3)
CUDA_VERSION = (12, 3)  # whose driver is the first that reads it
OPTIONS = (
    "--std=c++17",
    f"--gpu-architecture={ARCHITECTURE}",
    "--device-as-default-execution-space",
)
WAY_OUT = "method='blocked' does without"


class Failure(RuntimeError):
    """The kernel did not compile, and what the compiler says."""


@functools.cache
def why_not() -> str | None:
    """Why no kernel can be compiled here, and what to do; or nothing."""
    try:
        _library()
    except OSError as fault:
        return (
            f"NVRTC, the compiler of CUDA kernels, is not found ({fault}); install it: "
            "pip install nvidia-cuda-nvrtc (it comes with jax[cuda13])"
        )
    return None


@functools.lru_cache(maxsize=1024)
def ptx(source: str, way_out: str = WAY_OUT) -> str:
    """PTX for a program, once for each; `way_out`: what a failure tells to do."""
    library = _library()
    program = ctypes.c_void_p()
    _check(
        library,
        library.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), b"rnnscan.cu", 0, None, None
        ),
    )
    try:
        options = [*OPTIONS, *(f"--include-path={folder}" for folder in INCLUDED)]
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if library.nvrtcCompileProgram(program, len(options), given):
            log = _text(library, program, "ProgramLog")
            raise Failure(f"the CUDA kernel does not compile; {way_out}:\n{log}")
        text = _text(library, program, "PTX")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    return re.sub(r"(?m)^\.version (\d+)\.(\d+)", _older, text)


def _older(found: re.Match[str]) -> str:
    major, minor = min(PTX_VERSION, (int(found[1]), int(found[2])))
    return f".version {major}.{minor}"


def _check(library: ctypes.CDLL, code: int) -> None:
    if code:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        what = library.nvrtcGetErrorString(code).decode()
        raise Failure(f"the CUDA kernel does not compile: {what}; {WAY_OUT}")


def _text(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, text))
    return text.value.decode()


@functools.cache
def _library() -> ctypes.CDLL:
    fault = OSError("no libnvrtc.so in nvidia's packages, in CUDA_HOME or on the system's path")
    for path in _candidates():
        try:
            # Its built-in functions lie beside it, where the loader would not look for them.
            for builtins in sorted(Path(path).parent.glob("libnvrtc-builtins.so*")):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(path)
        except OSError as found:
            fault = found
    raise fault


def _candidates() -> Iterator[str]:
    """Of Python's packages, of a CUDA toolkit, of the system."""
    for folder in map(Path, sys.path):
        for pattern in ("nvidia/cu*/lib", "nvidia/cuda_nvrtc/lib"):
            for found in sorted(folder.glob(f"{pattern}/libnvrtc.so*"), reverse=True):
                yield str(found)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        for found in sorted(Path(os.environ.get(name, "/nowhere")).glob("lib64/libnvrtc.so*")):
            yield str(found)
    if name := ctypes.util.find_library("nvrtc"):
        yield name
