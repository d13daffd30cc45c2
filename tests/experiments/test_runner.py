"""A run continues where it stopped, and an unfinished one never looks finished."""

import html
import io
import json
import re
import shlex
import signal
import subprocess
import sys
import types

import pytest
from rich.console import Console

from experiments.harness import environment, run_folder, runner
from experiments.harness.experiment import ProtocolError
from experiments.harness.terminal import INTERRUPTED
from tests.experiments import toy

SCRIPT = """
import signal
import sys
from pathlib import Path
from rich.console import Console
from experiments.harness import environment, runner
from tests.experiments import toy

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
found = environment.describe()
environment.describe = lambda name: {**found, "source": ""}  # whatever is edited meanwhile
config = toy.Config(values=(1, 2, 3, 4), pause=float(sys.argv[2]))
sys.exit(runner.run("toy", toy, config, root=Path(sys.argv[1]), console=Console(width=200),
                    again="python toy"))
"""


@pytest.fixture(autouse=True)
def _same_environment(monkeypatch):
    """A source that was edited meanwhile would rightly begin another folder."""
    found = environment.describe()
    monkeypatch.setattr(environment, "describe", lambda name: found)


def run(tmp_path, experiment=toy, **config):
    """(exit code, output, folder) of a run of the toy."""
    output = io.StringIO()
    console = Console(file=output, width=200)
    code = runner.run(
        "toy", experiment, toy.Config(**config), root=tmp_path, console=console, again="again"
    )
    return code, output.getvalue(), run_folder.latest(tmp_path)


def counting(calls, fail_at=None):
    """The toy, noting what it is asked to measure, and failing at a value."""

    def measured(config, points=None):
        for point in points:
            calls.append(point["value"])
            records = list(toy.run(config, [point]))
            yield records[0]
            if point["value"] == fail_at:
                raise KeyboardInterrupt
            yield records[1]

    return types.SimpleNamespace(**{**vars(toy), "run": measured})


def test_a_run_from_start_to_end(tmp_path):
    code, output, folder = run(tmp_path, values=(2, 5))
    assert code == 0
    assert folder.finished
    assert [record.get("square") for record in folder.records()] == [4, None, 25, None]
    for expected in ("[1/2] value=2", "[2/2] value=5", "CONFIRMED", str(folder.report)):
        assert expected in output
    assert {path.name for path in folder.path.rglob("*") if path.is_file()} == {
        "config.json",
        "environment.json",
        "results.jsonl",
        "report.html",
        "finished.json",
        "squares.png",
        "squares.svg",
    }


def test_an_interrupted_point_is_measured_again_and_no_other(tmp_path):
    calls = []
    code, output, folder = run(tmp_path, counting(calls, fail_at=2))
    assert code == INTERRUPTED == 130
    assert "Interrupted. 1 of 3 points are kept; to continue, run again:\n  again" in output
    assert not folder.finished
    assert "unfinished: 1 of 3 points" in folder.report.read_text()
    assert "finished: all" not in folder.report.read_text()
    code, output, folder = run(tmp_path, counting(calls))
    assert code == 0
    assert "1 of 3 points were measured before" in output
    assert calls == [1, 2, 2, 3]
    assert json.loads((folder.path / "finished.json").read_text()) == {"points": 3}
    assert [record["point"]["value"] for record in folder.records()] == [1, 1, 2, 2, 3, 3]
    assert "finished: all 3 points measured" in folder.report.read_text()


def test_a_finished_run_measures_nothing_again(tmp_path):
    run(tmp_path)
    calls = []
    code, output, folder = run(tmp_path, counting(calls))
    assert (code, calls) == (0, [])
    assert "nothing is left to measure" in output
    assert folder.finished


def test_an_interruption_before_the_first_point_still_leaves_a_report(tmp_path):
    code, _, folder = run(tmp_path, counting([], fail_at=1))
    assert code == INTERRUPTED
    assert "unfinished: 0 of 3 points" in folder.report.read_text()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"plan": lambda config: [{"value": 1}, {"value": 1}]}, "more than once"),
        ({"plan": lambda config: []}, "no points"),
        ({"plan": lambda config: None}, "returned None; should return points"),
        ({"run": lambda config, points: None}, "returned None; should yield records"),
        ({"run": lambda config, points: iter([{"point": {"value": 9}}])}, "should be of the point"),
        ({"run": lambda config, points: iter([])}, "yields at least one"),
        ({"run": lambda config, points: [{"square": 1, "cube": 2}]}, 'without "point".*cube'),
        ({"run": lambda config, points: [3]}, "3 is no dict"),
        ({"run": lambda config, points: [{"point": points[0], "seen": {1}}]}, r"'seen': \{1\} of"),
        (
            {"run": lambda config, points: [{"point": points[0], "line": 17}]},
            "a record with line, by which results.jsonl numbers",
        ),
        ({"plan": lambda config: [3]}, "names the point 3: 3 is no dict"),
        ({"plan": lambda config: [{"value": {1}}]}, r"'value': \{1\} of type set"),
        ({"CLAIM": None}, "CLAIM: should be a string"),
        ({"Config": dict}, "Config: should be a subclass"),
        ({"plot": lambda: {}}, r"plot: should be a function plot\(records\)"),
        ({"summary": 3}, "summary: should be a function"),
    ],
)
def test_an_experiment_that_breaks_the_protocol_is_told_how(tmp_path, broken, message):
    with pytest.raises(ProtocolError, match=f"(?s)^toy: .*{message}"):
        run(tmp_path, types.SimpleNamespace(**{**vars(toy), **broken}))
    assert not any(path.stat().st_size for path in tmp_path.glob("*/results.jsonl"))


def test_what_an_experiment_lacks_is_told_at_once_before_anything_is_made(tmp_path):
    names = {key: value for key, value in vars(toy).items() if key not in ("plot", "CLAIM")}
    with pytest.raises(ProtocolError) as error:
        run(tmp_path, types.SimpleNamespace(**names))
    for expected in (
        toy.__file__,
        "CLAIM: missing; should be a string",
        "plot: missing; should be a function plot(records) -> figures by name",
    ):
        assert expected in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_drawn_is_told_with_the_command_that_draws_it(tmp_path):
    def plot(records):
        raise ValueError("no such colour")

    code, output, folder = run(tmp_path, types.SimpleNamespace(**{**vars(toy), "plot": plot}))
    assert code == 1
    for expected in (
        "toy: the report is not whole",
        "ValueError: no such colour (experiments/test_runner.py, line ",
        f"python -m experiments report {folder.path}",
        "CONFIRMED",
    ):
        assert expected in output
    assert folder.finished
    output = io.StringIO()
    assert runner.rebuild("toy", toy, toy.Config(), folder, Console(file=output)) == 0
    assert "not whole" not in folder.report.read_text() + output.getvalue()


def test_ctrl_c_leaves_a_folder_that_the_same_command_completes(tmp_path):
    command = [sys.executable, "-u", "-c", SCRIPT, str(tmp_path), "1.5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = []
    while not any("[2/4]" in line for line in lines):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        lines.append(line)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "python toy" in rest
    assert "Traceback" not in errors
    folder = run_folder.latest(tmp_path)
    kept = folder.results.read_bytes()
    assert len(folder.records()) == 4
    assert not folder.finished

    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "2 of 4 points were measured before" in again.stdout
    assert run_folder.latest(tmp_path) == folder
    assert folder.results.read_bytes().startswith(kept)
    assert [record["point"]["value"] for record in folder.records()] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert folder.finished


def test_the_report_says_how_to_continue_in_the_same_place(tmp_path):
    _, _, folder = run(tmp_path / "of mine")
    (command,) = re.findall(r"python -m experiments run .*", folder.report.read_text())
    words = shlex.split(html.unescape(command.removesuffix("</pre>")))
    assert words[4:] == [str(folder.path / "config.json"), "--runs", str(folder.path.parent)]


def test_a_report_is_rebuilt_from_the_records(tmp_path):
    _, _, folder = run(tmp_path)
    expected = folder.report.read_text()
    folder.report.unlink()
    output = io.StringIO()
    assert runner.rebuild("toy", toy, toy.Config(), folder, Console(file=output)) == 0
    assert folder.report.read_text() == expected
    assert "finished: all 3 points measured" in output.getvalue()
