"""How far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """What the harness tells: a point begins, something happens within it, it is done."""

    def begin(self, point: str) -> None: ...

    def say(self, text: str) -> None: ...

    def done(self) -> None: ...


@dataclass
class Plain:
    """One line per finished point: `[ 3/24] length=512  4.1 s`."""

    console: Console
    total: int
    finished: int
    point: str = ""
    started: float = field(default_factory=time.perf_counter)

    def begin(self, point: str) -> None:
        self.point, self.started = point, time.perf_counter()

    def say(self, text: str) -> None:
        pass

    def done(self) -> None:
        self.finished += 1
        count = f"[{self.finished:{len(str(self.total))}}/{self.total}]"
        seconds = time.perf_counter() - self.started
        self.console.print(f"{count} {self.point}  {seconds:.1f} s", soft_wrap=True, markup=False)


@dataclass
class Bar:
    """A bar that also says which point is measured, and what goes on in it."""

    bar: RichProgress
    task: Any
    point: str = ""

    def begin(self, point: str) -> None:
        self.point = point
        self.bar.update(self.task, point=point)

    def say(self, text: str) -> None:
        self.bar.update(self.task, point=f"{self.point}: {text}")

    def done(self) -> None:
        self.bar.advance(self.task)


_current: ContextVar[Progress | None] = ContextVar("current_progress", default=None)


def say(text: str) -> None:
    """Tells whoever watches what goes on within a point; nothing happens outside a run."""
    progress = _current.get()
    if progress is not None:
        progress.say(text)


@contextmanager
def show(console: Console, total: int, finished: int) -> Iterator[Progress]:
    """The progress of a run of `total` points, `finished` of which were done before."""
    if not console.is_terminal:
        with _watched(Plain(console, total, finished)) as progress:
            yield progress
        return
    bar = RichProgress(
        TextColumn("{task.fields[point]}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bar, _watched(Bar(bar, bar.add_task("", total=total, completed=finished, point=""))) as it:
        yield it


@contextmanager
def _watched(progress: Progress) -> Iterator[Progress]:
    token = _current.set(progress)
    try:
        yield progress
    finally:
        _current.reset(token)
