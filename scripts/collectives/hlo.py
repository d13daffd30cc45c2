"""Collectives of a compiled program, read off its HLO text: how many, and the bytes received.

A collective counts as often as it runs: one in the body of a loop as many times as the loop turns,
where that is known. Bytes are those that one of N devices receives by the algorithm of a ring
(Thakur, Rabenseifner & Gropp 2005, "Optimization of collective communication operations in MPICH"),
for a result of R bytes on a device:

    all-gather          (N - 1) / N  R
    all-reduce        2 (N - 1) / N  R
    reduce-scatter      (N - 1)      R
    all-to-all          (N - 1) / N  R
    collective-permute               R
"""

import dataclasses
import math
import re
from collections import Counter
from typing import Self

RECEIVED = {
    "all-gather": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}

_BITS = {"pred": 8, "c64": 64, "c128": 128}  # of others the name says it: f32, s8, bf16
_ARRAY = re.compile(r"\b([a-z]+\d*)(?:e\dm\d\w*)?\[([\d,]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (.*)$")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\])")


@dataclasses.dataclass(frozen=True)
class Collectives:
    """What a program does, once.

    Attributes:
      counts: collectives by kind.
      received: bytes that a device receives, by kind.
      turns: of loops, of a loop within a loop those of both.
      open: whether a collective stands in a loop of unknown length, counted as one turn.
    """

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    received: Counter[str] = dataclasses.field(default_factory=Counter)
    turns: int = 0
    open: bool = False

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.counts + other.counts,
            self.received + other.received,
            self.turns + other.turns,
            self.open or other.open,
        )

    def times(self, turns: int | None, most: int) -> "Collectives":
        """In a loop of so many turns; where that is unknown, at `most` so many."""
        n = 1 if turns is None else turns
        return Collectives(
            Counter({kind: n * count for kind, count in self.counts.items()}),
            Counter({kind: n * count for kind, count in self.received.items()}),
            (most if turns is None else turns) * (1 + self.turns),
            self.open or (turns is None and bool(self.counts)),
        )


def counted(text: str, devices: int) -> Collectives:
    """Of `compiled.as_text()`, for so many devices.

    A loop of unknown length is taken to go over the devices, as those of this library do.

    >>> text = '''ENTRY %main (x: f32[4]) -> f32[8] {
    ...   %x = f32[4]{0} parameter(0)
    ...   ROOT %y = f32[8]{0} all-gather(%x), replica_groups=[1,2]<=[2], dimensions={0}
    ... }'''
    >>> found = counted(text, 2)
    >>> dict(found.counts), dict(found.received)
    ({'all-gather': 1}, {'all-gather': 16.0})
    """
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            lines = bodies.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif found := _INSTRUCTION.match(line):
            lines.append(found[1])
    if not entry:
        raise ValueError("no ENTRY computation: expected the text of a compiled program")
    known: dict[str, Collectives] = {}

    def of(name: str) -> Collectives:
        if name not in known:
            known[name] = sum((one(line) for line in bodies[name]), Collectives())
        return known[name]

    def one(line: str) -> Collectives:
        kind, rest = _split(line)
        opcode = rest.split("(", 1)[0].strip()
        if opcode.endswith(("-done", "-update")):
            return Collectives()
        if (name := opcode.removesuffix("-start")) in RECEIVED:
            size = _group(rest, devices)
            received = RECEIVED[name](size) * _bytes(_result(opcode, kind))
            return Collectives(Counter([name]), Counter({name: received}))
        called = [of(name) for name in _CALLED.findall(rest)]
        if opcode == "while":
            trips = _TRIPS.search(rest)
            return sum(called, Collectives()).times(int(trips[1]) if trips else None, devices)
        if branches := _BRANCHES.search(rest):
            called += [of(name.strip().lstrip("%")) for name in branches[1].split(",")]
        if opcode == "conditional":  # one of them runs: the one that sends most
            return max(called, key=lambda branch: branch.received.total())
        return sum(called, Collectives())

    return of(entry)


def _split(line: str) -> tuple[str, str]:
    """An instruction's type, and what follows."""
    line = re.sub(r"/\*.*?\*/", "", line)
    if not line.startswith("("):
        kind, _, rest = line.partition(" ")
        return kind, rest
    depth = 0
    for place, letter in enumerate(line):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return line[: place + 1], line[place + 1 :]
    raise ValueError(f"unbalanced type: {line[:80]}")


def _result(opcode: str, kind: str) -> str:
    """The part of a type that is received: a start has its operands beside it."""
    if opcode not in ("all-gather-start", "collective-permute-start"):
        return kind
    depth, parts = 0, [""]
    for letter in kind[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts[1]


def _bytes(kind: str) -> int:
    """Of all arrays of a type.

    >>> _bytes("(f32[2,3]{1,0}, pred[], bf16[4])")
    33
    """
    total = 0
    for name, sizes in _ARRAY.findall(kind):
        bits = _BITS.get(name) or int(re.sub(r"\D", "", name))
        total += math.prod(int(n) for n in sizes.split(",") if n) * bits // 8
    return total


def _group(rest: str, devices: int) -> int:
    """How many devices take part together."""
    found = _GROUPS.search(rest)
    if found is None:
        return devices
    return int(found[2]) if found[2] else len(found[1].split(","))
