"""Keep what a visit to another machine measured: its archive becomes a folder of results/.

    python -m scripts.keep_results OUTDIR/records.tar.gz

The folder is named after the device and the date, as `results/README.md` says. Its reports are
made at once, as `python -m experiments report results/<device>-<date>` makes them again, and the
first two figures of each run are kept beside its records, made small.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from experiments.harness import visit
from experiments.harness.files import RunFolderError
from experiments.harness.run_folder import RunFolder
from experiments.harness.words import visible
from scripts.accelerator import archive

ROOT = Path(__file__).resolve().parents[1]
FIGURES = 2  # of a run
WIDTH = 1200  # pixels; a page shows fewer
LARGEST = 100 * 2**20  # bytes, all files together: an archive is a few megabytes
MEMBER = re.compile(rf"[a-z_]+-[0-9a-f]+/({'|'.join(map(re.escape, archive.OF_A_RUN))})")


class KeepError(RuntimeError):
    """Nothing was kept, and why."""


def keep(packed: Path, results: Path) -> Path:
    """Unpacks an archive into a folder of `results`, reports, and returns the folder."""
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=results, prefix=".") as scratch:
        folder = Path(scratch) / "unpacked"
        unpack(packed, folder)
        target = results / name_of(visit.read(folder))
        if target.exists():
            raise KeepError(f"{target}: exists; rename it, {target.name}-morning for instance")
        visit.runs(folder)  # one at least
        folder.rename(target)
    if subprocess.run([sys.executable, "-m", "experiments", "report", target], cwd=ROOT).returncode:
        print(f"{target}: not everything could be reported; the records are kept", file=sys.stderr)
    for run in visit.runs(target):
        keep_figures(run)
    return target


def unpack(packed: Path, folder: Path) -> None:
    """Extracts an archive that holds what `archive` writes and nothing else."""
    try:
        with tarfile.open(packed, "r:gz") as file:
            members = file.getmembers()
            for member in members:
                known = member.name == visit.FILE or MEMBER.fullmatch(member.name)
                if not known or not member.isreg():
                    raise KeepError(f"{packed}: holds {member.name!r}, which no visit writes")
            if visit.FILE not in [member.name for member in members]:
                raise KeepError(f"{packed}: has no {visit.FILE}; a visit's {archive.NAME} has one")
            if sum(member.size for member in members) > LARGEST:
                raise KeepError(f"{packed}: holds more than {LARGEST} bytes")
            # The first versions of Python 3.11 have no filters; the names were looked at above.
            if hasattr(tarfile, "data_filter"):
                file.extractall(folder, members, filter="data")
            else:
                file.extractall(folder, members)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise KeepError(f"{packed}: cannot be read as an archive: {error}") from None


def name_of(facts: visit.Visit) -> str:
    """`nvidia-h100-80gb-hbm3-2026-11-27`."""
    device = re.sub(r"[^a-z0-9]+", "-", facts.device.lower()).strip("-")
    return f"{device}-{facts.date}"


def keep_figures(run: RunFolder) -> None:
    """The first figures of the report, beside the records, small and in 256 colours."""
    drawn = sorted((run.path / "figures").glob("*.png"), key=lambda path: path.stat().st_mtime_ns)
    for path in drawn[:FIGURES]:
        figure = Image.open(path).convert("RGB")
        figure.thumbnail((WIDTH, 10 * WIDTH))
        small = figure.quantize(256, dither=Image.Dither.NONE)
        small.save(run.path / path.name, optimize=True)
    shutil.rmtree(run.path / "figures", ignore_errors=True)


def main(
    packed: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ARCHIVE")],
    results: Path = ROOT / "results",
) -> int:
    """Keep what a visit to another machine measured.

    Args:
      packed: the records.tar.gz that the visit left.
      results: the folder that holds one folder a device and date.
    """
    try:
        folder = keep(packed, results.resolve())
    except (KeepError, RunFolderError) as error:
        print(visible(str(error)), file=sys.stderr)
        return 2
    print(f"\nKept in {folder}. README.md should name the folder, its device and its date.")
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main, prog="python -m scripts.keep_results"))
