"""What the README shows is true: its Python runs, its files exist, its commands are known."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import quick

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_its_examples_run(example):
    command, env = [sys.executable, "-c", example], quick.environment()
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    chosen = [line[:2] for line in done.stdout.splitlines()].count("->")  # by `auto`
    assert chosen == example.count("print(explain_")


def test_its_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    missing = [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()]
    assert not missing


def test_its_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert {"quickstart", "test"} <= set(targets)
    assert all(f"\n{target}:" in makefile for target in targets)
    runs = re.findall(r"-m experiments (?:run|sweep) (\w+)", README)
    assert all((ROOT / "experiments" / name / "experiment.py").exists() for name in runs)
