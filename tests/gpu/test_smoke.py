"""The smoke test that goes before others on a GPU: tried here without one."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from rnnscan import linear_scan
from rnnscan.scan.cuda_kernel import launch
from rnnscan.scan.linear_methods import cuda
from rnnscan.scan.table import serves_all
from tests.gpu import smoke
from tests.scan.cuda_host import build, kernel

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lines(capsys):
    """The exit status of the smoke test, and the second word of each line about a check."""

    def run(*arguments):
        status = smoke.main(arguments)
        said = capsys.readouterr().out.splitlines()
        return status, [line[28:].split()[0] for line in said[1:]]

    return run


def test_it_passes_on_a_cpu_with_jax_and_numpy_alone():
    blocked = "import sys; sys.modules['pytest'] = sys.modules['hypothesis'] = None; "
    program = "import runpy; runpy.run_module('tests.gpu.smoke', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", blocked + program, "--allow-cpu"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "RNNSCAN_CUDA_LAUNCHER": "none"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head, *checks = done.stdout.splitlines()
    assert "launcher none: method 'auto' (on cpu)" in head
    assert [line[:28].strip() for line in checks] == [check.name for check in smoke.CHECKS]
    assert all(line[28:].startswith("ok ") for line in checks)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert smoke.main([]) == 2
    assert capsys.readouterr().out == "no GPU here: JAX is on cpu\n"


def wrong_operands(a, b, *others, **options):
    """As if one operand had been dropped."""
    return linear_scan(b * 0.999, b, *others, **options)


def not_a_number(a, b, *others, **options):
    return linear_scan(a, b, *others, **options).at[..., -1].set(jnp.nan)


def raises(*operands, **options):
    raise RuntimeError("an illegal address was encountered\nand more")


@pytest.mark.parametrize("scan", [wrong_operands, not_a_number, raises])
def test_what_is_wrong_is_found(lines, monkeypatch, scan):
    monkeypatch.setattr(smoke, "linear_scan", scan)
    monkeypatch.setattr(smoke, "CHECKS", smoke.CHECKS[:1])
    assert lines("--allow-cpu") == (1, ["wrong"])


def test_a_launcher_that_is_not_there_is_wrong(lines, monkeypatch):
    monkeypatch.setattr(launch, "chosen", lambda: "own")
    monkeypatch.setattr(launch, "why_not", lambda: "the launcher was not compiled")
    assert lines("--allow-cpu") == (1, ["wrong"])


@pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))
def test_it_runs_every_mode_of_the_kernel(lines, monkeypatch):
    """On a host, in the place of a GPU: with several chunks, where there are chunks."""
    launches = []

    def on_host(what, *rest):
        launches.append(what)
        return kernel.on_host(what, *rest)

    monkeypatch.setattr(launch, "launch", on_host)
    monkeypatch.setattr(launch, "chosen", lambda: "xla")
    monkeypatch.setattr(launch, "why_not", lambda: None)
    monkeypatch.setattr(smoke, "chosen_method", lambda _: ("cuda", "of a test"))
    monkeypatch.setitem(vars(cuda.method), "why_not", serves_all)
    assert lines("--allow-cpu") == (0, ["ok"] * 4)
    assert {(each.mode, each.kind) for each in launches} == {
        (mode, kind)
        for mode in ("walk", "reduce", "apply", "chained")
        for kind in ("forward", "transpose")
    }
    assert all(each.chunks > 2 for each in launches if each.mode != "walk")
    jax.clear_caches()  # programs with the callback
