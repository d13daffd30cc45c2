"""python -m experiments list | run | claims | report | compare | sweep | runs: see --help."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any

try:
    import tyro
    from rich.padding import Padding
    from rich.text import Text

    from experiments.harness import config, files, registry, run_folder, visit
    from experiments.harness.compare import compare_runs
    from experiments.harness.listing import list_runs
    from experiments.harness.sweep import sweep
    from experiments.harness.terminal import INTERRUPTED, Flag, output
    from experiments.harness.words import command, visible
except ModuleNotFoundError as error:
    if error.name is None or error.name.startswith(("experiments", "rnnscan")):
        raise
    sys.exit(
        f"{error.name} is not installed; the experiments need it: "
        "python -m pip install 'rnnscan[experiments]'"
    )
except KeyboardInterrupt:  # before INTERRUPTED is known
    sys.exit(130)

BAD_INPUT = 2
RUNS = run_folder.RUNS


def list_experiments() -> int:
    """Show every experiment: its claim, its configs and how long they take."""
    console = output()
    for name in registry.names():
        console.print(f"[bold]{name}[/bold]")
        try:
            claim, files = registry.load(name).CLAIM, registry.configs(name)
        except registry.REFUSALS as error:  # one that is broken does not hide the others
            console.print(Padding(Text(str(error)), (0, 0, 0, 2)))
            continue
        console.print(Padding(Text(claim), (0, 0, 0, 2)))
        stems = [file.path.stem for file in files]
        words = [name if stem == "default" else f"{name} {stem}" for stem in stems]
        width = max(map(len, words), default=0)
        for word, file in zip(words, files, strict=True):
            line = f"    run {word:{width}}  {file.takes}"
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    return 0


def run_experiment(
    name: Annotated[str, tyro.conf.arg(metavar="NAME_OR_PATH")],
    changes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[CONFIG] KEY.PATH=VALUE ...")] = (),
    /,
    *,
    runs: Path = RUNS,
    dry_run: Flag = False,
) -> int:
    """Run an experiment, or continue it where it stopped.

    Args:
      name: an experiment, the folder of one of your own, or the path of a config.
      changes: the name of one of its configs (small, say), then values to change, in TOML syntax; a
        bare word is a string.
      runs: the folder that holds the run folders.
      dry_run: say what would be measured, and where, and stop there.
    """
    # Here, since they take a second that the commands which only read need not wait for.
    import jax

    from experiments.harness import preview, runner

    # A program out of a cache on disk would be said to compile in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    short, overrides = registry.split_short(changes)
    file = registry.find_config(name, short)
    experiment = registry.load(file.experiment)
    resolved = config.resolve(experiment.Config, file.values, overrides, str(_short(file.path)))
    if dry_run:
        usual = registry.default_config(file.experiment)
        default = config.resolve(experiment.Config, usual.values, where=str(_short(usual.path)))
        return preview.show(
            file.experiment, experiment, resolved, default, root=runs, console=output()
        )
    words = ["python", "-m", "experiments", "run", name, *changes]
    if runs != RUNS:
        words += ["--runs", runs]
    return runner.run(
        file.experiment,
        experiment,
        resolved,
        root=runs,
        console=output(),
        again=command(*words),
    )


def run_claims(
    overrides: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="KEY.PATH=VALUE ...", help_behavior_hint=lambda _: _claims_keys()),
    ] = (),
    /,
    *,
    runs: Path = RUNS,
    dry_run: Flag = False,
) -> int:
    """Put every claim of the article to the test, at small settings: a table of verdicts.

    The article is a popular-science one on the recurrence inside RNNs; it makes eleven claims.

    Args:
      overrides: values of a part to change, gradient_decay.seeds=8 for instance.
      runs: the folder that holds the run folders.
      dry_run: say what would be measured, and where, and stop there.
    """
    return run_experiment("claims", overrides, runs=runs, dry_run=dry_run)


def _claims_keys() -> str:
    """The keys of each part, for the help; they take seconds to import, so for no other command."""
    fields: dict[str, Any] = registry.load("claims").Config.model_fields
    return "\n".join(
        f"{part}.KEY: {', '.join(field.annotation.model_fields)}" for part, field in fields.items()
    )


def report_run(
    folder: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    /,
    *,
    runs: Path = RUNS,
) -> int:
    """Write the report of a run again, from what was measured.

    Args:
      folder: the run folder, or one of results/ with all its runs; without it the latest run.
      runs: the folder that holds the run folders.
    """
    if folder is not None and visit.is_visit(folder):
        return _report_visit(folder)
    found = run_folder.find(folder) if folder else run_folder.latest(runs)
    return _rebuild(found)


def _report_visit(folder: Path) -> int:
    """Every run of a visit; one that this version cannot read does not hide the others."""
    facts, status = visit.read(folder), 0
    for found in visit.runs(folder):
        try:
            output().rule(Text(f"{found.title}: {facts}"), style="dim")
            status = max(status, _rebuild(found))
        except registry.REFUSALS as error:
            print(visible(str(error)), file=sys.stderr)
            status = BAD_INPUT
    return status


def _rebuild(found: run_folder.RunFolder) -> int:
    from experiments.harness import runner  # it draws: see run_experiment

    where, experiment, resolved = registry.reopen(found.path)
    return runner.rebuild(run_folder.title(where), experiment, resolved, found, output())


def main(arguments: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a dash is no reason to lose a table
    try:
        return tyro.extras.subcommand_cli_from_dict(
            {
                "list": list_experiments,
                "run": run_experiment,
                "claims": run_claims,
                "report": report_run,
                "compare": compare_runs,
                "sweep": sweep,
                "runs": list_runs,
            },
            prog="python -m experiments",
            description="Experiments with recurrences: each tests one claim and ends in a report.",
            args=arguments,
        )
    except registry.REFUSALS as error:
        print(visible(str(error)), file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # of what else is written: standard output, a log on a full disk
        if error.errno not in files.CURES:
            raise
        said = f"{error}: {files.CURES[error.errno]} and run it again"
        print(visible(said), file=sys.stderr)
        return BAD_INPUT


def _short(path: Path) -> str:
    """The path as one would type it here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
