"""What a layer looks like in a shell: its options, and the shapes of its weights."""

import dataclasses
from typing import Any

WIDTH = 88  # what does not fit into a line is broken into one for each part


class Shown:
    """Base of dataclasses that show the shape and dtype of an array instead of its numbers."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):  # `dataclass` would write its own
            cls.__repr__ = shown  # pyright: ignore[reportAttributeAccessIssue]


def shown(self: Any) -> str:
    """The `repr` of a dataclass or NamedTuple; its leaves may be anything, traced ones too."""
    try:
        return _text(self, "")
    except Exception:  # of a leaf's own `repr`, or a field that is not there yet
        return object.__repr__(self)


def _text(x: Any, margin: str) -> str:
    """x in one line, or in several that begin with `margin`."""
    deeper = margin + "  "
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype}[{','.join(map(str, x.shape))}]"
    if names := _fields(x):
        parts = [f"{name}={_text(getattr(x, name), deeper)}" for name in names]
        return _joined(f"{type(x).__name__}(", parts, ")", margin)
    if type(x) is list:
        return _joined("[", [_text(part, deeper) for part in x], "]", margin)
    if type(x) is tuple:
        end = ",)" if len(x) == 1 else ")"
        return _joined("(", [_text(part, deeper) for part in x], end, margin)
    return repr(x)


def _fields(x: Any) -> list[str]:
    """Of a dataclass or NamedTuple."""
    if isinstance(x, type):
        return []
    if dataclasses.is_dataclass(x):
        return [field.name for field in dataclasses.fields(x) if field.repr]
    return list(getattr(x, "_fields", ()))


def _joined(start: str, parts: list[str], end: str, margin: str) -> str:
    line = f"{start}{', '.join(parts)}{end}"
    if len(margin) + len(line) <= WIDTH and "\n" not in line:
        return line
    lines = (f"\n{margin}  {part}," for part in parts)
    return f"{start}{''.join(lines)}\n{margin}{end.lstrip(',')}"
