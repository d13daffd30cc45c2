"""What was measured elsewhere: results/, what the README says of it, and how it is read."""

import json
from pathlib import Path

import pytest

from experiments import __main__ as command_line
from experiments.harness import visit
from experiments.parameter_sharing import experiment
from scripts.keep_results import name_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
VISITS = sorted(path.parent for path in (ROOT / "results").glob(f"*/{visit.FILE}"))
ENVIRONMENT = {
    "device": {"platform": "gpu", "kind": "a made-up GPU", "count": 1},
    "packages": {"jax": "0.10"},
}
FACTS = visit.Visit.model_validate(
    {
        **{"started": "2026-11-27T12:00:00Z", "seconds": 9, "device": "a made-up GPU"},
        **{"platform": "gpu", "python": "3.11", "jax": "0.10", "options": "", "launcher": "own"},
        "stages": (),
    }
)


def test_every_folder_there_is_that_of_a_visit():
    assert {path.parent for path in (ROOT / "results").glob("*/*/config.json")} <= {
        run.path for folder in VISITS for run in visit.runs(folder)
    }


@pytest.mark.parametrize("folder", VISITS, ids=lambda folder: folder.name)
def test_what_was_measured_is_readable_and_named_in_the_readme(folder):
    facts = visit.read(folder)
    assert folder.name.startswith(name_of(facts))
    assert any(run.records() for run in visit.runs(folder))
    for word in (f"results/{folder.name}", facts.device, facts.date):
        assert word in README


def test_what_was_not_measured_is_not_shown():
    section = README.split("## Measured on accelerators")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert rows
    if not any(visit.read(folder).platform == "gpu" for folder in VISITS):
        assert all(row.endswith("| not measured yet |") for row in rows)


def make_run(folder, name="parameter_sharing", **changes):
    """A finished run, without the harness that would take its own environment."""
    path = folder / f"{name}-0a"
    path.mkdir(parents=True)
    config = experiment.Config()
    resolved = {"experiment": name, **config.model_dump(mode="json"), **changes}
    records = [{**record, "line": 1, "lines": 1} for record in experiment.run(config)]
    (path / "config.json").write_text(json.dumps(resolved))
    (path / "environment.json").write_text(json.dumps(ENVIRONMENT | {"cpu": {}}))
    (path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_the_report_reads_a_folder_of_runs_and_a_run_in_it(tmp_path, capsys):
    (tmp_path / visit.FILE).write_text(FACTS.model_dump_json())
    run = make_run(tmp_path)
    assert command_line.main(["report", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "parameter_sharing: a made-up GPU, Python 3.11, JAX 0.10, launcher own" in shown
    assert "2026-11-27" in shown
    assert "finished: all" in shown
    assert "a made-up GPU" in (run / "report.html").read_text()
    assert command_line.main(["report", str(run)]) == 0


def test_a_folder_that_cannot_be_read_is_told_plainly(tmp_path, capsys):
    def told():
        code = command_line.main(["report", str(tmp_path)])
        assert code == command_line.BAD_INPUT
        return capsys.readouterr().err

    assert "is no run folder" in told()
    (tmp_path / visit.FILE).write_text("{}")
    assert "visit.json: cannot be read" in told()
    (tmp_path / visit.FILE).write_text(FACTS.model_dump_json())
    assert "holds no run" in told()
    make_run(tmp_path, "parameter_sharing", unknown=3)
    assert "unknown = 3: no such key" in told()
    make_run(tmp_path, "older")
    assert "no such experiment" in told()
