"""Every program of the list compiles for an H100 and keeps to the laws for its memory."""

import re

import jax
import jax.numpy as jnp
import pytest

from rnnscan import linear_scan
from rnnscan.scan.cpu_kernel import library
from rnnscan.scan.cuda_kernel import launch, nvrtc
from tests.gpu_compile.h100 import compiled, why_not
from tests.gpu_compile.programs import programs

PROGRAMS = programs()


@pytest.mark.skipif(why_not() is not None, reason=f"no GPU compiler: {why_not()}")
@pytest.mark.parametrize("name", PROGRAMS)
def test_compiles_within_its_memory(name):
    program = PROGRAMS[name]()
    memory = compiled(program.function, *program.arguments).memory_analysis()
    assert memory.temp_size_in_bytes <= program.temporaries
    assert memory.argument_size_in_bytes <= program.given


@pytest.mark.skipif(
    bool(why_not() or nvrtc.why_not() or library.why_not()),
    reason=f"{why_not() or nvrtc.why_not() or library.why_not()}",
)
def test_the_launcher_of_our_own_is_handed_every_operand(monkeypatch):
    """One buffer as two operands, in a mode that writes to a third."""
    assert library.why_no_launcher() is None
    monkeypatch.setattr(launch, "chosen", lambda: "own")
    jax.clear_caches()  # programs of another launcher
    x = jax.ShapeDtypeStruct((1, 65536, 1024), jnp.float32)
    program = compiled(lambda x: linear_scan(x, x, axis=1, method="cuda"), x).as_text()
    jax.clear_caches()
    (call,) = re.findall(r"custom-call\(([^)]*)\).*", program)
    assert f'custom_call_target="{library.CUDA_TARGET}"' in program
    assert launch.TARGETS["xla"] not in program
    decay, drive, _, messages = re.findall(r"%[\w.-]+", call)
    assert decay == drive != messages


def test_the_list_stays_short():
    """Three minutes on two cores."""
    assert len(PROGRAMS) <= 46
