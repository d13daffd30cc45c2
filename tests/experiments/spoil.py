"""Spoils records of a run, to see that no verdict follows from them."""

import copy
import re

import matplotlib as mpl
import numpy as np

NAN, INF = float("nan"), float("inf")
_NONE = re.compile(r"\b(nan|NaN|None)\b|1 seeds|± 0\.0\b")


def spoiled(records, name, value, only=None):
    """The records with another value of a field, however deep; of lists the last element.

    Of all that have it, or only of the one with this number among them.
    """
    found, count = [], 0
    for record in records:
        changed = copy.deepcopy(record)
        if _spoil(changed, name, value, change=only in (None, count)):
            count += 1
        found.append(changed)
    return found


def assert_nothing_flips(experiment, records, name, value, opens=(), draw=False):
    """One spoiled record may open a verdict and no more; where all are, those `opens` are open.

    opens: words of the claims.
    """
    before = {verdict.claim: verdict.outcome for verdict in experiment.summary(records).verdicts}
    having = sum(_spoil(copy.deepcopy(record), name, value) for record in records)
    assert having
    for number in range(having):
        for verdict in said(experiment, spoiled(records, name, value, number)):
            assert verdict.outcome in ("open", before[verdict.claim]), verdict
    worst = spoiled(records, name, value)
    for verdict in said(experiment, worst):
        if any(words in verdict.claim for words in opens):
            assert verdict.outcome == "open", verdict
    if draw:
        with mpl.rc_context({"figure.dpi": 20}):
            for figure in experiment.plot(worst).values():
                figure.set_layout_engine("none")  # is slow, and moves no data
                figure.canvas.draw()
                ends = [(*axes.get_xlim(), *axes.get_ylim()) for axes in figure.axes]
                assert np.isfinite(ends).all()


def said(experiment, records):
    """The verdicts, in words without a nan; so are the tables."""
    summary = experiment.summary(records)
    words = [text for v in summary.verdicts for text in (v.text, v.value)]
    for table in summary.tables:
        words += [table.title, table.note, *(cell for row in table.rows for cell in row)]
    for text in words:
        assert not _NONE.search(text), text
    for verdict in summary.verdicts:
        assert verdict.outcome in ("confirmed", "refined", "refuted", "open")
        assert verdict.text
    return summary.verdicts


def _spoil(record, name, value, *, change=True):
    """Whether the field is there; changed in place."""
    if not isinstance(record, dict):
        return False
    if name not in record:
        return any([_spoil(part, name, value, change=change) for part in record.values()])
    if change:
        old = record[name]
        listed = isinstance(old, (list, np.ndarray)) and len(old) and not isinstance(value, list)
        record[name] = [*old[:-1], value] if listed else value
    return True
