"""What an experiment is: one folder, one claim, six names in its `experiment.py`.

    experiments/<name>/
      experiment.py      the six names below
      configs/*.toml     default.toml at least; each begins with `experiment = "<name>"`
      README.md          claim, method, finding, figure

A folder of one's own, anywhere, has the first two and is named by its path:
`python -m experiments run ./my_experiment`.

The module `experiments.<name>.experiment` defines

`CLAIM: str`
    One sentence: what is claimed, and by which measurement it is tested. Shown by `list` and by the
    report.

`Config`
    A subclass of `harness.config.Config` (pydantic, frozen, strict, unknown keys refused). Nested
    tables are subclasses too. Sequences are tuples. Constrain every field (`Field(gt=0)`,
    `Literal[...]`), so that an impossible value is a fault with a path before anything runs; what
    couples two fields goes into a `model_validator(mode="after")` that raises `ValueError` and says
    what would be right.

`plan(config) -> list[Point]`
    The points to measure, in order. A point is a flat dict of JSON values (str, int, float, bool,
    None, lists of these) that names it: `{"layer": "LRU", "length": 512, "seed": 0}`. Points are
    distinct. A point is the unit of resumption: finished as a whole or measured again. Contenders
    that are to be interleaved belong to one point. `plan` is cheap and deterministic, and touches
    no device.

`run(config, points=None) -> Iterator[Record]`
    Measures the given points (those of `plan(config)` where None) and yields one record per
    measurement: a dict of JSON values, numpy or jax arrays and scalars (stored as lists and
    numbers; nan and inf as JSON's usual extensions NaN and Infinity). Every record holds its point
    under "point". The harness calls it for one point at a time, and a point is on the disk when the
    iterator ends: so an interruption loses no finished point. What points share (data, a measured
    bandwidth, a compiled function) is made once by a function under `functools.cache`. A point
    depends on no other: random keys come from its own seed, not from a key handed on. A point or a
    contender too large for the machine is never tried: it yields a record with "skipped" (why, in
    words) and "predicted_bytes" instead of measurements. In a point that takes long,
    `harness.progress.say("epoch 3 of 10")` tells whoever watches.

`plot(records) -> dict[str, matplotlib.figure.Figure]`
    Figures by file name (no suffix), in the order of the report; keys become captions
    ("forward_time" -> "forward time"), a figure's own `fig.set_label("...")` replaces its caption.
    `harness.figures.new_figure` makes one, and the harness calls `plot` in the shared style. Copes
    with any subset of the records (an interrupted run is plotted as well): draws what there is,
    leaves out what is not.

`summary(records) -> Summary`
    Tables of numbers and verdicts on the claims, from the records alone. Copes with any subset as
    well: a verdict that the records cannot carry yet has the outcome "open". The harness adds the
    device to each verdict.

Optionally: `describe(point) -> str`, one short line for the progress display (default: `key=value`
pairs).

The harness gives records back as they were read from `results.jsonl`: lists where arrays were, with
"point" equal to the planned one. It adds "line" and "lines" (the record's number within its point),
which `plot` and `summary` may ignore.

The harness checks these names before anything runs, and each record before it is written. Where
`plot` or `summary` fails, the report says so and has the rest: what was measured is safe.

An experiment can also be used without the harness: `list(run(Config(...)))` is a plain list of
dicts.
"""

from __future__ import annotations

import inspect
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from experiments.harness.config import Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point = dict[str, Any]
Record = dict[str, Any]
Outcome = Literal["confirmed", "refined", "refuted", "open"]


@dataclass(frozen=True)
class Table:
    """A small table for the terminal and the report: every cell is text, already rounded and with
    its unit.

    Args:
      title: one line, with units where all cells share them.
      columns: the headings.
      rows: one tuple of cells per row, as long as `columns`.
      note: one sentence below the table (what was left out, what a dash means); may be empty.
      brief: shown on the terminal too; a table that is not brief is in the report alone.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    brief: bool = True

    def __post_init__(self) -> None:
        for row in (self.columns, *self.rows):
            if not all(isinstance(cell, str) for cell in (self.title, self.note, *row)):
                raise TypeError(
                    f"table {self.title!r}: {row} should be text, as should title and note"
                )
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: row {row} has {len(row)} cells, should have "
                    f"{len(self.columns)}"
                )


@dataclass(frozen=True)
class Verdict:
    """What the records say of a claim.

    Args:
      claim: the claim in a few words.
      outcome: "confirmed", "refined" (true with a condition or another number), "refuted", or
        "open" (the records do not suffice).
      text: one or two sentences with the number that decides it.
      number: the claim of the article that this settles (`python -m experiments claims` lists
        them); None where it settles none of them by itself.
      value: the number that decides it, in a few words, for a table; may be empty.
    """

    claim: str
    outcome: Outcome
    text: str
    number: int | None = None
    value: str = ""

    def __post_init__(self) -> None:
        for name in ("claim", "text", "value"):
            if not isinstance(words := getattr(self, name), str):
                raise TypeError(f"verdict {self.claim!r}: {name} {words!r} should be text")
        if self.outcome not in get_args(Outcome):
            raise ValueError(
                f"verdict {self.claim!r}: outcome {self.outcome!r} should be one of "
                f"{', '.join(get_args(Outcome))}"
            )


@dataclass(frozen=True)
class Summary:
    """What an experiment says of its records; the harness adds what could not be said or drawn."""

    verdicts: tuple[Verdict, ...] = ()
    tables: tuple[Table, ...] = ()
    failures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, kind in (("verdicts", Verdict), ("tables", Table), ("failures", str)):
            parts = getattr(self, name)
            if not isinstance(parts, tuple | list) or not all(isinstance(p, kind) for p in parts):
                should = f"should be a tuple, each of it a {kind.__name__}"
                raise TypeError(f"summary: {name} {parts!r} {should}")


class Experiment(Protocol):
    """The module `experiments.<name>.experiment`, as the harness sees it."""

    CLAIM: str
    Config: type[Config]

    def plan(self, config: Any) -> list[Point]: ...

    def run(self, config: Any, points: Iterable[Point] | None = None) -> Iterator[Record]: ...

    def plot(self, records: Sequence[Record]) -> dict[str, Figure]: ...

    def summary(self, records: Sequence[Record]) -> Summary: ...


class ProtocolError(ValueError):
    """An experiment that does not keep to the protocol above, and how."""


def _takes(count: int) -> Callable[[Any], bool]:
    """Whether something can be called with that many arguments."""

    def test(value: Any) -> bool:
        try:
            inspect.signature(value).bind(*range(count))
        except TypeError:
            return False
        except ValueError:  # written in C, and does not say
            return True
        return True

    return test


_SHOULD_BE = {
    "CLAIM": ("a string, one sentence", lambda value: isinstance(value, str)),
    "Config": (
        "a subclass of experiments.harness.config.Config",
        lambda value: isinstance(value, type) and issubclass(value, Config),
    ),
    "plan": ("a function plan(config) -> points", _takes(1)),
    "run": ("a function run(config, points) -> records", _takes(2)),
    "plot": ("a function plot(records) -> figures by name", _takes(1)),
    "summary": ("a function summary(records) -> Summary", _takes(1)),
}


def check(name: str, experiment: Any) -> None:
    """Raises a ProtocolError with every name that is missing or is not what it should be."""
    faults = [
        f"{key}: {'' if hasattr(experiment, key) else 'missing; '}should be {what}"
        for key, (what, is_right) in _SHOULD_BE.items()
        if not is_right(getattr(experiment, key, None))
    ]
    if faults:
        where = getattr(experiment, "__file__", name)
        head = f"{name}: {where} does not follow the protocol of experiments/harness/experiment.py:"
        raise ProtocolError("\n  ".join([head, *faults]))


def sum_up(experiment: Experiment, records: Sequence[Record]) -> Summary:
    """The summary; one that fails is among the failures."""
    try:
        summary = experiment.summary(records)
        if not isinstance(summary, Summary):
            raise TypeError(f"summary(records) returned {summary!r}; should be a Summary")
    except (Exception, SystemExit) as error:
        return Summary(failures=(f"tables and verdicts: {in_words(error)}",))
    return summary


def in_words(error: BaseException) -> str:
    """`KeyError: 'loss' (recall/present.py, line 33)`: the error and the line of ours it came from.

    >>> in_words(ValueError("two\\nlines"))
    'ValueError: two lines'
    """
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    text = text if len(text) <= 300 else f"{text[:297]}..."
    libraries = ("<", *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
    ours = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(libraries)
    ]
    if not ours or isinstance(error, SyntaxError):  # which says itself where it is
        return text
    path = Path(ours[-1].filename)
    return f"{text} ({path.parent.name}/{path.name}, line {ours[-1].lineno})"
