"""Compiles the CUDA kernel for the host, plain or for a sanitizer, and runs launches of it.

What is compiled stays in `build/cuda_host` of the checkout, under the hash of what it is made from.
"""

import contextlib
import ctypes
import dataclasses
import fcntl
import functools
import hashlib
import math
import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
KERNEL = ROOT / "rnnscan/scan/cuda_kernel"
SHARED = ROOT / "rnnscan/scan/cpu_kernel"
CACHE = ROOT / "build/cuda_host"
TYPES = ("f16", "bf16", "f32", "f64", "c64", "c128")
PROBLEMS = {"cells.h": "cells_problem.h"}  # what other kernels than the scan's are asked
COMMON = "-std=c++17 -fno-strict-aliasing"
# The kernel's flags, and those of host.cc, which no sanitizer watches.
BUILDS = {
    "plain": ("-O1 -fPIC", "-O2 -fPIC"),
    "address": (
        "-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all",
        "-O2 -DHOST_ASAN=1",
    ),
    "thread": ("-O1 -g1 -fsanitize=thread", "-O2 -DHOST_TSAN=1"),
}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=66",
    "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=66",
    "TSAN_OPTIONS": "halt_on_error=1:exitcode=66:report_bugs=1",
}


class HostError(Exception):
    """What the host found wrong in a launch."""


class SanitizerError(HostError):
    """What a sanitizer found wrong; `launch` is the number of the launch."""

    def __init__(self, report: str, launch: int):
        super().__init__(f"launch {launch}:\n{report}")
        self.launch = launch


@dataclasses.dataclass(frozen=True)
class Result:
    """An array that a launch writes. Its bytes are ones before, or zeros."""

    shape: tuple[int, ...]
    dtype: np.dtype
    zeros: bool = False

    @property
    def nbytes(self):
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Launch:
    """`problem` as flat numbers; `slots` are those of `Pointers`, in its order."""

    problem: Sequence[int]
    slots: Sequence[np.ndarray | Result | None]
    grid: int
    block: int
    shared_bytes: int
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Ran:
    """What the launch wrote, for each `Result` of its slots, and what it moved."""

    results: tuple[np.ndarray, ...]
    bytes_read: int
    bytes_written: int


@functools.cache
def why_not() -> str | None:
    """Why nothing can be compiled here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the host of the CUDA kernel is written for Linux on x86-64"
    return None if compiler() else "there is no C++ compiler (CXX, g++, clang++)"


@functools.cache
def why_no_sanitizer(kind: str) -> str | None:
    """Why nothing that a sanitizer watches can be compiled or run here."""
    if why_not():
        return why_not()
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "empty.cc", Path(folder) / "empty"
        source.write_text("int main() { return 0; }\n")
        flags = shlex.split(BUILDS[kind][0])
        for command in ([*compiler(), *flags, str(source), "-o", str(program)], _start(program)):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"no {kind} sanitizer: {done.stderr[-300:]}"
    return None


class Library:
    """The kernel in this process."""

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))
        numbers, pointers = self._library.rnnscan_host_numbers, self._library.rnnscan_host_pointers
        numbers.restype = pointers.restype = ctypes.c_int64
        self.numbers, self.pointers = numbers(), pointers()

    def run(self, launch: Launch) -> Ran:
        arrays = [_array(slot) for slot in launch.slots]
        assert len(arrays) == self.pointers
        problem = np.asarray(launch.problem, np.int64)
        addresses = (ctypes.c_void_p * len(arrays))(
            *(None if x is None else x.ctypes.data for x in arrays)
        )
        read, written = ctypes.c_int64(), ctypes.c_int64()
        message = ctypes.create_string_buffer(1000)
        sizes = (launch.grid, launch.block, launch.shared_bytes)
        failed = self._library.rnnscan_host_run(
            ctypes.c_void_p(problem.ctypes.data),
            ctypes.c_int64(problem.size),
            addresses,
            *map(ctypes.c_int64, sizes),
            ctypes.c_uint64(launch.seed),
            ctypes.byref(read),
            ctypes.byref(written),
            message,
            ctypes.c_int64(len(message)),
        )
        if failed:
            raise HostError(message.value.decode())
        pairs = zip(arrays, launch.slots, strict=True)
        results = tuple(x for x, slot in pairs if isinstance(slot, Result))
        return Ran(results, read.value, written.value)


@functools.cache
def library(kernel: str = "linear.h", types: tuple[str, ...] = TYPES) -> Library:
    return Library(_build("plain", kernel, types))


def run_program(
    kind: str,
    launches: Sequence[Launch],
    kernel: str = "linear.h",
    types: tuple[str, ...] = TYPES,
    without: int | None = None,
) -> list[Ran]:
    """The launches one after another under the sanitizer `kind`, "address" or "thread".

    `without` plants a fault: the barrier in this line of the kernel is not there.
    """
    program = _build(kind, kernel, types)
    planted = {} if without is None else {"HOST_WITHOUT": f"{kernel}:{without}"}
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "launches", Path(folder) / "results"
        with asked.open("wb") as file:
            _write_numbers(file, len(launches))
            for launch in launches:
                _write_launch(file, launch)
        done = subprocess.run(
            [*_start(program), str(asked), str(answered)],
            env={**os.environ, **OPTIONS, **planted},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        ran = []
        with answered.open("rb") as file:
            for launch in launches:
                if not (result := _read_result(file, launch)):
                    break
                ran.append(result)
    if done.returncode or len(ran) < len(launches):
        raise SanitizerError(done.stderr or f"exit status {done.returncode}", len(ran))
    return ran


def _array(slot):
    """Results begin as ones, which are nan, so that nothing is right by chance."""
    if isinstance(slot, Result):
        byte = np.uint8(0 if slot.zeros else 0xFF)
        return np.full(slot.nbytes, byte).view(slot.dtype).reshape(slot.shape)
    return None if slot is None else np.ascontiguousarray(slot)


def _write_numbers(file, *numbers):
    file.write(struct.pack(f"<{len(numbers)}q", *numbers))


def _write_launch(file, launch):
    _write_numbers(file, len(launch.problem), *launch.problem)
    _write_numbers(file, launch.grid, launch.block, launch.shared_bytes, launch.seed)
    _write_numbers(file, len(launch.slots))
    for slot in launch.slots:
        if slot is None:
            _write_numbers(file, 0)
        elif isinstance(slot, Result):
            _write_numbers(file, 3 if slot.zeros else 2, slot.nbytes)
        else:
            _write_numbers(file, 1, slot.nbytes)
            file.write(slot.tobytes())


def _read_result(file, launch):
    """None where the program ended before it; what the host found wrong is raised."""
    head = file.read(24)
    if len(head) < 24:
        return None
    read, written, length = struct.unpack("<3q", head)
    if length:
        raise HostError(file.read(length).decode())
    results = []
    for slot in launch.slots:
        if isinstance(slot, Result):
            content = file.read(slot.nbytes)
            if len(content) < slot.nbytes:
                return None
            results.append(np.frombuffer(content, slot.dtype).reshape(slot.shape))
    return Ran(tuple(results), read, written)


@functools.cache
def compiler() -> tuple[str, ...]:
    chosen = os.environ.get("CXX")
    for command in [chosen] if chosen else ["g++", "clang++"]:
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return tuple(words)
    return ()


def _start(program: Path) -> list[str]:
    """An older thread sanitizer wants its addresses where they are without randomisation."""
    return [*_fixed_addresses(), str(program)]


@functools.cache
def _fixed_addresses() -> tuple[str, ...]:
    words = ("setarch", "-R")
    with contextlib.suppress(OSError):
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            return words
    return ()


@functools.cache
def _build(kind: str, kernel: str, types: tuple[str, ...]) -> Path:
    kernel_flags, host_flags = (shlex.split(f"{COMMON} {flags}") for flags in BUILDS[kind])
    name = "-".join([kind, Path(kernel).stem, *types])
    digest = hashlib.sha256(repr((kernel_flags, host_flags)).encode())
    version = subprocess.run([*compiler(), "--version"], capture_output=True, check=True)
    digest.update(version.stdout)
    for folder in (HERE, KERNEL, SHARED):
        for path in sorted(folder.rglob("*.h")) + sorted(HERE.glob("*.cc")):
            digest.update(path.name.encode() + path.read_bytes())
    made = CACHE / f"{name}.{digest.hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker makes the same
        if not made.is_file():
            for old in CACHE.glob(f"{name}.*"):
                if not old.name.endswith(".lock"):
                    old.unlink()
            _compile(kind, kernel, types, kernel_flags, host_flags, made)
    return made


def _compile(kind, kernel, types, kernel_flags, host_flags, made):
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        folders = [f"-I{folder}" for folder in (HERE, KERNEL, SHARED)]
        problem = PROBLEMS.get(kernel, "problem.h")
        of_kernel = [*(f"-DTYPE_{name}" for name in types), f'-DRNNSCAN_KERNEL="{kernel}"']
        of_kernel.append(f'-DRNNSCAN_PROBLEM="{problem}"')
        sources = [("host.cc", host_flags), ("library.cc", [*kernel_flags, *folders, *of_kernel])]
        if kind != "plain":
            sources.append(("main.cc", kernel_flags))
        objects = [str(Path(scratch) / source.replace(".cc", ".o")) for source, _ in sources]
        for (source, flags), to in zip(sources, objects, strict=True):
            _call([*compiler(), *flags, "-c", str(HERE / source), "-o", to])
        shared = ["-shared"] if kind == "plain" else []
        whole = str(Path(scratch) / "whole")
        _call([*compiler(), *kernel_flags, *shared, *objects, "-o", whole])
        os.replace(whole, made)


def _call(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr[-5000:]}")
