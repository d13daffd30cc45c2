"""Records read as flat rows: nothing is lost, nothing is hidden by a name, pandas takes them."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.harness import read, run_folder, visit
from experiments.harness.run_folder import RunFolderError, writing
from tests.experiments import toy

VISIT = Path("results/amd-epyc-2-cores-2026-11-27")


def folder_of(tmp_path, point, *records):
    folder = run_folder.make(tmp_path, "toy", toy.Config(), {"device": "a"})
    with writing(folder) as writer:
        writer.append(point, records)
    return folder.path


def test_fields_of_both_stand_side_by_side(tmp_path):
    path = folder_of(
        tmp_path,
        {"part": "race", "point": {"layer": "LRU", "size": 8}},
        {"size": 3, "run": "fast", "at": {"low": [1.0], "none": {}}, "error": math.nan},
    )
    (row,) = read(path)
    assert math.isnan(row.pop("error"))
    assert row == {
        "experiment": "toy",
        "run": path.name,
        "part": "race",
        "layer": "LRU",
        "point.size": 8,
        "size": 3,
        "record.run": "fast",
        "at.low": [1.0],
        "at.none": {},
    }


def test_several_folders_and_visits(tmp_path):
    path = folder_of(tmp_path, {"value": 1}, {"a": 1}, {"b": 2})
    rows = read(path, str(VISIT))
    lines = sum(len(file.read_text().splitlines()) for file in VISIT.glob("*/results.jsonl"))
    assert len(rows) == 2 + lines
    assert len({row["run"] for row in rows}) == 4


def test_a_visit_that_was_spoilt_says_where(tmp_path):
    facts = json.loads((VISIT / "visit.json").read_text())
    (tmp_path / "visit.json").write_text(json.dumps({**facts, "stages": 3, "more": 1}))
    with pytest.raises(RunFolderError) as raised:
        visit.read(tmp_path)
    said = str(raised.value)
    assert "visit.json: cannot be read: stages: Input should be a valid array; more: Extra" in said
    assert "pydantic" not in said


def test_pandas_takes_them():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(read(VISIT / "wallclock-cfeb3fdd7a"))
    counts = table.explode("seconds").groupby(["contender", "direction", "length"]).seconds.count()
    assert counts["LRU, associative", "forward", 64] == 9


def test_what_is_no_run_folder_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="no run folder"):
        read(tmp_path)


def test_reading_needs_no_jax():
    code = "import sys; from experiments.harness import read; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
