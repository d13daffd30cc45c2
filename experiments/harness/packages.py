"""Other packages that experiments time: which are installed, and torch on the device that JAX uses.

torch is imported where it is used, never before; and its float32 products are products of float32.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.harness.timing import Contender

# Distributions and the modules they bring.
Packages = tuple[tuple[str, str], ...]
TORCH = ("torch", "torch")


def why_not(packages: Packages) -> str:
    """Why these packages cannot be timed beside JAX here; empty where they can.

    >>> why_not((("jax", "jax"), ("no-such", "no_such")))
    'no-such is not installed'
    """
    missing = [name for name, module in packages if not importlib.util.find_spec(module)]
    if missing:
        return f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed"
    if TORCH in packages and device() == "cuda" and not torch().cuda.is_available():
        return "torch sees no GPU, and JAX does"
    return ""


def versions(packages: Packages) -> str:
    """`torch 2.9.0`."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name, _ in packages)


def tried(make: Callable[[], Contender]) -> Contender | str:
    """What is made, once it has been called, if it is eager; or else what went wrong.

    Whatever fails in a package that is not ours costs its own figure alone.
    """
    try:
        it = make()
        if it.eager:
            jax.block_until_ready(it.function(*it.arguments))
    except Exception as error:
        lines = str(error).splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"
    return it


def torch() -> Any:
    # Threads that spin for work which another library has would slow whoever is timed next.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return importlib.import_module("torch")


def tensor(x: Any) -> Any:
    """A tensor on the device, of an array of numpy or JAX."""
    return torch().from_numpy(np.array(x)).to(device())


def array(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def finished(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors that returns when its results are there, computed without TF32."""

    @functools.wraps(function)
    def call(*tensors: Any) -> Any:
        with _float32():
            output = function(*tensors)
            if device() == "cuda":
                torch().cuda.synchronize()
        return output

    return call


def device() -> str:
    """As torch names it."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    backends = torch().backends.cudnn, torch().backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
