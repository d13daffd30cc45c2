"""Two runs side by side: what differs is found, what only looks different is not."""

import io
import json
import math
import sys

import numpy as np
import pytest

from experiments import __main__ as cli
from experiments.harness import run_folder
from experiments.harness.compare import compare_runs
from experiments.harness.measurements import measured, side_by_side
from experiments.harness.pairing import pair
from experiments.harness.ratios import contrasts
from experiments.harness.run_folder import RunFolder, writing

ENVIRONMENT = {
    "device": {"platform": "gpu", "kind": "H100", "count": 1},
    "cpu": {"model": "some", "count": 2},
    "packages": {"jax": "0.10.2"},
}


def make(path, points, config=None, environment=None, experiment="recall"):
    """A run folder at `path` of (point, records)."""
    facts = {"experiment": experiment, **(config or {})}
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(facts))
    (path / "environment.json").write_text(json.dumps(environment or ENVIRONMENT))
    folder = RunFolder(path)
    with writing(folder) as writer:
        for point, records in points:
            writer.append(point, records)
    return path


def race(scale, seed=0, contenders=("auto", "sequential"), **more):
    random = np.random.default_rng(seed)
    return [
        (
            {"length": length},
            [
                {"contender": name, "seconds": list(scale * random.uniform(1, 1.1, 9)), **more}
                for name in contenders
            ],
        )
        for length in (64, 128)
    ]


def shown(capsys, *folders, status=0):
    """What the command prints."""
    assert cli.main(["compare", *map(str, folders)]) == status
    said = capsys.readouterr()
    return said.err if status else said.out


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_interval_covers_what_is_true_and_no_more():
    random = np.random.default_rng(0)
    same = [(random.lognormal(0, 0.2, 9), random.lognormal(0, 0.2, 12)) for _ in range(2000)]
    share = np.mean([contrast.differs for contrast in contrasts(same)])
    assert 0.02 < share < 0.06
    twice = [(random.lognormal(0, 0.2, 9), random.lognormal(np.log(2), 0.2, 12))] * 3
    assert all(contrast.differs for contrast in contrasts(twice))


def test_ratios_where_signs_allow_else_differences():
    up, signs, zero, single, nans = contrasts(
        [([2.0], [3.0]), ([-1.0], [3.0]), ([0.0], [0.0]), ([1.0], [1.0]), ([1.0], [math.nan])]
    )
    assert (up.change, up.is_ratio, up.interval) == (1.5, True, None)
    assert (signs.change, signs.is_ratio) == (4.0, False)
    assert (zero.change, zero.size, single.size) == (0.0, 0.0, 0.0)
    assert math.isnan(nans.change)
    assert nans.size == math.inf


def test_seeds_are_samples_and_words_of_a_machine_part_nothing():
    def records(version, scores):
        return [
            {
                "point": {"layer": "LRU", "seed": seed},
                "contender": name,
                "version": version,
                "score": score,
                "loss": [score, 0.1],
                "line": 1,
                "lines": 1,
            }
            for seed, score in enumerate(scores)
            for name in ("a", "b")
        ]

    left, right = measured([records("1.0", [0.1, 0.2]), records("2.0", [0.3, 0.4])])
    name = (("layer", "LRU"), ("contender", "a"))
    assert np.ravel(left.samples[name, "score"]).tolist() == [0.1, 0.2]
    assert np.ravel(right.samples[name, "score"]).tolist() == [0.3, 0.4]
    assert len(left.curves[name, "loss"]) == 2


def test_repetitions_within_a_seed_are_no_evidence_of_their_own():
    random = np.random.default_rng(0)

    def run():
        """Five seeds that differ by a tenth, nine repetitions of each that do not."""
        return [
            {
                "point": {"layer": f"layer {place}", "seed": seed},
                "seconds": list(random.lognormal(0, 0.1) * random.lognormal(0, 0.01, 9)),
                "line": 1,
                "lines": 1,
            }
            for place in range(300)
            for seed in range(5)
        ]

    left, right = measured([run(), run()])
    samples = [side_by_side(left.samples[key], right.samples[key]) for key in left.samples]
    assert all(len(mine) == len(yours) == 5 for mine, yours in samples)
    assert np.mean([contrast.differs for contrast in contrasts(samples)]) < 0.07


def test_a_change_lies_within_its_interval():
    two_modes = [1.0] * 11 + [1.5] * 10, [1.0] * 10 + [1.5] * 11
    (found,) = contrasts([two_modes])
    assert found.interval
    low, high = found.interval
    assert low <= found.change <= high
    assert found.change < 1.1 < found.other / found.reference


@pytest.mark.parametrize(("mine", "yours"), [(0.0, math.inf), (-1.0, math.inf), (math.inf, 1.0)])
def test_what_is_infinite_in_one_run_differs_most(mine, yours):
    one, other = contrasts([([mine], [yours]), ([1.0], [2.0])])
    assert one.size == math.inf > other.size


def test_a_time_whose_result_was_wrong_does_not_count(tmp_path, capsys):
    make(tmp_path / "a", race(1.0, counts=True))
    make(tmp_path / "b", race(0.1, counts=False))
    said = " ".join(shown(capsys, tmp_path / "a", tmp_path / "b").split())
    assert "faster" not in said
    assert "In A alone, not compared: 4 records, 4 of them skipped or wrong in the other" in said


def test_a_field_that_one_run_has_alone_is_named(tmp_path, capsys):
    make(tmp_path / "a", race(1.0, loss=0.5, accuracy=0.9))
    make(tmp_path / "b", race(1.0, loss=0.5))
    said = " ".join(shown(capsys, tmp_path / "a", tmp_path / "b").split())
    assert "In A alone, not compared: of what both hold, accuracy." in said


def test_a_word_that_a_later_one_makes_needless_parts_nothing():
    def records(version):
        return [
            {
                "point": {"length": 8},
                "library": library,
                "contender": contender,
                "seconds": [1.0],
                "line": 1,
                "lines": 1,
            }
            for library, contender in ((version, "theirs"), ("", "ours"), ("", "limit"))
        ]

    left, right = measured([records("torch 1"), records("torch 2")])
    assert left.samples.keys() == right.samples.keys()
    assert len(left.samples) == 3


def test_records_that_no_word_tells_apart_are_not_pooled():
    records = [
        {"point": {"layer": "LRU"}, "lag": lag, "gain": 1.0 / lag, "line": lag, "lines": 2}
        for lag in (1, 2)
    ]
    (found,) = measured([records])
    gains = [values for (_, field), values in found.samples.items() if field == "gain"]
    assert gains == [[1.0], [0.5]]


def test_what_differs_is_said(tmp_path, capsys):
    slow = make(tmp_path / "slow", race(2.0, 1), {"task": {"lag": 8}, "rate": 0.1})
    other = ENVIRONMENT | {"device": {"platform": "gpu", "kind": "H200", "count": 1}}
    fast = make(
        tmp_path / "fast",
        [*race(1.0, 2), ({"length": 256}, [{"contender": "auto", "seconds": [1.0]}])],
        {"task": {"lag": 9}, "rate": 0.1},
        other,
    )
    said = shown(capsys, slow, fast)
    assert "task.lag" in said
    assert "rate" not in said[: said.index("Environment")]
    assert "H200" in said
    assert "0.10.2" not in said
    assert said.count("faster") == 4
    assert "slower" not in said
    assert "In B alone, not compared: 1 record (length=256 auto)" in said
    assert "No verdicts of A by this version" in said
    page = (tmp_path / "runs" / "compare-slow-fast.html").read_text()
    assert "task.lag" in page
    assert "faster" in page


def test_changed_verdicts_come_first(tmp_path, capsys, monkeypatch):
    from experiments.harness import registry
    from experiments.harness.experiment import Summary, Verdict
    from tests.experiments import toy

    def summary(records):
        total = sum(record.get("square", 0) for record in records)
        grown = Verdict("it grows", "confirmed" if total > 20 else "refuted", ".", value=str(total))
        return Summary(verdicts=(Verdict("it is", "confirmed", "."), grown))

    monkeypatch.setattr(toy, "summary", summary)
    monkeypatch.setattr(registry, "load", lambda name: toy)
    points = [({"value": v}, [{"square": v**2}, {"cube": v**3}]) for v in (2, 5)]
    few, all_ = make(tmp_path / "a", points[:1]), make(tmp_path / "b", points)
    said = shown(capsys, few, all_)
    line = next(line for line in said.splitlines() if "it grows" in line)
    assert "changed" in line
    assert "refuted: 4" in line
    assert "confirmed: 29" in line
    assert said.index("it grows") < said.index("it is")
    assert "1 of 2 changed" in said


def test_visits_are_paired_by_experiment_and_nearest_config(tmp_path):
    def visit(name, *runs):
        for folder, experiment, config in runs:
            make(tmp_path / name / folder, race(1.0), config, experiment=experiment)
        facts = {"started": "2026-11-27T00:00:00", "seconds": 1, "device": "a", "platform": "cpu"}
        facts |= {"python": "3", "jax": "0", "options": "", "launcher": "", "stages": []}
        (tmp_path / name / "visit.json").write_text(json.dumps(facts))
        return tmp_path / name

    a = visit("a", ("r", "recall", {"lag": 1, "rate": 2}), ("d", "digits", {}))
    b = visit(
        "b",
        ("near", "recall", {"lag": 1, "rate": 3}),
        ("far", "recall", {"lag": 5, "rate": 3}),
        ("w", "wallclock", {}),
    )
    (b / "w" / "environment.json").write_text("{}")
    found = pair([a, b])
    assert [[run.path.name for run in group] for group in found.groups] == [["r", "near"]]
    assert ["environment.json" in line for line in found.left_out] == [True, False, False]
    assert "d: no other run of digits" in found.left_out[1]
    assert "far: no other run of recall" in found.left_out[2]


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    a = make(tmp_path / "a", race(1.0))
    other = make(tmp_path / "b", race(1.0), experiment="digits")
    old = make(tmp_path / "old", race(1.0))
    (old / "results.jsonl").write_text('{"length": 1}\n')
    for folders, words in [
        ([a], "two folders or more"),
        ([a, tmp_path / "a" / ".." / "a"], "given twice"),
        ([a, tmp_path / "none"], "is no run folder"),
        ([a, other], "holds digits"),
        ([a, old], "line 1 is no record"),
    ]:
        said = shown(capsys, *folders, status=cli.BAD_INPUT)
        assert words in said
        assert "Traceback" not in said


def test_a_thousand_records_take_less_than_two_seconds(tmp_path, capsys):
    import time

    random = np.random.default_rng(0)
    paths = [
        make(
            tmp_path / name,
            [
                (
                    {"length": length},
                    [
                        {
                            "contender": f"c{i}",
                            "seconds": list(random.uniform(1, 2, 20)),
                            "error": 0.1,
                        }
                        for i in range(100)
                    ],
                )
                for length in range(10)
            ],
        )
        for name in ("a", "b")
    ]
    started = time.process_time()
    assert compare_runs(tuple(paths)) == 0
    assert time.process_time() - started < 2
    assert "2000 measurements in both; 1000 have an interval" in " ".join(
        capsys.readouterr().out.split()
    )
    assert run_folder.find(paths[0]).records()


def test_a_terminal_without_dashes_still_gets_its_table(tmp_path, monkeypatch):
    make(tmp_path / "a", [({"length": 8}, [{"seconds": [1.0]}])])
    make(tmp_path / "b", [({"length": 8}, [{"seconds": [2.0]}])])
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    sys.stdout.flush()
    assert b"2.000" in written.getvalue()
