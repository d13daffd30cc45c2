"""`claims`: one table of eleven claims, each row the verdict of the experiment that settles it."""

import re
import types

import pytest

from experiments.claims import experiment
from experiments.claims.article import CLAIMS
from experiments.harness.config import ConfigError, resolve
from experiments.harness.experiment import Summary, Table, Verdict


def part(*verdicts):
    """An experiment that says this of whatever records it is given."""
    table = Table("numbers", ("a",), (("1",),))
    return types.SimpleNamespace(summary=lambda records: Summary(verdicts, (table,)))


def test_every_claim_is_there_and_is_settled_by_parts_of_the_run():
    assert list(CLAIMS) == list(range(1, 12))
    settled = {name for claim in CLAIMS.values() for name in claim.settled_by}
    assert settled == set(experiment.PARTS)


def test_the_table_has_what_the_parts_say_and_the_rest_is_open(monkeypatch):
    parts = {
        "parameter_sharing": part(
            Verdict("a", "confirmed", "counted", 2, "29,184"), Verdict("b", "refuted", "aside")
        ),
        "digits": part(Verdict("c", "refuted", "read", 11, "12 %")),
        # Of a claim that this part does not settle: what it says of it is not the verdict.
        "recall": part(Verdict("d", "confirmed", "by chance", 4, "0")),
    }
    monkeypatch.setattr(experiment, "PARTS", parts)
    summary = experiment.summary([])
    table, *others = summary.tables
    rows = {row[0]: row[1:3] for row in table.rows}
    assert list(rows) == [str(number) for number in CLAIMS]
    assert rows.pop("2") == ("confirmed", "29,184")
    assert rows.pop("11") == ("refuted", "12 %")
    assert set(rows.values()) == {("open", "–")}
    assert [v.outcome for v in summary.verdicts].count("open") == 9
    assert len(others) == 3
    assert not any(other.brief for other in others)


def test_each_part_has_its_small_config_with_changes_on_top():
    config = resolve(experiment.Config, {}, ["gradient_decay.seeds=3"])
    assert config.gradient_decay.seeds == 3
    assert config.digits.seeds == 1
    points = experiment.plan(config)
    assert {point["part"] for point in points} == set(experiment.PARTS)


def test_faults_name_the_part():
    with pytest.raises(ConfigError, match=r"digits\.seeds = 0: .*recall\.pears = 1: no such key"):
        resolve(experiment.Config, {}, ["digits.seeds=0", "recall.pears=1"])


@pytest.mark.parametrize("value", ["1", "true", '"x"', "[1]"])
def test_a_part_that_is_no_table_is_named_with_its_value(value):
    right = r"should be a table of its keys; one is changed by gradient_decay\.layers=VALUE"
    with pytest.raises(ConfigError, match=rf"gradient_decay = {re.escape(value)}: {right}"):
        resolve(experiment.Config, {}, [f"gradient_decay={value}"])
    with pytest.raises(ConfigError, match=r"recall\.training = 3: should be a table of its keys"):
        resolve(experiment.Config, {}, ["recall.training=3"])


def test_a_part_that_fails_leaves_its_claims_open_with_the_reason(monkeypatch):
    def failing(records):
        raise KeyError("loss")

    parts = {
        "parameter_sharing": types.SimpleNamespace(summary=failing),
        "recall": part(Verdict("a", "confirmed", "far", 9, "12")),
    }
    monkeypatch.setattr(experiment, "PARTS", parts)
    summary = experiment.summary([])
    outcomes = {verdict.number: verdict for verdict in summary.verdicts}
    assert outcomes[9].outcome == "confirmed"
    assert outcomes[2].outcome == "open"
    assert "No verdict: parameter_sharing, tables and verdicts: KeyError" in outcomes[2].text
    assert len(summary.failures) == 1
