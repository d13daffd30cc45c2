"""The generated parts of docs/sharding.md, between its markers, and its figure."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich.table import Table

from experiments.harness.figures import STYLE
from scripts.collectives import predict
from scripts.collectives.programs import PROGRAMS, Sizes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sharding.md"
COLUMNS = (2, 8, 64)  # devices, on the page
OF_TEMPORARIES = 8
CONTENDERS = ("time_named", "tree")
PREDICTED_DEVICES, PREDICTED_STEPS = (8, 64, 512), (2**20, 2**27)
LOOK = {  # Okabe & Ito: told apart by those who do not see red or green, and by their markers
    "time_named": ("rnnscan, time", "#0072B2", "o", "-"),
    "tree": ("jax.lax.associative_scan, time", "#D55E00", "s", "--"),
    "loop": ("jax.lax.scan, time", "#555555", "^", "-."),
}
SHORT = {  # on a terminal
    "all-gather": "AG",
    "all-reduce": "AR",
    "reduce-scatter": "RS",
    "all-to-all": "AA",
    "collective-permute": "CP",
}
Record = dict[str, Any]
Rows = list[list[str]]


def amount(count: float, units: Sequence[str] = ("B", "KB", "MB", "GB")) -> str:
    """Three digits and a unit.

    >>> amount(448), amount(29360128)
    ('448 B', '29.4 MB')
    """
    for unit in units[:-1]:
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {units[-1]}"


def duration(seconds: float) -> str:
    """
    >>> duration(0.00123), duration(12.0)
    ('1.23 ms', '12 s')
    """
    return amount(1e6 * seconds, ("µs", "ms", "s"))


def cell(record: Record, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """What one program sends, once: collectives by kind, and the bytes that a device receives.

    names: others for the kinds of collectives.

    >>> cell({"collectives": {"all-gather": 1}, "received": {"all-gather": 512}, "open": False})
    '1 all-gather, 512 B'
    """
    counts = sorted(record["collectives"].items(), key=lambda item: -item[1])
    if not counts:
        return "none"
    kinds = " + ".join(f"{count:,} {names.get(kind, kind)}" for kind, count in counts)
    return f"{'≥ ' if record['open'] else ''}{kinds}, {amount(sum(record['received'].values()))}"


def _of(records: Sequence[Record], long: int = Sizes().long) -> dict[tuple[str, str, int], Record]:
    return {
        (r["program"], r["direction"], r["devices"]): r
        for r in records
        if r["sizes"]["long"] == long
    }


def counts(
    records: Sequence[Record],
    direction: str,
    columns: Sequence[int] = COLUMNS,
    names: Mapping[str, str] = MappingProxyType({}),
) -> Rows:
    """A row a program; the columns are numbers of devices, the last one temporaries."""
    found = _of(records)
    rows = [
        ["sharded", *(f"{n} devices" for n in columns), f"temporaries, {OF_TEMPORARIES} devices"]
    ]
    for program in PROGRAMS:
        cells = [cell(found[program.name, direction, n], names) for n in columns]
        temporary = found[program.name, direction, OF_TEMPORARIES]["temporary"]
        rows.append([program.what, *cells, amount(temporary)])
    return rows


def predicted(records: Sequence[Record]) -> Rows:
    """A row a length and number of devices: forward and backward."""
    head = ["T", "devices", "one device", "memory", "loops", "collectives", "together"]
    rows = [[*head, *(f"tree: {part}" for part in ("memory", "collectives", "together"))]]
    for steps in PREDICTED_STEPS:
        found, channels = _of(records, steps), Sizes().channels
        for devices in PREDICTED_DEVICES:
            ours, tree = (predict.of_record(found[c, "gradient", devices]) for c in CONTENDERS)
            one = predict.on_one(steps, channels).total
            parts = [ours.memory, ours.loops, ours.network, ours.total]
            parts += [tree.memory, tree.network, tree.total]
            rows.append([f"{steps:,}", str(devices), *map(duration, [one, *parts])])
    return rows


def markdown(rows: Rows) -> str:
    """A table, as pages have it."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(records: Sequence[Record]) -> list[Table]:
    """The tables for a terminal, of all numbers of devices."""
    devices = sorted({n for _, _, n in _of(records)})
    key = ", ".join(f"{short} {kind}" for kind, short in SHORT.items())
    titled = {
        f"forward ({key})": counts(records, "forward", devices, SHORT),
        f"gradient ({key})": counts(records, "gradient", devices, SHORT),
        "predicted, forward and backward": predicted(records),
    }
    tables = []
    for title, (head, *body) in titled.items():
        table = Table(*head, title=title)
        for row in body:
            table.add_row(*(text.replace("`", "") for text in row))
        tables.append(table)
    return tables


def parts(records: Sequence[Record]) -> dict[str, str]:
    """What stands between the markers, by their names."""
    jax = sorted({r["jax"] for r in records})
    return {
        "forward": markdown(counts(records, "forward")),
        "gradient": markdown(counts(records, "gradient")),
        "predicted": markdown(predicted(records)),
        "version": f"Counted in programs that JAX {', '.join(jax)} compiled for CPU devices.",
    }


def filled(text: str, generated: dict[str, str]) -> str:
    """The page with these parts; ValueError where it lacks the markers of one."""
    for name, part in generated.items():
        pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
        text, times = re.subn(pattern, rf"\g<1>{_literal(part)}\n\g<2>", text, flags=re.DOTALL)
        if times != 1:
            raise ValueError(f"{PAGE.name}: expected one pair of markers of {name!r}, got {times}")
    return text


def _literal(part: str) -> str:
    return part.replace("\\", r"\\")


def write(records: Sequence[Record]) -> None:
    """The page's generated parts, and its figure beside it."""
    PAGE.write_text(filled(PAGE.read_text(), parts(records)))
    with mpl.rc_context(STYLE):
        figure(records).savefig(PAGE.with_suffix(".png"))


def figure(records: Sequence[Record]) -> Figure:
    """Bytes that were counted, and times that are predicted, against the number of devices."""
    made = Figure(figsize=(10, 4.2), layout=ConstrainedLayoutEngine(wspace=0.06))
    left, right = made.subplots(1, 2)
    found = _of(records)
    for name in ("time_named", "tree", "loop"):
        label, color, marker, line = LOOK[name]
        sizes = sorted(n for p, d, n in found if (p, d) == (name, "gradient"))
        received = [sum(found[name, "gradient", n]["received"].values()) for n in sizes]
        left.plot(sizes, received, line, color=color, marker=marker, label=label)
    left.set_title(f"counted, gradient: T = {Sizes().long:,}, {Sizes().channels} channels")
    left.set_ylabel("received by a device, bytes")

    longest, channels = max(PREDICTED_STEPS), Sizes().channels
    far = _of(records, longest)
    one = predict.on_one(longest, channels).total
    right.axhline(one, color="#222222", linestyle=":", label="one device, if it fitted")
    for name in CONTENDERS:
        label, color, marker, line = LOOK[name]
        times = [predict.of_record(far[name, "gradient", n]).total for n in PREDICTED_DEVICES]
        right.plot(PREDICTED_DEVICES, times, line, color=color, marker=marker, label=label)
    right.set_title(f"predicted, not measured: T = {longest:,}, H100")
    right.set_ylabel("forward and backward, seconds")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("devices")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(fontsize=8.5)
    left.set_xticks(sorted({n for _, _, n in found}))
    right.set_xticks(PREDICTED_DEVICES)
    right.set_yticks([0.003, 0.01, 0.03, 0.1, 0.3])
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("")
    right.set_ylim(0.002, 1)
    return made
