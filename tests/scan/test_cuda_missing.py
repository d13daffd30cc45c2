"""Where the CUDA kernel cannot serve: what is missing is said, and another method serves."""

import jax
import jax.numpy as jnp
import pytest

from rnnscan import explain_linear_scan, linear_scan
from rnnscan.scan.cpu_kernel import library
from rnnscan.scan.cuda_kernel import card, launch, nvrtc

SPEC = jax.ShapeDtypeStruct((1000, 16), jnp.float32)


@pytest.fixture
def gpu(monkeypatch):
    """What there is of a GPU's machine, by a test's word: a card, a driver, NVRTC, a launcher."""

    def has(capability=None, driver=None, compiler=True, launcher="xla", compiled=True):
        monkeypatch.setattr(launch, "chosen", lambda: launcher)
        monkeypatch.setattr(launch, "why_not", launch_why_not)
        not_compiled = "the CPU kernel was not compiled"
        monkeypatch.setattr(library, "why_no_launcher", lambda: None if compiled else not_compiled)
        monkeypatch.setattr(card, "_capability", lambda: capability)
        monkeypatch.setattr(card, "_driver", lambda: driver)
        monkeypatch.setattr(card, "why_not", card_why_not)
        monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(()))
        monkeypatch.setattr(nvrtc, "_library", find_compiler)
        monkeypatch.setattr(nvrtc, "why_not", (lambda: None) if compiler else compiler_why_not)
        rows = explain_linear_scan(0.5, SPEC, platform="cuda")
        (chosen,) = (row.method for row in rows if row.chosen)
        return chosen, next(row for row in rows if row.method == "cuda").reason

    card_why_not, launch_why_not = card.why_not.__wrapped__, launch.why_not.__wrapped__
    find_compiler, compiler_why_not = nvrtc._library.__wrapped__, nvrtc.why_not.__wrapped__
    return has


def test_auto_takes_it_on_cards_that_can_or_are_not_known(gpu):
    for given in ({}, {"capability": (8, 0), "driver": (12, 3)}, {"capability": (12, 1)}):
        assert gpu(**given)[0] == "cuda"
    assert gpu(launcher="own")[0] == "cuda"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"compiler": False}, ["NVRTC", "pip install nvidia-cuda-nvrtc"]),
        ({"capability": (7, 5)}, ["8.0", "7.5"]),
        ({"driver": (12, 2)}, ["CUDA 12.2", "12.3", "update NVIDIA's driver"]),
        ({"launcher": "none"}, ["RNNSCAN_CUDA_LAUNCHER=none", "'xla' or 'own'"]),
        ({"launcher": "own", "compiled": False}, ["RNNSCAN_CUDA_LAUNCHER=own", "not compiled"]),
    ],
)
def test_what_is_missing_is_said_and_blocked_serves(gpu, given, words):
    chosen, reason = gpu(**given)
    assert chosen == "blocked"
    assert all(word in reason for word in [*words, "method='blocked'"])
    scan = jax.jit(lambda b: linear_scan(0.5, b, method="cuda")).trace(SPEC)
    with pytest.raises(ValueError, match=r"method='cuda' cannot serve this call: .*'blocked'"):
        scan.lower(lowering_platforms=("cuda",))


def test_an_exported_program_does_without(gpu):
    gpu()
    exported = jax.export.export(jax.jit(lambda b: linear_scan(0.5, b)), platforms=["cuda"])(SPEC)
    assert launch.TARGETS["xla"] not in exported.mlir_module()
    named = jax.jit(lambda b: linear_scan(0.5, b, method="cuda"))
    with pytest.raises(ValueError, match=r"an exported program .*'blocked'"):
        jax.export.export(named, platforms=["cuda"])(SPEC)


@pytest.mark.parametrize("name", [None, *launch.LAUNCHERS, "XLA", ""])
def test_the_launcher_is_that_of_the_environment(monkeypatch, name):
    if name is None:
        monkeypatch.delenv(launch.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(launch.VARIABLE, name)
    if name is None or name in launch.LAUNCHERS:
        assert launch.chosen.__wrapped__() == (name or "xla")
    else:
        with pytest.raises(
            ValueError, match=f"RNNSCAN_CUDA_LAUNCHER: got '{name}', .*'xla', 'own'"
        ):
            launch.chosen.__wrapped__()
