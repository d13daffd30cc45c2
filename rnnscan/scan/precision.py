"""In what precision products are computed, in what dtype a state is carried, and what counts steps:
once for all.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def matmul_precision() -> str:
    """Of every product of matrices: what `jax.default_matmul_precision` says, else the highest.

    On a GPU the default (TF32) keeps 10 bits, an error that a recurrence carries from step to step.
    """
    chosen = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return chosen or "highest"


def carry_dtype(dtype: DTypeLike) -> np.dtype:
    """Of a state between steps: float32 for float16 and bfloat16, else `dtype` itself."""
    dtype = jnp.dtype(dtype)
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


LONG = 2**30  # beyond it a count of steps, or the end of their last chunk, may not be an int32


def is_long(sizes: Iterable[int]) -> bool:
    """Whether any of them is known to be so large that what counts up to it needs 64 bits."""
    return any(isinstance(n, int) and n > LONG for n in sizes)


def is_double(dtype: DTypeLike) -> bool:
    """Whether numbers of this dtype, or the two parts of one, have 64 bits."""
    return bool(jnp.issubdtype(dtype, jnp.inexact)) and jnp.finfo(dtype).bits == 64
