"""The source files that an experiment is made of: what a number of it can depend on.

They are read, and nothing is imported. `name` is that of an experiment here, or the path of a
folder of one's own: a name is joined to `experiments/`, and an absolute path stays what it is.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments"
_SUFFIXES = (".py", ".cc", ".cu", ".h")


def of(name: str) -> tuple[Path, ...]:
    """The files below `experiments/` that an experiment imports, directly or by way of others.

    Of an experiment of one's own, all files of its folder too, but for hidden ones such as .venv,
    and what it imports of the folder that it lies in, which is on the path of imports then.
    Empty where there is none.
    """
    folder = FOLDER / name
    own = folder.parent != FOLDER
    waiting = _shown(folder) if own else [folder / "experiment.py"]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found.add(path)
            waiting += _imported(path, folder.parent if own else None)
    return tuple(sorted(found))


def times(name: str) -> bool:
    """Whether an experiment times anything: it imports `experiments.harness.timing`."""
    return FOLDER / "harness" / "timing.py" in of(name)


def digest(name: str = "") -> str:
    """A hash of rnnscan and of what an experiment imports; without a name, of all experiments.

    It also tells two uncommitted states apart.
    """
    return _hash([*_below(ROOT / "rnnscan"), *(of(name) if name else _below(FOLDER))])


def _shown(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*.py")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in _SUFFIXES and p.is_file())


def _hash(paths: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        found.update(name.as_posix().encode() + b"\0")
        found.update(path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def _imported(path: Path, beside: Path | None) -> Iterator[Path]:
    """Where what a file imports would lie; of `experiments.a.b` the packages on the way as well.

    beside: the folder that holds one of one's own.
    """
    for level, parts in _imports(path.read_bytes()):
        here = ROOT if parts[0] == FOLDER.name else beside
        base = path.parents[level - 1] if level else here
        if base:
            for depth in range(1, len(parts) + 1):
                module = base.joinpath(*parts[:depth])
                yield from (module.with_suffix(".py"), module / "__init__.py")


@functools.lru_cache(maxsize=512)  # by the text: a sweep asks for the same files at every point
def _imports(text: bytes) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """(level, dotted name in parts) of each import, those within functions too."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):  # whoever imports it is told
        return ()
    plain = [(0, a.name) for node in nodes if isinstance(node, ast.Import) for a in node.names]
    from_ = [
        (node.level, f"{node.module}.{a.name}" if node.module else a.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for a in node.names
    ]
    return tuple((level, tuple(name.split("."))) for level, name in [*plain, *from_])
