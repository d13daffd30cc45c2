"""The records of runs as flat rows, for tools that know nothing of points: pandas, spreadsheets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.harness import results, run_folder, visit
from experiments.harness.run_folder import RunFolder

_OF_THE_FILE = ("point", *results.OF_THE_FILE)


def read(folder: str | os.PathLike[str], *more: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Every record of the given folders as one flat dict, ready for `pandas.DataFrame`.

    The fields of the point and those of the record stand side by side, nested ones under dotted
    names. Where both have a field of one name, the point's is `point.<name>`. Lists stay lists,
    nan stays nan. Two columns are added: `experiment`, and `run`, the name of the run folder; a
    field of a record that has such a name is `record.<name>`.

    Args:
      folder: a run folder, or a folder of results/, of which all runs are read.
      more: further ones.

    >>> rows = read("results/amd-epyc-2-cores-2026-11-27")
    >>> sorted({row["experiment"] for row in rows})
    ['machine', 'scan_limits', 'wallclock']
    >>> rows[0]["measure"], rows[0]["bytes"], rows[0]["contender"]
    ('stream', 262144, 'limit: stream a + b')
    """
    return [
        row
        for path in map(Path, (folder, *more))
        for run in (visit.runs(path) if visit.is_visit(path) else [run_folder.find(path)])
        for row in rows_of(run)
    ]


def rows_of(run: RunFolder) -> list[dict[str, Any]]:
    """The flat records of one run folder."""
    names = {"experiment": run.title, "run": run.path.resolve().name}
    rows = []
    for record in run.records():
        point = point_fields(record)
        own = own_fields(record)
        merged = {f"point.{key}" if key in own else key: value for key, value in point.items()}
        merged |= own
        fields = {f"record.{key}" if key in names else key: v for key, v in merged.items()}
        rows.append({**names, **fields})
    return rows


def point_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """The point, flat; a point within a point (of a composite run) gives its fields unprefixed.

    >>> point_fields({"point": {"part": "recall", "point": {"layer": "LRU", "seed": 0}}})
    {'part': 'recall', 'layer': 'LRU', 'seed': 0}
    """
    point = record["point"]
    if not isinstance(point, Mapping):
        return {"point": point}
    if isinstance(inner := point.get("point"), Mapping):
        point = {**{key: value for key, value in point.items() if key != "point"}, **inner}
    return dict(flat(point))


def own_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the record says itself, flat."""
    return dict(flat({key: value for key, value in record.items() if key not in _OF_THE_FILE}))


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and what they hold; a list of tables has numbers in its names.

    >>> dict(flat({"seed": 0, "layers": [{"kind": "LRU"}], "task": {"sizes": [1, 2]}}))
    {'seed': 0, 'layers.0.kind': 'LRU', 'task.sizes': [1, 2]}
    """
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = dict(enumerate(value))
    if not (isinstance(value, Mapping) and (value or not name)):
        yield name, value
        return
    for key, inner in value.items():
        yield from flat(inner, f"{name}.{key}" if name else str(key))
