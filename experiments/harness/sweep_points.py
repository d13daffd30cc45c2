"""What a sweep runs: its axes, their points, and every fault before anything runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.harness import config
from experiments.harness.config import Config, ConfigError
from experiments.harness.files import canonical

FINISHED = "finished"  # the state of a point; any other says why it is not
MANY = 10_000

Axes = dict[str, list[Any]]


@dataclass(frozen=True)
class SweepPoint:
    """One config of a sweep: the values that it has on the axes, and what they resolve to."""

    values: Mapping[str, Any]
    config: Config

    def __str__(self) -> str:
        return label(self.values)


def label(values: Mapping[str, Any]) -> str:
    """`layer=LRU seed=1`.

    >>> label({"layer": "LRU", "lengths": [64, 128]})
    'layer=LRU lengths=[64, 128]'
    """
    return " ".join(f"{key}={shown(value)}" for key, value in values.items())


def shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def counted(count: int, thing: str) -> str:
    """
    >>> counted(1, "point"), counted(2, "point")
    ('1 point', '2 points')
    """
    return f"{count} {thing}{'' if count == 1 else 's'}"


def parse(changes: Iterable[str]) -> tuple[Axes, list[str]]:
    """The axes, `key=[v1,v2]`, and what is fixed for all points, `key=value`.

    >>> parse(["layer=[RNN, LRU]", "lengths=[[64], [128]]", "seeds=2"])
    ({'layer': ['RNN', 'LRU'], 'lengths': [[64], [128]]}, ['seeds=2'])
    """
    axes: Axes = {}
    fixed, faults = {}, []
    for change in changes:
        key, _, value = change.partition("=")
        key, value = ".".join(part.strip() for part in key.split(".")), value.strip()
        if key in axes or key in fixed:
            faults.append(f"{key}: named twice; should be one axis or one value")
        elif not value.startswith("["):
            fixed[key] = change
        else:
            try:
                axes[key] = _items(change, key, value)
            except ConfigError as error:
                faults += error.faults
                continue
            if not axes[key]:
                faults.append(f"{key} = []: an axis without values; should have one at least")
    faults += [
        f"{key}: lies within {axis}, of which each value is a whole; should stand in these"
        for axis in axes
        for key in (*axes, *fixed)
        if key.startswith(f"{axis}.")
    ]
    if not axes and not faults:
        faults.append("no axis: should name one at least, for instance 'seeds=[1,2,4]'")
    if faults:
        raise ConfigError(faults, "of the sweep")
    return axes, list(fixed.values())


def resolve(
    model: type[Config],
    values: Mapping[str, Any],
    axes: Axes,
    fixed: Sequence[str],
    *,
    zipped: bool = False,
    many: bool = False,
) -> list[SweepPoint]:
    """All points, each with a valid config, or one ConfigError with every fault of every point."""
    lengths = {key: len(items) for key, items in axes.items()}
    if zipped and len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {count}" for key, count in lengths.items())
        raise ConfigError([f"--zip: {counts} values; should be equally many"], "of the sweep")
    rows = zip(*axes.values(), strict=True) if zipped else itertools.product(*axes.values())
    if not many and (rows_first := list(itertools.islice(rows, MANY + 1))):
        if len(rows_first) > MANY:
            raise ConfigError([f"more than {MANY:,} points: say --yes to run them"], "of the sweep")
        rows = rows_first
    points: list[SweepPoint] = []
    at: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for row in rows:
        chosen = dict(zip(axes, row, strict=True))
        name = label(chosen)
        overrides = [*fixed, *(f"{key}={config.as_toml(value)}" for key, value in chosen.items())]
        try:
            point = SweepPoint(chosen, config.resolve(model, values, overrides))
        except ConfigError as error:
            for fault in dict.fromkeys(error.faults):
                at.setdefault(fault + _hint(fault, axes), []).append(name)
            continue
        key = canonical(point.config.model_dump(mode="json"))
        if key in seen:
            at.setdefault(f"the same config as {seen[key]}", []).append(name)
        seen.setdefault(key, name)
        points.append(point)
    if at:
        raise ConfigError([f"{_where(names)}: {fault}" for fault, names in at.items()], "of points")
    return points


def _hint(fault: str, axes: Axes) -> str:
    """How an axis of lists is written, where one list was meant."""
    key, _, said = fault.partition(" = ")
    if key not in axes or not said.endswith(": should be a valid array"):
        return ""
    return f"; a sweep over lists reads {key}=[[...], [...]], and for one list {key}=[[...]]"


def _where(names: Sequence[str]) -> str:
    others = len(names) - 1
    return names[0] + (f" and {counted(others, 'other')}" if others else "")


def _items(change: str, key: str, value: str) -> list[Any]:
    words = [word.strip() for word in value[1:-1].split(",")]
    words = words if words[-1] else words[:-1]  # a comma at the end, as TOML has it
    try:
        return config.parse_override(change)[1]
    except ConfigError:
        is_plain = value.endswith("]") and not set("[]{}\"'") & set(value[1:-1])
        if not (key and is_plain and words and all(words)):
            raise
    # Bare words are no TOML: each is read as an override of its own.
    return [config.parse_override(f"{key}={word}")[1] for word in words]
