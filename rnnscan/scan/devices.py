"""Kinds of device whose limits are known: the seconds of one of each that `cost.py` counts.

`auto` reads them when a program is lowered for such a device; nothing is measured at a call. A kind
that is not here keeps the rule of its platform. `python -m experiments run machine` measures a row.
"""

import functools

import jax

from rnnscan.scan.cost import Cost

# Names as JAX has them (`device_kind`). What others report: the bandwidth of a copy, products of
# float32, a launch and a turn of a loop in XLA's programs. Not measured here yet.
_H100 = Cost(launches=3e-6, steps=8e-6, bytes=1 / 3.0e12, flops=1 / 50e12)
DEVICES: dict[str, Cost] = {
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H200": Cost(launches=3e-6, steps=8e-6, bytes=1 / 4.3e12, flops=1 / 50e12),
}


@functools.cache
def kind_on(platform: str) -> str:
    """The kind of this platform's first device here; empty where there is none."""
    try:
        return jax.devices(platform)[0].device_kind
    except RuntimeError:
        return ""


def known(kind: str) -> Cost | None:
    """The seconds of a kind of device, or nothing."""
    return DEVICES.get(kind)
