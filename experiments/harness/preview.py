"""What a run would do, before it does it: `run --dry-run`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.harness import environment, run_folder, runner
from experiments.harness.config import Config
from experiments.harness.experiment import Experiment, check
from experiments.harness.terminal import SHOWN


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
    left = runner.remaining(planned, folder.records())
    describe = getattr(experiment, "describe", runner.describe_point)
    changes = list(differences(default.model_dump(mode="json"), config.model_dump(mode="json")))
    lines = [
        f"{title} on {environment.device_name(facts)}, into {folder.path}/",
        "Differs from its default config in" if changes else "Its default config.",
        *(f"  {change}" for change in changes),
        f"{len(planned)} points, {len(left)} left to measure" + ":" * bool(left),
        *(f"  {describe(point)}" for point in left[:SHOWN]),
        *([f"  and {len(left) - SHOWN} more"] if len(left) > SHOWN else []),
        "Nothing was measured or written.",
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
    return 0


def differences(default: Any, other: Any, path: str = "") -> Iterator[str]:
    """`train.steps=300` for each value of `other` that is not the default's.

    >>> list(differences({"a": 1, "b": {"c": [2], "d": 3}}, {"a": 1, "b": {"c": [4], "d": 3}}))
    ['b.c=[4]']
    """
    if not (isinstance(default, Mapping) and isinstance(other, Mapping)):
        if default != other:
            text = json.dumps(other, ensure_ascii=False)
            yield f"{path}={text if len(text) <= 80 else f'{text[:77]}...'}"
        return
    for key, value in other.items():
        yield from differences(default.get(key), value, f"{path}.{key}" if path else str(key))
