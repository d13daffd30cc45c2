"""Count what programs on several devices send each other, and write it into docs/sharding.md.

    python -m scripts.collectives                      # count, and print the tables: ten minutes
    python -m scripts.collectives --records FILE       # keep what was counted, or read it again
    python -m scripts.collectives --write              # the generated parts of the page, its figure

Programs are compiled for 2 to 64 devices of the CPU, forced by XLA_FLAGS, and not run, but for 2
and 8 devices, where they are run once at small sizes and their values and gradients compared with
those of one device.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.collectives import page
from scripts.collectives.count import count_with

DEVICES = (2, 4, 8, 16, 32, 64)
CHECKED = (2, 8)


def all_records() -> Iterator[dict[str, Any]]:
    for devices in DEVICES:
        yield from count_with(devices, *(["--check"] if devices in CHECKED else []))
    names = ["--programs", *page.CONTENDERS, "--directions", "gradient"]
    for devices in page.PREDICTED_DEVICES:
        for steps in page.PREDICTED_STEPS:
            yield from count_with(devices, "--long", str(steps), *names)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=Path, help="JSON lines: read, or written if not there")
    parser.add_argument("--write", action="store_true", help="docs/sharding.md and its figure")
    given = parser.parse_args()
    console = Console()
    if given.records and given.records.exists():
        records = [json.loads(line) for line in given.records.read_text().splitlines()]
    else:
        records = []
        for record in all_records():
            records.append(record)
            console.print(f"{record['devices']} devices: {record['program']}", style="dim")
        if given.records:
            given.records.write_text("".join(json.dumps(r) + "\n" for r in records))
    for table in page.shown(records):
        console.print(table)
    if given.write:
        page.write(records)


if __name__ == "__main__":
    main()
