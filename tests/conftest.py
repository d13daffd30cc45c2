"""Strictness shared by every test: no silent rank or dtype promotion (warnings are errors by pyproject.toml)."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: no second layer of threads
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several workers, one GPU
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(params=[False, True], ids=["x32", "x64"])
def x64(request):
    """Runs the test without and with 64-bit types; its value says which."""
    with jax.enable_x64(request.param):
        yield request.param


def _has_gpu() -> bool:
    try:
        return bool(jax.devices("gpu"))
    except RuntimeError:
        return False


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("needs a GPU, and JAX sees none here")
