"""Compiles the CPU kernels of rnnscan while it is installed, if there is a C++ compiler, and with
them the launcher of its CUDA kernels, which wants nothing of CUDA.

Without one (or where anything else fails) the install succeeds all the same, as pure Python;
`explain_linear_scan` then says what is missing, and how to get it. Nothing is compiled later.

    CXX=...            which compiler to use (default: the first of c++, g++, clang++ that runs)
    RNNSCAN_NATIVE=0   do not compile; =1: fail where it cannot be compiled

Every `kernel.cc` is compiled once per level of x86-64 and chosen when it runs, so a wheel may move
between machines; every other source is compiled once. The XLA headers are those of the oldest
jaxlib that rnnscan supports: a library made with newer ones would keep an older CPU backend from
starting.
"""

import concurrent.futures
import contextlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OLDEST_JAXLIB = "jaxlib==0.10.2"
FOLDER = Path("rnnscan/scan/cpu_kernel")
LIBRARY = "librnnscan_cpu.so"  # its name everywhere; loaded by path, with no Python ABI
FLAGS = shlex.split(
    "-std=gnu++17 -fPIC -fvisibility=hidden -w -O3 -ffp-contract=fast -fno-math-errno "
    "-fno-strict-aliasing"
)
SECONDS = 600


def compiler() -> list[str]:
    """The command that compiles C++, or nothing."""
    chosen = os.environ.get("CXX")
    for command in [chosen] if chosen else ["c++", "g++", "clang++"]:
        with contextlib.suppress(ValueError):  # a quote that does not end
            words = shlex.split(command)
            if words and shutil.which(words[0]):
                return words
    return []


def wanted() -> bool:
    return os.environ.get("RNNSCAN_NATIVE", "") != "0" and sys.platform in ("linux", "darwin")


def beside(root: Path, name: str):
    """A module of the kernel's folder, by path: the package needs JAX."""
    spec = importlib.util.spec_from_file_location(name, root / FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_current(root: Path) -> bool:
    """Whether the library is there already, whole and of these very sources."""
    library = root / FOLDER / LIBRARY
    if not library.is_file():
        return False
    source_hash = beside(root, "sources").source_hash(root / FOLDER)
    compiled, shared_object = library.read_bytes(), beside(root, "shared_object")
    return source_hash.encode() in compiled and shared_object.is_sealed(compiled)


def must_compile(root: Path) -> bool:
    """A second environment takes what the first one compiled, unless a compiler is named."""
    return bool(os.environ.get("CXX")) or not is_current(root)


def compile_library(root: Path) -> None:
    """Makes the shared library, beside its sources."""
    command = compiler()
    jaxlib = importlib.util.find_spec("jaxlib")
    if jaxlib is None:
        raise RuntimeError(f"the XLA headers of {OLDEST_JAXLIB} are not in the build environment")
    folder = root / FOLDER
    listed = beside(root, "sources")
    units = [source for source in listed.sources(folder) if source.endswith(".cc")]
    kernels = [source for source in units if source.endswith("/kernel.cc")]
    others = [source for source in units if source not in kernels]
    hash_flag = f'-DRNNSCAN_SOURCE_HASH="{listed.source_hash(folder)}"'
    headers = Path(jaxlib.origin).parent / "include"
    common = [*command, *FLAGS, f"-I{folder}", f"-I{headers}"]
    levels = ["baseline"]
    if platform.machine().lower() in ("x86_64", "amd64"):
        levels += ["x86_64_v3", "x86_64_v4"]
        common += ["-DRNNSCAN_X86_LEVELS"]
    with tempfile.TemporaryDirectory() as scratch:
        jobs = {}
        for level in levels:
            flags = [f"-DKERNEL_NAMESPACE={level}"]
            if level != "baseline":
                flags += [f"-march={level.replace('_', '-')}"]
            if level == "x86_64_v4":
                flags += ["-mprefer-vector-width=512"]
            for source in kernels:
                made = f"{scratch}/{level}_{source.replace('/', '_')}.o"
                jobs[made] = [*flags, "-c", str(folder / source)]
        for source in others:
            made = f"{scratch}/{source.replace('/', '_')}.o"
            jobs[made] = [hash_flag, "-c", str(folder / source)]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda job: run([*common, *job[1], "-o", job[0]]), jobs.items()))
        library = f"{scratch}/{LIBRARY}"
        link = [*command, "-shared", "-o", library, *jobs]
        try:  # independent of the C++ runtime that another package may have loaded
            run([*link, "-static-libstdc++", "-static-libgcc"])
        except RuntimeError:
            run(link)
        put(folder / LIBRARY, beside(root, "shared_object").sealed(Path(library).read_bytes()))


def put(path: Path, data: bytes) -> None:
    """Writes a file that is whole at every moment, after a power cut and beside another install.

    A process that has the old file open keeps it.
    """
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr[-2000:]}")


class NativeKernel(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        if self.target_name != "wheel" or not wanted() or not compiler():
            return []
        return [OLDEST_JAXLIB] if must_compile(Path(self.root)) else []

    def initialize(self, version: str, build_data: dict) -> None:
        del version
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        try:
            if not wanted() or not compiler():
                raise RuntimeError("no C++ compiler (CXX, c++, g++ or clang++), or none is wanted")
            if must_compile(root):
                compile_library(root)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as fault:
            # None is better than an old one; a current one another install has just made.
            if not (wanted() and is_current(root)):
                with contextlib.suppress(OSError):  # of a tree that may not be written to
                    (root / FOLDER / LIBRARY).unlink()
            if os.environ.get("RNNSCAN_NATIVE") == "1":
                raise
            self.app.display_warning(f"rnnscan without its CPU kernel: {fault}")
            return
        path = (FOLDER / LIBRARY).as_posix()
        build_data["artifacts"].append(path)
        build_data["force_include"][str(root / path)] = path
        build_data["pure_python"] = False
        tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{tag}"
