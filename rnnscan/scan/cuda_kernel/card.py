"""Whether the card and the driver of this machine, if it has any, can run the kernel.

What is not there counts as able: a program may be compiled for another machine.
"""

import ctypes
import functools

import jax

from rnnscan.scan.cuda_kernel.nvrtc import CUDA_VERSION

OLDEST = (8, 0)  # the first that copies into shared memory on its own


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
