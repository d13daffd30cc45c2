"""An experiment of one's own, named by its folder, beside an installed rnnscan."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import __main__ as command_line
from experiments.harness import registry, run_folder

ROOT = Path(__file__).parents[2]
TEXT = """
from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Summary, Verdict
from {name}.work import square

CLAIM = "Squares are squares."


class Config(BaseConfig):
    values: tuple[int, ...] = (1, 2)


def plan(config):
    return [{{"value": value}} for value in config.values]


def run(config, points=None):
    for point in points or plan(config):
        yield {{"point": point, "square": square(point["value"])}}


def plot(records):
    return {{}}


def summary(records):
    return Summary((Verdict("squares", "confirmed", f"{{len(records)}} of them"),))
"""


def write(parent, name):
    folder = parent / name
    (folder / "configs").mkdir(parents=True)
    (folder / "experiment.py").write_text(TEXT.format(name=name))
    (folder / "work.py").write_text("def square(x):\n    return x * x\n")
    (folder / "configs" / "default.toml").write_text(f'experiment = "{name}"\n')
    (folder / "configs" / "large.toml").write_text(f'experiment = "{name}"\nvalues = [7, 8, 9]\n')
    return folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with an experiment of one's own, and what its import leaves behind put away."""
    name = "own_squares"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield write(tmp_path, name)
    for module in [module for module in sys.modules if re.match(rf"{name}\b", module)]:
        del sys.modules[module]


def main(*words):
    return command_line.main([*map(str, words)])


def test_a_path_that_a_config_cannot_hold_is_refused(own, capsys):
    place = own.parent / os.fsdecode(b"of \xff")
    try:
        place.mkdir()
    except OSError:
        pytest.skip("the file system has UTF-8 alone")
    write(place, own.name)
    assert main("run", place / own.name) == command_line.BAD_INPUT
    assert "its path is no UTF-8" in capsys.readouterr().err


def test_it_runs_continues_and_is_reported_like_any_other(own, capsys):
    assert main("run", f"./{own.name}", "large", "values=[3, 4]") == 0
    folder = run_folder.latest(Path("runs"))
    assert folder.path.name.startswith("own_squares-")
    assert [record["square"] for record in folder.records()] == [9, 16]
    assert folder.experiment == str(own)
    assert "CONFIRMED" in capsys.readouterr().out
    for words in (
        ("run", own, "values=[3, 4]"),
        ("run", own / "configs" / "large.toml", "values=[3, 4]"),
        ("run", folder.path),
        ("run", folder.path / "config.json"),
    ):
        assert main(*words) == 0
        assert "nothing is left to measure" in capsys.readouterr().out
    for words in (("report",), ("report", folder.path)):
        assert main(*words) == 0
        assert "own_squares, finished: all 2 points" in capsys.readouterr().out
    (own / "work.py").write_text("def square(x):\n    return x**2\n")
    assert main("run", own, "--dry-run") == 0
    assert "2 points, 2 left" in capsys.readouterr().out
    assert len(list(Path("runs").iterdir())) == 1


def test_a_dry_run_says_what_is_left_and_writes_nothing(own, capsys):
    assert main("run", own, "large", "--dry-run") == 0
    out = capsys.readouterr().out
    for expected in ("own_squares on ", "into runs/own_squares-", "  values=[7, 8, 9]", "value=9"):
        assert expected in out
    assert "3 points, 3 left to measure" in out
    assert not Path("runs").exists()
    assert main("run", own) == 0
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    assert main("run", own, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "Its default config." in out
    assert "2 points, 0 left to measure" in out
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before
    many = f"values={list(range(100))}"
    assert main("run", own, many, "--dry-run") == 0
    assert "  value=19\n  and 80 more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits", "is an experiment of rnnscan; should have another name"),
        ("numpy", "is what Python finds elsewhere"),
        ("random", "is what Python finds elsewhere (a module of that name)"),
        ("no-name", "should be a name of letters"),
        ("class", "should be a name of letters"),
    ],
)
def test_a_name_that_python_knows_otherwise_is_refused(
    tmp_path, monkeypatch, capsys, name, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    write(tmp_path, name)
    assert main("run", f"./{name}") == command_line.BAD_INPUT
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_what_a_folder_or_a_word_lacks_is_told(own, capsys):
    def told(*words):
        assert main("run", *words) == command_line.BAD_INPUT
        return capsys.readouterr().err

    assert "(did you mean large?); its configs are default, large" in told(own, "larg")
    assert "(did you mean small?); its configs are default, mixers" in told("digits", "smal")
    assert "is a config already" in told(own / "configs" / "large.toml", "large")
    assert "override 'large'" in told(own, "values=[1]", "large")
    (own / "configs" / "large.toml").write_text('experiment = "other"\n')
    assert 'experiment = "other": should be "own_squares"' in told(own, "large")
    (own / "configs" / "default.toml").unlink()
    assert "no config of own_squares" in told(own)
    (own / "experiment.py").unlink()
    assert "there should be an experiment.py" in told(own)


def test_a_run_whose_folder_was_moved_says_so(own, capsys):
    assert main("run", own) == 0
    own.rename(own.with_name("moved"))
    capsys.readouterr()
    assert main("report") == command_line.BAD_INPUT
    assert f"{own}: no experiment" in capsys.readouterr().err


def test_ours_are_found_by_short_names_and_by_their_folders(monkeypatch, capsys):
    for words in (("digits", "small"), (str(registry.FOLDER / "digits"), "small")):
        assert registry.find_config(*words).path.name == "small.toml"
        assert registry.find_config(*words).experiment == "digits"
    assert main("list") == 0
    assert re.search(r"run digits small +\S", capsys.readouterr().out)


def test_the_help_of_claims_lists_what_may_be_changed(capsys):
    with pytest.raises(SystemExit):
        main("claims", "--help")
    out = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "digits.KEY: layers, readings, seeds," in out
    assert "recall.KEY: " in out


@pytest.fixture
def site(tmp_path):
    """What a plain install puts into site-packages."""
    found = tmp_path / "site"
    found.mkdir()
    for name in ("rnnscan", "experiments"):
        (found / name).symlink_to(ROOT / name)
    return found


def python(site, *arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_a_users_own_folder_experiments_keeps_working(tmp_path, site):
    here = tmp_path / "here"
    (here / "experiments").mkdir(parents=True)
    (here / "experiments" / "mine.py").write_text("print('mine')\n")
    text = "import experiments.mine; from experiments.harness import registry; "
    text += "print(registry.names()); print(registry.FOLDER)"
    done = python(site, "-c", text, cwd=here)
    assert done.returncode == 0, done.stderr
    mine, names, _ = done.stdout.splitlines()
    assert mine == "mine"
    assert json.loads(names.replace("'", '"')) == registry.names()
    # As a package of their own it comes first, and ours is reached without their folder.
    (here / "experiments" / "__init__.py").write_text("")
    done = python(site, "-c", "import experiments.mine", cwd=here)
    assert (done.returncode, done.stdout) == (0, "mine\n"), done.stderr
    done = python(site, "-P", "-m", "experiments", "run", "digits", "smal", cwd=here)
    assert done.returncode == command_line.BAD_INPUT
    assert "did you mean small?" in done.stderr
