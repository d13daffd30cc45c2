"""Which experiments there are, and which config the words of a command mean.

    digits                        experiments/digits/configs/default.toml
    digits small                  experiments/digits/configs/small.toml
    ./my_experiment [small]       the same of a folder of one's own, wherever it lies
    a/config.toml, runs/a-0123    a file, or that of a run folder

A folder of one's own has an `experiment.py` and `configs/default.toml`, as those here. Its name
is known to Python alone: it is imported as `my_experiment.experiment`, its parent being put on the
path of imports, and elsewhere it goes by its absolute path.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import keyword
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from experiments.harness.config import Config, ConfigError, ConfigFile, read, resolve
from experiments.harness.experiment import Experiment, ProtocolError, check, in_words
from experiments.harness.files import RunFolderError
from experiments.harness.run_folder import RunFolder, title

FOLDER = Path(__file__).resolve().parents[1]


class UnknownExperimentError(LookupError):
    """No experiment or config has that name; the message lists those that there are."""


def names() -> list[str]:
    """Every folder here with a default config, in alphabetical order."""
    return sorted(path.parents[1].name for path in FOLDER.glob("*/configs/default.toml"))


# What is told in one message, without a traceback.
REFUSALS = (ConfigError, ProtocolError, RunFolderError, UnknownExperimentError)


def reopen(folder: Path) -> tuple[str, Experiment, Config]:
    """The experiment of a run folder, by name and as it is here, and the config of that run."""
    run = RunFolder(folder)
    _ = run.experiment
    # The file, for a folder may be called as an experiment is.
    file = find_config(str(folder / "config.json"))
    experiment = load(file.experiment)
    config = resolve(experiment.Config, file.values, where=str(folder))
    _ = run.config  # as it was measured
    return file.experiment, experiment, config


def load(name: str) -> Experiment:
    """The experiment of that name, or in that folder, checked to follow the protocol."""
    if name in names():
        module = f"experiments.{name}.experiment"
    elif os.path.isabs(name):
        module = f"{_importable(Path(name)).name}.experiment"
    else:
        raise UnknownExperimentError(_unknown(name))
    try:
        experiment = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise ProtocolError(f"{title(name)}: cannot be imported: {in_words(error)}") from error
    check(title(name), experiment)
    return cast(Experiment, experiment)


def configs(name: str) -> list[ConfigFile]:
    """The configs of an experiment, the default first."""
    paths = (FOLDER / name / "configs").glob("*.toml")
    return [read(path) for path in sorted(paths, key=lambda p: (p.stem != "default", p))]


def default_config(name: str) -> ConfigFile:
    """The config of an experiment that its other configs are held against."""
    return read(_named(FOLDER / name, ""))


def split_short(changes: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The short name of a config, which is a first word without `=`, and the changes after it.

    >>> split_short(["small", "seeds=2"]), split_short(["seeds=2"])
    (('small', ['seeds=2']), ('', ['seeds=2']))
    """
    # An empty word, of a shell's variable that is not set, is no name: as a change it is refused.
    named = bool(changes and changes[0]) and "=" not in changes[0]
    return (changes[0], changes[1:]) if named else ("", changes)


def find_config(name_or_path: str, short: str = "") -> ConfigFile:
    """The config that is meant by an experiment and the short name of one, or by a path."""
    path = Path(name_or_path)
    if name_or_path in names() or _is_ours(path):
        return read(_named(FOLDER / path.name, short))
    # os.path's tests are false, and no error, of what cannot be a path at all.
    if os.path.isfile(path / "config.json"):
        path /= "config.json"
    elif os.path.isdir(path):
        folder = _importable(path.resolve())
        return _of_folder(read(_named(folder, short)), folder)
    if not path.suffix and not os.path.exists(path):
        raise UnknownExperimentError(_unknown(name_or_path))
    if short:
        raise UnknownExperimentError(
            f'"{short}": {name_or_path} is a config already; should be key.path=VALUE, or follow '
            "the name of an experiment"
        )
    file = read(path)
    if file.experiment in names():
        return file
    if os.path.isabs(file.experiment):  # of a run folder
        return replace(file, experiment=str(_importable(Path(file.experiment))))
    folder = path.resolve().parent.parent
    if path.resolve().parent.name == "configs" and (folder / "experiment.py").is_file():
        return _of_folder(file, _importable(folder))
    raise ConfigError([f"experiment = {_unknown(file.experiment)}"], str(path))


def _is_ours(path: Path) -> bool:
    """Whether the path is that of an experiment's folder here."""
    return os.path.isdir(path) and path.resolve().parent == FOLDER and path.name in names()


def _named(folder: Path, short: str) -> Path:
    """The config of that short name in the folder of an experiment."""
    path = folder / "configs" / f"{short or 'default'}.toml"
    known = sorted(found.stem for found in path.parent.glob("*.toml"))
    if path.stem not in known:
        told = f"its configs are {', '.join(known)}" if known else f"there is none in {path.parent}"
        raise UnknownExperimentError(
            f'"{path.stem}": no config of {folder.name}{_meant(path.stem, known)}; {told}'
            + "; a change reads key.path=VALUE" * bool(short)
        )
    return path


def _of_folder(file: ConfigFile, folder: Path) -> ConfigFile:
    """A config in the folder of an experiment of one's own, which it should name."""
    if file.experiment != folder.name:
        right = f'should be "{folder.name}", as its folder is named'
        raise ConfigError([f'experiment = "{file.experiment}": {right}'], str(file.path))
    return replace(file, experiment=str(folder))


def _importable(folder: Path) -> Path:
    """The folder of an experiment of one's own, after its parent was put on the path of imports."""
    if not os.path.isfile(folder / "experiment.py"):
        raise UnknownExperimentError(
            f"{folder}: no experiment: there should be an experiment.py and configs/default.toml "
            "in it"
        )
    name = folder.name
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UnknownExperimentError(
            f'{folder}: cannot be imported as "{name}"; should be a name of letters, digits and '
            '"_", such as my_experiment'
        )
    if any("\udc80" <= character <= "\udcff" for character in str(folder)):
        raise UnknownExperimentError(f"{folder}: its path is no UTF-8, as a config has to be")
    if name in names():
        raise UnknownExperimentError(
            f'{folder}: "{name}" is an experiment of rnnscan; should have another name'
        )
    parent = str(folder.parent)
    if parent not in sys.path:
        sys.path.append(parent)  # behind all else: what lies beside it hides no package
        importlib.invalidate_caches()
    places = _places(name)
    if not places or Path(places[0]).resolve() != folder.resolve():
        there = places[0] if places else "a module of that name"
        raise UnknownExperimentError(
            f'{folder}: "{name}" is what Python finds elsewhere ({there}); should have another name'
        )
    return folder


def _places(name: str) -> Sequence[str]:
    """Where Python would look for the modules of a package, the first that counts first."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ()
    return list(spec.submodule_search_locations or ()) if spec else ()


def _meant(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _unknown(name: str) -> str:
    return (
        f'"{name}": no such experiment{_meant(name, names())}; should be one of '
        f"{', '.join(names())}, the path of a config.toml, or a folder with an experiment.py"
    )
