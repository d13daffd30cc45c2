"""The list of run folders: newest first, and no folder hides another."""

import json
import os
from pathlib import Path

from rich.console import Console

from experiments import __main__ as cli
from experiments.harness import config, listing, registry, run_folder
from experiments.harness.run_folder import writing

ENVIRONMENT = {
    "device": {"platform": "gpu", "kind": "H100", "count": 1},
    "cpu": {"model": "some", "count": 2},
    "packages": {"jax": "0.10.2"},
}


def shown(capsys, runs):
    assert cli.main(["runs", "--runs", str(runs)]) == 0
    return capsys.readouterr().out


def make(root, *overrides, measured=0):
    """A run of gradient_decay with some of its points measured."""
    experiment = registry.load("gradient_decay")
    file = registry.find_config("gradient_decay")
    resolved = config.resolve(experiment.Config, file.values, overrides)
    folder = run_folder.make(root, "gradient_decay", resolved, ENVIRONMENT)
    points = experiment.plan(resolved)
    with writing(folder) as writer:
        for point in points[:measured]:
            writer.append(point, [{"value": 1}])
    return folder, len(points)


def age(folder, seconds):
    for file in Path(folder.path).rglob("*"):
        os.utime(file, (seconds, seconds))


def test_no_runs_is_no_fault(tmp_path, capsys):
    assert "holds no run yet" in shown(capsys, tmp_path)
    assert "holds no run yet" in shown(capsys, tmp_path / "none")


def test_what_can_hold_no_run_is_named(tmp_path, capsys):
    folder, _ = make(tmp_path)
    for words in (["runs"], ["report"]):
        for root, what in ((folder.path, "a run folder"), (folder.path / "config.json", "a file")):
            assert cli.main([*words, "--runs", str(root)]) == cli.BAD_INPUT
            said = capsys.readouterr().err
            assert said == f"{root}: is {what}; should be the folder that holds the run folders\n"


def test_every_folder_has_its_line_newest_first(tmp_path, capsys):
    old, _ = make(tmp_path, measured=2)
    old.mark_finished({})
    new, count = make(tmp_path, "seeds=2", measured=3)
    age(old, 1_000_000_000)
    age(new, 1_500_000_000)
    said = shown(capsys, tmp_path)
    assert said.index(new.path.name) < said.index(old.path.name)
    line = next(line for line in said.splitlines() if new.path.name in line)
    assert f"unfinished 3 of {count}" in line
    assert line.split()[0] == "2017-07-14"
    assert "seeds=2" in line
    line = next(line for line in said.splitlines() if old.path.name in line)
    assert " finished " in line
    assert "=" not in line


def test_broken_folders_and_sweeps_are_named(tmp_path, capsys):
    whole, _ = make(tmp_path)
    strange, _ = make(tmp_path, "seeds=3")
    facts = json.loads((strange.path / "config.json").read_text())
    (strange.path / "config.json").write_text(json.dumps({**facts, "gone": 1}))
    for name, content in [
        ("torn", {"config.json": "{"}),
        ("unknown", {"config.json": '{"experiment": "gone"}'}),
        ("headless", {"results.jsonl": '{"a": 1}\n'}),
        ("all", {"sweep.json": "{}"}),
    ]:
        (tmp_path / name).mkdir()
        for file, text in content.items():
            (tmp_path / name / file).write_text(text)
    (tmp_path / "compare-a-b.html").write_text("")
    lines = shown(capsys, tmp_path).splitlines()
    said = {
        name: next(line for line in lines if f" {name} " in line)
        for name in (whole.path.name, strange.path.name, "torn", "unknown", "headless", "all")
    }
    assert "unfinished 0 of" in said[whole.path.name]
    assert "not readable: gone = 1: no such key" in said[strange.path.name]
    for name in ("torn", "unknown", "headless"):
        assert "not readable: " in said[name]
    assert " sweep " in said["all"]


def test_a_narrow_terminal_still_shows_what_differs(tmp_path, capsys, monkeypatch):
    folder, _ = make(tmp_path, "seeds=2", "hidden=16", "input_size=5")
    monkeypatch.setattr(listing.terminal, "output", lambda width: Console(width=80))
    (line,) = (line for line in shown(capsys, tmp_path).splitlines() if folder.path.name in line)
    assert "seeds=2" in line or "hidden=16" in line
    assert len(line) <= 80


def test_a_run_that_goes_on_meanwhile_is_listed(tmp_path, capsys, monkeypatch):
    """What is written first lies there under another name, for a moment."""
    folder, _ = make(tmp_path, measured=1)
    (folder.path / ".report.html.1").write_text("")
    whole = Path.stat

    def stat(path, **more):
        found = whole(path, **more)
        if path.name.startswith("."):
            path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "stat", stat)
    assert folder.path.name in shown(capsys, tmp_path)


def test_a_run_that_lost_points_is_not_finished(tmp_path, capsys):
    folder, count = make(tmp_path, measured=2)
    folder.mark_finished({"points": 2})
    assert " finished " in shown(capsys, tmp_path)
    folder.results.write_bytes(folder.results.read_bytes()[:-5])
    assert f"unfinished 1 of {count}" in shown(capsys, tmp_path)


def test_a_folder_that_is_called_as_an_experiment_is_no_experiment(tmp_path, capsys, monkeypatch):
    folder, _ = make(tmp_path, "seeds=7")
    folder.path.rename(tmp_path / "gradient_decay")
    monkeypatch.chdir(tmp_path)
    assert "seeds=7" in shown(capsys, ".")


def test_a_long_name_leaves_room_for_the_rest(tmp_path, capsys):
    folder, _ = make(tmp_path, "seeds=2")
    folder.path.rename(tmp_path / f"{'long' * 50}-end")
    said = shown(capsys, tmp_path)
    for expected in ("longlon...", "long-end ", "seeds=2", "unfinished 0 of", "gradient_decay"):
        assert expected in said
