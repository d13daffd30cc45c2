"""The phase diagram: where Newton's iteration converges, where errors grow, where it pays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from experiments.harness import colours, figures
from experiments.harness.experiment import Record
from experiments.harness.figures import short_count
from experiments.nonlinear_parallel import records as kept
from rnnscan.gradients.theory import driven_tanh


def phase(records: Sequence[Record]) -> Figure | None:
    """Iterations over gains and input scales, with the lines that should bound them."""
    found = kept.of_part(records, "phase")
    gains = sorted({r["point"]["gain"] for r in found})
    scales = sorted({r["point"]["input_scale"] for r in found})
    if len(gains) < 2 or len(scales) < 2 or len(found) < len(gains) * len(scales):
        return None
    by = {(r["point"]["input_scale"], r["point"]["gain"]): r for r in found}
    grid = [[by[scale, gain] for gain in gains] for scale in scales]
    figure, ((axes,),) = figures.new_figure(size=(8.6, 5.6))
    axes.grid(visible=False)
    counts = np.array(
        [[r["iterations"] if r["converged"] else np.nan for r in row] for row in grid]
    )
    most = max(float(np.nanmax(counts, initial=2.0)), 2.0)
    norm = LogNorm(1, most)
    mesh = axes.imshow(counts, origin="lower", aspect="auto", cmap="viridis_r", norm=norm)
    for (row, column), count in np.ndenumerate(counts):
        if np.isnan(count):
            axes.add_patch(
                Rectangle(
                    (column - 0.5, row - 0.5),
                    1,
                    1,
                    facecolor="#eeeeee",
                    edgecolor="#b0b0b0",
                    hatch="///",
                    linewidth=0,
                )
            )
        else:
            dark = norm(count) > 0.5
            axes.text(
                column,
                row,
                f"{count:.0f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if dark else "#222222",
            )
    bar = figure.colorbar(mesh, ax=axes, format=lambda value, _: f"{value:g}", pad=0.02)
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_ticks([n for n in (1, 2, 5, 10, 20, 50, 100) if n <= most])
    bar.set_label("Newton's iterations")
    _exponents(axes, gains, scales, grid)
    _span(axes, grid)
    axes.set_xticks(range(len(gains)), [f"{g:g}" for g in gains])
    axes.set_yticks(range(len(scales)), [f"{s:g}" for s in scales])
    axes.set_xlim(-0.5, len(gains) - 0.5)
    axes.set_ylim(-0.5, len(scales) - 0.5)
    axes.set_xlabel("gain g of W")
    axes.set_ylabel("scale of the inputs")
    point = found[0]["point"]
    title = f"tanh RNN, T = {point['length']:,}, D = {point['width']}"
    axes.set_title(f"{title}\n")
    axes.text(0, 1.02, _in_seconds(found), transform=axes.transAxes, fontsize=9.5)
    figures.legend_below(figure)
    figure.set_label(
        "Numbers are Newton's iterations until its residual is rounding; hatched: not converged in "
        f"{max(r['most'] for r in found)}. By span an iteration is log2 T dependent steps, on a "
        "machine with as many cores as it likes."
    )
    return figure


def pays_by_span(record: Record) -> bool:
    """Fewer dependent steps than the loop has."""
    length = record["point"]["length"]
    return record["converged"] and record["iterations"] * np.log2(length) < length


def pace(record: Record) -> float:
    """How many times as long as the plain loop; nan where it was not timed."""
    return kept.seconds(record) / kept.middle(record.get("sequential_seconds", ()))


def _in_seconds(found: Sequence[Record]) -> str:
    paces = [pace(r) for r in found]
    known = [value for value in paces if np.isfinite(value)]
    if not known:
        return "not timed"
    faster = sum(value < 1 for value in known)
    if faster:
        return f"in seconds it pays at {faster} of {len(found)} points on this device"
    return (
        "in seconds it pays nowhere on this device, at best "
        f"{min(known):.2g} times as long as the loop"
    )


def _exponents(
    axes: Axes, gains: Sequence[float], scales: Sequence[float], grid: Sequence[Sequence[Record]]
) -> None:
    """Where the measured exponent is 0, and where the mean field has it."""
    measured = np.array([[r["exponent"] for r in row] for row in grid])
    if measured.min() < 0 < measured.max():
        axes.contour(measured, levels=[0.0], colors=[colours.BLACK], linewidths=2)
        axes.plot([], [], color=colours.BLACK, linewidth=2, label="λ = 0, measured")
    fine = np.geomspace(scales[0], scales[-1], 17)
    places = np.interp(np.log(fine), np.log(scales), range(len(scales)))
    edge = [_edge(scale, gains) for scale in fine]
    axes.plot(
        np.interp(edge, gains, range(len(gains)), left=np.nan, right=np.nan),
        places,
        color=colours.BLACK,
        linewidth=1.6,
        linestyle=(0, (4, 2)),
        label="λ = 0, mean field",
    )


def _edge(scale: float, gains: Sequence[float]) -> float:
    """The gain at which the mean field has exponent 0; inf beyond the grid."""
    low, high = 0.5, 4 * max(gains)
    if driven_tanh(high, scale).exponent < 0:
        return float("inf")
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if driven_tanh(middle, scale).exponent < 0 else (low, middle)
    return (low + high) / 2


def _span(axes: Axes, grid: Sequence[Sequence[Record]]) -> None:
    """The border of the points where it pays by span, along the cells."""
    pays = np.array([[pays_by_span(r) for r in row] for row in grid])
    first = True
    look = {"color": colours.ORANGE, "linewidth": 2.6, "solid_capstyle": "round"}
    length = short_count(grid[0][0]["point"]["length"])
    label = f"K log2 T < T to the left (T = {length})"
    for row, column in np.ndindex(*pays.shape):
        for down, right in ((1, 0), (0, 1)):
            other = row + down, column + right
            if other[0] == pays.shape[0] or other[1] == pays.shape[1]:
                continue
            if pays[row, column] != pays[other]:
                xs = [column + 0.5] * 2 if right else [column - 0.5, column + 0.5]
                ys = [row - 0.5, row + 0.5] if right else [row + 0.5] * 2
                axes.plot(xs, ys, label=label if first else None, **look)
                first = False
