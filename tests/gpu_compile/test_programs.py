"""Every program of the list compiles for an H100 and keeps to the laws for its memory."""

import pytest

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


def test_the_list_stays_short():
    """Three minutes on two cores."""
    assert len(PROGRAMS) <= 40
