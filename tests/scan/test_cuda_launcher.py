"""The launcher of our own, `launcher.cc`: what it asks of a driver, and that XLA's call fits it."""

import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from rnnscan import linear_scan
from rnnscan.scan.cpu_kernel import library
from rnnscan.scan.cuda_kernel import launch, nvrtc
from rnnscan.scan.linear_methods import cuda
from rnnscan.scan.table import serves_all
from tests.scan.cuda_host.build import compiler

DRIVER = Path(__file__).parent / "cuda_driver"

pytestmark = pytest.mark.skipif(
    library.why_not() is not None, reason=f"no launcher: {library.why_not()}"
)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """What launches ask of a driver that only writes it down, line by line."""
    if not compiler():
        pytest.skip("there is no C++ compiler (CXX, g++, clang++)")
    folder = tmp_path_factory.mktemp("driver")
    command = [*compiler(), "-w", "-shared", "-fPIC", str(DRIVER / "libcuda.cc")]
    subprocess.run([*command, "-o", str(folder / "libcuda.so.1")], check=True)

    def run(*launches, folder=folder):
        program = [sys.executable, str(DRIVER / "launches.py"), str(library._find())]
        done = subprocess.run(
            [*program, json.dumps(launches)],
            env={**os.environ, "LD_LIBRARY_PATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def a_launch(text="2 scan", entry="scan", stream=16, shared_bytes=1000, block=64, buffers=(70, 80)):
    """The text begins with how many parameters the kernel has."""
    sizes = {"grid": 9, "block": block, "shared_bytes": shared_bytes}
    names = {"text": text, "digest": f"of {text}", "entry": entry}
    return {"stream": stream, "buffers": buffers, **names, **sizes}


def test_the_driver_is_asked_for_one_launch_of_the_text(asked):
    """A buffer that is given twice counts twice; a stream's context is current meanwhile."""
    assert asked(a_launch("4 scan", buffers=(70, 80, 70, 90))) == [
        "push 1",
        "load 4 scan",
        "find scan",
        "launch 9 1 1, 64 1 1, 1000, 16: 70 80 70 90",
        "pop",
    ]


def test_a_text_is_loaded_once_in_each_context(asked):
    """Streams 16 to 31 are of context 1; each thread but the first finds what that one loaded."""
    again = [a_launch(stream=stream) for stream in (17, 16, 32)]
    lines = asked([a_launch()] * 8, *again, a_launch("2 scan of another size"))
    assert [line for line in lines if line.startswith(("load", "find"))] == [
        *("load 2 scan", "find scan"),
        *("load 2 scan", "find scan"),
        *("load 2 scan of another size", "find scan"),
    ]
    assert sum(line.startswith("launch") for line in lines) == 12


def test_shared_memory_over_48_kb_is_asked_for_first(asked):
    assert not any(line.startswith("set") for line in asked(a_launch(shared_bytes=49152)))
    lines = asked(*[a_launch(shared_bytes=49153)] * 2)
    assert lines[:4] == ["push 1", "load 2 scan", "find scan", "set 8 49153"]
    assert sum(line.startswith("set") for line in lines) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"text": "malformed"}, "cuModuleLoadDataEx: CUDA_ERROR_OF_A_TEST, the card is not there: "
                                "line 7: syntax error"),
        ({"text": "another"}, "cuModuleGetFunction: CUDA_ERROR_OF_A_TEST, the card is not there"),
        ({"shared_bytes": 300_000}, "cuFuncSetAttribute: CUDA_ERROR_OF_A_TEST"),
        ({"block": 2048}, "cuLaunchKernel: 999, an error that the driver does not know"),
    ],
    ids=["load", "find", "set", "launch"],
)  # fmt: skip
def test_what_the_driver_refuses_is_said_with_the_way_out(asked, given, words):
    """And is tried again by the next launch; the context is given back."""
    lines = asked(a_launch(**given), a_launch(**given), a_launch("2 scan, right"))
    for said in (line for line in lines if line.startswith("said")):
        assert f"the CUDA kernel scan was not launched: {words}" in said
        assert "; the method in its name does without" in said
        assert "RNNSCAN_CUDA_LAUNCHER=none" in said
    assert sum(line.startswith("said") for line in lines) == 2
    assert lines.count("push 1") == lines.count("pop") == 3
    assert lines[-2] == "launch 9 1 1, 64 1 1, 1000, 16: 70 80"


def test_a_driver_that_does_not_load_is_said(asked, tmp_path):
    (tmp_path / "libcuda.so.1").touch()
    (said,) = asked(a_launch(), folder=tmp_path)
    assert "NVIDIA's driver does not load" in said
    assert "; the method in its name does without" in said


@pytest.fixture
def own(monkeypatch):
    """Calls of `cuda` name the launcher under the name of a test, where this CPU finds it."""
    target = "rnnscan_cuda_launch_on_a_cpu"
    compiled = ctypes.CDLL(str(library._find()))
    capsule = jax.ffi.pycapsule(getattr(compiled, library.CUDA_TARGET))
    jax.ffi.register_ffi_target(target, capsule, platform="cpu")
    monkeypatch.setattr(launch, "chosen", lambda: "own")
    monkeypatch.setitem(launch.TARGETS, "own", target)
    monkeypatch.setattr(nvrtc, "ptx", lambda source, way_out: source)
    monkeypatch.setitem(vars(cuda.method), "why_not", serves_all)
    yield target
    jax.clear_caches()  # programs with the launcher


def test_a_call_has_what_the_launcher_takes(own):
    """XLA decodes all of it; nothing is missing on a CPU but, operand 0, the stream of a GPU."""
    x = jnp.ones((300, 5))
    scan = jax.jit(lambda x: linear_scan(x, x, method="cuda"))
    assert own in scan.lower(x).as_text()
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        scan(x).block_until_ready()
    assert re.findall(r"bad operands at: ([\d, ]+)", str(caught.value)) == ["0"]
