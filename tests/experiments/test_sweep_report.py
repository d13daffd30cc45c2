"""The table and the figure of a sweep: nothing measured is left out, and all of it can be read."""

import csv
import io
import itertools
import json
import types

import matplotlib as mpl
import pytest
from rich.console import Console

from experiments.harness import figures, sweep_report
from experiments.harness.run_folder import RunFolder
from experiments.harness.sweep_points import SweepPoint
from tests.experiments import toy


def summed_up(tmp_path, axes, runs, summary=toy.summary):
    """The rows of summary.csv of a sweep, each of whose points has measured the given records."""
    experiment = types.SimpleNamespace(CLAIM="", summary=summary)
    every = [dict(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]
    folders = []
    for number, records in enumerate(runs):
        folders.append(RunFolder(tmp_path / f"toy-{number}"))
        folders[-1].path.mkdir()
        lines = [json.dumps({**record, "line": 1, "lines": 1}) + "\n" for record in records]
        folders[-1].results.write_text("".join(lines))
        folders[-1].mark_finished({"seconds": 2.5})
    sweep_report.write(
        tmp_path,
        "toy",
        experiment,
        axes,
        [SweepPoint(values, toy.Config()) for values in every],
        folders,
        ["finished"] * len(folders),
        Console(file=io.StringIO(), width=120),
        "again",
    )
    with (tmp_path / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def drawn(axes, *, zipped=False, left_out=()):
    every = zip(*axes.values(), strict=True) if zipped else itertools.product(*axes.values())
    rows = [dict(zip(axes, row, strict=True)) for row in every]
    for number, row in enumerate(rows):
        row |= {} if number in left_out else {("loss", ""): float(number)}
    with mpl.rc_context(figures.STYLE):
        figure = sweep_report.draw(axes, rows, [("loss", "")])
        figure.draw_without_rendering()
    return figure, figure.axes[0]


def test_a_point_of_several_lengths_keeps_them_apart_where_lengths_are_swept(tmp_path):
    runs = [
        [{"point": {"length": n}, "square": n**2, "word": "w"} for n in lengths]
        for lengths in ([1, 2], [2, 3])
    ]
    rows = summed_up(tmp_path, {"lengths": [[1, 2], [2, 3]]}, runs)
    assert rows[0]["square, length=1"] == "1.0"
    assert rows[0]["square, length=2"] == rows[1]["square, length=2"] == "4.0"
    assert rows[1]["square, length=3"] == "9.0"


def test_a_point_of_one_length_is_one_column_where_lengths_are_swept(tmp_path):
    runs = [[{"point": {"length": n}, "square": n**2}] for n in (1, 2)]
    rows = summed_up(tmp_path, {"lengths": [[1], [2]]}, runs)
    assert [row["square"] for row in rows] == ["1.0", "4.0"]


def test_a_key_or_a_field_named_as_what_a_run_says_of_itself_stays_beside_it(tmp_path):
    runs = [[{"point": {"n": 1}, "seconds": seconds}] for seconds in (0.25, 0.5)]
    rows = summed_up(tmp_path, {"state": ["a", "b"]}, runs)
    assert [row["state"] for row in rows] == ["a", "b"]
    assert [row["seconds"] for row in rows] == ["0.25", "0.5"]
    assert {row["state of the run"] for row in rows} == {"finished"}
    assert {row["seconds of the run"] for row in rows} == {"2.5"}


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        (range(1, 13), "linear"),
        ([0, 1, 10, 100], "linear"),
        ([1, 3, 10], "log"),
        ([2000, 8000, 32000], "log"),
    ],
)
def test_an_axis_is_logarithmic_where_its_values_grow_by_factors(values, scale):
    _, panel = drawn({"size": list(values)})
    assert panel.get_xscale() == scale
    assert len(panel.get_xticks()) <= 6


def test_axes_side_by_side_are_one_curve():
    figure, panel = drawn({"size": [1, 2, 4], "seed": [10, 20, 40]}, zipped=True)
    (line,) = panel.lines
    assert list(line.get_xdata()) == [1, 2, 4]
    assert not figure.legends
    assert "against size, and with it seed." in figure.get_label()


def test_names_keep_their_order_whatever_is_unfinished():
    _, panel = drawn({"word": ["b", "a", "c"], "flag": [True, False]}, left_out=(0,))
    assert [text.get_text() for text in panel.get_xticklabels()] == ["b", "a", "c"]
    true, false = panel.lines
    assert (list(true.get_xdata()), list(true.get_ydata())) == ([1, 2], [2, 4])
    assert (list(false.get_xdata()), list(false.get_ydata())) == ([0, 1, 2], [1, 3, 5])


def test_long_names_stand_aslant_and_do_not_touch():
    _, panel = drawn({"word": [f"a rather long name of a layer, {n}" for n in range(8)]})
    labels = panel.get_xticklabels()
    assert len({text.get_text() for text in labels}) == 8
    assert max(len(text.get_text()) for text in labels) <= sweep_report.LONGEST
    assert {text.get_rotation() for text in labels} == {30}
