"""Where a measurement was made: everything that could change its numbers, and nothing that varies
from minute to minute, since the key of a run folder is made from it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_SOURCES = (".py", ".cc", ".cu", ".h")
_PACKAGES = ("jax", "jaxlib", "numpy", "optax", "scikit-learn", "matplotlib")


def describe() -> dict[str, Any]:
    """Versions, device, processor, memory, jax settings, git commit and a digest of our sources."""
    import jax  # here, since whoever reads a run folder needs no jax

    devices = jax.devices()
    return {
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "cpu": {"model": _cpu_model(), "count": _cpu_count(), "memory_bytes": memory_bytes()},
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "jax": {
            "x64": bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
            "matmul_precision": jax.config.jax_default_matmul_precision,  # pyright: ignore
            "variables": {
                name: value
                for name, value in sorted(os.environ.items())
                if name.startswith(("JAX_", "XLA_", "RNNSCAN_")) and "CACHE" not in name
            },
        },
        "git": _git(ROOT),
        "source": source_digest(ROOT),
    }


def device_name(environment: dict[str, Any]) -> str:
    """The device in a few words, for verdicts and captions."""
    device, cpu = environment["device"], environment["cpu"]
    if device["platform"] == "cpu":
        cores = "core" if cpu["count"] == 1 else "cores"
        return f"{cpu['model']}, {cpu['count']} {cores}"
    return f"{device['count']} x {device['kind']}" if device["count"] > 1 else device["kind"]


def source_digest(root: Path) -> str:
    """A hash of the code that measures; it also tells two uncommitted states apart."""
    digest = hashlib.sha256()
    for folder in ("rnnscan", "experiments"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in _SOURCES and path.is_file():
                digest.update(path.relative_to(root).as_posix().encode() + b"\0")
                digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


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
