"""Figures, tables and verdicts of `nonlinear_parallel`, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from experiments.harness.experiment import Record, Summary
from experiments.nonlinear_parallel import asides, pictures, tables, verdicts
from experiments.nonlinear_parallel.phase_picture import phase


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    records = _whole(records)
    found = {
        "methods": pictures.methods(records),
        "phase": phase(records),
        "fewest": pictures.fewest(records),
        "predicted": pictures.prediction(records),
        "training": pictures.training(records),
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def summary(records: Sequence[Record]) -> Summary:
    whole = _whole(records)
    others = (asides.fewest(whole), asides.training(whole), asides.prediction(whole))
    said = [verdict for verdict in others if verdict is not None]
    return Summary((verdicts.claim(records), *said), tables.tables(whole))


def _whole(records: Sequence[Record]) -> list[Record]:
    """Without those that lack a number; claim 7 is open where there are any."""
    return [r for r in records if r.get("iterations", 0) is not None]
