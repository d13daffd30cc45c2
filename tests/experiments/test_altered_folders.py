"""Run folders that somebody changed: file, line and cure are named, and no number is believed."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from experiments import __main__ as cli
from experiments.harness import read, run_folder
from experiments.harness.run_folder import RunFolderError, writing
from tests.experiments import toy
from tests.experiments.test_own_experiment import ROOT, write

NAME = "own_squares"
VALUES = "values=[3, 4, 5]"
CURE = "move the folder away, and the command that made it measures again"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A place with a run of three points, and one of other values."""
    place = tmp_path_factory.mktemp("made")
    write(place, NAME)
    before = Path.cwd()
    os.chdir(place)
    try:
        for values, name in (("values=[3, 4, 6]", "other"), (VALUES, "run")):
            assert cli.main(["run", NAME, values]) == 0
            folder = run_folder.latest(Path("runs")).path
            shutil.copytree(folder, name)
            (place / f"{name}.txt").write_text(folder.name)
            shutil.rmtree(folder)
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """The run, at its place below runs/ of the present folder."""
    # By the path at which it was made: the key of a folder of one's own is of that too.
    monkeypatch.chdir(made)
    shutil.rmtree("runs")
    return Path(shutil.copytree("run", Path("runs") / (made / "run.txt").read_text()))


def lines(change):
    """Changes the lines of results.jsonl."""

    def spoil(folder):
        path = folder / "results.jsonl"
        path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))

    return spoil


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def change(name, **values):
    def spoil(folder):
        facts = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**facts, **values}))

    return spoil


def of_other(*names):
    return lambda folder: [shutil.copy(Path("other") / name, folder / name) for name in names]


def directory(name):
    def spoil(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def with_fields(**fields):
    """Every line again, as JSON would have it, with other fields."""

    def again(line):
        found = {**json.loads(line), **fields}
        kept = {key: value for key, value in found.items() if value is not None}
        return json.dumps(kept).encode() + b"\n"

    return lines(lambda found: [again(line) for line in found])


RECORD = b'{"square": 1, "point": %s, "line": %s, "lines": %s}\n'
WAS_CHANGED = "was changed after it was measured, or is of another run"
FAULTS = {
    # by name: what is done to the folder; what is said, after the path of the folder
    "a value of the config": (
        change("config.json", values=[3, 4]),
        "config.json: is not what was measured",
    ),
    "another experiment": (
        change("config.json", experiment="torch_example"),
        "values = [3, 4, 5]: no such key",
    ),
    "an unknown key": (change("config.json", more=1), "more = 1: no such key"),
    "the config of another run": (of_other("config.json"), "config.json: is not what was measured"),
    "config and machine of another run": (
        of_other("config.json", "environment.json"),
        f"results.jsonl: line 1 {WAS_CHANGED}",
    ),
    "numbers of another run": (
        of_other("results.jsonl"),
        f"results.jsonl: line 1 {WAS_CHANGED}",
    ),
    "another machine": (change("environment.json", python="3.0"), "environment.json: was changed"),
    "other hashes": (change("environment.json", hashes=[1]), "environment.json: was changed"),
    "hashes that are null": (
        change("environment.json", hashes=None),
        "environment.json: was changed",
    ),
    "hashes that are none": (
        change("environment.json", hashes=[]),
        "environment.json: was changed",
    ),
    "no hashes": (change("environment.json", hashes={}), f"results.jsonl: line 1 {WAS_CHANGED}"),
    "an empty environment": (put("environment.json", b"{}"), "environment.json: says nothing"),
    "a list": (put("environment.json", b"[]"), "environment.json: cannot be read: should hold a t"),
    "no environment": (
        lambda folder: (folder / "environment.json").unlink(),
        "environment.json: says nothing, or is missing",
    ),
    "half a config": (
        put("config.json", b'{"experiment":\n "own'),
        "config.json: cannot be read: Unterminated string starting at: line 2",
    ),
    "bytes": (put("environment.json", b"\xff\xfe"), "environment.json: cannot be read: 'utf-8'"),
    "a folder of numbers": (directory("results.jsonl"), "results.jsonl: cannot be read: Is a dir"),
    "a folder of facts": (directory("environment.json"), "environment.json: cannot be read: Is a"),
    "a number": (lines(lambda found: [*found, b"123\n"]), "results.jsonl: line 4 is no record"),
    "a table": (lines(lambda found: [b"{}\n", *found]), "results.jsonl: line 1 is no record"),
    "null": (lines(lambda found: [*found, b"null\n"]), "results.jsonl: line 4 is not JSON"),
    "no JSON": (lines(lambda found: [*found, b"x\n"]), "results.jsonl: line 4 is not JSON"),
    "another kind of file": (put("results.jsonl", b"\x1f\x8b\x08"), "line 1 is not JSON"),
    "an odd point": (
        lines(lambda found: [*found, RECORD % (b"3", b"1", b"1")]),
        "results.jsonl: line 4 is no record: its point should be a table",
    ),
    "a record by hand": (
        lines(lambda found: [*found, RECORD % (b'{"value": 9}', b"1", b"1")]),
        "results.jsonl: line 4 is no record of this run: it bears no hash",
    ),
    "a number that was changed": (
        lines(lambda found: [found[0], found[1].replace(b"16", b"17"), found[2]]),
        f"results.jsonl: line 2 {WAS_CHANGED}",
    ),
    "lines without hashes": (with_fields(hash=None), "results.jsonl: line 1 is no record of this"),
    "lines with strange hashes": (with_fields(hash=3), f"results.jsonl: line 1 {WAS_CHANGED}"),
    "a point twice": (
        lines(lambda found: [*found, found[1]]),
        'results.jsonl: line 4 begins the point {"value":4}, which line 2 began already',
    ),
    "all points twice": (
        lines(lambda found: 2 * found),
        'results.jsonl: line 4 begins the point {"value":3}, which line 1 began already',
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_no_command_believes_it(folder, capsys, name):
    spoil, said = FAULTS[name]
    spoil(folder)
    left = {path: path.read_bytes() for path in folder.rglob("*.json*") if path.is_file()}
    with pytest.raises(RunFolderError):
        read(folder)
    for words in (
        ["report"],
        ["report", str(folder)],
        ["compare", str(folder), "other"],
        ["compare", "other", str(folder)],
        ["run", NAME, VALUES],
        ["run", NAME, VALUES, "--dry-run"],
    ):
        assert cli.main(words) == cli.BAD_INPUT, words
        told = capsys.readouterr().err
        assert str(folder) in told or "nothing to compare" in told
        if words[0] == "report":
            assert said in told
            assert CURE in told or "no such key" in told
    assert cli.main(["runs"]) == 0
    listed = capsys.readouterr().out
    assert "not readable: " in listed
    assert said in listed
    for path, content in left.items():  # nothing was written over
        assert path.read_bytes() == content


def test_a_run_that_was_moved_to_the_place_of_another_is_not_taken_for_it(made, folder, capsys):
    shutil.rmtree(folder)
    shutil.copytree("other", folder)
    assert cli.main(["report", str(folder)]) == 0  # it is whole, whatever its name
    for more in ([], ["--dry-run"]):
        assert cli.main(["run", NAME, VALUES, *more]) == cli.BAD_INPUT
        assert "config.json: is of another run than its folder is named" in capsys.readouterr().err
    assert cli.main(["sweep", NAME, "values=[[3, 4, 5]]"]) == 1
    assert "left alone" in capsys.readouterr().out
    (summary,) = Path("runs").glob("sweep-*/summary.csv")
    with summary.open() as file:
        (row,) = csv.DictReader(file)
    assert "is of another run" in row["state"]
    assert row.keys() == {"values", "state", "seconds", "verdicts"}  # no number of the other run
    assert row["seconds"] == row["verdicts"] == ""


def test_what_a_changed_config_says_can_be_measured(folder, capsys):
    change("config.json", values=[8])(folder)
    assert cli.main(["report", str(folder)]) == cli.BAD_INPUT
    told = capsys.readouterr().err
    assert f"python -m experiments run {folder}/config.json" in told
    assert cli.main(["run", str(folder / "config.json")]) == 0
    new = run_folder.latest(Path("runs"))
    assert new.path != folder
    assert [record["square"] for record in new.records()] == [64]


HARMLESS = {
    "renamed": lambda folder: None,
    "indented": lambda folder: (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()), indent=7, sort_keys=True)
    ),
    "lines that end as on Windows": lines(
        lambda found: [line.replace(b"\n", b"\r\n") for line in found]
    ),
    "another order": lines(lambda found: found[::-1]),
    "a last line that is empty": lines(lambda found: [*found, b"\n"]),
    "zeros of a power cut": lines(lambda found: [*found, bytes(100)]),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_no_number_is_believed(folder, tmp_path, capsys, name):
    HARMLESS[name](folder)
    copy = shutil.copytree(folder, tmp_path / "a copy")
    assert cli.main(["report", str(copy)]) == 0
    assert "finished: all 3 points" in capsys.readouterr().out
    assert sorted(row["square"] for row in read(copy)) == [9, 16, 25]


@pytest.mark.parametrize("mark", [b"", b"[]", b"{", b'{"points": "all"}', b'{"points": 2}'])
def test_a_mark_that_says_nothing_is_written_again(folder, capsys, mark):
    """finished.json holds no measurement."""
    (folder / "finished.json").write_bytes(mark)
    assert cli.main(["runs"]) == 0
    assert "unfinished 3 of 3" in capsys.readouterr().out
    assert cli.main(["run", NAME, VALUES]) == 0
    assert json.loads((folder / "finished.json").read_text()) == {"points": 3}


def test_a_finished_point_that_was_removed_is_measured_again(folder, capsys):
    lines(lambda found: found[1:])(folder)
    assert cli.main(["report", str(folder)]) == 0
    assert "unfinished: 2 of 3 points" in capsys.readouterr().out
    assert cli.main(["run", NAME, VALUES]) == 0
    assert "2 of 3 points were measured before" in capsys.readouterr().out
    assert sorted(row["square"] for row in read(folder)) == [9, 16, 25]


def test_folders_of_older_versions_are_believed(tmp_path):
    """They bear no hashes, neither in environment.json nor in their lines."""
    folder = run_folder.make(tmp_path, "toy", toy.Config(), {"device": "a"})
    (folder.path / "environment.json").write_text('{"device": "a"}')
    folder.results.write_bytes(RECORD % (b'{"value": 1}', b"1", b"1"))
    assert [record["square"] for record in folder.records()] == [1]
    with writing(run_folder.RunFolder(folder.path)) as writer:
        writer.append({"value": 2}, [{"square": 4}])
    assert [record["square"] for record in folder.records()] == [1, 4]


def test_a_record_of_an_older_version_may_have_a_field_of_that_name(tmp_path):
    folder = run_folder.RunFolder(tmp_path)
    record = {"hash": "0123456789abcdef", "point": {"value": 1}, "line": 1, "lines": 1}
    folder.results.write_text(json.dumps(record) + "\n")
    assert folder.records() == [record]


def test_two_processes_that_make_one_folder_at_once_bear_one_hash(tmp_path, monkeypatch):
    """Their environments may differ in what changes no number, such as the processors allowed."""

    def make(count):
        return run_folder.make(tmp_path, "toy", toy.Config(), {"cpu": {"count": count}})

    before = run_folder.write_atomically

    def second_is_first(*args, **options):
        """As if the other process had come between the look and the writing."""
        monkeypatch.setattr(run_folder, "write_atomically", before)
        with writing(make(2)) as writer:
            writer.append({"value": 2}, [{"square": 4}])
        before(*args, **options)

    monkeypatch.setattr(run_folder, "write_atomically", second_is_first)
    folder = make(1)
    assert [record["square"] for record in folder.records()] == [4]


def test_an_experiment_of_ones_own_may_move(tmp_path):
    """config.json holds the path of its folder, which is another on another machine."""
    folder = run_folder.make(tmp_path, "/here/mine", toy.Config(), {"device": "a"})
    change("config.json", experiment="/there/mine")(folder.path)
    assert folder.config["experiment"] == "/there/mine"
    change("config.json", experiment="/there/other")(folder.path)
    with pytest.raises(RunFolderError, match="is not what was measured"):
        _ = folder.config


def test_a_file_system_without_links_takes_the_files_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    folder = run_folder.make(tmp_path, "toy", toy.Config(), {"device": "a"})
    assert folder.config["experiment"] == "toy"
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "config.json",
        "environment.json",
    ]


WITHOUT_RIGHTS = """
import contextlib, io, os, sys
from pathlib import Path
from experiments import __main__ as cli
name, values = sys.argv[1:]
def say(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([*map(str, words)])
    print(code, words[0], " ".join((err if code else out).getvalue().split()))
say("run", name, values)
folder, = Path("runs").iterdir()
for mode in (0o555, 0):
    folder.chmod(mode)
    for words in (["report", folder], ["run", name, values], ["runs"]):
        say(*words)
folder.chmod(0o755)
Path("runs").chmod(0)
say("runs")
Path("runs").chmod(0o755)
(folder / "results.jsonl").chmod(0)
say("report", folder)
"""
WRITTEN = "cannot be written: Permission denied. What was measured before is kept: allow it"
READ = "cannot be read: Permission denied; allow it (chmod -R u+rwX)"


def test_folders_that_may_not_be_read_or_written_say_so():
    """As somebody who is not root, whom nothing is forbidden."""
    root = os.geteuid() == 0
    nobody = {"user": 65534, "group": 65534, "extra_groups": []} if root else {}
    with tempfile.TemporaryDirectory() as place:
        write(Path(place), NAME)
        os.chmod(place, 0o777)
        done = subprocess.run(
            [sys.executable, "-B", "-c", WITHOUT_RIGHTS, NAME, VALUES],
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": place, "MPLCONFIGDIR": place},
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
            **nobody,
        )
    if root and done.returncode and not done.stdout:
        pytest.skip(f"only root can start this Python: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    said = [
        ("0 run", "Finished"),
        ("2 report", f"report.html: {WRITTEN}"),  # one that may not be written to
        ("2 run", WRITTEN),
        ("0 runs", " finished "),
        ("2 report", READ),  # one that may not be read
        ("2 run", WRITTEN),
        ("0 runs", READ),
        ("2 runs", f"runs: {READ}"),
        ("2 report", f"results.jsonl: {READ}"),
    ]
    for line, (command, words) in zip(lines, said, strict=True):
        assert line.startswith(command)
        assert words in line
