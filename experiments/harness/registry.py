"""Which experiments there are, and which config a name or a path means."""

from __future__ import annotations

import difflib
import importlib
import os
from pathlib import Path
from typing import cast

from experiments.harness.config import ConfigError, ConfigFile, read
from experiments.harness.experiment import Experiment, ProtocolError, check, in_words

FOLDER = Path(__file__).resolve().parents[1]


class UnknownExperimentError(LookupError):
    """No experiment has that name; the message lists those that there are."""


def names() -> list[str]:
    """Every folder with a default config, in alphabetical order."""
    return sorted(path.parents[1].name for path in FOLDER.glob("*/configs/default.toml"))


def load(name: str) -> Experiment:
    """The experiment of that name, checked to follow the protocol."""
    if name not in names():
        raise UnknownExperimentError(_unknown(name))
    try:
        experiment = importlib.import_module(f"experiments.{name}.experiment")
    except Exception as error:
        raise ProtocolError(f"{name}: cannot be imported: {in_words(error)}") from error
    check(name, experiment)
    return cast(Experiment, experiment)


def configs(name: str) -> list[ConfigFile]:
    """The configs of an experiment, the default first."""
    paths = sorted((FOLDER / name / "configs").glob("*.toml"))
    return [read(path) for path in sorted(paths, key=lambda path: path.stem != "default")]


def find_config(name_or_path: str) -> ConfigFile:
    """An experiment's default config by the experiment's name, or any config by its path."""
    if name_or_path in names():
        return read(FOLDER / name_or_path / "configs" / "default.toml")
    path = Path(name_or_path)
    # os.path's tests are false, and no error, of what cannot be a path at all.
    if os.path.isfile(path / "config.json"):
        path /= "config.json"
    if not path.suffix and not os.path.exists(path):
        raise UnknownExperimentError(_unknown(name_or_path))
    file = read(path)
    if file.experiment not in names():
        raise ConfigError([f"experiment = {_unknown(file.experiment)}"], str(path))
    return file


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return (
        f'"{name}": no such experiment{hint}; should be one of {", ".join(names())}, '
        "or the path of a config.toml"
    )
