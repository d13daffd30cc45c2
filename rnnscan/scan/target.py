"""What a program is made for: found once, for every scan."""

from typing import Any, Literal, NamedTuple, get_args

import jax

from rnnscan.scan import devices
from rnnscan.scan.arguments import nearest

Platform = Literal["cpu", "cuda", "rocm", "tpu"]
PLATFORMS = get_args(Platform)


class Target(NamedTuple):
    """A platform, of `PLATFORMS` or "other"; `exported`: the program is stored (`jax.export`)."""

    platform: str
    exported: bool = False

    @property
    def device(self) -> str:
        """The kind of device that the program will run on, where that can be known."""
        accelerator = self.platform in PLATFORMS and self.platform != "cpu"
        return devices.kind_on(self.platform) if accelerator and not self.exported else ""


def named(platform: Platform | None) -> Target:
    """The platform of this name, or the one in use; JAX calls a CUDA device "gpu"."""
    name = platform or jax.default_backend()
    name = "cuda" if name == "gpu" else name
    if name not in PLATFORMS:
        known = ", ".join(map(repr, PLATFORMS))
        raise ValueError(
            f"platform: got {name!r}, expected one of {known}{nearest(name, PLATFORMS)}"
        )
    return Target(name)


def of_operand(operand: Any) -> Target:
    """Where an array lies: for a primitive that is evaluated outside of any program."""
    devices = operand.devices() if isinstance(operand, jax.Array) else ()
    platform = next(iter(devices)).platform if devices else jax.default_backend()
    return Target("cuda" if platform == "gpu" else platform)
