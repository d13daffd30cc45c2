"""What a visit to another machine brought home: run folders, and beside them `visit.json`.

    results/<device>-<date>/
      visit.json         device, versions, date, and what became of each stage
      <experiment>-<key>/    config.json, environment.json, results.jsonl, as in runs/

`scripts/accelerator.sh` makes such a visit and packs the same files into one archive.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pydantic

from experiments.harness.files import RunFolderError, unreadable
from experiments.harness.run_folder import RunFolder

FILE = "visit.json"


class StageOutcome(pydantic.BaseModel):
    """What became of one stage: `passed`, or in a word or two why not."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: str
    outcome: str
    seconds: float
    note: str = ""


class Visit(pydantic.BaseModel):
    """When and where it was, and what became of it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    started: datetime
    seconds: float
    device: str
    platform: str
    python: str
    jax: str
    options: str = pydantic.Field(description="of the command, without the folder")
    launcher: str = pydantic.Field(description="of the CUDA kernels; empty: none was chosen")
    stages: tuple[StageOutcome, ...]

    @property
    def date(self) -> str:
        return self.started.date().isoformat()

    def __str__(self) -> str:
        launcher = f", launcher {self.launcher}" if self.launcher else ""
        return f"{self.device}, Python {self.python}, JAX {self.jax}{launcher}, {self.date}"


def is_visit(path: Path) -> bool:
    """Whether the folder is that of a visit, and not that of one run."""
    return os.path.isfile(path / FILE) and not os.path.lexists(path / "config.json")


def read(path: Path) -> Visit:
    """The `visit.json` of a folder."""
    try:
        return Visit.model_validate_json((path / FILE).read_text(encoding="utf-8"))
    except pydantic.ValidationError as error:
        faults = (
            f"{'.'.join(map(str, f['loc']))}: {f['msg']}".lstrip(": ") for f in error.errors()
        )
        raise unreadable(path / FILE, "; ".join(faults)) from None
    except (OSError, ValueError) as error:
        raise unreadable(path / FILE, error) from None


def runs(path: Path) -> list[RunFolder]:
    """The run folders of a visit, in alphabetical order."""
    found = [RunFolder(config.parent) for config in sorted(path.glob("*/config.json"))]
    if not found:
        raise RunFolderError(f"{path}: holds no run; there should be folders with a config.json")
    return found
