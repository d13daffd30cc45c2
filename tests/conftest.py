"""Strictness shared by every test: no silent promotion of ranks or dtypes, one thread per worker.

Warnings are errors too; pyproject.toml says so.

XLA compiles quickly here (tests/quick.py), unless RNNSCAN_OPTIMISED is set, as `.ci/run` does for
the laws of the scans. The CPU kernels, which are compiled at the install, and other processes that
do not ask for the same are as ever.
"""

import gc
import os

from tests import quick

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: no second layer of threads
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several workers, one GPU
os.environ.setdefault("MPLBACKEND", "Agg")
CPU_DEVICES = "--xla_force_host_platform_device_count=8"  # for shard_map
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {CPU_DEVICES}"
OF_OTHERS = os.environ["XLA_FLAGS"]
if "RNNSCAN_OPTIMISED" not in os.environ:
    os.environ["XLA_FLAGS"] += f" {quick.FLAGS}"

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.devices()  # reads the flags
os.environ["XLA_FLAGS"] = OF_OTHERS

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# An example may compile, which no deadline can foresee; the same examples in every run.
settings.register_profile(
    "rnnscan",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("rnnscan")


@pytest.fixture(params=[False, True], ids=["x32", "x64"])
def x64(request):
    """Runs the test without and with 64-bit types; its value says which."""
    with jax.enable_x64(request.param):
        yield request.param


def pytest_collection_finish():
    """What is there before the first test stays: the collector need not walk it, nor so often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _has_gpu() -> bool:
    try:
        return bool(jax.devices("gpu"))
    except RuntimeError:
        return False


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("needs a GPU, and JAX sees none here")
