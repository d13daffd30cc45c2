"""The visit to a machine that one has for minutes, tried on whatever machine this is.

Most of it with stages of a few lines in place of the real ones; `.ci/run` rehearses those.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path

import pytest

from experiments.harness import config as harness_config
from experiments.harness import registry, run_folder, visit
from scripts import keep_results
from scripts.accelerator import __main__ as command_line
from scripts.accelerator import archive, machine
from scripts.accelerator.stages import FIGURES, RESERVE, SECONDS, STAGES, Stage
from scripts.accelerator.visit import LOG

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "accelerator.sh"
SET_SIGNAL = signal.signal  # which a fixture replaces
HERE = machine.Machine("a made-up GPU", "gpu", "3.11", "0.10")
needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


def stage(name, source, seconds=20, **options):
    """A stage that runs a few lines of Python."""
    command = ("-c", textwrap.dedent(source))
    return Stage(name, f"fake {name}", seconds, command, command, **options)


@pytest.fixture
def journey(tmp_path, monkeypatch):
    """Visits a made-up GPU; returns the exit code, the folder and the log."""
    out = tmp_path / "what comes back"
    monkeypatch.setattr(machine, "ask", lambda seconds: HERE)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def go(*stages, options=()):
        code = command_line.main([str(out), *options], stages)
        return code, out, (out / LOG).read_text()

    return go


def unpacked(out, tmp_path):
    folder = tmp_path / f"unpacked{random.random()}"
    with tarfile.open(out / archive.NAME) as file:
        file.extractall(folder, filter="data")
    return folder


def alive(process):
    """Whether it runs; one that is dead and not waited for has no command line."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False


def gone(process):
    """Whether it ends: one that is killed may take a moment."""
    until = time.monotonic() + 10
    while alive(process) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(process)


def outcomes(folder):
    return {it.name: it.outcome for it in visit.read(folder).stages}


# The table


def with_config(name):
    return {path.parents[1].name for path in (ROOT / "experiments").glob(f"*/configs/{name}.toml")}


def test_every_experiment_for_a_gpu_is_registered_and_can_be_rehearsed():
    assert with_config("gpu") == {stage.experiment for stage in STAGES} - {""}
    assert with_config("gpu") == with_config("rehearsal")
    found = (ROOT / "experiments").glob("*/configs/gpu*.toml")
    configs = {path.relative_to(ROOT).as_posix() for path in found}
    assert configs == {stage.command[-1] for stage in STAGES if stage.experiment}


@pytest.mark.parametrize("name", sorted(with_config("gpu") | with_config("rehearsal")))
def test_its_configs_are_valid(name):
    experiment = registry.load(name)
    for path in (ROOT / "experiments" / name / "configs").glob("*.toml"):
        file = harness_config.read(path)
        resolved = harness_config.resolve(experiment.Config, file.values)
        assert experiment.plan(resolved)


def test_all_stages_fit_into_a_visit():
    assert sum(stage.seconds for stage in STAGES) + RESERVE <= SECONDS
    assert sum(stage.figures for stage in STAGES) <= FIGURES
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
    assert names[0] == "smoke"


# What is refused


def test_refuses_in_one_line_before_anything_runs(tmp_path, monkeypatch, capsys):
    cpu = machine.Machine("a CPU", "cpu", "3.11", "0.10")
    monkeypatch.setattr(machine, "ask", lambda seconds: cpu)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "file").touch()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / archive.NAME).touch()
    new = str(tmp_path / "new")
    for arguments, word in (
        ([new, "--only", "smok"], "no such stage: smok; there are smoke, limits"),
        ([new, "--seconds", "9"], "should be 10 to 360"),
        ([], "OUTDIR is missing"),
        ([str(tmp_path / "file" / "below")], "cannot be written: Not a directory"),
        ([str(tmp_path / "used")], f"holds the {archive.NAME} of another visit"),
        ([new], "JAX sees no GPU here; --allow-cpu"),
    ):
        assert command_line.main(arguments) == command_line.REFUSED
        printed = capsys.readouterr()
        assert word in printed.err
        assert printed.err.count("\n") == 1
        assert not printed.out
    assert not list((tmp_path / "new").iterdir())


@needs_bash
def test_the_command_finds_its_tree_and_refuses_from_anywhere(tmp_path):
    (tmp_path / "scripts").mkdir()  # what lies there is not taken for ours
    (tmp_path / "scripts" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    done = subprocess.run(
        ["bash", SCRIPT, "out", "--only", "nothing", "--allow-cpu"],
        cwd=tmp_path,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("no such stage: nothing; there are smoke")
    assert not (tmp_path / "out").exists()


# What becomes of stages


def test_a_stage_that_fails_or_dies_does_not_keep_the_others_from_running(journey, tmp_path):
    code, out, log = journey(
        stage("fails", "print('to the log', flush=True); raise SystemExit(3)"),
        stage("dies", "import os; os.abort()"),
        stage("rests", "import sys; print('no newline', end='')"),
    )
    assert code == 1
    assert "to the log\n" in log
    assert "no newline\n" in log
    folder = unpacked(out, tmp_path)
    assert outcomes(folder) == {
        "fails": "failed (exit code 3)",
        "dies": "failed (SIGABRT)",
        "rests": "passed",
    }
    facts = visit.read(folder)
    assert (facts.device, facts.jax) == (HERE.device, HERE.jax)
    assert {path.name for path in out.iterdir()} == {LOG, archive.NAME}


SMOKE = """
    import os, sys
    launcher = os.environ["RNNSCAN_CUDA_LAUNCHER"]
    print("tried", launcher, flush=True)
    if launcher == "xla":
        os.abort()
    sys.exit(launcher != {right!r})
"""


@pytest.mark.parametrize(("right", "chosen"), [("own", "own"), ("nobody", "none")])
def test_a_wrong_launch_switches_the_launcher_for_all_that_follows(
    journey, tmp_path, right, chosen
):
    launchers = ("xla", "own", "none")
    code, out, log = journey(
        stage("smoke", SMOKE.format(right=right), launchers=launchers),
        stage("later", "import os; print('with', os.environ['RNNSCAN_CUDA_LAUNCHER'])"),
    )
    tried = re.findall(r"^tried (\w+)$", log, re.MULTILINE)
    assert tried == list(launchers[: launchers.index(chosen) + 1])
    assert f"with {chosen}\n" in log
    assert code == (right == "nobody")
    facts = visit.read(unpacked(out, tmp_path))
    assert facts.launcher == chosen
    assert facts.stages[0].note == f"launcher {chosen}"
    assert facts.stages[1].outcome == "passed"


def test_ends_in_time_even_if_a_stage_ignores_interrupts(journey, tmp_path):
    deaf = """
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print("child", child.pid, flush=True)
        time.sleep(60)
    """
    started = time.monotonic()
    code, out, log = journey(
        stage("short", deaf, seconds=2),
        stage("deaf", deaf, seconds=60),
        stage("late", "", seconds=2),
        options=["--seconds", "16"],
    )
    assert time.monotonic() - started < 16
    assert code == 1
    assert outcomes(unpacked(out, tmp_path)) == {
        "short": "cut short",
        "deaf": "cut short",
        "late": "not begun",
    }
    assert all(map(gone, re.findall(r"^child (\d+)$", log, re.MULTILINE)))


@pytest.mark.parametrize(
    ("under", "said"),
    [
        (("env", "WATCHED=by a sanitizer"), "by a sanitizer\n"),
        (("no-such-sanitizer",), "alone\n"),
        (("no-such-sanitizer",), "no-such-sanitizer is missing here, so it ran without"),
    ],
)
def test_runs_under_the_sanitizer_if_there_is_one(journey, under, said):
    source = "import os; print(os.environ.get('WATCHED', 'alone'))"
    code, _, log = journey(stage("watched", source, under=under))
    assert code == 0
    assert said in log


def test_an_interrupted_visit_ends_with_its_summary(journey, tmp_path):
    source = "import os, signal, time; os.kill({}, signal.SIGINT); time.sleep(60)"
    before = SET_SIGNAL(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
    try:
        code, out, log = journey(stage("one", source.format(os.getpid())), stage("two", ""))
    finally:
        SET_SIGNAL(signal.SIGINT, before)
    assert code == 1
    assert outcomes(unpacked(out, tmp_path)) == {"one": "interrupted", "two": "not begun"}
    assert "=== Summary" in log


# An experiment, with its records and figures

TOY = Stage(
    "sharing",
    "an experiment of two seconds",
    60,
    ("-m", "experiments", "run", "experiments/parameter_sharing/configs/small.toml"),
    (),
    experiment="parameter_sharing",
    figures=1,
)


def test_an_experiment_comes_back_as_records_and_figures_and_can_be_kept(journey, tmp_path, capfd):
    code, out, log = journey(TOY)
    assert code == 0, log
    assert {path.suffix for path in out.iterdir()} == {".log", ".gz", ".png"}
    results = tmp_path / "results"
    folder = keep_results.keep(out / archive.NAME, results)
    assert re.fullmatch(r"a-made-up-gpu-\d{4}-\d\d-\d\d", folder.name)
    (run,) = visit.runs(folder)
    assert run.finished
    assert run.records()
    assert run.report.exists()
    assert list(run.path.glob("*.png"))
    assert f"{run.experiment}: {HERE.device}, Python 3.11, JAX 0.10" in capfd.readouterr().out
    with pytest.raises(keep_results.KeepError, match="exists; rename it"):
        keep_results.keep(out / archive.NAME, results)
    assert [path.name for path in results.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("contents", "word"),
    [
        ({visit.FILE: b"{}", "../results.jsonl": b""}, "holds '../results.jsonl'"),
        ({visit.FILE: b"{}", "/etc/results.jsonl": b""}, "which no visit writes"),
        ({visit.FILE: b"{}", "toy-0a/report.html": b""}, "which no visit writes"),
        ({"toy-0a/config.json": b"{}"}, "has no visit.json"),
        ({visit.FILE: b"{}"}, "visit.json: cannot be read"),
        (None, "cannot be read as an archive"),
    ],
)
def test_what_no_visit_wrote_is_not_unpacked(tmp_path, contents, word):
    packed = tmp_path / archive.NAME
    if contents is None:
        packed.write_bytes(b"no archive")
    else:
        archive.write(packed, contents)
    with pytest.raises((keep_results.KeepError, run_folder.RunFolderError)) as refused:
        keep_results.keep(packed, tmp_path / "results")
    assert word in str(refused.value)
    assert not list((tmp_path / "results").iterdir())


# Kills

MEASURING = """
    import os, pathlib, sys, time
    from rich.console import Console
    from experiments.harness import progress, run_folder
    from experiments.harness.config import Config

    print("process", os.getpid(), flush=True)
    folder = run_folder.make(pathlib.Path(sys.argv[2]), "toy", Config(), {"device": "none"})
    with run_folder.writing(folder) as writer:
        with progress.show(Console(), 10_000, 0) as shown:
            for number in range(10_000):
                shown.begin(f"point {number}")
                point = {"number": number}
                writer.append(point, [{"numbers": [number] * 1000}, {"square": number**2}])
                shown.done()
                time.sleep(0.003)
"""

VISIT = """
    import sys
    from scripts.accelerator import __main__ as command_line, machine
    from scripts.accelerator.stages import Stage

    machine.ask = lambda seconds: machine.Machine("a made-up GPU", "gpu", "3.11", "0.10")
    command = ("-c", sys.argv.pop(1))
    stages = [Stage("measuring", "points", 20, command, command, experiment="toy")]
    sys.exit(command_line.main(sys.argv[1:], stages))
"""


def killed(command, out, wait):
    """Starts a visit, kills its whole group `wait` seconds after its first point, and returns how
    many points its log announced."""
    process = subprocess.Popen(
        [*command, out],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None and not announced(out):
            time.sleep(0.02)
        time.sleep(wait)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return announced(out)


def announced(out):
    log = (out / LOG).read_text() if (out / LOG).exists() else ""
    return max(map(int, re.findall(r"^\[ *(\d+)/\d+\] ", log, re.MULTILINE)), default=0)


def kept(out, tmp_path):
    """The records of the one run in the archive; every line of it is whole."""
    assert len(list(out.iterdir())) <= 8
    folder = unpacked(out, tmp_path)
    assert visit.read(folder).stages == ()
    (run,) = visit.runs(folder)
    for line in run.results.read_bytes().splitlines():
        json.loads(line)
    return run.records()


def test_a_kill_at_any_moment_keeps_every_point_that_was_announced(tmp_path):
    random.seed(0)
    for turn in range(3):
        out = tmp_path / f"out{turn}"
        command = [sys.executable, "-c", *map(textwrap.dedent, (VISIT, MEASURING))]
        count = killed(command, out, random.random())
        assert count
        numbers = {record["point"]["number"] for record in kept(out, tmp_path)}
        assert numbers >= set(range(count))
        (stage_process,) = re.findall(r"^process (\d+)$", (out / LOG).read_text(), re.MULTILINE)
        if sys.platform == "linux":  # what was measuring does not outlive the visit
            assert gone(stage_process)


@needs_bash
def test_the_command_itself_may_be_killed(tmp_path):
    out = tmp_path / "out"
    command = ["bash", SCRIPT, "--allow-cpu", "--only", "gradient_decay", "--"]
    count = killed(command, out, random.random() / 4)
    assert count
    points = {run_folder.point_key(record["point"]) for record in kept(out, tmp_path)}
    assert len(points) >= count
