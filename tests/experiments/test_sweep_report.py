"""What a sweep says at its end: every number that its runs measured, whatever it is called."""

import csv
import io
import json
import types

import pytest
from rich.console import Console

from experiments.harness import environment, runner, sweep_points, sweep_report
from experiments.harness.run_folder import RunFolder
from tests.experiments import toy

PLAIN = types.SimpleNamespace(**{**vars(toy), "plot": lambda records: {}})


@pytest.fixture(scope="module")
def facts():
    return environment.describe()


def swept(tmp_path, monkeypatch, facts, changes):
    """(rows of the summary, the page) of a sweep of the toy that was run to its end."""
    monkeypatch.setattr(environment, "describe", lambda name: facts)
    axes, fixed = sweep_points.parse(changes)
    points = sweep_points.resolve(toy.Config, {}, axes, fixed)
    folders = []
    for point in points:
        console = Console(file=io.StringIO())
        runner.run("toy", PLAIN, point.config, root=tmp_path, console=console, again="")
        (folder,) = {path.parent for path in tmp_path.glob("*/config.json")} - {
            found.path for found in folders
        }
        folders.append(RunFolder(folder))
    states = ["finished"] * len(points)
    where = tmp_path / "sweep"
    sweep_report.write(
        where, "toy", PLAIN, axes, points, folders, states, Console(file=io.StringIO()), "again"
    )
    rows = list(csv.DictReader(io.StringIO((where / "summary.csv").read_text())))
    return rows, (where / "report.html").read_text()


def test_a_run_with_several_values_of_what_is_swept_loses_none(tmp_path, monkeypatch, facts):
    rows, _ = swept(tmp_path, monkeypatch, facts, ["values=[[1,2],[3,4,5]]"])
    squares = [{v for key, v in row.items() if key.startswith("square") and v} for row in rows]
    assert [{float(v) for v in row} for row in squares] == [{1, 4}, {9, 16, 25}]


def test_what_is_swept_is_escaped_and_names_nothing_twice(tmp_path, monkeypatch, facts):
    rows, page = swept(tmp_path, monkeypatch, facts, ["values=[[2]]", 'label=["<b>","c"]'])
    assert [row["label"] for row in rows] == ["<b>", "c"]
    assert [float(row["square"]) for row in rows] == [4, 4]
    assert "<b>" not in page.split("<body", 1)[1]
    assert "&lt;b&gt;" in page
    kept = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [point["values"]["label"] for point in kept["points"]] == ["<b>", "c"]
