"""`wallclock`: a tiny run by the command line, every layer's judge, and what the records mean."""

import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from pydantic import TypeAdapter

from experiments import __main__ as command_line
from experiments.harness import environment, registry, run_folder
from experiments.harness.kinds import KINDS
from experiments.harness.layer_configs import LayerConfig
from experiments.harness.timing import Contender
from experiments.wallclock import experiment, peers, reference, stepped, tables, work
from experiments.wallclock.contenders import (
    BOTH,
    FORWARD,
    contender,
    make_layer,
    make_task,
    ways,
)
from experiments.wallclock.records import counted

METHODS = ("sequential", "associative", "auto")
LINEAR = [name for name, kind in KINDS.items() if kind.linear]
TINY = dict(
    lengths=[4],
    directions=[BOTH],
    batch=2,
    width=3,
    rounds=3,
    sample_seconds=1e-9,
    product_size=16,
)
LAYERS = 'layers=[{name="tanh RNN", kind="RNN"}, {name="an LRU", kind="LRU"}]'
OVERRIDES = [LAYERS, *(f"{key}={json.dumps(value)}" for key, value in TINY.items())]


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
    assert [record["contender"] for record in records] == [
        "tanh RNN, step by step",
        *(f"an LRU, {method}" for method in METHODS),
    ]
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
    assert "tanh RNN, step by step" in output
    assert str(folder.report) in output
    assert (folder.path / "figures" / "time_forward_and_backward.png").exists()


def test_the_same_command_measures_nothing_again(tiny_run, capsys, monkeypatch):
    _, folder = tiny_run
    # A source that was edited meanwhile would rightly begin another folder.
    monkeypatch.setattr(environment, "describe", lambda name: folder.environment)
    again = ["run", str(folder.path / "config.json"), "--runs", str(folder.path.parent)]
    assert command_line.main(again) == 0
    assert "nothing is left to measure" in capsys.readouterr().out


def layer_config(kind, **options):
    return TypeAdapter(LayerConfig).validate_python({"name": kind, "kind": kind, **options})


def task_of(kind, length=4, **options):
    return make_task(layer_config(kind, **options), batch=2, length=length, width=3, seed=0)


def shapes(kind, length, n, **options):
    """A layer whose arrays are shapes alone."""
    config = layer_config(kind, **options)
    return jax.eval_shape(lambda: make_layer(config, length=length, width=n, seed=0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_that_is_slightly_wrong_does_not_pass(kind):
    task = task_of(kind, **({"state_size": 2} if KINDS[kind].state_space else {}))
    it = contender(task, ways(kind, ("associative",))[0], BOTH)
    y, dlayer, dx = jax.jit(it.function)(*it.arguments)
    assert it.check((y, dlayer, dx)).passed
    assert not it.check((y.at[1, -1, 2].multiply(1.001), dlayer, dx)).passed
    assert not it.check((y, dlayer, dx.at[0, 0].multiply(-1))).passed
    assert not it.check((y.at[0, 0, 0].set(np.nan), dlayer, dx)).passed
    leaves, structure = jax.tree.flatten(dlayer)
    for i, leaf in enumerate(leaves):  # the largest number of each, in case another is zero
        largest = np.unravel_index(np.argmax(np.abs(leaf)), leaf.shape)
        wrong = [*leaves[:i], leaf.at[largest].multiply(1.01), *leaves[i + 1 :]]
        assert not it.check((y, structure.unflatten(wrong), dx)).passed


def test_stepping_by_jax_gives_what_numpy_gives_by_hand():
    """The two judges agree, in stretches of time too; y alone is y."""
    task = task_of("LRU", length=6)
    by_hand, _ = reference.evaluate(task.layer, task.x, task.g)
    found = stepped.evaluate(task.layer, task.x, task.g)
    assert found.keys() == by_hand.keys()
    for name, expected in by_hand.items():
        np.testing.assert_allclose(
            found[name], expected, rtol=0, atol=1e-13 * np.abs(expected).max()
        )
    (y,) = stepped.evaluate(task.layer, task.x, None).values()
    np.testing.assert_array_equal(y, found["y"])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_cells_by_hand_are_cells_by_their_steps(kind):
    task = task_of(kind, length=6)
    found = stepped.evaluate(task.layer, task.x, task.g)
    assert found.keys() == task.expected.keys()
    for name, expected in task.expected.items():
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-13)


def test_attention_that_is_written_out_is_attention_by_steps():
    layer = task_of("CausalSelfAttention", length=6, context=3).layer
    x = np.random.default_rng(0).standard_normal((2, 6, 3))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), layer)
        found, expected = (jax.jit(f)(wide, x) for f in (stepped._attention, stepped._stepped))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("direction", [FORWARD, BOTH])
@pytest.mark.parametrize("peer", peers.PEERS[:3], ids=lambda peer: peer.name)
def test_layers_of_torch_are_ours_and_leave_its_settings_alone(peer, direction):
    torch = pytest.importorskip("torch")
    task = task_of(peer.kind, length=6)
    it = peer.contender(peer.name, task, direction)
    output = it.function(*it.arguments)
    assert it.check(output).passed
    for i in range(7 if direction == BOTH else 0):  # y, x and four weights
        wrong = [1.001 * x if i == j else x for j, x in enumerate(output)]
        assert it.check(tuple(wrong)).passed == (i == 6)
    assert torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_weights_for_cudnn_are_in_the_order_of_its_documentation(monkeypatch):
    def lstm(x, h, c, weights, lengths, *sizes_and_options):
        *sizes, _, _, precision = sizes_and_options
        assert not rnn._lstm_cudnn_allow_tf32(precision)
        parts = rnn.unpack_lstm_weights(weights, *sizes, False)
        with jax.numpy_rank_promotion("allow"):
            return rnn.lstm_ref(x, h, c, *parts, lengths, *sizes, 0.0, False)

    monkeypatch.setattr(rnn, "lstm", lstm)
    peer = next(peer for peer in peers.PEERS if peer.name == "jax.experimental.rnn")
    it = peer.contender(peer.name, task_of("LSTM"), BOTH)
    assert it.check(it.function(*it.arguments)).passed


def test_the_mamba_of_jla_has_our_arguments(monkeypatch):
    def mamba1(c, b, x, dt, a, *, d, dt_bias, dt_softplus):  # as jla.ops.reference says
        assert dt_softplus
        delta = jax.nn.softplus(dt + dt_bias[None, None])[..., None]
        h, ys = 0.0, []
        for t in range(x.shape[1]):
            h = jnp.exp(delta[:, t] * a[None]) * h
            h += delta[:, t] * x[:, t, :, None] * b[:, t, None]
            ys.append(jnp.sum(h * c[:, t, None], axis=-1) + d[None] * x[:, t])
        return jnp.stack(ys, axis=1), None

    module = types.SimpleNamespace(mamba1=mamba1)
    monkeypatch.setitem(sys.modules, "jla.ops.mosaic_gpu.mamba1", module)
    peer = next(peer for peer in peers.PEERS if peer.kind == "SelectiveSSM")
    it = peer.contender(peer.name, task_of("SelectiveSSM", state_size=2), BOTH)
    assert it.check(it.function(*it.arguments)).passed


def run_with_peers(monkeypatch, *made):
    """Records, as from the disk, of an LRU beside peers that `made` make."""
    offered = [peers.Peer(f"peer {i}", "LRU", (), make) for i, make in enumerate(made)]
    monkeypatch.setattr(peers, "PEERS", offered)
    layers = [{"name": "an LRU", "kind": "LRU"}]
    values = TINY | {"layers": layers, "methods": ["auto"], "peers": True}
    config = experiment.Config.model_validate_json(json.dumps(values))
    return json.loads(json.dumps(list(experiment.run(config))))


def ours(name, task, direction):
    it = contender(task, "auto", direction)
    return Contender(name, jax.jit(it.function), it.arguments, it.check, eager=True)


def test_peers_are_timed_beside_ours_and_no_verdict_or_figure_sees_them(monkeypatch):
    def fails(name, task, direction):
        raise RuntimeError("no kernel image\nfor this card")

    found = run_with_peers(monkeypatch, ours, fails)
    peer, missing = sorted((r for r in found if "peer" in r), key=lambda r: "skipped" in r)
    assert peer["contender"] == "an LRU, peer 0"
    assert peer["counts"]
    assert peer["version"] == f"jax {jax.__version__}"
    assert missing["skipped"] == "peer 1: RuntimeError: no kernel image"
    assert [r["contender"] for r in counted(found)] == ["an LRU, auto"]
    without = [record for record in found if "peer" not in record]
    assert experiment.summary(found).verdicts == experiment.summary(without).verdicts
    tables = experiment.summary(found).tables
    (table,) = [table for table in tables if table.title.startswith("Beside")]
    assert table.columns == ("", "an LRU, peer 0")
    assert [row[0] for row in table.rows] == ["time per sequence", "an LRU, auto"]
    assert table.note == missing["skipped"]
    assert not any(table.title.startswith("Left out") for table in tables)
    assert {"time_forward_and_backward"} < set(experiment.plot(found))
    tables = experiment.summary(run_with_peers(monkeypatch, fails)).tables
    *_, alone, predicted = tables
    assert predicted.title.startswith("Predicted")
    assert alone.rows == (("peer 0: RuntimeError: no kernel image",),)


def test_our_time_over_theirs_has_the_farthest_quartiles():
    ours, theirs = ({"seconds": seconds} for seconds in ([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]))
    assert tables._over(ours, theirs) == "2 (1.2 to 3.3)"  # 3 / 2.5 and 5 / 1.5


def test_too_large_is_recorded_and_never_tried(monkeypatch):
    monkeypatch.setattr(experiment, "contender", lambda *_: pytest.fail("was tried"))
    monkeypatch.setattr(experiment, "make_task", lambda *_: pytest.fail("was evaluated"))
    for limit, reason in (
        ({"max_bytes": 100}, "would need"),
        ({"max_seconds": 1e-12}, "would take"),
        ({"max_reference_seconds": 1e-12}, "its float64 reference would take"),
    ):
        values = {**TINY, "layers": [dict(name=kind, kind=kind) for kind in KINDS], **limit}
        config = experiment.Config.model_validate_json(
            json.dumps(values | {"directions": [FORWARD]})
        )
        records = [r for r in experiment.run(config) if "skipped" in r]
        assert len(records) == len(KINDS) + 2 * len(LINEAR)
        for record in records:
            kind, way = record["contender"].split(", ")
            assert reason in record["skipped"]
            assert record["predicted_bytes"] == work.predicted_bytes(
                shapes(kind, 4, 3), way, FORWARD, 2, 4
            )
        assert experiment.plot(records) == {}
        summary = experiment.summary(records)
        assert {verdict.outcome for verdict in summary.verdicts} == {"open"}
        assert len(summary.tables[0].rows) == len(records)


def test_the_least_work_is_counted_by_hand():
    def least(kind, direction, batch, length, n, **options):
        return work.least(shapes(kind, length, n, **options), direction, batch, length)

    # One step of width 2: two 2 x 2 products of 8 operations; x read, y written.
    assert least("RNN", FORWARD, 1, 1, 2) == work.Work(bytes=16, flops=16)
    assert least("LinearRNN", BOTH, 3, 5, 2) == work.Work(bytes=15 * 48, flops=15 * 48)
    # Four gates of that; c is written and read besides.
    assert least("LSTM", BOTH, 1, 1, 2) == work.Work(bytes=64, flops=3 * 64)
    assert least("GRU", FORWARD, 1, 1, 2) == work.Work(bytes=16, flops=48)
    # B x and C h are two real products each; lambda h + gamma u on two complex numbers: 20.
    assert least("LRU", FORWARD, 1, 1, 2) == work.Work(bytes=16, flops=32 + 20)
    # A gate and a candidate; (1 - p) h + p g is three operations.
    assert least("MinGRU", FORWARD, 1, 1, 2) == work.Work(bytes=16, flops=16 + 6)
    assert least("MinLSTM", BOTH, 1, 1, 2) == work.Work(bytes=48, flops=3 * (24 + 6))
    # Of 2 channels with 3 numbers: 7 rows of W_x, one column of W_dt, 7 operations a number.
    ssm = 2 * 7 * 2 + 2 * 2 + 7 * 6
    assert least("SelectiveSSM", BOTH, 1, 1, 2, state_size=3) == work.Work(40, 3 * ssm)
    # 4 channels between products with 8 x 2 and 2 x 4; each has a window of 4.
    ssm = 2 * 7 * 4 + 2 * 4 + 7 * 12
    inner = 2 * 16 + 2 * 8 + 2 * 4 * 4
    assert least("Mamba", FORWARD, 1, 1, 2, state_size=3) == work.Work(16, inner + ssm)
    # Four 2 x 2 maps; 1 + 2 + 2 keys in a window of two, each of them 2 + 2 times 2 operations.
    attention = dict(num_heads=1, context=2)
    assert least("CausalSelfAttention", FORWARD, 1, 3, 2, **attention) == work.Work(
        48, 3 * 32 + 5 * 8
    )
    assert least("CausalConv1D", FORWARD, 1, 1, 2, width=3) == work.Work(16, 3 * 8)
    # A weight for each of 3 x 2 inputs and 2 outputs, once for the batch of 4.
    assert least("MLP", FORWARD, 4, 3, 2) == work.Work(4 * (24 + 12), 4 * 24)
    linear = shapes("LinearRNN", 8, 2)
    assert work.composition_flops(shapes("LRU", 8, 2), "associative", BOTH, 8) == 0
    assert work.composition_flops(linear, "associative", FORWARD, 8) == 16 * 16


def test_what_waits_for_what():
    def span(kind, way, length=1024):
        return work.span(shapes(kind, length, 32), way, 8, length)

    assert span("RNN", "step by step") == span("LRU", "sequential") == 1024
    assert span("CausalSelfAttention", "one pass") == 1
    assert span("MinGRU", "associative") == span("LinearRNN", "associative") == 20
    assert span("Mamba", "auto") is None
    # A state-space layer goes by stretches, as many as it takes, and a tree over each.
    assert span("SelectiveSSM", "associative", 16) == 8
    assert 20 <= span("SelectiveSSM", "associative") < 1024


def records(loop=1.0, tree=1.0, spread=0.0, limit=0.1, counts=True, kinds=KINDS):
    """Records of a run in which every tree took `tree` and all else `loop`, in seconds."""

    def record(kind, way, length):
        seconds = tree if way == "associative" else loop
        return {
            "point": {"direction": FORWARD, "length": length},
            "contender": f"{kind}, {way}",
            "layer": kind,
            "kind": kind,
            "method": way,
            "batch": 2,
            "width": 4,
            "span": 14 if way == "associative" else length,
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
        record(kind, way, length)
        for length in (64, 128)
        for kind in kinds
        for way in ways(kind, METHODS)
    ]


@pytest.mark.parametrize(
    ("case", "outcome", "text"),
    [
        (records(tree=0.25), "confirmed", "is 4 times as fast"),
        (records(tree=0.9, spread=0.5), "refined", "no faster beyond the noise"),
        (records(tree=8.0), "refined", "takes 8 times as long"),
        (records(limit=0.6), "refuted", "hardly idles"),
        (records(counts=False), "open", "No tanh RNN"),
        (records(kinds=["RNN"]), "open", "No parallel method"),
        ([], "open", "No tanh RNN"),
    ],
)
def test_whether_the_machine_idles_follows_from_the_records(case, outcome, text):
    verdict = experiment.summary(case).verdicts[0]
    assert (verdict.number, verdict.outcome) == (5, outcome)
    assert text in verdict.text


@pytest.mark.parametrize(
    ("case", "outcome", "text"),
    [
        (records(tree=0.25), "confirmed", "0.25 times as long as the tanh RNN"),
        (records(tree=0.25), "confirmed", "14 operations wait for one another instead of 128"),
        (records(tree=0.9, spread=0.5), "refined", "on this machine no faster"),
        (records(tree=8.0), "refined", "8 times as long as its own sequential method"),
        (records(tree=0.5, kinds=["Mamba"]), "confirmed", "6 evaluations of Mamba"),
        # One wrong result, however fast, of whichever method.
        (
            [*records(tree=0.25), *records(kinds=["Mamba"], counts=False)[-1:]],
            "refuted",
            "is off from its definition",
        ),
        (records(kinds=["RNN", "LRU"]), "open", "No selective state-space layer"),
        (records(kinds=["Mamba"])[:1], "open", "No selective state-space layer"),
        ([], "open", "No selective state-space layer"),
    ],
)
def test_whether_mamba_is_parallel_follows_from_the_records(case, outcome, text):
    verdict = experiment.summary(case).verdicts[1]
    assert (verdict.number, verdict.outcome) == (8, outcome)
    assert text in verdict.text


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"limit_seconds": 1.3}, "above this machine's limit, which was mismeasured"),
        ({"limit_seconds": NAN}, "mismeasured"),
        ({"seconds": [NAN] * 3}, "No tanh RNN"),
        ({"seconds": [0.0] * 3}, "No tanh RNN"),
        ({"seconds": [1.0]}, "A single sample"),
        ({"counts": False, "error": NAN}, "No tanh RNN"),
    ],
)
def test_no_verdict_rests_on_what_contradicts_itself(change, reason):
    spoilt = [{**record, **change} for record in records(tree=0.25)]
    experiment.plot(spoilt)
    summary = experiment.summary(spoilt)
    assert {verdict.outcome for verdict in summary.verdicts} == {"open"}
    assert reason in summary.verdicts[0].text
    for verdict in summary.verdicts:
        assert "130 %" not in verdict.text
        assert "1.3e+02" not in verdict.text
    assert "nan" not in str(summary)


def test_a_limit_that_another_layer_beats_says_nothing_of_the_tanh_rnn():
    """Its share of 0.6 is too large as well: the limit is that of the same run."""
    case = [{**r, "limit_seconds": 0.6 if r["kind"] == "RNN" else 2.0} for r in records()]
    verdict = experiment.summary(case).verdicts[0]
    assert verdict.outcome == "open"
    assert "mismeasured" in verdict.text


def test_a_share_at_the_limit_within_the_noise_is_at_most_all_of_it():
    verdict = experiment.summary(records(limit=1.02)).verdicts[0]
    assert (verdict.outcome, verdict.value) == ("refuted", "100 % of the limit")


def test_times_are_per_sequence_and_wrong_results_are_in_no_table_but_their_own():
    good = records(loop=2.0, kinds=["RNN"])[0]
    bad = {**records(kinds=["LRU"])[0], "counts": False, "error": 1.0}
    tables = experiment.summary([good, bad]).tables
    assert tables[0].rows == (("RNN, step by step", "1 s", "5 %"),)
    assert tables[-1].title.startswith("Not counted")
    assert tables[-1].rows[0][0] == "LRU, sequential, forward, T = 64"


def test_figures_have_a_panel_for_each_layer_that_has_a_choice():
    both = records() + [
        {**record, "point": {**record["point"], "direction": BOTH}} for record in records()
    ]
    figures = experiment.plot(both)
    assert list(figures) == [
        "time_forward",
        "time_forward_and_backward",
        "share_of_limit",
        "time_to_compile",
        "working_memory",
    ]
    for figure in figures.values():
        panels = [axes for axes in figure.axes if axes.get_visible()]
        assert [axes.get_title(loc="left") or axes.get_title() for axes in panels] == [
            "Layers with a single method",
            *LINEAR,
        ]
    panels = figures["time_forward"].axes
    assert len(panels[0].lines) == len(KINDS) - len(LINEAR)
    # By three methods, beside the tanh RNN and the limit; and a legend's line for each method.
    assert len(panels[1].lines) == 3 + 2 + 3


def test_figures_cope_with_what_there_is():
    assert len(experiment.plot(records(kinds=["Mamba"]))["time_forward"].axes) == 1
    assert len(experiment.plot(records(kinds=["GRU"])[:1])["time_forward"].axes) == 1


def test_points_are_planned_shortest_first():
    config = experiment.Config(layers=(layer_config("RNN"),), lengths=(8, 4))
    assert [tuple(point.values()) for point in experiment.plan(config)] == [
        (FORWARD, 4),
        (BOTH, 4),
        (FORWARD, 8),
        (BOTH, 8),
    ]


def test_bad_input_is_told_at_once_and_makes_no_folder(tmp_path, capsys):
    bad = ["lengths=[64, 0]", "widht=3", "rounds=2", "directions=[]", "methods=['tree']", "batch"]
    code = command_line.main(["run", "wallclock", *bad, "--runs", str(tmp_path / "runs")])
    errors = capsys.readouterr().err
    assert code == 2
    assert "6 faults" in errors
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
    assert "run wallclock small" in output
    assert "about 8 minutes on two cores" in output
    assert "claim 8" in output


def test_the_command_is_a_module():
    command = [sys.executable, "-m", "experiments", "run", "wallclok"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean wallclock?" in done.stderr
    assert "Traceback" not in done.stderr
