"""Typed configs: a TOML file, `key.path=VALUE` overrides on top, one validation, every fault at
once.

A config file names its experiment at the top and may say how long it takes; the rest is the
experiment's `Config`:

    experiment = "wallclock"
    takes = "about 8 minutes on two cores"
    lengths = [64, 128]

Nothing runs and no folder is made before the whole config is valid.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

HEADER = ("experiment", "takes")
_TOO_DEEP = "nested too deep"
_BARE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Config(pydantic.BaseModel):
    """Base of every experiment's config, and of the tables nested in it: frozen, strict, no unknown
    keys.

    Strict means that `"3"` is no integer and `true` is no number; an integer is a valid float, and
    a TOML array a valid tuple.

    >>> class Small(Config):
    ...     lengths: tuple[int, ...] = (64, 128)
    >>> validate(Small, {"lengths": [32]})
    Small(lengths=(32,))
    """

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


class ConfigError(ValueError):
    """One or more faults in a config; `faults` holds a line for each."""

    def __init__(self, faults: Iterable[str], where: str = "") -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        head = f"{count} fault{'s' if count > 1 else ''} in the config"
        head += f" ({where})" if where else ""
        super().__init__("\n".join([head + ":", *(f"  {fault}" for fault in self.faults)]))


@dataclass(frozen=True)
class ConfigFile:
    """A config file as read: its experiment, how long it says that it takes, and its values."""

    path: Path
    experiment: str
    takes: str
    values: dict[str, Any]


def read(path: Path) -> ConfigFile:
    """Reads a config file (TOML, or a run folder's `config.json`); only the header is checked."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # no such file, no UTF-8, no path
        raise ConfigError([f"{path}: cannot be read: {error}"]) from None
    try:
        values = _plain(json.loads if path.suffix == ".json" else tomllib.loads, text)
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError([f"{path}: not valid {kind}: {error}"]) from None
    if not isinstance(values, dict):
        raise ConfigError([f"{path}: should hold a table, holds {shown(values)}"])
    header = {key: values.pop(key, "") for key in HEADER}
    faults = [
        f"{key} = {shown(value)}: should be a string"
        for key, value in header.items()
        if not isinstance(value, str)
    ]
    if not header["experiment"]:
        faults.append(
            "experiment: missing; the file should say which experiment it is for, "
            'for instance experiment = "wallclock"'
        )
    if faults:
        raise ConfigError(faults, str(path))
    return ConfigFile(path, header["experiment"], header["takes"], values)


def resolve(
    model: type[Config], values: Mapping[str, Any], overrides: Iterable[str] = (), where: str = ""
) -> Config:
    """The validated config of `values` with `overrides` on top.

    Args:
      model: the experiment's `Config`.
      values: what the config file says.
      overrides: strings `key.path=VALUE`; VALUE in TOML syntax, a bare word is a string. Later
        ones win.
      where: named in the error, the config file for instance.

    Raises:
      ConfigError: with every fault of the overrides and of the values at once.

    >>> class Small(Config):
    ...     lengths: tuple[int, ...] = (64, 128)
    ...     layer: str = "RNN"
    >>> resolve(Small, {"lengths": [32]}, ["layer=LRU", "lengths=[8, 16]"])
    Small(lengths=(8, 16), layer='LRU')
    """
    try:
        merged = _plain(dict, values)
    except ValueError as error:
        raise ConfigError([str(error)], where) from None
    faults = []
    for override in overrides:
        try:
            _merge(merged, *parse_override(override))
        except ConfigError as error:
            faults += error.faults
    try:
        config = validate(model, merged)
    except ConfigError as error:
        raise ConfigError([*faults, *error.faults], where) from None
    if faults:
        raise ConfigError(faults, where)
    return config


def validate(model: type[Config], values: Mapping[str, Any]) -> Config:
    """`values` as an instance of `model`, or a ConfigError with every fault."""
    try:
        # By way of JSON, where strict types still let a list be a tuple.
        return model.model_validate_json(json.dumps(values, default=str), strict=True)
    except RecursionError:
        raise ConfigError([_TOO_DEEP]) from None
    except pydantic.ValidationError as error:
        faults = error.errors()
        # An array with a bad item is not too short as well, though it has lost the item.
        faults = [
            fault
            for fault in faults
            if fault["type"] != "too_short" or not _has_faults_within(fault["loc"], faults)
        ]
        raise ConfigError(_fault(model, values, fault) for fault in faults) from None


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """Splits `key.path=VALUE` into its path and value.

    >>> parse_override("train.steps=300")
    (('train', 'steps'), 300)
    >>> parse_override("layer=LRU")
    (('layer',), 'LRU')
    """
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(_BARE_KEY.fullmatch(part) for part in path):
        raise ConfigError(
            [f"override {text!r}: should read key.path=VALUE, for instance train.steps=300"]
        )
    try:
        parsed = _plain(tomllib.loads, f"value = {value}")
        if parsed.keys() == {"value"}:
            return path, parsed["value"]
    except tomllib.TOMLDecodeError:
        if _BARE_WORD.fullmatch(value.strip()):
            return path, value.strip()
    except ValueError as error:
        raise ConfigError([f"override {key}: {error}"]) from None
    raise ConfigError(
        [
            f"override {text!r}: {value.strip()!r} is not a TOML value; right are for instance 3, "
            f"0.5, true, [64, 128], a bare word, or a quoted string: '{key}=\"two words\"'"
        ]
    )


def _plain(parse: Callable[[Any], Any], source: Any) -> Any:
    """What `parse` makes of the source, as JSON would hold it; ValueError where that cannot be."""
    try:
        return json.loads(json.dumps(parse(source), default=str, ensure_ascii=False).encode())
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def merge(values: Mapping[str, Any], changes: Any) -> Any:
    """`values` with `changes` on top, table by table; anything but a table replaces what was there.

    >>> merge({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 4}})
    {'a': 1, 'b': {'c': 4, 'd': 3}}
    """
    if not isinstance(changes, Mapping):
        return changes
    merged = dict(values)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) else value
    return merged


def _merge(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    table = values
    for depth, part in enumerate(path[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            parent, whole = ".".join(path[:depth]), ".".join(path)
            raise ConfigError(
                [f"override {whole}: {parent} = {shown(table)} is a value, not a table"]
            )
    table[path[-1]] = value


def _fault(model: type[Config], values: Any, fault: Any) -> str:
    """One pydantic error as a line: path, value, what would be right."""
    kind, location = fault["type"], fault["loc"]
    if kind == "json_invalid":  # all else that JSON cannot be was refused before
        return _TOO_DEEP
    place = _path(values, location, missing=kind == "missing")
    if kind == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return (
            f"{place} = {shown(fault['input'])}: no such key; {hint}known here: {', '.join(known)}"
        )
    if kind == "missing":
        return f"{place}: missing, and it has no default"
    if kind in ("model_type", "dict_type"):
        return f"{place} = {shown(fault['input'])}: should be a table of its keys"
    if kind == "union_tag_not_found":
        return f"{place} = {shown(fault['input'])}: should say its {fault['ctx']['discriminator']}"
    message = re.sub(r"^(Value error, |Assertion failed, |Input )", "", fault["msg"])
    return f"{place} = {shown(fault['input'])}: {message}" if place else message


def _has_faults_within(location: tuple, faults: Iterable[Any]) -> bool:
    depth = len(location)
    return any(fault["loc"][:depth] == location != fault["loc"] for fault in faults)


def _path(values: Any, location: Iterable[Any], missing: bool) -> str:
    """`layers[0].gain`: the location without the tags that pydantic gives the members of unions."""
    text = ""
    parts = list(location)
    for number, part in enumerate(parts, start=1):
        if isinstance(part, int):
            text += f"[{part}]"
            values = values[part] if isinstance(values, list) and part < len(values) else None
        elif isinstance(values, dict) and part in values:
            text += f".{part}" if text else part
            values = values[part]
        elif missing and number == len(parts):
            text += f".{part}" if text else part
    return text


def _keys_at(model: type[Config], location: Iterable[Any]) -> list[str]:
    """The keys of the table at `location` below `model`; of a union, those of the tagged member."""
    here: list[Any] = [model]
    for part in location:
        if isinstance(part, int):
            continue
        fields = [kind.model_fields[part] for kind in here if part in kind.model_fields]
        if fields:
            here = [kind for kind in _flatten(fields[0].annotation) if _is_model(kind)]
        else:
            here = [kind for kind in here if part == kind.__name__ or _has_tag(kind, part)] or here
    return list(here[0].model_fields) if here else []


def _has_tag(model: type[Config], tag: str) -> bool:
    return any(tag in typing.get_args(field.annotation) for field in model.model_fields.values())


def _flatten(annotation: Any) -> Iterable[Any]:
    yield annotation
    for inner in typing.get_args(annotation):
        yield from _flatten(inner)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def shown(value: Any, width: int = 60) -> str:
    """A value as TOML would write it, shortened."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= width else text[: width - 3] + "..."


def as_toml(value: Any) -> str:
    """A value as an override has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # nan and inf as in TOML
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def differences(default: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What of a config is not as in its default, as overrides; a list stands whole.

    >>> differences({"a": 1, "b": {"c": [2], "d": 3}}, {"a": 1, "b": {"c": ["e"], "d": 3}})
    ['b.c=["e"]']
    """
    found = []
    for key, value in other.items():
        usual = default.get(key)
        if isinstance(usual, Mapping) and isinstance(value, Mapping):
            found += [f"{key}.{change}" for change in differences(usual, value)]
        elif usual != value:
            found.append(f"{key}={as_toml(value)}")
    return found
