"""The library of the CPU kernels: cut short, damaged, twice in a process, made twice at once."""

import importlib.util
import os
import shutil
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rnnscan.scan.cpu_kernel import library
from rnnscan.scan.cpu_kernel.shared_object import extent, is_sealed, sealed

ROOT = Path(__file__).parents[2]
needs_kernel = pytest.mark.skipif(
    library.why_not() is not None, reason=f"no kernel: {library.why_not()}"
)


@pytest.fixture(scope="module")
def compiled():
    return (library.FOLDER / library.NAME).read_bytes()


def reason_for(path, monkeypatch):
    monkeypatch.setattr(library, "_find", lambda: path)
    return library.why_not.__wrapped__()


@needs_kernel
@pytest.mark.parametrize("share", [0.0, 1e-6, 1e-5, 1e-3, 0.3, 0.8, 0.999])
def test_one_that_is_cut_short_is_not_loaded(share, compiled, tmp_path, monkeypatch):
    """Loaded, it would end the process by SIGBUS."""
    path = tmp_path / library.NAME
    path.write_bytes(compiled[: int(share * len(compiled))])
    reason = reason_for(path, monkeypatch)
    assert "cut short" in reason or "file too short" in reason  # the system's word for no header
    assert "--force-reinstall" in reason


@needs_kernel
def test_the_tables_say_how_far_a_file_reaches(compiled, tmp_path):
    path = library.FOLDER / library.NAME
    assert len(compiled) - 64 == extent(path)  # the seal is behind it
    for strange in (b"", b"\x7fELF", compiled[:63], b"\x7fELF\x02" + b"\xff" * 200, b"#!/bin/sh\n"):
        other = tmp_path / "strange.so"
        other.write_bytes(strange)
        assert extent(other) > len(strange) or not strange.startswith(b"\x7fELF\x02")


def test_a_seal_tells_every_change():
    whole = sealed(b"\x7fELF and all the rest")
    assert is_sealed(whole)
    assert not is_sealed(whole[:-1])
    assert not is_sealed(whole[:9] + b"\0" + whole[10:])
    assert not is_sealed(b"\x7fELF and no seal")
    assert sealed(b"\xcf\xfa\xed\xfe") == b"\xcf\xfa\xed\xfe"  # macOS signs what it links


TWICE = """
import sys
first, second, start = sys.argv[1:]
import jax, jax.numpy as jnp
if start == "started":
    jax.devices()
sys.path.insert(0, first)
import rnnscan as one
for name in [name for name in sys.modules if name.partition(".")[0] == "rnnscan"]:
    del sys.modules[name]
sys.path.insert(0, second)
import rnnscan as two
assert one.__file__ != two.__file__
b = jnp.ones((1000, 16))
for copy in (one, two):
    row = next(r for r in copy.explain_linear_scan(0.5, b) if r.method == "native")
    print(row.available, row.reason)
    assert copy.linear_scan(0.5, b)[-1, 0] == 2
"""


@needs_kernel
@pytest.mark.parametrize("start", ["started", "not yet"])
def test_a_second_copy_in_one_process_asks_for_another_process(start, tmp_path):
    """As after an upgrade within a notebook, whether or not anything was computed before."""
    shutil.copytree(ROOT / "rnnscan", tmp_path / "rnnscan")
    done = subprocess.run(
        [sys.executable, "-P", "-c", TWICE, str(ROOT), str(tmp_path), start],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("True")
    assert second.startswith("False")
    assert "restart Python" in second


@needs_kernel
def test_an_upgrade_in_its_own_place_asks_for_another_process(monkeypatch):
    """The system gives the old library once more for a path that it has loaded."""
    monkeypatch.setattr(library, "source_hash", lambda _: "of the new sources")
    assert library.why_not.__wrapped__().endswith("before an upgrade of rnnscan; restart Python")


@needs_kernel
def test_what_xla_refuses_is_told(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError(said)

    monkeypatch.setattr(library.jax.ffi, "register_ffi_target", refuse)
    said = "ALREADY_EXISTS: Duplicate FFI handler registration for rnnscan_forward"
    assert "restart Python" in library.why_not.__wrapped__()
    said = "no such platform"
    assert "no such platform" in library.why_not.__wrapped__()


@needs_kernel
def test_the_instruction_set_is_wholly_there():
    """Each level uses all that -march names, F16C among it; a virtual machine may lack any."""
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        pytest.skip("the system does not list what the processor can")
    v3 = {"avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}
    v4 = v3 | {f"avx512{each}" for each in ("f", "bw", "cd", "dq", "vl")}
    if "avx2" in flags:
        best = {"baseline": set(), "x86-64-v3": v3, "x86-64-v4": v4}
        most = max((each for each in best if best[each] <= {*flags}), key=list(best).index)
        assert library.instruction_set() == os.environ.get("RNNSCAN_CPU_LEVEL", most)
    assert library.compiler()


# The install. hatchling is there while it runs, and not beside the tests.


@pytest.fixture
def install(monkeypatch):
    """The module hatch_build.py."""
    name = "hatchling.builders.hooks.plugin.interface"
    stub = types.ModuleType(name)
    stub.BuildHookInterface = object
    monkeypatch.setitem(sys.modules, name, stub)
    for key in ("CXX", "RNNSCAN_NATIVE"):
        monkeypatch.delenv(key, raising=False)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path):
    """The sources of the kernels, and where the library of an install goes."""
    scan = Path("rnnscan", "scan")
    for folder in (scan / "cpu_kernel", scan / "cuda_kernel"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.pyc"))
    return tmp_path


@needs_kernel
def test_an_install_takes_only_a_library_that_is_whole_and_of_its_sources(install, tree, compiled):
    path = tree / install.FOLDER / install.LIBRARY
    assert install.is_current(tree)
    middle = len(compiled) // 2
    for damaged in (
        b"",
        compiled[:middle],
        compiled[:-1],
        compiled[:middle] + bytes(4096) + compiled[middle + 4096 :],  # as a power cut leaves it
    ):
        path.write_bytes(damaged)
        assert not install.is_current(tree)
        assert install.must_compile(tree)
    path.write_bytes(compiled)
    assert not install.must_compile(tree)
    (tree / install.FOLDER / "shared" / "level.h").write_text("another")
    assert not install.is_current(tree)


def test_a_named_compiler_compiles_again(install, tree, monkeypatch):
    monkeypatch.setattr(install, "is_current", lambda root: True)
    assert not install.must_compile(tree)
    monkeypatch.setenv("CXX", "clang++")
    assert install.must_compile(tree)


def test_installs_at_once_leave_one_whole_library(install, tmp_path):
    path, size = tmp_path / "a.so", 2**20
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: install.put(path, bytes([n]) * size), range(32)))
    left = path.read_bytes()
    assert left == left[:1] * size
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_library_and_nothing_else(install, tmp_path, monkeypatch):
    path = tmp_path / "a.so"
    install.put(path, b"old")

    def refuse(_):
        raise OSError("no space")

    monkeypatch.setattr(install.os, "fsync", refuse)
    with pytest.raises(OSError, match="no space"):
        install.put(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_install_succeeds_where_nothing_can_be_compiled_or_removed(install, tree, monkeypatch):
    path = tree / install.FOLDER / install.LIBRARY
    path.unlink(missing_ok=True)
    path.mkdir()  # cannot be unlinked, as in a tree that may not be written to
    warnings = []
    hook = install.NativeKernel()
    hook.root, hook.target_name = str(tree), "wheel"
    hook.app = types.SimpleNamespace(display_warning=warnings.append)
    for compiler in ("no-such-compiler", "g++ 'and a quote"):
        monkeypatch.setenv("CXX", compiler)
        assert hook.dependencies() == []
        hook.initialize("standard", {})
        assert "no C++ compiler" in warnings.pop()


@pytest.mark.parametrize("made", [False, True], ids=["alone", "beside one that succeeds"])
def test_an_install_that_fails_takes_no_library_from_another(install, tree, monkeypatch, made):
    path = tree / install.FOLDER / install.LIBRARY
    path.write_bytes(b"of other sources")

    def compile_library(root):
        if made:  # by the other install, meanwhile
            current = install.beside(root, "sources").source_hash(root / install.FOLDER)
            install.put(path, sealed(b"\x7fELF " + current.encode()))
        raise RuntimeError("killed: too little memory")

    monkeypatch.setattr(install, "compile_library", compile_library)
    monkeypatch.setattr(install, "compiler", lambda: ["c++"])
    warnings = []
    hook = install.NativeKernel()
    hook.root, hook.target_name = str(tree), "wheel"
    hook.app = types.SimpleNamespace(display_warning=warnings.append)
    hook.initialize("standard", {})
    assert "too little memory" in warnings[0]
    assert path.exists() == made
