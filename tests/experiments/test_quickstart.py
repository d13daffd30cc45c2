"""`quickstart` measures nothing itself: its points, records, figures and tables are its parts'."""

import types
from dataclasses import replace

import pytest

from experiments.harness import registry, report, run_folder, runner
from experiments.harness.config import ConfigError, resolve
from experiments.harness.experiment import ProtocolError, Summary, Verdict
from experiments.quickstart import experiment
from tests.experiments import toy


@pytest.fixture
def config(monkeypatch):
    """A quickstart of two toys."""
    monkeypatch.setattr(experiment, "PARTS", {"wallclock": toy, "digits": toy})
    return types.SimpleNamespace(
        wallclock=toy.Config(values=(1, 2)), digits=toy.Config(values=(2, 5))
    )


def test_points_are_the_parts_points_and_distinct(config):
    points = runner.plan("quickstart", experiment, config)
    assert points == [
        {"part": "wallclock", "point": {"value": 1}},
        {"part": "wallclock", "point": {"value": 2}},
        {"part": "digits", "point": {"value": 2}},
        {"part": "digits", "point": {"value": 5}},
    ]
    assert experiment.describe(points[2]) == "digits: value=2"


def test_records_are_the_parts_records_under_the_wrapped_point(config):
    point = {"part": "digits", "point": {"value": 5}}
    assert list(experiment.run(config, [point])) == [
        {"point": point, "square": 25},
        {"point": point, "cube": 125},
    ]
    keys = [run_folder.point_key(record["point"]) for record in experiment.run(config)]
    assert len(keys) == 2 * len(set(keys)) == 8


def test_every_part_draws_and_sums_up_its_own_records(config):
    records = list(experiment.run(config))
    assert list(experiment.plot(records)) == ["wallclock_squares", "digits_squares"]
    summary = experiment.summary(records)
    assert [table.rows for table in summary.tables] == [
        (("1", "1"), ("2", "4")),
        (("2", "4"), ("5", "25")),
    ]
    assert [verdict.text for verdict in summary.verdicts] == ["2 of them & more"] * 2


def test_a_claim_that_is_not_asked_is_no_open_verdict(monkeypatch):
    def part(outcome, number):
        verdict = Verdict("a", outcome, "b", number)
        return types.SimpleNamespace(summary=lambda records: Summary((verdict,)))

    def numbers(**parts):
        monkeypatch.setattr(experiment, "PARTS", parts)
        return [verdict.number for verdict in experiment.summary([]).verdicts]

    assert numbers(wallclock=part("open", 8), digits=part("open", 11)) == [11]
    assert numbers(wallclock=part("refined", 8)) == [8]  # with layers of one's own


def test_the_terminal_shows_one_table_a_part(config, monkeypatch):
    def two_tables(records):
        summary = toy.summary(records)
        return replace(summary, tables=(*summary.tables, replace(summary.tables[0], title="More")))

    wordy = types.SimpleNamespace(**{**vars(toy), "summary": two_tables})
    monkeypatch.setattr(experiment, "PARTS", {"wallclock": wordy, "digits": wordy})
    tables = experiment.summary(list(experiment.run(config))).tables
    assert [table.brief for table in tables] == [True, False, True, False]


def test_a_run_that_has_not_reached_a_part_is_still_drawn_and_summed_up():
    summary = experiment.summary([])
    assert {verdict.outcome for verdict in summary.verdicts} == {"open"}
    assert experiment.plot([]) == {}


def test_faults_have_the_path_down_to_the_part():
    values = registry.find_config("quickstart").values
    with pytest.raises(ConfigError) as error:
        resolve(experiment.Config, values, ["wallclock.rounds=1", "digits.training.epochs=0"])
    assert error.value.faults == (
        "wallclock.rounds = 1: should be greater than or equal to 3",
        "digits.training.epochs = 0: should be greater than 0",
    )


def test_a_part_that_fails_leaves_the_others(config, monkeypatch, tmp_path):
    def failing(*_):
        raise KeyError("loss")

    broken = types.SimpleNamespace(**{**vars(toy), "plot": failing, "summary": failing})
    monkeypatch.setattr(experiment, "PARTS", {"wallclock": broken, "digits": toy})
    records = list(experiment.run(config))
    figures = experiment.plot(records)
    assert list(figures) == ["wallclock", "digits_squares"]
    images, failures = report.save_figures(figures, tmp_path)
    assert [image.caption for image in images] == ["digits squares"]
    assert failures[0].startswith("figures wallclock: KeyError: 'loss' (experiments/test_quick")
    summary = experiment.summary(records)
    assert [table.rows for table in summary.tables] == [(("2", "4"), ("5", "25"))]
    assert summary.failures[0].startswith("wallclock, tables and verdicts: KeyError: 'loss' (")


def test_a_part_that_yields_no_record_of_its_point_is_named(config, monkeypatch):
    wrong = types.SimpleNamespace(**{**vars(toy), "run": lambda config, points: [{"square": 1}]})
    monkeypatch.setattr(experiment, "PARTS", {"wallclock": wrong, "digits": wrong})
    with pytest.raises(ProtocolError, match=r'^wallclock: .*without "point"'):
        list(experiment.run(config))
