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


def test_what_is_not_finite_is_first_and_has_no_interval():
    up, down, tiny = contrasts([([0.0], [math.inf]), ([1.0], [-math.inf]), ([1e300], [5e-324])])
    assert (up.size, down.size, tiny.size) == (math.inf,) * 3
    (torn,) = contrasts([([1.0] * 10 + [math.inf], [2.0] * 10 + [math.inf])])
    assert torn.change == 2
    assert torn.interval is None


def test_small_ratios_keep_their_digits(tmp_path, capsys):
    folders = [
        make(tmp_path / name, [({"length": 8}, [{"error": error}])])
        for name, error in (("a", 1.0), ("b", 0.001234))
    ]
    assert " 0.00123 " in shown(capsys, *folders)


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


def test_a_word_tells_apart_only_where_it_is_needed():
    """The method that was chosen differs by machine; in other records it alone tells apart."""

    def run(chosen):
        time = [
            {"method": method, "contender": name, "seconds": [1.0], "point": {"length": 8}}
            for name, method in (("auto", chosen), ("loop", "loop"), ("tree", "tree"))
        ]
        checked = [
            {"method": method, "error": 0.1, "point": {"width": 8}} for method in ("loop", "tree")
        ]
        return time + checked

    left, right = measured([run("loop"), run("tree")])
    assert left.names == right.names
    assert (("length", 8), ("contender", "auto")) in left.names
    assert (("width", 8), ("method", "tree")) in left.names


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


def test_what_one_alone_measured_and_what_is_equal_is_said(tmp_path, capsys):
    point = {"length": 8}
    a = make(tmp_path / "a", [(point, [{"seconds": [1.0], "loss": [1.0, 2.0], "error": 0.1}])])
    b = make(tmp_path / "b", [(point, [{"seconds": [1.0], "loss": [1.0, 2.0], "bits": [3, 4]}])])
    said = shown(capsys, a, b)
    assert "In A alone, not compared: of what both hold, error." in said
    assert "In B alone, not compared: of what both hold, bits." in said
    assert "1 measurement in both: equal." in said
    assert "1 curve in both: equal." in said
    assert "0.00%" not in said


def test_the_page_is_written_though_the_reader_leaves(tmp_path, monkeypatch):
    from experiments.harness import compare

    def closed(*_):
        raise SystemExit(1)  # as rich ends where a pipe was closed

    folders = [make(tmp_path / name, race(scale)) for name, scale in (("a", 1.0), ("b", 2.0))]
    monkeypatch.setattr(compare, "_show", closed)
    with pytest.raises(SystemExit):
        compare_runs(tuple(folders))
    assert "length=64" in (tmp_path / "runs" / "compare-a-b.html").read_text()


def test_a_page_that_cannot_be_written_says_where_it_could(tmp_path, capsys):
    folders = [str(make(tmp_path / name, race(1.0))) for name in "ab"]
    for out in (".", "/", "a"):
        assert cli.main(["compare", *folders, "--out", out]) == cli.BAD_INPUT
        said = capsys.readouterr()
        assert f"--out {out}: is a folder; should be a file" in said.err
        assert not said.out
    out = tmp_path / "a" / "config.json" / "page.html"
    assert cli.main(["compare", *folders, "--out", str(out)]) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert "name another file with --out" in said
    assert "--runs" not in said


def test_ten_runs_have_a_page(tmp_path):
    names = [f"{'long' * 10}-{number}" for number in range(10)]
    folders = tuple(make(tmp_path / name, race(1.0)) for name in names)
    assert compare_runs(folders) == 0
    assert compare_runs(folders[:-1]) == 0
    assert len(list((tmp_path / "runs").glob("compare-long*.html"))) == 2


def test_whatever_names_and_strings_hold_is_shown_as_text(tmp_path, capsys):
    odd = "[/]x[bold]<script>\x1b[31m\x07\ud800:x:"
    folders = [
        make(
            tmp_path / name,
            [({"layer": odd}, [{"score": score}])],
            {"label": odd + name},
            experiment="/nowhere/[/]\x1bmine",
        )
        for name, score in (("a[b]:x:", 1.0), ("b\nc", 2.0), ("by\udcffte", 3.0))
    ]
    said = shown(capsys, *folders)
    for expected in ("[/]x[bold]<script>\\x1b[31m\\x07\\ud800:x:", "a[b]:x:", "by\\udcffte"):
        assert expected in said
    assert "\x1b" not in said
    (path,) = (tmp_path / "runs").glob("*.html")
    assert "\n" not in path.name
    page = path.read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_what_an_encoding_lacks_is_an_escape(tmp_path, monkeypatch):
    import io
    import sys

    folders = [str(make(tmp_path / name, race(1.0))) for name in ("a", "\u65e5")]
    stream = io.BytesIO()
    with io.TextIOWrapper(stream, encoding="latin-1") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        assert cli.main(["compare", *folders]) == 0
        out.flush()
        assert "\\u65e5" in stream.getvalue().decode("latin-1")


def test_a_narrow_terminal_shows_what_matters(tmp_path, capsys, monkeypatch):
    """Which runs, the outcomes, the records' own ends, and by how much they differ."""
    from rich.console import Console

    from experiments.harness import compare, registry
    from experiments.harness.experiment import Summary, Verdict
    from tests.experiments import toy

    verdict = Verdict("a claim of many words " * 3, "open", ".", value="so many, and more " * 3)
    monkeypatch.setattr(toy, "summary", lambda _: Summary((verdict,)))
    monkeypatch.setattr(registry, "load", lambda name: toy)
    monkeypatch.setattr(compare.terminal, "output", lambda width: Console(width=80))
    where = tmp_path / "deep" / "down"
    contenders = ("limit: stream a + b", "limit: stream maximum(a, b)")
    folders = [
        make(where / f"closed_form-{name * 10}", race(scale, contenders=contenders))
        for name, scale in (("0", 1.0), ("1", 1.0 / 3))
    ]
    for folder in folders:
        (folder / "config.json").write_text('{"experiment": "recall"}')
    said = shown(capsys, *folders)
    assert max(map(len, said[: said.index("All of it")].splitlines())) <= 80
    for expected in ("m-0000000000", "m-1111111111", "stream a + b", "maximum(a, b)"):
        assert expected in said
    assert said.count("open: s") + said.count("open...") == 2
    assert said.count("faster") == 4
    assert said.count(" to 0.3") == 4
    assert "Further columns are on the page." in " ".join(said.split())


def test_a_claim_that_is_made_twice_is_told_twice(tmp_path, capsys, monkeypatch):
    from experiments.harness import registry
    from experiments.harness.experiment import Summary, Verdict
    from tests.experiments import toy

    twice = Summary(tuple(Verdict("it is", "open", ".", value=value) for value in ("one", "two")))
    monkeypatch.setattr(toy, "summary", lambda _: twice)
    monkeypatch.setattr(registry, "load", lambda name: toy)
    said = shown(capsys, *(make(tmp_path / name, [({"value": 1}, [{"b": 1}])]) for name in "ab"))
    assert "open: one" in said
    assert "it is (2)" in said
    assert "0 of 2 changed" in said


def test_a_folder_that_is_called_as_an_experiment_is_no_experiment(tmp_path, capsys):
    make(tmp_path / "recall", race(1.0), {"gone": 1})
    make(tmp_path / "b", race(1.0))
    said = shown(capsys, "recall", "b")
    assert "gone = 1: no such key" in said


def test_a_run_that_lost_points_is_not_finished(tmp_path, capsys):
    for name in "ab":
        RunFolder(make(tmp_path / name, race(1.0))).mark_finished({"points": 2})
    results = tmp_path / "b" / "results.jsonl"
    results.write_bytes(results.read_bytes()[:-5])
    lines = shown(capsys, "a", "b").splitlines()
    assert next(line for line in lines if line.startswith("  A ")).split()[1:] == ["a", "2", "yes"]
    assert next(line for line in lines if line.startswith("  B ")).split()[1:] == ["b", "1", "no"]


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


def visit(path, *runs):
    """A folder of results/ with runs of (folder, experiment, config)."""
    for folder, experiment, config in runs:
        make(path / folder, race(1.0), config, experiment=experiment)
    facts = {"started": "2026-11-27T00:00:00", "seconds": 1, "device": "a", "platform": "cpu"}
    facts |= {"python": "3", "jax": "0", "options": "", "launcher": "", "stages": []}
    (path / "visit.json").write_text(json.dumps(facts))
    return path


def test_the_nearest_runs_find_each_other_first(tmp_path):
    a = visit(tmp_path / "a", ("one", "recall", {"lag": 1}), ("two", "recall", {"lag": 2}))
    b = visit(tmp_path / "b", ("only", "recall", {"lag": 2}))
    found = pair([a, b])
    assert [[run.path.name for run in group] for group in found.groups] == [["two", "only"]]
    assert "one: no other run of recall" in found.left_out[0]


def test_visits_are_paired_by_experiment_and_nearest_config(tmp_path):
    a = visit(tmp_path / "a", ("r", "recall", {"lag": 1, "rate": 2}), ("d", "digits", {}))
    b = visit(
        tmp_path / "b",
        ("near", "recall", {"lag": 1, "rate": 3}),
        ("far", "recall", {"lag": 5, "rate": 3}),
        ("w", "wallclock", {}),
    )
    (b / "w" / "environment.json").write_text("{}")
    make(b / "nameless", race(1.0), experiment="")
    found = pair([a, b])
    assert [[run.path.name for run in group] for group in found.groups] == [["r", "near"]]
    nameless, broken, *others = found.left_out
    assert "config.json: does not say which experiment" in nameless
    assert "environment.json" in broken
    assert "d: no other run of digits" in others[0]
    assert "far: no other run of recall" in others[1]


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    a = make(tmp_path / "a", race(1.0))
    other = make(tmp_path / "b", race(1.0), experiment="digits")
    old = make(tmp_path / "old", race(1.0))
    (old / "results.jsonl").write_text('{"length": 1}\n')
    nameless = make(tmp_path / "nameless", race(1.0), experiment=5)
    holding = visit(tmp_path / "visit", ("inside", "recall", {}))
    for folders, words in [
        ([a, nameless], "config.json: does not say which experiment it is of"),
        ([holding, holding / "inside"], "inside: given twice"),
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
    said = " ".join(capsys.readouterr().out.split())
    assert "2000 measurements in both." in said
    assert "1000 have an interval" in said
    assert run_folder.find(paths[0]).records()


def test_a_terminal_without_dashes_still_gets_its_table(tmp_path, monkeypatch):
    make(tmp_path / "a", [({"length": 8}, [{"seconds": [1.0]}])])
    make(tmp_path / "b", [({"length": 8}, [{"seconds": [2.0]}])])
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    sys.stdout.flush()
    assert b"2.000" in written.getvalue()
