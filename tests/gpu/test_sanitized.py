"""The program for the sanitizer, on whatever machine this is; and that it can fail."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.gpu import sanitized

ROOT = Path(__file__).parents[2]


def run(*arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.gpu.sanitized", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_every_call_is_right_without_a_gpu():
    done = run("--allow-cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line[:3] for line in lines[:-1]] == ["ok "] * len(sanitized.CASES)
    assert lines[-1].startswith("10 of 10 right")


def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("case", sanitized.CASES[:3], ids=str)
def test_what_is_slightly_wrong_is_found(case, monkeypatch):
    def wrong(case, method):
        def results(given):
            found = [value.astype(case.dtype) for value, _ in sanitized.expected(case, given)]
            return [*found[:-1], (1.1 * found[-1]).astype(case.dtype)]

        return results

    monkeypatch.setattr(sanitized, "program", wrong)
    assert sanitized.share(case, "auto") > 1


def test_all_modes_and_maps_are_there():
    assert {(case.mode, case.map) for case in sanitized.CASES} == {
        (mode, name)
        for mode in ("walk", "apply", "chained")
        for name in ("forward", "tangent", "transpose")
    }
    assert np.unique([case.dtype for case in sanitized.CASES]).size == 4
