"""What one run measured against the reference, as tables, and what either has alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.harness import page
from experiments.harness.experiment import Table
from experiments.harness.measurements import Key, Measured, Name, in_words, side_by_side
from experiments.harness.ratios import Contrast, contrasts

_NAMED = 5  # records that one run has alone


@dataclass(frozen=True)
class _Row:
    name: Name
    field: str
    contrast: Contrast

    @property
    def rank(self) -> tuple[bool, float]:
        return self.contrast.differs, self.contrast.size

    def cells(self) -> tuple[str, ...]:
        c = self.contrast
        interval = "–" if c.interval is None else " to ".join(_change(c, x) for x in c.interval)
        return (
            in_words(self.name),
            self.field,
            self.mark,
            _change(c, c.change),
            interval,
            _number(c.reference),
            _number(c.other),
        )

    @property
    def mark(self) -> str:
        c = self.contrast
        if not c.differs:
            return ""
        higher = c.change > (1 if c.is_ratio else 0)
        # A ratio of negative numbers above 1 is the lower number.
        higher = higher != (c.is_ratio and c.reference < 0)
        if self.field.endswith("seconds"):
            return "slower" if higher else "faster"
        return "higher" if higher else "lower"


def tables(reference: str, left: Measured, label: str, right: Measured) -> list[Table | page.Text]:
    """The tables of one run against the reference."""
    shared = [key for key in left.samples if key in right.samples]
    found = contrasts([side_by_side(left.samples[key], right.samples[key]) for key in shared])
    rows = [_Row(*key, each) for key, each in zip(shared, found, strict=True)]
    rows.sort(key=lambda row: row.rank, reverse=True)
    differ = sum(row.contrast.differs for row in rows)
    judged = sum(row.contrast.interval is not None for row in rows)
    # In order of worth: a narrow terminal drops the last.
    columns = ("record", "measurement", "", "change", "95 % interval", reference, label)
    said = (
        f"{_count(len(rows), 'measurement')} in both. A change is the median of all {label} / "
        f"{reference}, or with a sign {label} - {reference} where a sample is 0 or signs differ. "
    )
    said += (
        f'{judged} have an interval, of which {differ} leave out "no change"; chance alone does so '
        "in 5 of 100. It is of what these runs measured: times of the same code can differ by more "
        "from run to run."
        if judged
        else "Samples are too few for any interval."
    )
    apart = tuple(row.cells() for row in rows if row.contrast.size or row.contrast.differs)
    equal = Counter(row.field for row in rows[len(apart) :])
    against = f"{label} against {reference}"
    parts = _part("measurement", against, columns, apart, equal, said)
    parts += _curves(left, right, against)
    parts += [
        page.Text(f"In {which} alone, not compared: {said}.")
        for which, mine, yours in ((reference, left, right), (label, right, left))
        if (said := _alone(mine, yours))
    ]
    return parts or [page.Text(f"{label} and {reference} share no measurement.")]


def _alone(mine: Measured, yours: Measured) -> str:
    """What one run measured and the other did not, in words: records, and fields of shared ones."""
    known = set(yours.names)
    records = [name for name in mine.names if name not in known]
    left_out = sum(name in yours.left_out for name in records)
    keys = set(yours.keys)
    fields = dict.fromkeys(
        field for name, field in mine.keys if name in known and (name, field) not in keys
    )
    said = []
    if records:
        why = f", {left_out} of them skipped or wrong in the other run" if left_out else ""
        names = [in_words(name) or "its record" for name in records]
        said.append(f"{_count(len(records), 'record')}{why} ({_some(names)})")
    if fields:
        said.append(f"of what both hold, {_some([*fields])}")
    return "; ".join(said)


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:_NAMED]) + ("; ..." if len(names) > _NAMED else "")


def _part(
    what: str,
    against: str,
    columns: Sequence[str],
    apart: Sequence[tuple[str, ...]],
    equal: Counter[str],
    note: str,
) -> list[Table | page.Text]:
    """A table of what is apart; what is equal is counted, by field, on the page alone."""
    parts: list[Table | page.Text] = []
    if apart:
        title = f"{what.capitalize()}s: {against}"
        parts.append(Table(title, tuple(columns), tuple(apart), note))
    elif equal:
        parts.append(page.Text(f"{_count(equal.total(), what)} in both: equal."))
    if equal:
        counts = tuple((field, f"{count:,}") for field, count in equal.items())
        title = f"Equal {what}s: {against}"
        parts.append(Table(title, ("field", "records"), counts, brief=False))
    return parts


def _curves(left: Measured, right: Measured, against: str) -> list[Table | page.Text]:
    """By how much the mean curves differ at most."""
    found: list[tuple[float, Key, str]] = []
    equal: Counter[str] = Counter()
    for key, mine in left.curves.items():
        yours = right.curves.get(key)
        if not yours:
            continue
        if len({curve.shape for curve in (*mine, *yours)}) > 1:
            found.append((-1.0, key, "of other lengths"))
            continue
        a, b = np.mean(mine, axis=0), np.mean(yours, axis=0)
        with np.errstate(all="ignore"):
            apart = np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, apart)
        apart = np.where(np.isnan(apart), np.inf, apart)  # one of them is no number
        if largest := float(apart.max()):
            words = "not finite in one" if np.isinf(largest) else f"{largest:.2%}"
            found.append((largest, key, words))
        else:
            equal[key[1]] += 1
    found.sort(key=lambda each: -each[0])
    rows = [(in_words(name), field, said) for _, (name, field), said in found]
    columns = ("record", "curve", "largest relative difference")
    note = "Of the means over seeds, relative to the larger of the two."
    return _part("curve", against, columns, rows, equal, note)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _change(contrast: Contrast, value: float) -> str:
    if not contrast.is_ratio:
        return f"{value:+.3g}"
    return f"{value:.3f}" if 0.1 <= value < 1e4 else f"{value:.3g}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
