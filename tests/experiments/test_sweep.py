"""A sweep: every fault before anything runs, what is finished stays, who is killed is told."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import __main__ as command_line
from experiments.harness import config, run_folder, sweep_here, sweep_points, task
from experiments.harness.config import ConfigError
from tests.experiments import toy

ROOT = Path(__file__).parents[2]
JOBS = str(min(2, len(sweep_here.processors())))
TEXT = """
import os
import signal
import time
from pathlib import Path

from experiments.harness.config import Config as BaseConfig
from experiments.harness.experiment import Summary, Verdict

CLAIM = "Squares are <squares>."
HERE = Path(__file__).parent


class Config(BaseConfig):
    size: int = 1
    seed: int = 0
    deaths: int = 0
    pause: float = 0.0
    wrong: bool = False
    deaf: bool = False


def plan(config):
    return [{"part": part, "config": [config.size, config.seed]} for part in range(2)]


def run(config, points=None):
    for point in points or plan(config):
        # A line for every point that begins, so that a test sees what was measured twice.
        name = f"{config.size}-{config.seed}-{point['part']}"
        before = (HERE / "log").read_text().split().count(name) if (HERE / "log").exists() else 0
        with (HERE / "log").open("a") as log:
            log.write(f"{name}\\n")
        if config.wrong and config.size == 2:
            raise RuntimeError("size 2 went\\nwrong")
        if config.wrong and config.size == 3:
            os._exit(0)
        if config.deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if before < config.deaths and point["part"] == 1:
            if hasattr(os, "fork") and os.fork() == 0:  # it holds the lock as well
                time.sleep(120)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(config.pause)
        yield {"point": point, "square": config.size**2 + config.seed, "word": "w"}


def plot(records):
    if records[0]["square"] == 49:
        raise ValueError("7 cannot be drawn")
    return {}


def summary(records):
    return Summary((Verdict("squares", "confirmed", f"{len(records)} of them"),))
"""


@pytest.fixture
def own(tmp_path):
    """The folder of an experiment that tells what it measures, sleeps, fails and dies as asked."""
    folder = tmp_path / "own_sweep"
    (folder / "configs").mkdir(parents=True)
    (folder / "experiment.py").write_text(TEXT)
    (folder / "configs" / "default.toml").write_text('experiment = "own_sweep"\n')
    return folder


def words(own, *changes):
    runs = str(own.parent / "runs")
    return [sys.executable, "-m", "experiments", "sweep", str(own), *changes, "--runs", runs]


def sweep(own, *changes):
    """As a command, since it is one that is killed."""
    return subprocess.run(words(own, *changes), cwd=ROOT, capture_output=True, text=True)


def begun(own):
    path = own / "log"
    return path.read_text().split() if path.exists() else []


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def tasks_of(own):
    """The processes that measure into the folders of this test."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"experiments.harness.task" in command and any(
            str(own.parent).encode() in word for word in command
        ):
            found.append(int(path.parent.name))
    return found


only_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_axes_and_fixed_values_are_told_apart():
    axes, fixed = sweep_points.parse(
        ["label=[a, b/c]", "values=[[1], [2, 3]]", 'inner.kind=["plain"]', "pause=0.5"]
    )
    assert axes == {"label": ["a", "b/c"], "values": [[1], [2, 3]], "inner.kind": ["plain"]}
    assert fixed == ["pause=0.5"]
    axes, _ = sweep_points.parse(["label=[a, b/c,]"])
    assert axes == {"label": ["a", "b/c"]}


@pytest.mark.parametrize(
    "value",
    ["a, [b]", 'a "b"', "a\x7fb\n", "é😀 $x$", {"😀 k": [1, {"l": -0.0}]}, [[]], {}, True, 1e300],
)
def test_a_value_reaches_the_config_as_it_was_read(value):
    read = config.parse_override(f"key={config.as_toml(value)}")[1]
    assert (read, type(read)) == (value, type(value))


def test_the_product_or_side_by_side():
    axes, fixed = sweep_points.parse(["pause=[0.0, 1.5]", "label=[a, b]", "inner.steps=7"])
    points = sweep_points.resolve(toy.Config, {}, axes, fixed)
    assert [(p.config.pause, p.config.label) for p in points] == [
        (0.0, "a"),
        (0.0, "b"),
        (1.5, "a"),
        (1.5, "b"),
    ]
    assert {p.config.inner.steps for p in points} == {7}
    points = sweep_points.resolve(toy.Config, {}, axes, fixed, zipped=True)
    assert [str(p) for p in points] == ["pause=0.0 label=a", "pause=1.5 label=b"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["pause=1.0"], "no axis"),
        (["pause=[]"], "pause = []: an axis without values"),
        (["pause=[1.0]", "pause=2.0"], "pause: named twice"),
        (["pause=[1.0", "label=[]"], "2 faults"),
        (["label=[a,,b]"], "'[a,,b]' is not a TOML value"),
        (["=[1,2]"], "override '=[1,2]': should read key.path=VALUE"),
        (["inner . steps=[1]", "inner.steps=2"], "inner.steps: named twice"),
        (["inner=[{steps=1}, {steps=2}]", "inner.kind=plain"], "inner.kind: lies within inner"),
        (["inner=[{steps=1}]", "inner.steps=[1, 2]"], "inner.steps: lies within inner"),
    ],
)
def test_what_is_no_sweep_is_refused(changes, said):
    with pytest.raises(ConfigError, match="of the sweep") as caught:
        sweep_points.parse(changes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("axes", "options", "said"),
    [
        ({"pase": [1.0, 2.0]}, {}, "pase=1.0: pase = 1.0: no such key; did you mean pause?"),
        ({"pause": [1.0, 2.0], "label": ["a"]}, {"zipped": True}, "pause has 2, label has 1"),
        ({"values": [[n] for n in range(10_001)]}, {}, "more than 10,000 points: say --yes"),
        ({"pause": [1, 1.0]}, {}, "pause=1.0: the same config as pause=1"),
        ({"values": [1, 2]}, {}, "a sweep over lists reads values=[[...], [...]]"),
    ],
)
def test_what_cannot_be_a_point_is_refused(axes, options, said):
    with pytest.raises(ConfigError) as caught:
        sweep_points.resolve(toy.Config, {}, axes, [], **options)
    assert said in str(caught.value)


def test_every_fault_of_every_point_is_told_once():
    axes = {"pause": ["x", 1.0, 200.0], "inner.steps": [0, 1]}
    with pytest.raises(ConfigError) as caught:
        sweep_points.resolve(toy.Config, {}, axes, ["label=7"])
    text = str(caught.value)
    for fault in ("pause = ", "inner.steps = 0", "label = 7"):
        assert text.count(f": {fault}") == 1, text
    assert "label=7" not in text.replace("label = 7", "")
    assert "and 5 others: label = 7" in text  # every point has it


def test_many_points_run_if_so_told():
    axes = {"values": [[n] for n in range(10_001)]}
    assert len(sweep_points.resolve(toy.Config, {}, axes, [], many=True)) == 10_001


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["wallclock", "repeats=[3, 4]", "--jobs", "2"], "wallclock times what it runs"),
        (["recall", "seeds=[1, 2]", "--jobs", "0"], "--jobs = 0"),
        (["recall", "seeds=[1, 2]", "--jobs", "1000"], "the processors that there are"),
        (["recall", "seeds=[1, 2]", "--workers", ""], "--workers = : is no address"),
        (["recall", "seeds=[1, 2]", "--workers", "host:99999"], "between 1 and 65535"),
        (["recall", "seeds=[1, 2]", "--jobs", "2", "--workers", "x:1"], "left out with --workers"),
        (["recall", "seed=[1, 2]"], "seed"),
        (["recall", "smal", "seeds=[1, 2]"], "did you mean small"),
        (["recal", "seeds=[1, 2]"], "did you mean recall"),
        (["recall"], "no axis"),
        (["recall", "", "seeds=[1, 2]"], "override ''"),
        (["recall", "seeds=[1, 2]", "--workers", "nowhere"], "--workers = nowhere"),
    ],
)
def test_the_command_refuses_in_one_message_and_writes_nothing(changes, said, tmp_path, capsys):
    assert command_line.main(["sweep", *changes, "--runs", str(tmp_path / "runs")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_sweep_ends_in_tables_a_figure_and_a_page(own):
    done = sweep(own, "size=[1, 2]", "seed=[0, 1]", "--jobs", JOBS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[4/4]" in done.stdout
    assert "4 of 4 points are finished" in done.stdout
    (folder,) = (own.parent / "runs").glob("sweep-own_sweep-*")
    facts = json.loads((folder / "sweep.json").read_text())
    assert facts["axes"] == {"size": [1, 2], "seed": [0, 1]}
    for point in facts["points"]:
        measured = run_folder.find(Path(point["folder"]))
        assert measured.finished
        assert {k: measured.config[k] for k in point["values"]} == point["values"]
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["square, part=1"]) for row in rows] == [1, 2, 4, 5]
    assert {row["verdicts"] for row in rows} == {"confirmed"}
    assert (folder / "figures" / "sweep.png").stat().st_size > 5000
    html = (folder / "report.html").read_text()
    assert "Squares are &lt;squares&gt;." in html
    assert html.count("<img") == 1
    assert len(set(begun(own))) == len(begun(own)) == 8

    # Other processors, and nothing is a time.
    more = sweep(own, "size=[1, 2, 3]", "seed=[0, 1]", "--dry-run")
    assert more.returncode == 0
    assert "6 points, 2 to run" in more.stdout
    assert "/\n  size=3 seed=0\n  size=3 seed=1\nNothing was measured or written.\n" in more.stdout
    assert len(begun(own)) == 8
    assert len(list((own.parent / "runs").iterdir())) == 5


@only_linux
def test_a_driver_that_is_killed_takes_its_tasks_along_and_loses_nothing(own):
    asked = ("size=[1, 2]", "pause=1.0")
    for _ in range(2):
        before = len(begun(own))
        process = subprocess.Popen(words(own, *asked), cwd=ROOT, stdout=subprocess.DEVNULL)
        wait_for(lambda before=before: len(begun(own)) >= before + 2)  # one is measured
        process.kill()
        process.wait()
        wait_for(lambda: not tasks_of(own))
    done = sweep(own, *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {name: begun(own).count(name) for name in begun(own)}
    assert counts.keys() == {"1-0-0", "1-0-1", "2-0-0", "2-0-1"}
    # Each kill costs the one point that it hit.
    assert len(begun(own)) <= 4 + 2
    assert "2 of 2 points are finished" in done.stdout


@only_linux
def test_a_killed_task_is_tried_again_twice_and_reported(own):
    asked = ("size=[3, 4]", "deaths=[2, 3]", "--zip")
    done = sweep(own, *asked)
    assert done.returncode == 1, done.stdout + done.stderr
    for times in (1, 2):
        for point in ("size=3 deaths=2", "size=4 deaths=3"):
            assert f"{point}: killed by signal 9, tried again ({times} of 2)" in done.stdout
    assert "size=4 deaths=3: killed by signal 9, 3 times" in done.stdout
    assert "1 of 2 points are finished" in done.stdout
    # What was measured before it was killed is kept, and the same command goes on.
    assert begun(own).count("4-0-0") == 1
    assert not tasks_of(own)  # what they forked is gone as well
    assert sweep(own, *asked).returncode == 0
    assert begun(own).count("4-0-0") == 1


def test_two_sweeps_at_once_share_the_points(own):
    asked = words(own, "size=[1, 2]", "pause=0.5")
    both = [subprocess.Popen(asked, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "signal" not in "".join(said)
    assert sorted(begun(own)) == ["1-0-0", "1-0-1", "2-0-0", "2-0-1"]


def test_a_point_that_fails_does_not_stop_the_others_and_the_driver_starts_no_backend(own):
    code = (
        "import sys; from experiments.__main__ import main; status = main(sys.argv[1:]);"
        "from jax._src import xla_bridge; assert not xla_bridge._backends; sys.exit(status)"
    )
    command = [sys.executable, "-c", code, *words(own, "size=[1, 2, 3, 7]", "wrong=true")[3:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not done.stderr
    assert done.returncode == 1
    assert "failed: RuntimeError: size 2 went wrong; all that it printed: " in done.stdout
    (printed,) = (own.parent / "runs").glob("sweep-*/configs/1.txt")
    assert "Traceback" in printed.read_text()
    # One that ends as if all was well, and one that is measured and cannot be drawn.
    (ended,) = [line for line in done.stdout.splitlines() if line.startswith("[3/4]")]
    assert "size=3" in ended
    assert "is not finished: it stopped early" in ended
    (drawn,) = [line for line in done.stdout.splitlines() if line.startswith("[4/4]")]
    assert "its report is not whole: python -m experiments report" in drawn
    assert "2 of 4 points are finished" in done.stdout


def start_interruptible(own, *changes):
    code = (  # a shell's jobs in the background ignore the signal, and so would all below them
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from experiments.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-u", "-c", code, *words(own, *changes)[3:]]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_interrupted_it_says_how_to_go_on(own):
    process = start_interruptible(own, "size=[1, 2]", "pause=1.5")
    wait_for(lambda: len(begun(own)) >= 2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "To continue, run again:" in out
    assert f"sweep {own} 'size=[1, 2]' pause=1.5" in out
    (measured,) = (own.parent / "runs").glob("own_sweep-*/results.jsonl")
    assert len(measured.read_text().splitlines()) >= 1


@only_linux
def test_interrupted_twice_it_ends_what_does_not_listen(own):
    process = start_interruptible(own, "size=[1]", "pause=120.0", "deaf=true")
    wait_for(lambda: begun(own))
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if line.startswith("Stopping what runs"):
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted. To continue" in out
    assert not tasks_of(own)


def test_a_point_that_another_process_measures_goes_to_the_end(monkeypatch):
    busy = task.Outcome(2, f"runs/a: {run_folder.BUSY}; wait", 0.1)
    tried = []

    def run(words, *_):
        tried.append(words)
        return busy if tried.count(words) < 3 and words == ["a"] else task.Outcome(0, "", 0.1)

    monkeypatch.setattr(task, "run", run)
    monkeypatch.setattr(task, "PAUSE", 0.01)
    told = []
    here = sweep_here.Here(1, lambda number, text: told.append((number, text)))
    ended = [number for number, _ in here.run({0: ["a"], 1: ["b"]})]
    assert ended == [1, 0]
    assert tried == [["a"], ["b"], ["a"], ["a"]]
    assert told == [(0, "another process is measuring it; waits for that")]


def test_a_folder_of_an_older_format_is_named_and_left_alone(own):
    assert sweep(own, "size=[1]").returncode == 0
    old = next((own.parent / "runs").glob("own_sweep-*"))
    (old / "results.jsonl").write_text('{"square": 1}\n')
    done = sweep(own, "size=[1]")
    assert done.returncode == 1
    assert f"left alone: {old / 'results.jsonl'}" in done.stdout
    assert (old / "results.jsonl").read_text() == '{"square": 1}\n'


@only_linux
def test_a_task_has_the_processors_of_its_share(tmp_path):
    mine = sorted(os.sched_getaffinity(0))[0]
    outcome = task.run(["--processors", f"{mine}", "environment", ""], str(ROOT))
    assert outcome.code == 0, outcome.output
    assert json.loads(outcome.output.splitlines()[-1])["cpu"]["count"] == 1


@only_linux
def test_workers_of_dask_one_of_which_is_killed(own):
    pytest.importorskip("distributed", reason="needs rnnscan[sweep]")
    # In a process of its own: what dask warns of and leaves behind is its own affair.
    code = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""
    script = own.parent / "cluster.py"
    script.write_text(code)
    cluster = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        address = cluster.stdout.readline().strip()
        asked = words(own, "size=[1, 2, 3]", "pause=1.0", "--workers", address)
        process = subprocess.Popen(asked, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        wait_for(lambda: tasks_of(own))
        wait_for(lambda: len(begun(own)) >= 1)
        victim = parent(tasks_of(own)[0])
        os.kill(victim, signal.SIGKILL)
        out, _ = process.communicate(timeout=120)
        timed = [*words(own)[:4], "wallclock", "rounds=[5, 7]", "--workers", address]
        refused = subprocess.run(timed, cwd=ROOT, capture_output=True, text=True)
        asked = words(own, "size=[4, 5]", "pause=120.0", "--workers", address)
        lost = subprocess.Popen(
            asked, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_for(lambda: "4-0-0" in begun(own))
        cluster.kill()
        said, _ = lost.communicate(timeout=120)
    finally:
        cluster.stdin.close()
        cluster.stdout.close()
        cluster.wait(timeout=60)
    assert process.returncode == 0, out
    assert refused.returncode == 2
    assert "2 threads of workers on 127.0.0.1 would slow each other down" in refused.stderr
    assert lost.returncode == 1
    assert f"--workers = {address}: the scheduler is gone. To continue, run again:" in said
    assert "Traceback" not in said
    assert "(killed by signal 9, tried 2 times)" in out
    assert "3 of 3 points are finished" in out
    wait_for(lambda: not tasks_of(own))


def parent(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
