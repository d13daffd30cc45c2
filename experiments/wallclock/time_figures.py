"""The figures of `wallclock`: a panel for the layers with one program, and one for each layer that
has a choice of methods, all on the same axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from experiments.harness import colours, figures, race
from experiments.harness.experiment import Record
from experiments.harness.race import title
from experiments.harness.records import distinct, select
from experiments.wallclock.records import has_choice, lengths, seconds, series

_DASH_DOT = (0, (6, 2, 1, 2))
_COLUMNS = 4
# Layers of one kind, where a config has several.
_OF_A_KIND = ("-", (0, (5, 2)), (0, (1, 1)), (0, (5, 2, 1, 2)))


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    """Time in each direction; of the last, distance from the limit, compile time and memory."""
    if not records:
        return {}
    made = {
        f"time_{direction.replace('+', '_and_')}": _time(select(records, direction=direction))
        for direction in distinct(records, "direction")
    }
    direction = distinct(records, "direction")[-1]
    last, name = select(records, direction=direction), title(direction)
    share = _grid(last, lambda record: 100 * race.share(record), _percent_axis)
    share.set_label(
        f"How near each program comes to the limit of the machine, {name}: the larger of bytes / "
        "measured bandwidth and operations / measured rate of matrix products, over the time taken."
    )
    compiling = _grid(last, lambda r: r["compile_seconds"], _compile_axis)
    compiling.set_label(f"Time to compile, {name}, once for each length.")
    memory = _grid(last, lambda r: max(r["temporary_bytes"], 1024), _bytes_axis)
    memory.set_label(
        f"Peak of temporary memory, {name}, beside arguments and results (the whole batch); "
        "drawn at 1 KiB where it is less."
    )
    return made | {"share_of_limit": share, "time_to_compile": compiling, "working_memory": memory}


def _time(records: Sequence[Record]) -> Figure:
    figure = _grid(records, seconds, _seconds_axis("time per sequence"), _samples, limit=True)
    first = records[0]
    figure.set_label(
        f"Time per sequence, {title(first['point']['direction'])}, in a batch of {first['batch']}, "
        f"width {first['width']}: median and quartiles. Grey: the time below which this "
        "machine cannot move the bytes or do the operations that the layer needs at least."
    )
    return figure


def _samples(record: Record) -> list[float]:
    """Seconds for one sequence."""
    return [sample / record["batch"] for sample in record["seconds"]]


def _grid(
    records: Sequence[Record],
    value: Callable[[Record], float],
    axis: Callable[[Axes], None],
    samples: Callable[[Record], list[float]] | None = None,
    *,
    limit: bool = False,
) -> Figure:
    """The panels; with `samples`, bands from quartile to quartile."""
    single = [record for record in records if not has_choice(record)]
    panels = [single] if single else []
    choosing = [record for record in records if has_choice(record)]
    panels += [select(choosing, layer=layer) for layer in distinct(choosing, "layer")]
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    size = (max(7.2, 3.1 * columns), 2.9 * rows + 0.9)
    figure, grid = figures.new_figure(rows, columns, size=size, sharex=True, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, mine in zip(grid.flat, panels, strict=False):
        figures.length_axis(axes, lengths(records))
        axis(axes)
        if mine is not single:
            axes.set_title(mine[0]["layer"])
            rnn = select(records, kind="RNN")[:1]
            beside = select(single, layer=rnn[0]["layer"]) if rnn else []
            line = {"color": colours.BLUE, "linewidth": 1, "alpha": 0.6}
            _draw(axes, beside, value, None, label="the tanh RNN, to compare", **line)
            if limit:  # the same for all methods of a layer
                found = {r["point"]["length"]: r["limit_seconds"] / r["batch"] for r in mine}
                race.draw_limit(axes, found, _DASH_DOT)
        for one in series(mine):
            _draw(axes, one, value, samples, **_look(one[0], records))
        if mine is single:
            axes.set_title("Layers with a single method")
        else:
            for method in distinct(mine, "method"):
                style = figures.line_style(mine[0]["kind"], method)["linestyle"]
                axes.plot([], [], color=colours.GREY, linestyle=style, label=method)
        _outer_labels(axes, grid, panels)
    figures.legend_below(figure)
    return figure


def _look(record: Record, records: Sequence[Record]) -> dict:
    """A layer's colour and marker; the line of its method, or among several of its kind its own."""
    look = figures.line_style(record["kind"], record["method"]) | {"markeredgewidth": 0.5}
    if has_choice(record):
        return look
    alike = distinct(select(records, kind=record["kind"]), "layer")
    line = _OF_A_KIND[alike.index(record["layer"]) % len(_OF_A_KIND)]
    return {**look, "linestyle": line, "label": record["layer"]}


def _draw(
    axes: Axes,
    records: Sequence[Record],
    value: Callable[[Record], float],
    samples: Callable[[Record], list[float]] | None,
    **style,
) -> None:
    x = [record["point"]["length"] for record in records]
    if samples:
        figures.draw_band(axes, x, [samples(record) for record in records], **style)
    elif x:
        axes.plot(x, [value(record) for record in records], **style)


def _outer_labels(axes: Axes, grid: np.ndarray, panels: Sequence) -> None:
    """Labels where no panel is below or to the left."""
    index = list(grid.flat).index(axes)
    if index % grid.shape[1]:
        axes.set_ylabel("")
    if index + grid.shape[1] < len(panels):
        axes.set_xlabel("")
    else:
        axes.tick_params(labelbottom=True)


def _seconds_axis(label: str) -> Callable[[Axes], None]:
    return lambda axes: figures.seconds_axis(axes, label)


def _compile_axis(axes: Axes) -> None:
    figures.seconds_axis(axes, "compile time")
    axes.yaxis.set_major_locator(_narrow())


def _narrow() -> LogLocator:
    """Ticks for what stays within a decade or two."""
    return LogLocator(subs=(1.0, 2.0, 5.0))


def _bytes_axis(axes: Axes) -> None:
    figures.bytes_axis(axes, "temporary memory")


def _percent_axis(axes: Axes) -> None:
    race.percent_axis(axes)
    axes.yaxis.set_major_locator(_narrow())
