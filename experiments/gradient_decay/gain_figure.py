"""The horizon of a tanh RNN against the gain of its W_hh and the strength of its input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.gradient_decay.decay_figures import THEORY
from experiments.gradient_decay.records import DOZEN, mean_field_horizon, where
from experiments.harness import colours, figures
from experiments.harness.experiment import Record
from experiments.harness.records import seeds


def by_gain(records: Sequence[Record]) -> Figure | None:
    """Growth per step and horizon against the gain of W_hh, beside the mean field."""
    if not records:
        return None
    figure, (panels,) = figures.new_figure(1, 2, size=(9.6, 4.3))
    left, right = panels
    length, eps = records[0]["length"], records[0]["eps"]
    stds = sorted({record["point"]["input_std"] for record in records})
    looks = [
        {"color": colours.SKY, "marker": "o"},
        {"color": colours.BLUE, "marker": "s"},
        {"color": "#00304a", "marker": "D"},
        {"color": colours.GREY, "marker": "^"},
    ]
    for index, std in enumerate(stds):
        mine = where(records, input_std=std)
        look = looks[index % len(looks)]
        gains = sorted({record["point"]["gain"] for record in mine})
        groups = [where(mine, gain=gain) for gain in gains]
        label = f"input std {std:g} (drive {mine[0]['drive_std']:.2g})"
        for axes, values, expected in (
            (left, lambda r: -r["state"]["rate"], lambda r: r["theory_exponent"]),
            (right, lambda r: r["state"]["horizon"], lambda r: mean_field_horizon(r, eps)),
        ):
            _series(axes, gains, groups, values, label, look)
            theory = np.array([expected(group[0]) for group in groups])
            shown = np.isfinite(theory) & ((theory < length) if axes is right else True)
            axes.plot(
                np.array(gains)[shown],
                theory[shown],
                **THEORY,
                label="mean field" if index == len(stds) - 1 else None,
            )
    left.axhline(0, color=colours.GREY, linewidth=1)
    for place, text in ((0.03, "gradients explode"), (-0.03, "gradients vanish")):
        left.annotate(
            text,
            (0.02, place),
            xycoords=("axes fraction", "data"),
            va="bottom" if place > 0 else "top",
            fontsize=8,
            color="#444444",
        )
    left.set_title("Growth of the gradient")
    left.set_ylabel("ln of its factor per step")
    right.axhline(DOZEN, color=colours.GREY, linewidth=1, linestyle=":")
    right.annotate(
        "a dozen steps",
        (0.98, DOZEN),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color="#444444",
    )
    right.set_yscale("log")
    right.set_ylim(2, length)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    right.set_title(f"Steps until the gradient is {eps:g}")
    right.set_ylabel(f"horizon, steps (up to T = {length})")
    for axes in panels:
        axes.set_xlabel("gain of $W_{hh}$ (its spectral radius at large n)")
    figures.legend_below(figure)
    many = seeds(records)
    figure.set_label(
        f"On what a dozen depends: a tanh RNN of {records[0]['hidden']} units with Gaussian W_hh. "
        f"{f'Median of {many}, bars from least to greatest' if many != 'one seed' else 'One seed'}"
        f"; a point is missing where the gradient does not fall to {eps:g} within T = {length}."
    )
    return figure


def _series(
    axes: Axes,
    gains: Sequence[float],
    groups: Sequence[Sequence[Record]],
    values: Callable[[Record], float],
    label: str,
    look: dict[str, Any],
) -> None:
    for number, (gain, group) in enumerate(zip(gains, groups, strict=True)):
        found = np.array([values(record) for record in group])
        middle = np.median(found)
        if not np.isfinite(middle):
            continue
        finite = found[np.isfinite(found)]
        axes.errorbar(
            [gain],
            [middle],
            [[middle - finite.min()], [finite.max() - middle]],
            label=label if number == 0 else None,
            linestyle="none",
            capsize=2,
            markersize=5.5,
            **look,
        )
