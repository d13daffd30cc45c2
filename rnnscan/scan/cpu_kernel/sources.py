"""The C++ sources of the shared library, and the hash of them that it bears.

Standard library alone: `hatch_build.py` runs this file where there is neither JAX nor a package.
"""

import hashlib
import platform
from pathlib import Path

LAUNCHER = "../cuda_kernel/launcher.cc"  # for the host too, and wants the same headers


def sources(folder: Path) -> list[str]:
    """What is compiled or included, relative to `folder`; hidden files are an editor's own."""
    found = (path.relative_to(folder) for end in ("h", "cc") for path in folder.rglob(f"*.{end}"))
    shown = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    return sorted([LAUNCHER, *(path.as_posix() for path in shown)])


def source_hash(folder: Path) -> str:
    """What a library is compiled from, and for: a file that is renamed counts as another."""
    digest = hashlib.sha256(platform.machine().encode())
    for source in sources(folder):
        digest.update(f"\n{source}\n".encode())
        digest.update((folder / source).read_bytes())
    return digest.hexdigest()
