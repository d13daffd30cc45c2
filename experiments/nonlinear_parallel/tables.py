"""Tables of `nonlinear_parallel`, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.harness.experiment import Record, Table
from experiments.harness.figures import number, short_bytes, short_count, short_seconds
from experiments.harness.records import array
from experiments.nonlinear_parallel import published
from experiments.nonlinear_parallel import records as kept
from experiments.nonlinear_parallel.prediction import WITHIN, compared
from experiments.nonlinear_parallel.programs import METHODS, NEWTON, PLAIN


def tables(records: Sequence[Record]) -> tuple[Table, ...]:
    """Whatever the records hold."""
    found = []
    if kept.methods(records):
        found += [_iterations(records), _costs(records)]
    if kept.of_part(records, "phase"):
        found.append(_grid(records))
    if compared(records):
        found.append(_prediction(records))
    if kept.newton(records) or kept.of_part(records, "fewest"):
        found.append(published.table(records))
    if skipped := [r for r in records if "skipped" in r]:
        rows = tuple((str(r["point"]), r["skipped"]) for r in skipped)
        found.append(Table("Left out", ("point", "why"), rows, brief=False))
    return tuple(found)


def _iterations(records: Sequence[Record]) -> Table:
    """Iterations and errors by recurrence."""
    rows = []
    mine = kept.methods(records)
    for group, all_rows in kept.groups(mine).items():
        cell, width, gain, _, length = group
        by = {m: [r for r in all_rows if r["method"] == m] for m in METHODS[1:]}
        newton = by[NEWTON]
        errors = "–"
        if newton:
            error, own = (np.max(array(newton, key)) for key in ("error", "sequential_error"))
            errors = f"{number(error, '.1e')} / {own:.1e}"
        rows.append(
            (
                f"{cell}, T = {short_count(length)}, D = {width}, g = {gain:g}",
                f"{kept.median(all_rows, 'exponent'):.2f}",
                *(_count(by[m]) for m in METHODS[1:]),
                errors,
            )
        )
    names = [name.replace("_", " ") for name in METHODS[1:]]
    return Table(
        "Iterations, and errors against float64",
        ("recurrence", "exponent", *names, "error: newton / loop"),
        tuple(rows),
        note=(
            "Medians over seeds, errors the largest of them. In brackets: how many seeds "
            "converged, where not all did. The steps of chunks are not counted as iterations."
        ),
    )


def _count(rows: Sequence[Record]) -> str:
    if not rows:
        return "–"
    done = [r["iterations"] for r in rows if r["converged"]]
    if len(done) == len(rows):
        return f"{np.median(done):g}"
    return f"{np.median(done):g} ({len(done)} of {len(rows)})" if done else "no"


def _costs(records: Sequence[Record]) -> Table:
    """Time, memory and compile time by shape, where errors shrink."""
    mine = [r for r in kept.methods(records) if r["exponent"] < 0 and r.get("counts")]
    shapes = sorted({(r["point"]["cell"], r["point"]["length"], r["point"]["width"]) for r in mine})
    rows = []
    for shape in shapes:
        here = [
            r for r in mine if tuple(r["point"][k] for k in ("cell", "length", "width")) == shape
        ]
        # The smallest gain that every method was timed at, or they would not compare.
        gain = min(r["point"]["gain"] for r in here)
        for name in (PLAIN, *METHODS):
            these = [r for r in here if r["method"] == name and r["point"]["gain"] == gain]
            if these:
                rows.append(
                    (
                        f"{shape[0]}, T = {short_count(shape[1])}, D = {shape[2]}, g = {gain:g}",
                        name,
                        short_seconds(float(np.median([kept.seconds(r) for r in these]))),
                        short_bytes(these[0]["temporary_bytes"]),
                        short_seconds(these[0]["compile_seconds"]),
                    )
                )
    return Table(
        "Time, memory and compilation of one evaluation",
        ("recurrence", "method", "time", "temporary memory", "compiling"),
        tuple(rows),
        note=(
            "Medians over seeds; with whether it converged, without the bound on the error. "
            f"{PLAIN}: the loop that everybody writes."
        ),
        brief=False,
    )


def _grid(records: Sequence[Record]) -> Table:
    found = kept.of_part(records, "phase")
    gains = sorted({r["point"]["gain"] for r in found})
    scales = sorted({r["point"]["input_scale"] for r in found}, reverse=True)
    by = {(r["point"]["gain"], r["point"]["input_scale"]): r for r in found}

    def cell(gain: float, scale: float) -> str:
        r = by.get((gain, scale))
        if r is None:
            return "–"
        count = f"{r['iterations']}" if r["converged"] else "no"
        return f"{r['exponent']:+.2f}: {count}"

    rows = tuple((f"{s:g}", *(cell(g, s) for g in gains)) for s in scales)
    point = found[0]["point"]
    return Table(
        f"Exponent: Newton's iterations, T = {short_count(point['length'])}, D = {point['width']}",
        ("inputs", *(f"g = {g:g}" for g in gains)),
        rows,
        note=f"no: did not converge in {max(r['most'] for r in found)}.",
        brief=False,
    )


def _prediction(records: Sequence[Record]) -> Table:
    rows = tuple(
        (
            f"T = {short_count(it.length)}, D = {it.width}, g = {it.gain:g}, "
            f"inputs {it.input_scale:g}",
            f"{it.exponent:.2f}",
            _finite(it.predicted),
            _finite(it.measured),
            f"{_finite(it.low)} to {_finite(it.high)}",
            "yes" if it.right else "no",
        )
        for it in compared(records)
    )
    return Table(
        "Iterations of Newton: predicted by the mean field, and measured",
        ("recurrence", "exponent", "predicted", "measured", "range", f"within {WITHIN:g} times"),
        rows,
        note="no: more than were allowed; nothing is fitted.",
        brief=False,
    )


def _finite(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "no"
