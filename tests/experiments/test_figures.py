"""Colours stay with their layer, ticks read as people say them, legends hide no data."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text

from experiments.harness import figures


def test_a_layer_keeps_its_colour_and_a_method_its_line():
    layers = ("RNN", "LinearRNN", "LRU", "MLP")
    looks = [figures.line_style(layer, "sequential") for layer in layers]
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == 4
    tree = figures.line_style("LRU", "associative")
    assert tree["color"] == looks[2]["color"]
    assert tree["linestyle"] != looks[2]["linestyle"]


def test_curves_that_lie_on_one_another_take_turns():
    turns = figures.in_turns({"a": [33, 34], "b": [33.5, 33], "c": [90, 80], "d": [33]}, within=2)
    assert turns["c"] == turns["d"] == {}
    (first, dashes), (second, same) = turns["a"]["linestyle"], turns["b"]["linestyle"]
    assert dashes == same
    assert first != second
    assert turns["a"]["markevery"] != turns["b"]["markevery"]


def test_bands_run_from_quartile_to_quartile_around_the_median():
    low, middle, high = figures.quartiles([[1, 2, 3, 4, 5], [10, 10, 10]])
    assert (low.tolist(), middle.tolist(), high.tolist()) == ([2, 10], [3, 10], [4, 10])
    _, axes = figures.new_figure()
    figures.draw_band(axes[0, 0], [1, 2], [[1, 2, 3, 4, 5], [10, 10, 10]], color="red")
    np.testing.assert_array_equal(axes[0, 0].lines[0].get_ydata(), [3, 10])


def test_axes_are_readable():
    figure, axes = figures.new_figure(1, 2)
    lengths = [2**k for k in range(6, 16)]
    for panel in axes[0]:
        panel.plot(lengths, lengths, label="one")
        figures.length_axis(panel, lengths)
    figures.seconds_axis(axes[0, 0], "time")
    figures.bytes_axis(axes[0, 1], "memory")
    figures.legend_below(figure)
    figure.draw_without_rendering()
    ticks = [tick.get_text() for tick in axes[0, 0].get_xticklabels()]
    assert ticks == ["64", "256", "1k", "4k", "16k"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one"]
    for panel in axes[0]:
        assert not legend.get_window_extent().overlaps(panel.get_window_extent())


NAMES = ("cost $\\frac{$", "a $x$ b", "100 $ and 50 $", "_x", "\\$ $x_{", "_child0", "$", "\\")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_written_wherever_a_figure_has_it(name):
    record = {"layer": name, "point": {"layer": name}}
    (literal,) = figures.literal([record])
    assert record["layer"] == name
    with mpl.rc_context(figures.STYLE):
        figure, axes = figures.new_figure(1, 2)
        axes[0, 0].plot([1, 2], label=literal["layer"])
        title = axes[0, 0].set_title(f"of {literal['point']['layer']}")
        axes[0, 0].set_ylabel(f"{literal['layer']}: $dL/dx_{{T-k}}$")
        figures.dot_rows(axes[0, 1], {literal["layer"]: [1.0]})
        figures.legend_below(figure)
        figure.draw_without_rendering()
    (legend,) = figure.legends[0].get_texts()
    (tick,) = axes[0, 1].get_yticklabels()
    for text in (legend, tick):
        assert shown(text) == (name, False)
    assert shown(title) == (f"of {name}", False)
    assert shown(axes[0, 0].yaxis.label)[1]  # our own mathematics is drawn as such
    assert figures.written(literal["layer"]) == name


def shown(text):
    """(what matplotlib draws, whether as mathematics) of a text."""
    drawn, mathematics = text._preprocess_math(text.get_text())
    return drawn.replace("\u200b", ""), bool(mathematics)


def test_long_names_and_control_characters_can_be_drawn():
    names = ["n" * 1000, "a\nb\n\n\n\n\n\nc", "bell \x07 tab \t", "two " * 30]
    with mpl.rc_context(figures.STYLE):
        figure, axes = figures.new_figure()
        for name in figures.literal(names):
            axes[0, 0].plot([1, 2], label=name)
        figures.legend_below(figure)
        figure.draw_without_rendering()  # a warning, of a missing glyph or no room, is an error
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "bell \\x07 tab \\t" in texts
    assert max(len(line) for text in texts for line in text.split("\n")) <= 40
    assert max(text.count("\n") for text in texts) <= 4


def test_names_that_differ_stay_apart():
    names = [*NAMES, "a", "a ", " a", "x" * 41, "x" * 41 + " ", "x" * 41 + "y"]
    assert len(set(figures.literal(names))) == len(names)


def test_a_text_that_is_no_mathematics_does_not_fail_where_nobody_made_it_literal():
    figure, axes = figures.new_figure()
    title = axes[0, 0].set_title("cost $\\frac{$")
    axes[0, 0].set_xlabel("norm of $dL/dx_{T-k}$,\nrelative")
    figure.draw_without_rendering()
    assert not title.get_parse_math()
    assert all(text.get_parse_math() for text in figure.findobj(Text) if text != title)


def test_a_row_far_from_all_others_does_not_squeeze_them():
    groups = {f"layer {n}": [90.0 + n, 91.0 + n] for n in range(7)}
    _, ((axes,),) = figures.new_figure()
    figures.dot_rows(axes, groups | {"poor": [29.0, 30.0]})
    figures.cut_outliers(axes, groups | {"poor": [29.0, 30.0]}, "{:.0f} %".format)
    assert axes.get_xlim()[0] > 85
    (note,) = axes.texts
    assert (note.get_text(), note.xy[1]) == ("← 30 %", 0)
    for others in (groups, groups | {"poor": [85.0]}, {"poor": [1.0], "good": [99.0]}):
        _, ((axes,),) = figures.new_figure()
        figures.dot_rows(axes, others)
        before = axes.get_xlim()
        figures.cut_outliers(axes, others, str)
        assert (axes.get_xlim(), len(axes.texts)) == (before, 0)
