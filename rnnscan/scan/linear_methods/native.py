"""`native`: a C++ loop over time, vectorised over everything else, on XLA's own threads.

The equations are those of `recurrence.py`; `../cpu_kernel/kernel.cc` says how they are computed.
The forward, tangent and backward pass are one sweep over memory each: 3, 5 and 5 words an element,
less what broadcasts. No operand is transposed or spelled out. Work T, or 2 T where time is split
between threads or into the lanes of a vector; span T over what it is split into.

Exactness: where time is split, products of decays are formed. One that overflows, or underflows and
would have counted, makes the kernel begin again step by step, so it is right wherever `sequential`
is, with one exception: decays whose product underflows within a segment and grows again, by
|a| > 1, lose what came before the segment.

Shortcoming: XLA sees one opaque operation. It is not fused with its neighbours, an exported program
cannot hold it (`auto` then takes `sequential`), and an array that is sharded automatically is
gathered first: use `jax.shard_map`.
"""

import jax
import numpy as np

from rnnscan.scan.cpu_kernel import library
from rnnscan.scan.table import Method

library.why_not()  # registers the kernel: a stored executable needs it before any scan is traced


def _call(target, results, *operands, time):
    operands = [x for x in operands if x is not None]
    call = jax.ffi.ffi_call(target, results, vmap_method=None)
    return call(*operands, axis=np.int64(time.axis), reverse=time.reverse)


def forward(product, time, a, b, h0, reset, *, shape, dtype):
    del product  # elementwise
    result = jax.ShapeDtypeStruct(shape, dtype)
    return _call("rnnscan_forward", result, a, b, h0, reset, time=time)


def tangent(product, time, a, h, h0, reset, da, db, dh0, *, shape, dtype):
    del product
    result = jax.ShapeDtypeStruct(shape, dtype)
    return _call("rnnscan_tangent", result, a, h, h0, da, db, dh0, reset, time=time)


def transpose(product, time, a, h, h0, reset, g, *, shape, dtype, decay_shape, state_shape):
    del product
    results = [jax.ShapeDtypeStruct(s, dtype) for s in (decay_shape, shape, state_shape)]
    if h is None:
        db, dh0 = _call("rnnscan_transpose_drive", results[1:], a, g, reset, time=time)
        return None, db, dh0
    return _call("rnnscan_transpose", results, a, h, h0, g, reset, time=time)


def why_not(case):
    if case.platform != "cpu":
        return "it is a kernel for CPUs"
    if case.exported:
        return "an exported program must run where rnnscan is not installed"
    if not isinstance(case.length * case.width, int):
        return "a size is a symbol (`jax.export`), and the kernel wants numbers"
    return library.why_not()


method = Method(
    name="native",
    summary="a C++ kernel: one sweep over memory, vectorised and threaded",
    forward=forward,
    tangent=tangent,
    transpose=transpose,
    why_not=why_not,
)
