"""Files of a run folder: written whole or not at all, JSON, and what a disk refuses in words."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

CURES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, the quota is used up",
    errno.EFBIG: "allow larger files (ulimit -f)",
}
OTHER_FOLDER = "choose another folder with --runs"
MOVE_AWAY = "move the folder away, and the command that made it measures again"


class RunFolderError(RuntimeError):
    """A run folder that cannot be used, and why."""


def write_atomically(
    path: Path, content: str | bytes, *, otherwise: str = OTHER_FOLDER, once: bool = False
) -> None:
    """Writes a file so that a reader sees the old or the new one, never half of it.

    Args:
      path: of the file; its folder is made.
      content: the whole of it.
      otherwise: what helps where the disk refuses it for good.
      once: what is there stays, though another process wrote it a moment ago.
    """
    with writes(path, otherwise):
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        data = as_bytes(content) if isinstance(content, str) else content
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            if not (once and _linked(temporary, path)):
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _linked(file: Path, name: Path) -> bool:
    """Gives a file a further name unless that is taken; False where the file system cannot."""
    try:
        os.link(file, name)
    except FileExistsError:
        return True
    except OSError:
        return name.exists()
    return True


def as_bytes(text: str) -> bytes:
    r"""UTF-8, and an escape of what has none: a byte of a path, half of a pair in JSON.

    >>> as_bytes("\u00fc \udcff")
    b'\xc3\xbc \\udcff'
    """
    return text.encode(errors="backslashreplace")


@contextmanager
def writes(path: Path, otherwise: str = OTHER_FOLDER) -> Iterator[None]:
    """What the disk refuses, in one message with the cure."""
    try:
        yield
    except (OSError, ValueError) as error:  # a path with a null character
        raise RunFolderError(
            f"{path}: cannot be written: {_said(error)}. What was measured before is kept: "
            f"{_cure(error, 'mend that')} and run the same command again, or {otherwise}."
        ) from None


def unreadable(path: Path, error: Exception | str) -> RunFolderError:
    """That a file cannot be read, why, and what helps."""
    return RunFolderError(f"{path}: cannot be read: {_said(error)}; {_cure(error, MOVE_AWAY)}")


def _said(error: Exception | str) -> str:
    """What the system says, without its number and the path."""
    return getattr(error, "strerror", None) or str(error)


def _cure(error: Exception | str, otherwise: str) -> str:
    denied = {errno.EACCES: "allow it (chmod -R u+rwX)", errno.EPERM: "allow it"}
    return (CURES | denied).get(getattr(error, "errno", 0), otherwise)


def read_json(path: Path) -> dict[str, Any]:
    """The table that a file holds."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error) from None
    if not isinstance(facts, dict):
        raise unreadable(path, "should hold a table")
    return facts


def to_json(value: Any, **options: Any) -> str:
    """JSON of plain values, and of numpy's and jax's."""
    return json.dumps(value, default=_plain, **options)


def canonical(value: Any) -> str:
    """JSON without a choice: sorted keys, no spaces."""
    return to_json(value, sort_keys=True, separators=(",", ":"))


def hash_of(value: Any) -> str:
    """Sixteen hexadecimal digits of what JSON makes of a value.

    >>> hash_of({"a": (1, 2), "b": 0.1}) == hash_of({"b": 0.1, "a": [1, 2]})
    True
    """
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """numpy and jax values as JSON's."""
    if isinstance(value, np.generic) or hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    raise TypeError(f"{value!r} of type {type(value).__name__} is no JSON value")
