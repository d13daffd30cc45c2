"""Figures, tables and verdicts of `nonlinear_parallel`, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from experiments.harness.experiment import Record, Summary
from experiments.nonlinear_parallel import asides, pictures, tables, verdicts
from experiments.nonlinear_parallel import records as kept
from experiments.nonlinear_parallel.phase_picture import phase


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    records = kept.whole(records)
    found = {
        "methods": pictures.methods(records),
        "phase": phase(records),
        "fewest": pictures.fewest(records),
        "predicted": pictures.prediction(records),
        "training": pictures.training(records),
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def summary(records: Sequence[Record]) -> Summary:
    others = (asides.fewest(records), asides.training(records), asides.prediction(records))
    said = [verdict for verdict in others if verdict is not None]
    return Summary((verdicts.claim(records), *said), tables.tables(kept.whole(records)))
