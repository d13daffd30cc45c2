"""`scan_limits`: a tiny run by the command line, and what its records mean."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from experiments import __main__ as command_line
from experiments.harness import limits, registry, run_folder
from experiments.harness.config import ConfigError, resolve
from experiments.harness.timing import Contender, compare
from experiments.scan_limits import contenders, experiment, peers, present, reference, work
from experiments.scan_limits.contenders import ASSOCIATIVE, AUTO, SCAN, make_task
from experiments.scan_limits.shapes import (
    BOTH,
    BY_NAME,
    DIRECTIONS,
    FORWARD,
    GPU_SHAPES,
    SHAPES,
    Shape,
)

TINY = dict(
    shapes=["1x64x64"],
    directions=[BOTH],
    rounds=3,
    sample_seconds=1e-4,
    budget_seconds=0.1,
    compile_lengths=[4, 8],
    compile_dtypes=["complex64"],
    compile_inner=2,
    compile_rounds=1,
    compile_tree_length=4,
    peers=False,
)
OVERRIDES = [f"{key}={json.dumps(value)}" for key, value in TINY.items()]
ODD = (
    Shape(2, 5, 3),
    Shape(2, 5, 3, decay="constant"),
    Shape(3, 4, 2, dtype="complex64"),
    Shape(1, 9, 1),
)
ids = dict(ids=lambda shape: shape.name)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """(exit code, run folder) of one small shape with its backward pass, and what compiles."""
    runs = tmp_path_factory.mktemp("runs")
    code = command_line.main(["run", "scan_limits", *OVERRIDES, "--runs", str(runs)])
    return code, run_folder.latest(runs)


def test_every_contender_is_timed_and_right(tiny_run):
    code, folder = tiny_run
    assert code == 0
    assert folder.finished
    timed = [record for record in folder.records() if "ratio" in record]
    shape = BY_NAME["1x64x64"]
    assert [record["contender"] for record in timed] == contenders.names(shape)
    assert {AUTO, SCAN, ASSOCIATIVE, "linear_scan sequential"} <= set(contenders.names(shape))
    for record in timed:
        assert record["counts"]
        assert 0 <= record["error"] <= 1
        assert len(record["seconds"]) >= 3
        assert record["words"] == 8
        assert record["bytes"] == 8 * 4 * 64 * 64
        assert record["ratio"] == np.median(record["seconds"]) / record["stream_seconds"]
    streams = [r for r in folder.records() if r["contender"].startswith("limit: stream")]
    assert len(streams) == 3
    fastest = min(np.median(record["seconds"]) for record in streams)
    assert timed[0]["stream_seconds"] == pytest.approx(fastest * 8 / 3)


def test_what_compiles_is_not_run_and_trees_end_where_they_should(tiny_run):
    _, folder = tiny_run
    records = [record for record in folder.records() if record["point"]["measure"] == "compile"]
    assert {record["point"]["length"] for record in records} == {4, 8}
    for record in records:
        if record["point"]["length"] == 8 and record["contender"] in work.TREES:
            assert "up to T = 4" in record["skipped"]
        else:
            assert len(record["compile_seconds"]) == 1


def test_the_report_shows_tables_and_figures(tiny_run, capsys):
    _, folder = tiny_run
    assert command_line.main(["report", "--runs", str(folder.path.parent)]) == 0
    output = capsys.readouterr().out
    assert "Time over streaming the same bytes, forward + backward" in output
    assert "1x64x64" in output
    for name in ("forward_backward", "compile"):
        assert (folder.path / "figures" / f"{name}.png").exists()


@pytest.mark.parametrize("shape", ODD, **ids)
def test_a_result_that_is_slightly_wrong_does_not_pass(shape):
    task = make_task(shape, 0)
    it = contenders.contender("linear_scan sequential", task, BOTH)
    h, da, db = jax.jit(it.function)(*it.arguments)
    assert it.check((h, da, db)).passed
    assert it.check(h).passed
    last = (-1,) * 3
    assert not it.check((h.at[last].multiply(1.001), da, db)).passed
    assert not it.check((h, da, db.at[0, 0, 0].multiply(1.001))).passed
    assert not it.check((h, da.at[(-1,) * da.ndim].multiply(1.001), db)).passed
    assert not it.check((h.at[0, 0, 0].set(np.nan), da, db)).passed
    assert not it.check((h, da, -db)).passed


@pytest.mark.parametrize("shape", ODD, **ids)
@pytest.mark.parametrize("name", [SCAN, ASSOCIATIVE])
def test_the_plain_scans_of_jax_are_right(shape, name):
    for direction in DIRECTIONS:
        it = contenders.contender(name, make_task(shape, 0), direction)
        assert it.check(jax.jit(it.function)(*it.arguments)).passed


@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda peer: peer.name)
def test_other_packages_are_right_where_installed(peer):
    if not peer.version:
        pytest.skip(f"needs {', '.join(name for name, _ in peer.packages)}")
    for shape in (Shape(2, 13, 4), Shape(2, 13, 4, decay="constant")):
        for direction in DIRECTIONS:
            it = peer.contender(make_task(shape, 0), direction)
            function = it.function if it.eager else jax.jit(it.function)
            assert it.check(function(*it.arguments)).passed
            assert not it.check(jax.tree.map(lambda x: 1.001 * x, function(*it.arguments))).passed


def few(monkeypatch, **changes):
    """Records of one small shape, by `auto` and a peer, of which nothing is compiled."""
    monkeypatch.setitem(BY_NAME, "1x64x64", Shape(1, 5, 2))
    values = {**TINY, "directions": [FORWARD], "compile_lengths": [], "peers": True}
    values |= {"contenders": [AUTO, "torch associative_scan"], **changes}
    return list(experiment.run(resolve(experiment.Config, values, [])))


def test_a_peer_that_is_not_installed_is_listed_as_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [peer.version for peer in peers.PEERS] == [""] * len(peers.PEERS)
    found = few(monkeypatch)
    (missing,) = [record for record in found if record.get("kind") == "peer"]
    assert missing["skipped"] == "torch associative_scan: torch is not installed"
    summary = present.summary(found + found)
    assert summary.tables[-1].rows == ((missing["skipped"],),)  # once
    assert list(present.plot(found)) == ["forward", "prediction"]


def test_a_peer_that_fails_costs_its_own_figure_alone(monkeypatch):
    def fails(task, direction):
        def scan(a, b):
            raise RuntimeError("no memory\nat all")

        return Contender("torch associative_scan", scan, task.arguments[:2], task.check, eager=True)

    peer = peers.Peer("torch associative_scan", (("jax", "jax"),), fails, (1, 1))
    monkeypatch.setattr(peers, "PEERS", (peer,))
    found = few(monkeypatch)
    assert [r["skipped"] for r in found if "skipped" in r] == [
        "torch associative_scan: RuntimeError: no memory"
    ]
    assert [r["contender"] for r in found if "ratio" in r] == [AUTO]


def test_the_reference_is_a_recurrence_counted_by_hand():
    a = np.array([[[9.0], [0.5], [2.0]]], np.float32)
    b = np.array([[[1.0], [1.0], [1.0]]], np.float32)
    g = np.array([[[1.0], [0.0], [1.0]]], np.float32)
    found = reference.evaluate(a, b, g)
    np.testing.assert_array_equal(found.values["h"].ravel(), [1.0, 1.5, 4.0])
    np.testing.assert_array_equal(found.values["db"].ravel(), [2.0, 2.0, 1.0])
    np.testing.assert_array_equal(found.values["da"].ravel(), [0.0, 2.0, 1.5])
    # 4 u (|a h| + |h|), carried on: 1, then 0.5 * 1 + 0.5 + 1.5, then 2 * 2.5 + 3 + 4.
    np.testing.assert_array_equal(found.bounds["h"].ravel(), 2.0**-22 * np.array([1.0, 2.5, 12.0]))
    constant = reference.evaluate(np.full(1, 0.5, np.float32), b, g)
    np.testing.assert_array_equal(constant.values["da"], [0.5 * 1.0 + 1.0 * 1.5])


def test_words_and_streams_are_counted_by_hand():
    full, constant = BY_NAME["16x4096x256"], BY_NAME["16x4096x256 constant"]
    assert [full.words(direction) for direction in DIRECTIONS] == [3, 8]
    assert [constant.words(direction) for direction in DIRECTIONS] == [2, 5]
    assert constant.a_shape == (256,)
    wide = BY_NAME["16x4096x256 complex64"]
    assert wide.nbytes == 8 * 16 * 4096 * 256 == 2 * full.nbytes
    streamed = experiment._streamed_shape(Shape(2, 3, 4, dtype="complex64"))
    assert streamed == (2, 3, 8)
    streams = limits.streams(streamed)
    assert len(streams) == 3
    for stream in streams:  # two arrays are read, one is written
        assert [array.nbytes for array in stream.arguments] == [2 * 3 * 4 * 8] * 2
    timings = compare(streams, rounds=3, sample_seconds=1e-9)
    assert limits.stream_seconds(timings) == min(np.median(t.samples) for t in timings)


def test_shapes_are_those_of_the_table():
    assert len(SHAPES) == 13
    assert len(BY_NAME) == len(SHAPES) + len(GPU_SHAPES)
    assert experiment.Config().shapes == tuple(shape.name for shape in SHAPES)
    assert BY_NAME["256x2048x1"].asked(FORWARD) == 2.0
    assert BY_NAME["256x2048x1"].asked(BOTH) == 2.5
    assert BY_NAME["16x4096x256 constant"].asked(BOTH) is None
    assert BY_NAME["1x64x64"].asked(FORWARD) is None
    for name in ("default", "small", "gpu", "rehearsal"):
        config = registry.find_config(f"experiments/scan_limits/configs/{name}.toml")
        assert experiment.plan(resolve(experiment.Config, config.values))


def test_too_large_is_recorded_and_never_tried(monkeypatch):
    def fail(*_):
        pytest.fail("was tried")

    monkeypatch.setattr(contenders, "contender", fail)
    for limit, reason in (
        ({"max_bytes": 100}, "would need"),
        ({"max_seconds": 1e-9}, "would take"),
    ):
        tuples = {key: tuple(x) if isinstance(x, list) else x for key, x in TINY.items()}
        config = experiment.Config(**{**tuples, "compile_lengths": (), **limit})
        records = list(experiment.run(config))
        skipped = [record for record in records if "skipped" in record]
        assert [r["contender"] for r in skipped] == contenders.names(BY_NAME["1x64x64"])
        assert all(reason in record["skipped"] for record in skipped)
        assert present.plot(records) == {}
        assert {v.outcome for v in present.summary(records).verdicts} == {"open"}


def test_a_tree_differentiated_by_torch_is_known_to_keep_every_pair_of_steps():
    peer = next(peer for peer in peers.PEERS if peer.squares)
    shape = BY_NAME["1x16384x16"]
    assert peer.predicted_bytes(shape, FORWARD) < 2**24
    assert peer.predicted_bytes(shape, BOTH) > 16384**2 * 16 * 4


def records(auto=1.0, tree=5.0, scan=2.0, spread=0.0, size=2 * 10**6, lanes=4, error=0.5):
    """Records of a run in which auto, the tree and the loop of JAX took that many streams."""

    def record(name, ratio, direction, error=0.5):
        return {
            "point": {"measure": "time", "shape": "1x16384x16", "direction": direction},
            "contender": name,
            "seconds": [0.01 * ratio * factor for factor in (1 - spread, 1, 1 + spread)],
            "ratio": ratio,
            "stream_seconds": 0.01,
            "bytes": 10**8,
            "size": size,
            "lanes": lanes,
            "asked": 1.3,
            "error": error,
            "tolerance": 1.0,
            "counts": error <= 1,
            **({"auto_takes": "native"} if name == AUTO else {}),
        }

    return [
        it
        for direction in DIRECTIONS
        for it in (
            record(AUTO, auto, direction, error),
            record(ASSOCIATIVE, tree, direction),
            record(SCAN, scan, direction),
        )
    ]


def compiled(seconds):
    return [
        {
            "point": {
                "measure": "compile",
                "length": length,
                "dtype": "float32",
                "direction": FORWARD,
            },
            "contender": name,
            "compile_seconds": [seconds],
        }
        for length in (16, 4096)
        for name in (AUTO, ASSOCIATIVE)
    ]


ASKED, BEST, TREE, COMPILE, EXACT = range(5)


@pytest.mark.parametrize(
    ("case", "which", "outcome", "text"),
    [
        (records(), ASKED, "confirmed", "2 of 2 are"),
        (records(auto=1.5), ASKED, "refuted", "1.5, asked 1.3"),
        (records()[:3] + records(auto=1.5)[3:], ASKED, "refined", "1 of 2 are"),
        ([], ASKED, "open", "No shape"),
        (records(), BEST, "confirmed", "0.5 times as long as lax.scan"),
        (records(auto=1.03, scan=1.0), BEST, "confirmed", "1.03 times"),
        (records(auto=1.2, scan=1.0), BEST, "refuted", "(quartiles apart) at 2"),
        (records(auto=1.2, scan=1.0, spread=0.5), BEST, "refined", "1.2 times"),
        (records()[:1], BEST, "open", "no other"),
        (records(), TREE, "confirmed", "5 times, asked 4"),
        (records(tree=3.0), TREE, "refined", "At 0 of 2 points"),
        (records(tree=0.5), TREE, "refuted", "0.5 times"),
        (records(tree=3.0, lanes=1), TREE, "confirmed", "3 times, asked 2"),
        (records(size=10**5), TREE, "open", "that large"),
        (compiled(0.1), COMPILE, "confirmed", "100 ms"),
        (compiled(0.7), COMPILE, "refuted", "2 of 2 take longer"),
        (records(), COMPILE, "open", "not compiled"),
        (records(), EXACT, "confirmed", "0.5 of the bound"),
        (records(error=1.5), EXACT, "refuted", "Not at 2 of 2"),
        (records(error=float("nan")), EXACT, "refuted", "Not at 2 of 2"),
        ([], EXACT, "open", "not timed"),
    ],
)
def test_the_verdicts_follow_from_the_records(case, which, outcome, text):
    verdict = present.summary(case).verdicts[which]
    assert verdict.outcome == outcome
    assert text in verdict.text


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "outcomes"),
    [
        ({"ratio": NAN}, {ASKED: "open", BEST: "open", TREE: "open"}),
        ({"seconds": [NAN] * 3}, {ASKED: "open", BEST: "open", TREE: "open"}),
        ({"seconds": [0.0] * 3}, {ASKED: "open", BEST: "open", TREE: "open"}),
        ({"seconds": [0.01]}, {ASKED: "open", BEST: "open", TREE: "open"}),
        ({"ratio": 0.5}, {ASKED: "open"}),
        ({"error": NAN, "counts": False}, {ASKED: "open", EXACT: "refuted"}),
    ],
)
def test_no_verdict_rests_on_what_contradicts_itself(change, outcomes):
    spoilt = [{**record, **change} for record in records()]
    present.plot(spoilt)
    summary = present.summary(spoilt)
    assert {which: summary.verdicts[which].outcome for which in outcomes} == outcomes
    assert "nan" not in str(summary)


def test_a_point_whose_limit_was_mismeasured_is_left_out_and_named():
    spoilt = [*records()[:3], *({**record, "ratio": 0.5} for record in records()[3:])]
    verdict = present.summary(spoilt).verdicts[ASKED]
    assert verdict.outcome == "confirmed"
    assert "1 of 1 are" in verdict.text
    assert "1 left out" in verdict.text


@pytest.mark.parametrize("seconds", [[NAN], [0.0], []])
def test_no_time_to_compile_is_no_time(seconds):
    spoilt = [{**record, "compile_seconds": seconds} for record in compiled(0.1)]
    present.plot(spoilt)
    assert present.summary(spoilt).verdicts[COMPILE].outcome == "open"
    mixed = present.summary([*spoilt[:1], *compiled(0.7)[1:]])
    assert mixed.verdicts[COMPILE].outcome == "refuted"


def test_wrong_results_are_in_no_table_but_their_own():
    summary = present.summary(records(error=1.5))
    brief = summary.tables[0]
    assert brief.rows == (("1x16384x16", "10", "–", "1.3", "2 (lax.scan)", "2", "5"),)
    wrong = summary.tables[-1]
    assert wrong.title.startswith("Not counted")
    assert wrong.rows[0] == (f"{AUTO}, 1x16384x16 forward", "1.5")


def test_tables_say_what_was_asked_and_met():
    rows = present.summary(records()).tables[0].rows
    assert rows[0][2:4] == ("1 (native)", "1.3, met")
    rows = present.summary(records(auto=1.4)).tables[0].rows
    assert rows[0][2:4] == ("1.4 (native)", "1.3, not met")


def test_figures_have_a_marker_for_each_contender():
    figures = present.plot(records() + compiled(0.1))
    assert list(figures) == ["forward", "forward_backward", "compile"]
    lines = figures["forward"].axes[0].lines
    assert {AUTO, ASSOCIATIVE, SCAN} < {line.get_label() for line in lines}
    assert len(lines) == 3 + 2  # and the limit, and what was asked


def test_bad_input_is_told_at_once():
    bad = ["shapes=['1x1x1']", "rounds=2", "directions=['forward', 'forward']"]
    bad.append("contenders=['lax.scam']")
    with pytest.raises(ConfigError) as caught:
        resolve(experiment.Config, {}, bad)
    assert len(caught.value.faults) == 4
    assert "none is called lax.scam; there are linear_scan auto" in str(caught.value)
    assert "no such shape: 1x1x1; there are 1x16384x16" in str(caught.value)
    with pytest.raises(ConfigError, match="nothing to measure"):
        resolve(experiment.Config, {}, ["shapes=[]", "compile_lengths=[]"])
