"""Whether the card and the driver of this machine, if it has any, can run the kernel.

What is not there counts as able: a program may be compiled for another machine.
"""

import ctypes
import functools

import jax

from rnnscan.scan.cuda_kernel.nvrtc import CUDA_VERSION

OLDEST = (8, 0)  # the first that copies into shared memory on its own
# The most shared memory of a block, where it is more than on the least of cards.
SHARED_KB: dict[tuple[int, ...], int] = {(8, 0): 163, (8, 7): 163}
SHARED_KB |= dict.fromkeys([(9, 0), (10, 0), (10, 3), (11, 0)], 227)
LEAST_SHARED_KB = 99


@functools.cache
def why_not() -> str | None:
    """Why the kernel cannot run here, and what to do; or nothing."""
    capability = _capability()
    if capability and capability < OLDEST:
        return (
            f"the card has compute capability {_dotted(capability)}, and it needs {_dotted(OLDEST)}"
        )
    driver = _driver()
    if driver and driver < CUDA_VERSION:
        return (
            f"the driver is one for CUDA {_dotted(driver)}, and it needs {_dotted(CUDA_VERSION)}: "
            "update NVIDIA's driver"
        )
    return None


def why_not_shared(wanted: int) -> str | None:
    """Why a block of the card cannot have so many bytes of shared memory, or nothing."""
    capability = _capability()
    if capability is None:
        return None
    most = SHARED_KB.get(capability, LEAST_SHARED_KB)
    if wanted <= most * 1024:
        return None
    return (
        f"it needs {-(-wanted // 1024)} KB of shared memory, and with compute capability "
        f"{_dotted(capability)} a block has {most} KB"
    )


def _capability() -> tuple[int, ...] | None:
    """Of the first card."""
    try:
        device = jax.devices("cuda")[0]
        return tuple(map(int, str(device.compute_capability).split(".")))
    except (RuntimeError, AttributeError, ValueError):
        return None


def _driver() -> tuple[int, int] | None:
    """The CUDA that the driver is for."""
    version = ctypes.c_int()
    try:
        code = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if code else (version.value // 1000, version.value % 1000 // 10)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
