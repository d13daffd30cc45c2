"""Whether the card of this machine, if there is one, can run the kernel."""

import functools

import jax

OLDEST = (8, 0)  # the first that copies into shared memory on its own


@functools.cache
def why_not() -> str | None:
    """Why it cannot; an unknown card counts as one that can: a program may be compiled for another."""
    try:
        device = jax.devices("cuda")[0]
    except RuntimeError:
        return None
    capability = str(getattr(device, "compute_capability", ""))
    try:
        found = tuple(map(int, capability.split(".")))
    except ValueError:
        return None
    if found >= OLDEST:
        return None
    wanted = ".".join(map(str, OLDEST))
    return f"it needs compute capability {wanted}, and {device.device_kind} has {capability}"
