"""`wallclock`: a tiny run by the command line, and what its records mean."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import __main__ as command_line
from experiments.harness import environment, registry, run_folder
from experiments.wallclock import experiment, present, work
from experiments.wallclock.contenders import BOTH, FORWARD, WAYS, contender, make_task

TINY = dict(
    lengths=[4],
    directions=[BOTH],
    batch=2,
    width=3,
    rounds=3,
    sample_seconds=1e-9,
    product_size=16,
)
OVERRIDES = [f"{key}={json.dumps(value)}" for key, value in TINY.items()]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """(exit code, run folder) of a run of a few steps, forward and backward."""
    runs = tmp_path_factory.mktemp("runs")
    code = command_line.main(["run", "wallclock", *OVERRIDES, "--runs", str(runs)])
    return code, run_folder.latest(runs)


def test_every_contender_is_timed_and_right(tiny_run):
    code, folder = tiny_run
    assert code == 0
    assert folder.finished
    assert not jax.config.jax_enable_compilation_cache
    records = [record for record in folder.records() if "layer" in record]
    assert len(records) == len(WAYS)
    for record in records:
        assert record["counts"]
        assert 0 <= record["error"] <= record["tolerance"] < 1e-4
        assert len(record["seconds"]) == 3
        assert min(record["seconds"]) > 0
        assert min(record["lower_seconds"], record["compile_seconds"]) > 0
        assert record["limit_seconds"] == max(
            record["least_bytes"] / record["bandwidth"], record["least_flops"] / record["flop_rate"]
        )
    machine = [record for record in folder.records() if "layer" not in record]
    assert len(machine) == 4
    assert all(record["counts"] for record in machine)


def test_the_report_is_rebuilt_and_shown(tiny_run, capsys):
    _, folder = tiny_run
    assert command_line.main(["report", "--runs", str(folder.path.parent)]) == 0
    output = capsys.readouterr().out
    assert "tanh RNN, lax.scan" in output
    assert str(folder.report) in output
    assert (folder.path / "figures" / "time.png").exists()


def test_the_same_command_measures_nothing_again(tiny_run, capsys, monkeypatch):
    _, folder = tiny_run
    # A source that was edited meanwhile would rightly begin another folder.
    monkeypatch.setattr(environment, "describe", lambda: folder.environment)
    again = ["run", str(folder.path / "config.json"), "--runs", str(folder.path.parent)]
    assert command_line.main(again) == 0
    assert "nothing is left to measure" in capsys.readouterr().out


@pytest.mark.parametrize(("layer", "method"), WAYS)
def test_a_result_that_is_slightly_wrong_does_not_pass(layer, method):
    task = make_task(batch=2, length=5, width=3, seed=0)
    it = contender(task, layer, method, BOTH)
    y, dlayer, dx = jax.jit(it.function)(*it.arguments)
    assert it.check((y, dlayer, dx)).passed
    assert not it.check((y.at[1, 4, 2].multiply(1.001), dlayer, dx)).passed
    assert not it.check((y, dlayer, dx.at[0, 0].multiply(-1))).passed
    wrong = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].multiply(1.01), dlayer)
    assert not it.check((y, wrong, dx)).passed
    assert not it.check((y.at[0, 0, 0].set(np.nan), dlayer, dx)).passed


def test_too_large_is_recorded_and_never_tried(monkeypatch):
    monkeypatch.setattr(experiment, "contender", lambda *_: pytest.fail("was tried"))
    for limit, reason in (
        ({"max_bytes": 100}, "would need"),
        ({"max_seconds": 1e-9}, "would take"),
    ):
        config = experiment.Config(**{**TINY, "lengths": (4,), "directions": (FORWARD,), **limit})
        records = [r for r in experiment.run(config) if "skipped" in r]
        assert len(records) == len(WAYS)
        for record in records:
            assert reason in record["skipped"]
            assert record["predicted_bytes"] == work.predicted_bytes(
                *record["contender"].split(), FORWARD, 2, 4, 3
            )
        assert present.plot(records) == {}
        assert present.summary(records).verdicts[0].outcome == "open"


def test_the_least_work_is_counted_by_hand():
    # One step of width 2: two 2 x 2 products of 8 operations; x read, y written.
    assert work.least("RNN", FORWARD, 1, 1, 2) == work.Work(bytes=16, flops=16)
    assert work.least("LinearRNN", BOTH, 3, 5, 2) == work.Work(bytes=15 * 48, flops=15 * 48)
    # B x and C h are two real products each; lambda h + gamma u on two complex numbers: 20.
    assert work.least("LRU", FORWARD, 1, 1, 2) == work.Work(bytes=16, flops=32 + 20)
    assert work.composition_flops("LRU", "associative", BOTH, 8, 2) == 0
    assert work.composition_flops("LinearRNN", "associative", FORWARD, 8, 2) == 16 * 16


def records(rnn=1.0, tree=1.0, spread=0.0, limit=0.1, counts=True):
    """Records of a run in which the tanh RNN and both trees took that long."""

    def record(layer, method, length, seconds):
        return {
            "point": {"direction": FORWARD, "length": length},
            "contender": f"{layer} {method}",
            "layer": layer,
            "method": method,
            "batch": 2,
            "width": 4,
            "seconds": [seconds * (1 - spread), seconds, seconds * (1 + spread)],
            "counts": counts,
            "limit_seconds": limit,
            "limited_by": "bandwidth",
            "compile_seconds": 1.0,
            "temporary_bytes": 1,
            "error": 1e-7,
            "tolerance": 1e-6,
        }

    return [
        record(layer, method, length, tree if method == "associative" else rnn)
        for length in (64, 128)
        for layer, method in WAYS
    ]


@pytest.mark.parametrize(
    ("case", "outcome", "text"),
    [
        (records(tree=0.25), "confirmed", "is 4 times as fast"),
        (records(tree=0.9, spread=0.5), "refined", "no faster beyond the noise"),
        (records(tree=8.0), "refined", "takes 8 times as long"),
        (records(limit=0.6), "refuted", "hardly idles"),
        (records(counts=False), "open", "No tanh RNN"),
        (records()[:1], "open", "No parallel method"),
        ([], "open", "No tanh RNN"),
    ],
)
def test_the_verdict_follows_from_the_records(case, outcome, text):
    (verdict,) = present.summary(case).verdicts
    assert verdict.outcome == outcome
    assert text in verdict.text


def test_times_are_per_sequence_and_wrong_results_are_in_no_table_but_their_own():
    good, bad = records(rnn=2.0)[0], {**records(rnn=2.0)[3], "counts": False, "error": 1.0}
    tables = present.summary([good, bad]).tables
    assert tables[0].rows == (("tanh RNN, lax.scan", "1 s", "5 %"),)
    assert tables[-1].title.startswith("Not counted")
    assert tables[-1].rows[0][0] == "LRU sequential, forward, T = 64"


def test_figures_have_a_panel_for_each_direction():
    both = records() + [
        {**record, "point": {**record["point"], "direction": BOTH}} for record in records()
    ]
    figures = present.plot(both)
    assert list(figures) == ["time", "fraction_of_limit", "compile_and_memory"]
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figures["time"].axes] == [
        "forward",
        "forward + backward",
    ]
    assert len(figures["time"].axes[0].lines) == len(WAYS) + 2  # and two limits


def test_points_are_planned_shortest_first():
    config = experiment.Config(lengths=(8, 4))
    assert [tuple(point.values()) for point in experiment.plan(config)] == [
        (FORWARD, 4),
        (BOTH, 4),
        (FORWARD, 8),
        (BOTH, 8),
    ]


def test_bad_input_is_told_at_once_and_makes_no_folder(tmp_path, capsys):
    bad = ["lengths=[64, 0]", "widht=3", "rounds=2", "directions=[]", "batch"]
    code = command_line.main(["run", "wallclock", *bad, "--runs", str(tmp_path / "runs")])
    errors = capsys.readouterr().err
    assert code == 2
    assert "5 faults" in errors
    for expected in (
        "lengths[1] = 0: should be greater than 0",
        "widht = 3: no such key; did you mean width?",
        "rounds = 2: should be greater than or equal to 3",
        "directions = []: should be at least one value",
        "override 'batch': should read key.path=VALUE",
    ):
        assert expected in errors
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "no such experiment; should be one of"),
        (["run", "missing.toml"], "cannot be read"),
        (["report", "nowhere"], "is no run folder"),
        (["report", "--runs", "nowhere"], "holds no run yet"),
    ],
)
def test_what_does_not_exist_is_told_plainly(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command_line.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_list_shows_claims_configs_and_times(capsys, monkeypatch):
    monkeypatch.chdir(registry.FOLDER.parent)
    assert command_line.main(["list"]) == 0
    output = capsys.readouterr().out
    assert "Claim 5" in output
    assert "run wallclock " in output
    assert "run experiments/wallclock/configs/small.toml" in output
    assert "about 5 minutes on two cores" in output


def test_the_command_is_a_module():
    command = [sys.executable, "-m", "experiments", "run", "wallclok"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean wallclock?" in done.stderr
    assert "Traceback" not in done.stderr
