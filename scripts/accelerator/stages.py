"""What a visit runs, in order of worth: one table, with a time limit for each stage.

Whether a launch is right at all comes first, then what a time is measured against, then what is
asked most often. All limits together fit into a visit; what a stage leaves over, later ones may
use. An experiment with a `configs/gpu.toml` stands here, which a test demands, and has a
`configs/rehearsal.toml` that takes seconds on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 360  # a visit ends within these, whatever happens
RESERVE = 15  # of these, to end in: no stage lasts into them
# Log and archive are two of the eight files that may come back, and a kill may leave a third
# behind: an archive half written.
FIGURES = 5

Words = tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """One thing to run.

    Args:
      name: for `--only` and the summary.
      what: one line for `--list`.
      seconds: it is ended after so long, unless stages before it left time over.
      command: what follows Python's name.
      rehearsal: the same where `--allow-cpu` is given.
      experiment: whose records it makes; its command is then given a folder for them.
      figures: how many of the experiment's come back, the first of its report.
      launchers: of the CUDA kernels, tried in turn, `seconds` each, until one passes; the later
        stages use that one, or the last.
      under: a command that watches over it, where the machine has it and there is a GPU.
      rehearsed: exit codes that are right in a rehearsal.
    """

    name: str
    what: str
    seconds: int
    command: Words
    rehearsal: Words
    experiment: str = ""
    figures: int = 0
    launchers: Words = ()
    under: Words = ()
    rehearsed: tuple[int, ...] = (0,)


def check(name: str, what: str, seconds: int, module: str, **options) -> Stage:
    """A module of the tests that says by its exit code whether all was right."""
    command = ("-m", module)
    return Stage(name, what, seconds, command, (*command, "--allow-cpu"), **options)


def measurement(
    experiment: str,
    what: str,
    seconds: int,
    figures: int,
    name: str | None = None,
    config: str = "gpu",
) -> Stage:
    """An experiment in a config for a GPU, rehearsed in its smallest one."""

    def command(stem: str) -> Words:
        return "-m", "experiments", "run", f"experiments/{experiment}/configs/{stem}.toml"

    return Stage(
        name or experiment,
        what,
        seconds,
        command(config),
        command("rehearsal"),
        experiment=experiment,
        figures=figures,
    )


def gpu_tests(seconds: int) -> Stage:
    """Every file with a test that needs a GPU; a machine's own plugins and deprecations are no
    fault of ours."""
    files = sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.gpu" in path.read_text(encoding="utf-8")
    )
    command = (
        *("-m", "pytest", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider"),
        *("-v", "-rs", "--durations=5", *files),
    )
    what = "the tests that need a GPU: scans against float64, every mode of the kernels"
    # 5: no test was collected, as where each file skips itself.
    return Stage("tests", what, seconds, command, command, rehearsed=(0, 5))


STAGES = (
    check(
        "smoke",
        "one launch, one buffer twice, two results; by the launcher that is right",
        30,
        "tests.gpu.smoke",
        launchers=("xla", "own", "none"),
    ),
    measurement("machine", "copy, matmul, launch: the machine's own limits", 35, 1, name="limits"),
    measurement("scan_limits", "scans against the speed of memory, beside their peers", 75, 2),
    check(
        "sanitizer",
        "the kernels at ragged sizes, under compute-sanitizer",
        20,
        "tests.gpu.sanitized",
        under=("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9"),
    ),
    measurement("wallclock", "training over a long sequence, beside cuDNN", 60, 1),
    measurement("nonlinear_parallel", "a tanh RNN by Newton, beside the loop", 45, 0),
    gpu_tests(35),
    measurement("wallclock", "more layers", 30, 0, name="layers", config="gpu_short"),
    measurement("gradient_decay", "how far back gradients reach", 15, 1),
)
