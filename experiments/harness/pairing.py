"""Which runs are compared with which: of two folders of results/, those of one experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.harness import run_folder, visit
from experiments.harness.files import RunFolderError
from experiments.harness.rows import flat
from experiments.harness.run_folder import RunFolder


@dataclass(frozen=True)
class Pairing:
    """Runs of one experiment side by side, the reference first, and what was left out, in words."""

    groups: tuple[tuple[RunFolder, ...], ...]
    left_out: tuple[str, ...]


def pair(folders: Sequence[Path]) -> Pairing:
    """The runs of the first folder, each with that of every other which is nearest in its config.

    Raises a RunFolderError where there is nothing to compare.
    """
    _check(folders)
    held, left_out = [], []
    for folder in folders:
        runs, broken = _readable(folder)
        held.append(runs)
        left_out += broken
    # A visit and one of its own runs are two folders, and yet that run would meet itself.
    _check_once([run.path for runs in held for run in runs])
    nearest = [_nearest(held[0], others) for others in held[1:]]
    groups = [
        (reference, *(found[reference.path] for found in nearest if reference.path in found))
        for reference in held[0]
    ]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        raise RunFolderError(_nothing_shared(folders, held))
    taken = {run.path for group in groups for run in group}
    left_out += [
        f"{run.path}: no other run of {run.title} to compare it with"
        for runs in held
        for run in runs
        if run.path not in taken
    ]
    return Pairing(tuple(groups), tuple(left_out))


def _nearest(references: Sequence[RunFolder], others: Sequence[RunFolder]) -> dict[Path, RunFolder]:
    """The partner of each reference by its path; the nearest find each other first."""
    pairs = [
        (_distance(reference, other), reference, other)
        for reference in references
        for other in others
        if reference.title == other.title
    ]
    found: dict[Path, RunFolder] = {}
    for _, reference, other in sorted(pairs, key=lambda pair: pair[0]):
        if reference.path not in found and other not in found.values():
            found[reference.path] = other
    return found


def differing(facts: Sequence[dict]) -> list[tuple[str, tuple]]:
    """Dotted names that do not mean the same in all, with what they mean in each; "" where absent.

    >>> differing([{"seed": 0, "task": {"size": 8}}, {"seed": 0, "task": {"size": 16}}])
    [('task.size', (8, 16))]
    """
    tables = [dict(flat(each)) for each in facts]
    names = dict.fromkeys(name for table in tables for name in table)
    values = {name: tuple(table.get(name, "") for table in tables) for name in names}
    return [(name, each) for name, each in values.items() if any(v != each[0] for v in each)]


def _check(folders: Sequence[Path]) -> None:
    if len(folders) < 2:
        given = f"{folders[0]}: " if folders else ""
        raise RunFolderError(
            f"{given}compare takes two folders or more: run folders, or folders of results/"
        )
    _check_once(folders)


def _check_once(folders: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise RunFolderError(f"{folder}: given twice; should be two different folders")
        seen.add(folder.resolve())


def _readable(folder: Path) -> tuple[list[RunFolder], list[str]]:
    """The runs of a folder; one that cannot be read hides no other of the same visit."""
    if not visit.is_visit(folder):
        run = run_folder.find(folder)
        _try(run)
        return [run], []
    found, broken = [], []
    for run in visit.runs(folder):
        try:
            _try(run)
            found.append(run)
        except RunFolderError as error:
            broken.append(str(error))
    return found, broken


def _try(run: RunFolder) -> None:
    _ = run.title, run.environment, run.records()


def _distance(left: RunFolder, right: RunFolder) -> int:
    return len(differing([left.config, right.config]))


def _nothing_shared(folders: Sequence[Path], held: Sequence[Sequence[RunFolder]]) -> str:
    said = [
        f"{folder} holds {', '.join(sorted({run.title for run in runs})) or 'no readable run'}"
        for folder, runs in zip(folders, held, strict=True)
    ]
    return f"nothing to compare: {'; '.join(said)}; should be runs of one experiment"
