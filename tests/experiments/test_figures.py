"""Colours stay with their layer, ticks read as people say them, legends hide no data."""

import numpy as np

from experiments.harness import figures


def test_a_layer_keeps_its_colour_and_a_method_its_line():
    layers = ("RNN", "LinearRNN", "LRU", "MLP")
    looks = [figures.line_style(layer, "sequential") for layer in layers]
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == 4
    tree = figures.line_style("LRU", "associative")
    assert tree["color"] == looks[2]["color"]
    assert tree["linestyle"] != looks[2]["linestyle"]


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
