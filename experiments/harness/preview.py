"""What a run would do, before it does it: `run --dry-run`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from experiments.harness import environment, run_folder, runner
from experiments.harness.config import Config, differences
from experiments.harness.experiment import Experiment, check
from experiments.harness.terminal import SHOWN, shortened

_LONGEST = 100  # characters of a change; a list of layers has many


def show(
    name: str,
    experiment: Experiment,
    config: Config,
    default: Config,
    *,
    root: Path,
    console: Console,
) -> int:
    """Prints device, folder, changes and points of a run; writes nothing and measures nothing."""
    title = run_folder.title(name)
    check(title, experiment)
    planned = runner.plan(title, experiment, config)
    facts = environment.describe(name)
    folder = run_folder.place(root, name, config, facts)
    folder.check_is_of(name, config, facts)
    left = runner.remaining(planned, folder.records())
    describe = getattr(experiment, "describe", runner.describe_point)
    changes = differences(default.model_dump(mode="json"), config.model_dump(mode="json"))
    lines = [
        f"{title} on {environment.device_name(facts)}, into {folder.path}/",
        "Differs from its default config in" if changes else "Its default config.",
        *(f"  {shortened(change, _LONGEST)}" for change in changes),
        f"{len(planned)} points, {len(left)} left to measure" + ":" * bool(left),
        *(f"  {describe(point)}" for point in left[:SHOWN]),
        *([f"  and {len(left) - SHOWN} more"] if len(left) > SHOWN else []),
        "Nothing was measured or written.",
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
    return 0
