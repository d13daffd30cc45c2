"""Which measurements two runs share: every number of every record, under a name that both have.

A measurement is named by its point without the seed, by as few of the record's own words (layer,
contender, method, ...) as tell the records of one point apart, and by its field. So several
seeds are one measurement, and a word that differs from machine to machine (the
version of a peer, the method that was chosen) parts nothing.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.harness.experiment import Record
from experiments.harness.rows import own_fields, point_fields

# What says how was measured, not what came out.
_NO_RESULTS = ("repeats", "skipped", "predicted_bytes", "predicted_seconds", "config", "seed")
_LONGEST_WORD = 80

Name = tuple[tuple[str, Any], ...]
Key = tuple[Name, str]
Kind = tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """The measurements of one run, by (name of the record, field).

    Args:
      samples: repetitions of one quantity, an array for each seed.
      curves: lists by epoch, lag or length, one a seed.
      left_out: names of records that were skipped, or whose check failed.
    """

    samples: dict[Key, list[np.ndarray]]
    curves: dict[Key, list[np.ndarray]]
    left_out: frozenset[Name]

    @property
    def keys(self) -> list[Key]:
        return [*self.samples, *self.curves]

    @property
    def names(self) -> list[Name]:
        """The named records that hold a number, in order."""
        return list(dict.fromkeys(name for name, _ in self.keys))


def measured(runs: Sequence[Sequence[Record]]) -> list[Measured]:
    """What each of the runs measured, under names that mean the same in all of them."""
    kinds = dict.fromkeys(_kind(record) for records in runs for record in records)
    words = {
        kind: _telling_words([[r for r in records if _kind(r) == kind] for records in runs])
        for kind in kinds
    }
    return [_measured(records, words) for records in runs]


def side_by_side(
    mine: Sequence[np.ndarray], yours: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Samples that may be compared, of the seeds of two runs.

    Repetitions within a seed share its luck: where there are several seeds each counts once, by its
    median.

    >>> side_by_side([np.array([1.0, 2.0, 9.0])], [np.array([3.0])])
    (array([1., 2., 9.]), array([3.]))
    >>> side_by_side([np.array([1.0, 2.0, 9.0])], [np.array([3.0]), np.array([4.0])])
    (array([2.]), array([3., 4.]))
    """
    if len(mine) == len(yours) == 1:
        return mine[0], yours[0]
    return np.array([np.median(it) for it in mine]), np.array([np.median(it) for it in yours])


def in_words(name: Name) -> str:
    """`forward length=64 LRU, auto`: words bare, numbers with their key.

    >>> in_words((("direction", "forward"), ("length", 64)))
    'forward length=64'
    """
    return " ".join(
        str(value) if isinstance(value, str) else f"{key}={json.dumps(value)}"
        for key, value in name
        if value != ""
    )


def _measured(records: Iterable[Record], words: Mapping[Kind, Sequence[str]]) -> Measured:
    samples: dict[Key, list[np.ndarray]] = defaultdict(list)
    curves: dict[Key, list[np.ndarray]] = defaultdict(list)
    left_out: set[Name] = set()
    for name, record in _named(records, words):
        own = own_fields(record)
        if "skipped" in own or own.get("counts") is False:
            left_out.add(name)
            continue
        for field, value in own.items():
            if field.split(".")[0] in _NO_RESULTS or (field, value) in name:
                continue
            numbers = _numbers(value)
            if numbers is None or numbers.size == 0:
                continue
            if numbers.ndim == 0 or (numbers.ndim == 1 and field.endswith("seconds")):
                samples[name, field].append(np.atleast_1d(numbers))
            else:
                curves[name, field].append(numbers)
    return Measured(dict(samples), dict(curves), frozenset(left_out))


def _kind(record: Record) -> Kind:
    """Points of one experiment that have the same fields are of one kind, and so named alike."""
    return tuple(point_fields(record))


def _named(
    records: Iterable[Record], words: Mapping[Kind, Sequence[str]]
) -> Iterable[tuple[Name, Record]]:
    """Each record with its name; where words do not tell the records of a point apart, their
    number does."""
    seen: Counter[tuple[str, Name]] = Counter()
    for record in records:
        point = {key: value for key, value in point_fields(record).items() if key != "seed"}
        own = {word: record[word] for word in words[_kind(record)] if _is_word(record.get(word))}
        name = tuple((key, _hashable(value)) for key, value in (point | own).items())
        whole = json.dumps(record["point"], sort_keys=True)
        seen[whole, name] += 1
        number = seen[whole, name]
        yield name if number == 1 else (*name, ("record", number)), record


def _telling_words(runs: Sequence[Sequence[Record]]) -> list[str]:
    """As few fields as tell records of one point apart, in the order in which records hold them."""
    groups: dict[tuple[int, str], list[Record]] = defaultdict(list)
    for number, records in enumerate(runs):
        for record in records:
            groups[number, json.dumps(record["point"], sort_keys=True)].append(record)
    fields = dict.fromkeys(
        key
        for group in groups.values()
        for record in group
        for key in record
        if key != "point" and key not in _NO_RESULTS
    )
    found: list[str] = []

    def parts(extra: list[str]) -> int:
        return sum(
            len({tuple(str(record.get(field)) for field in extra) for record in group})
            for group in groups.values()
        )

    reached = parts([])
    for field in fields:
        if not any(_is_word(record.get(field)) for group in groups.values() for record in group):
            continue
        if (now := parts([*found, field])) > reached:
            found, reached = [*found, field], now
    # What a later word tells as well goes: a method that was chosen, beside the contender.
    for field in tuple(found):
        rest = [each for each in found if each != field]
        if parts(rest) == reached:
            found = rest
    return found


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_WORD


def _hashable(value: Any) -> Any:
    return value if not isinstance(value, list | Mapping) else json.dumps(value)


def _numbers(value: Any) -> np.ndarray | None:
    """As float64, None where the value is no number and no array of numbers."""
    if isinstance(value, str | bool) or value is None:
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal length
        return None
    return array.astype(np.float64) if array.dtype.kind in "iuf" else None
