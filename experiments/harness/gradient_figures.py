"""What the figures of gradient norms share: a look for several layers of a kind, a log axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator

from experiments.harness.figures import line_style

LN10 = float(np.log(10.0))


def layer_look(kind: str, index: int) -> dict[str, Any]:
    """Keywords for `Axes.plot`: the colour of a kind of layer, in a depth for each of its starts.

    Each depth has a line and a marker of its own, so that it is told apart without colour too.
    """
    own = line_style(kind)
    base = np.array(to_rgb(own["color"]))
    depth = (0.0, -0.45, 0.45)[index % 3]
    colour = base * (1 + depth) if depth < 0 else base + (1 - base) * depth
    return {
        "color": tuple(colour),
        "linestyle": ("-", (0, (6, 1.5)), (0, (3, 1.5)))[index % 3],
        "marker": own["marker"] if index == 0 else "osD^vPX"[index % 7],
        "markersize": 9 if index == 0 and own["marker"] == "*" else 4.5,
    }


def power_of_ten_axis(axes: Axes) -> None:
    """Ticks of a y axis whose values are logarithms to base ten."""
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$" if value else "1")
