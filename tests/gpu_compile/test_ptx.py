"""The CUDA kernels' programs, by NVIDIA's compiler and assembler: what nothing else checks.

XLA hands PTX to the driver as it is, at the first launch. Here every map, type, layout and mode is
assembled for the card: the entry is there with a parameter for each buffer, nothing spills, and
copies are as wide as the layout allows.
"""

import re
import subprocess

import jax.numpy as jnp
import pytest

from rnnscan.scan.cuda_kernel import cells, launch, nvrtc
from rnnscan.scan.cuda_kernel.plan import WIDEST, plan
from rnnscan.scan.cuda_kernel.problem import KINDS, TYPES, Launch
from rnnscan.scan.linear_method import Problem
from rnnscan.scan.product import elementwise
from rnnscan.scan.time_axis import TimeAxis
from tests.gpu_compile import h100

pytestmark = pytest.mark.skipif(
    bool(h100.why_not() or nvrtc.why_not()), reason=f"{h100.why_not() or nvrtc.why_not()}"
)

# (shape, axis of time): many chains, few long ones side by side, some of either, time last.
LAYOUTS = {
    "wide": ((8, 4096, 4096), 1),
    "long": ((1, 65536, 1024), 1),
    "odd": ((3, 70001, 5), 1),
    "rows": ((4096, 8192), 1),
    "ragged rows": ((300, 1001), 1),
    "one chain": ((1 << 20,), 0),
    "broadcast": ((2, 3000, 7, 24), 1),
}
MODES = {"wide": "walk", "long": "chained", "odd": "apply", "rows": "walk", "one chain": "apply"}
# Of either of a constant decay, summed over time, and resets; pairwise with the layouts.
CONSTANT = {"rows", "odd"}
RESET = {"long", "ragged rows", "broadcast"}
PAIRS = [
    (kind, dtype, layout)
    for i, kind in enumerate(KINDS)
    for j, dtype in enumerate(TYPES)
    for k, layout in enumerate(LAYOUTS)
    if dtype == "float32" or (i + j + k) % 3 == 0
]


def launches(kind: str, dtype: str, layout: str) -> tuple[Launch, ...]:
    shape, axis = LAYOUTS[layout]
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    a = one if layout in CONSTANT else shape
    a = (*a[:-1], 1) if layout == "broadcast" else a
    shapes = {"decay": a, "drive": shape, "out": shape}
    if kind != "transpose":
        shapes["state"] = one
    if kind != "forward":
        shapes |= {"before": shape, "first": one}
        summed = layout in CONSTANT or layout == "broadcast"
        shapes["decay_tangent" if kind == "tangent" else "d_decay"] = one if summed else a
    if layout in RESET:
        shapes["reset"] = (shape[axis], *(1,) * (len(shape) - axis - 1))
        shapes["reset"] = (*(1,) * axis, *shapes["reset"])
    time = TimeAxis(axis, shape[axis], layout == "ragged rows")
    return plan(kind, Problem(elementwise, time, shape, jnp.dtype(dtype)), shapes)


def assembled(text: str, folder) -> str:
    """What the assembler says of a program for the card, its instructions included."""
    source, made = folder / "kernel.ptx", folder / "kernel.cubin"
    source.write_text(text)
    done = subprocess.run(
        [h100.ptxas(), "--verbose", "--gpu-name=sm_90", str(source), "-o", str(made)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def registers_of(text: str, entry: str, buffers: int, folder) -> int:
    """Of a program with this entry, which has a parameter for each buffer and spills nothing."""
    entries = re.findall(r"\.visible \.entry (\w+)\(([^)]*)\)", text)
    assert [name for name, _ in entries] == [entry]
    assert entries[0][1].count(".param .u64") == buffers
    said = assembled(text, folder)
    assert re.findall(r"(\d+) bytes (?:stack|spill \w+)", said) == ["0"] * 3
    return int(re.search(r"Used (\d+) registers", said)[1])


@pytest.mark.parametrize(("kind", "dtype", "layout"), PAIRS, ids=str)
def test_every_program_assembles_without_spills(kind, dtype, layout, tmp_path):
    made = launches(kind, dtype, layout)
    if layout in MODES and dtype == "float32":
        assert made[-1].mode == MODES[layout]
    for what in made:
        text = nvrtc.ptx(launch.source(what))
        buffers = len(what.operands) + len(what.results)
        registers = registers_of(text, launch.entry(what), buffers, tmp_path)
        assert registers * launch.LEAST_THREADS <= 65536  # a quarter of a core's threads
        # Operands that lie side by side are copied 16 bytes at a time.
        width = what.vector * jnp.dtype(dtype).itemsize
        if layout in ("wide", "long", "rows") and what.view("drive").width == what.vector:
            assert width == WIDEST or (layout, dtype[-2:]) == ("wide", "16")
        if width == WIDEST:
            assert "cp.async.cg.shared.global" in text
            assert ("st.global.v4.u32" in text) == (what.mode != "reduce")


# (activation, H, sequences, whether it is padded and has resets): H of few and of all chunks of 32,
# and blocks of 1, 2 and 4 sequences.
CELLS = [
    ("tanh", 256, 8, False, False),
    ("tanh", 256, 200, True, True),
    ("tanh", 250, 1000, True, False),
    ("relu", 224, 132, False, True),
    ("relu", 192, 1000, True, True),
    ("tanh", 160, 200, False, False),
    ("tanh", 128, 1000, False, True),
    ("tanh", 33, 3, True, True),
]


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("activation", "hidden", "batch", "padded", "resets"), CELLS)
def test_every_cell_keeps_its_weights(
    activation, hidden, batch, padded, resets, backward, tmp_path
):
    what = cells.plan(
        activation,
        (batch, 1000, hidden),
        backward=backward,
        reverse=padded,
        padded=padded,
        resets=resets,
    )
    text = nvrtc.ptx(what.source)
    buffers = len(what.operands) + len(what.results)
    registers = registers_of(text, what.entry, buffers, tmp_path)
    assert registers * what.block <= 65536
    assert registers >= 16 * what.kept  # the weights are there
    assert what.shared_bytes <= 163 * 1024  # of the oldest card that it is for
    assert "ld.shared.v4" in text
    assert ".local" not in text


@pytest.mark.parametrize("shape", [(64, 1 << 18, 256), (512, 1 << 16, 256), (512, 1 << 16, 192)])
def test_cells_that_have_more_numbers_than_fit_in_an_int_assemble(shape, tmp_path):
    what = cells.plan("tanh", shape, backward=True, reverse=False, padded=True, resets=True)
    assert "RNNSCAN_INDEX int64_t" in what.source
    registers_of(nvrtc.ptx(what.source), what.entry, 8, tmp_path)


def test_what_does_not_compile_says_the_way_out():
    with pytest.raises(nvrtc.Failure, match=r"(?s)does not compile; method='blocked'.*undefined"):
        nvrtc.ptx("int x = undefined;")
