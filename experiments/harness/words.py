"""Text for a terminal, and commands to type there, whatever the names in them hold."""

from __future__ import annotations

import os
import shlex
import unicodedata

# What turns the direction of writing: a name may look like another.
_TURNING = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def visible(text: str) -> str:
    r"""Without what would steer a terminal: as an escape.

    >>> visible("red \x1b[31m")
    'red \\x1b[31m'
    """
    return "".join(
        character.encode("unicode_escape").decode() if _steers(character) else character
        for character in text
    )


def command(*words: str | os.PathLike[str]) -> str:
    r"""The words as a shell takes them; what would steer a terminal as bash and zsh write it.

    >>> command("report", "runs/of mine"), command("report", "\x1b[31m")
    ("report 'runs/of mine'", "report $'\\x1b[31m'")
    """
    return " ".join(_quoted(os.fspath(word)) for word in words)


def _quoted(word: str) -> str:
    if not any(character == "\n" or _is_control(character) for character in word):
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return "$'{}'".format("".join(_as_bytes(c) if _is_control(c) else c for c in escaped))


def _as_bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def _steers(character: str) -> bool:
    return _is_control(character) or unicodedata.category(character) == "Cs"


def _is_control(character: str) -> bool:
    kind = unicodedata.category(character)
    return (kind in ("Cc", "Zl", "Zp") and character not in "\n\t") or character in _TURNING
