"""Where a measurement was made: what could change its numbers, and what tells where it came from.

Nothing in it varies from minute to minute, since the key of a run folder is made from it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from experiments.harness import sources

_PACKAGES = ("rnnscan", "jax", "jaxlib", "numpy", "optax", "scikit-learn", "matplotlib")
# What some experiments time ours beside.
_PEERS = ("torch", "flax", "accelerated-scan", "mambapy", "jax-linear-attention")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# No number depends on these: the digest of the sources says what the commit and version would.
_CHANGES_NOTHING = ("git", "packages.rnnscan", "packages.matplotlib")
_CHANGES_TIMES = (
    *("system", "threads", "cpu.count", "cpu.memory_bytes"),
    *(f"packages.{peer}" for peer in _PEERS),
)


def describe(name: str = "") -> dict[str, Any]:
    """Versions, device, processor, its kernel, memory, jax settings, git commit, digest of sources.

    The sources are those of the experiment of that name; of all experiments without one.
    """
    import jax  # here, since whoever reads a run folder needs no jax

    from rnnscan.scan.cpu_kernel import library

    devices = jax.devices()
    return {
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "cpu": {"model": _cpu_model(), "count": _cpu_count(), "memory_bytes": memory_bytes()},
        # It also launches the kernels of a GPU.
        "kernel": None
        if library.why_not()
        else {"instruction_set": library.instruction_set(), "compiler": library.compiler()},
        "threads": {name: os.environ[name] for name in _THREADS if name in os.environ},
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {
            name: version for name in (*_PACKAGES, *_PEERS) if (version := _version(name))
        },
        "jax": {
            "x64": bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
            "matmul_precision": jax.config.jax_default_matmul_precision,  # pyright: ignore
            "variables": {
                name: value
                for name, value in sorted(os.environ.items())
                if name.startswith(("JAX_", "XLA_", "RNNSCAN_")) and "CACHE" not in name
            },
        },
        "git": _git(sources.ROOT),
        "source": sources.digest(name),
    }


def that_measures(facts: dict[str, Any], *, times: bool) -> dict[str, Any]:
    """What of an environment can change a number; less where no number is a time."""
    left = {key: dict(x) if isinstance(x, dict) else x for key, x in facts.items()}
    for key in _CHANGES_NOTHING if times else (*_CHANGES_NOTHING, *_CHANGES_TIMES):
        path, _, name = key.rpartition(".")
        table = left.get(path) if path else left
        if isinstance(table, dict):  # what was read from a file may be anything
            table.pop(name, None)
    return left


def device_name(environment: dict[str, Any]) -> str:
    """The device in a few words, for verdicts and captions."""
    device, cpu = environment["device"], environment["cpu"]
    if device["platform"] == "cpu":
        cores = "core" if cpu["count"] == 1 else "cores"
        return f"{cpu['model']}, {cpu['count']} {cores}"
    return f"{device['count']} x {device['kind']}" if device["count"] > 1 else device["kind"]


def _git(root: Path) -> dict[str, Any]:
    top, commit = (
        _run_git(root, "rev-parse", "--show-toplevel"),
        _run_git(root, "rev-parse", "HEAD"),
    )
    # An installed copy may lie inside somebody else's repository.
    if not top or not commit or Path(top).resolve() != root:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(_run_git(root, "status", "--porcelain"))}


def _run_git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        info = ""
    named = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def _cpu_count() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """The physical memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
