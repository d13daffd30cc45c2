"""What the figures of gradient norms share: a look for several layers of a kind, a log axis."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator

from experiments.harness.figures import line_style

LN10 = float(np.log(10.0))


_MARKERS = "osD^vPX*<>hpd8H"
_LARGE = {"*": 9.0}  # whose area is small


def layer_looks(kinds: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Keywords for `Axes.plot` for each layer; kinds: the kind of each, by its name.

    The first of a kind looks as its kind does everywhere. Each further one has a depth of that
    colour, another line, and a marker that nobody else has: layers are told apart without colour.
    """
    firsts = {line_style(kind)["marker"] for kind in kinds.values()}
    others = itertools.cycle([marker for marker in _MARKERS if marker not in firsts] or _MARKERS)
    seen: Counter[str] = Counter()
    looks = {}
    for layer, kind in kinds.items():
        own, index = line_style(kind), seen[kind]
        base = np.array(to_rgb(own["color"]))
        depth = (0.0, -0.45, 0.45)[index % 3]
        marker = next(others) if index else own["marker"]
        looks[layer] = {
            "color": tuple(base * (1 + depth) if depth < 0 else base + (1 - base) * depth),
            "linestyle": ("-", (0, (6, 1.5)), (0, (3, 1.5)))[index % 3],
            "marker": marker,
            "markersize": _LARGE.get(marker, 4.5),
        }
        seen[kind] += 1
    return looks


def power_of_ten_axis(axes: Axes) -> None:
    """Ticks of a y axis whose values are logarithms to base ten."""
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$" if value else "1")
