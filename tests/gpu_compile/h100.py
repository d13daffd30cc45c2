"""An H100 that is described, not there: what compiles a program for it on any machine.

XLA asks a device for no more than `h100.txtpb` says, and assembles its kernels with ptxas. JAX's
CUDA plugin brings the compiler; it wants neither a driver nor cuDNN nor cuBLAS as long as
JAX_PLATFORMS=cpu keeps it from looking for a GPU.
"""

import functools
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

PLUGIN = "jax_cuda13_plugin"
DESCRIPTION = Path(__file__).with_name("h100.txtpb")
TOOLKITS = ("/usr/local/cuda/bin", "/opt/cuda/bin")


@functools.cache
def why_not() -> str | None:
    """What is missing here, if anything is."""
    plugin = importlib.util.find_spec(PLUGIN)
    if plugin is None or plugin.origin is None:
        return "JAX's CUDA plugin is not installed; `make gpu-compile` has an environment with it"
    if ptxas() is None:
        return "XLA finds no ptxas, of CUDA's toolkit or of the wheel nvidia-cuda-nvcc"
    if jax.config.jax_platforms != "cpu":
        return "JAX_PLATFORMS is not cpu, and with others the plugin wants a GPU and its libraries"
    return None


def ptxas() -> str | None:
    """The assembler that XLA takes: of the path, of the wheels beside the plugin, of a toolkit."""
    plugin = importlib.util.find_spec(PLUGIN)
    beside = (
        [Path(plugin.origin).parents[1] / "nvidia/cu13/bin"] if plugin and plugin.origin else []
    )
    places = (None, *map(str, beside), *TOOLKITS)
    return next(filter(None, (shutil.which("ptxas", path=place) for place in places)), None)


@functools.cache
def _sharding() -> SingleDeviceSharding:
    described = topologies.get_topology_desc(
        platform="cuda",
        topology_name="h100",
        topology="1x1x1",
        target_config=DESCRIPTION.read_text(),
    )
    return SingleDeviceSharding(described.devices[0])


def compiled(function: Callable[..., Any], *args: Any) -> jax.stages.Compiled:
    """The program of `function` for arguments of which shapes and dtypes suffice."""
    jitted = jax.jit(function, in_shardings=_sharding(), out_shardings=_sharding())
    versions = importlib.import_module(f"{PLUGIN}._versions")
    # Lowering `eig` asks cuSOLVER, which is not here, for its version: say, that of the plugin.
    with mock.patch.object(versions, "cusolver_get_version", versions.cusolver_build_version):
        return jitted.trace(*args).lower(lowering_platforms=("cuda",)).compile()


if __name__ == "__main__":
    raise SystemExit(why_not())
