"""What a program is made for: found once, for every scan."""

from typing import Any, NamedTuple

import jax

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class Target(NamedTuple):
    """A platform, of `PLATFORMS` or "other"; `exported`: the program is stored (`jax.export`)."""

    platform: str
    exported: bool = False


def named(platform: str | None) -> Target:
    """The platform of this name, or the one in use; JAX calls a CUDA device "gpu"."""
    platform = platform or jax.default_backend()
    platform = "cuda" if platform == "gpu" else platform
    if platform not in PLATFORMS:
        known = ", ".join(map(repr, PLATFORMS))
        raise ValueError(f"platform: got {platform!r}, expected one of {known}")
    return Target(platform)


def of_operand(operand: Any) -> Target:
    """Where an array lies: for a primitive that is evaluated outside of any program."""
    devices = operand.devices() if isinstance(operand, jax.Array) else ()
    platform = next(iter(devices)).platform if devices else jax.default_backend()
    return Target("cuda" if platform == "gpu" else platform)
