"""What others report, beside what was measured here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.harness.experiment import Record, Table
from experiments.harness.figures import number, short_seconds
from experiments.harness.records import array
from experiments.nonlinear_parallel import records as kept
from experiments.nonlinear_parallel.asides import fewest_series
from experiments.nonlinear_parallel.programs import NEWTON, PLAIN

_WAITS = "not measured yet"
_COUNTS = {0.5: (4, 4), 0.9: (6, 5), 1.3: (17, 11), 1.5: (35, 24)}  # from zero, from f(0, x)


class _Other(NamedTuple):
    what: str
    reported: str
    ours: str


def table(records: Sequence[Record]) -> Table:
    """Reported by others, and ours where the records hold it."""
    rows = [*_iterations(records), _long_rnn(records), _one_unit(records), *_constant(records)]
    return Table(
        "Beside what others report",
        ("what", "reported by others, not measured here", "here"),
        tuple(rows),
        note=(
            "DEER: Lim et al. 2024 (arXiv 2309.12252), timed on a T4 and a V100. ParaRNN and "
            "pararnn-torch are other packages, with cells of their own. Targets for a GPU are "
            f"{_WAITS} where the records hold no GPU. Ours begin from f(f(0, x), x)."
        ),
        brief=False,
    )


def _iterations(records: Sequence[Record]) -> list[_Other]:
    """A tanh RNN, D 32, T 1,024, input std 0.5; reported in float64, ours in float32."""
    found = []
    groups = kept.groups(kept.methods(records, NEWTON))
    for gain, (zero, first) in _COUNTS.items():
        rows = groups.get(("rnn", 32, gain, 0.5, 1024), [])
        counts = [r["iterations"] if r["converged"] else np.inf for r in rows]
        ours = _WAITS
        if rows:
            middle = np.median(counts)
            ours = f"{middle:g}" if np.isfinite(middle) else "did not converge"
            ours += f" (float32, {len(rows)} seed{'s' if len(rows) > 1 else ''})"
        what = f"Newton's iterations, tanh RNN, D 32, T 1,024, g = {gain:g}"
        found.append(_Other(what, f"{zero} from zero, {first} from f(0, x)", ours))
    return found


def _long_rnn(records: Sequence[Record]) -> _Other:
    return _Other(
        "tanh RNN, D 32, T 65,536 (DEER, on a T4)",
        "6 iterations, error 1.1e-6; scan 435 ms, Newton 84 ms, quasi 39 ms",
        _on_gpu(records, "rnn", 32, 65536),
    )


def _one_unit(records: Sequence[Record]) -> _Other:
    return _Other(
        "GRU of one unit (DEER, on a V100)",
        "18, 138, 1,122 times as fast as lax.scan at T = 1e3, 1e4, 1e5",
        _on_gpu(records, "gru", 1, 100_000),
    )


def _on_gpu(records: Sequence[Record], cell: str, width: int, length: int) -> str:
    """Median iterations, the largest error and times, where a GPU measured them."""

    def here(name: str) -> list[Record]:
        return [
            r
            for r in kept.methods(records, name)
            if r["platform"] == "gpu"
            and (r["point"]["cell"], r["point"]["width"], r["point"]["length"])
            == (cell, width, length)
        ]

    newton = here(NEWTON)
    if not newton:
        return _WAITS
    loop, mine = (
        float(np.median([kept.seconds(r) for r in rows if r.get("counts")] or np.nan))
        for rows in (here(PLAIN), newton)
    )
    return (
        f"{kept.median(newton, 'iterations'):g} iterations, error "
        f"{number(np.max(array(newton, 'error')), '.1e')}; scan {short_seconds(loop)}, Newton "
        f"{short_seconds(mine)}"
    )


def _constant(records: Sequence[Record]) -> list[_Other]:
    """K* of others' cells, and of ours."""
    series = fewest_series(kept.of_part(records, "fewest"))
    said = (
        "; ".join(
            f"{title} {', '.join(f'{k:g}' for k in rows.values())}"
            for title, rows in series.items()
        )
        or _WAITS
    )
    return [
        _Other(
            "K*(T), fewest iterations within 1e-4 (pararnn-torch)",
            "2, flat to T = 131,072, for its own cells",
            said,
        ),
        _Other("iterations that ParaRNN runs, whatever T", "3, diagonal cells", "until converged"),
    ]
