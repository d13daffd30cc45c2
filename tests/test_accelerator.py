"""The script for a machine with a GPU, tried on whatever machine this is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = """
experiment = "wallclock"
lengths = [8]
directions = ["forward"]
batch = 2
width = 4
rounds = 3
sample_seconds = 1e-5
budget_seconds = 0.05
product_size = 16

[[layers]]
name = "tanh RNN"
kind = "RNN"

[[layers]]
name = "LRU"
kind = "LRU"
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_leaves_records_and_report_in_a_flat_folder(tmp_path):
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG)
    mine = {"PYTHON": sys.executable, "RNNSCAN_ACCELERATOR_CONFIG": str(config)}
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "accelerator.sh", tmp_path / "out"],
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | mine,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    records = "results.jsonl", "environment.json", "config.json", "report.html"
    assert files >= {"accelerator.log", *records}
    assert any(name.endswith(".png") for name in files)
    assert len(files) <= 8
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["point"]["length"] for line in lines} == {8}
