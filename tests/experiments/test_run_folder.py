"""A folder keeps finished points, drops torn ones, and never serves two different runs."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import environment, run_folder
from experiments.harness.run_folder import RunFolder, RunFolderError, writing
from tests.experiments import toy

ENVIRONMENT = {"device": "a"}


@pytest.fixture
def folder(tmp_path):
    return run_folder.make(tmp_path, "toy", toy.Config(), ENVIRONMENT)


def append(folder, *values):
    with writing(folder) as writer:
        for value in values:
            writer.append({"value": value}, [{"a": value}, {"b": value}])


def test_the_key_tells_configs_environments_and_experiments_apart(tmp_path):
    def made(name="toy", config=None, facts=None):
        return run_folder.make(tmp_path, name, config or toy.Config(), facts or ENVIRONMENT).path

    assert made() == made()
    others = [made("toys"), made(config=toy.Config(label="x")), made(facts={"device": "b"})]
    assert len({made(), *others}) == 4


def test_the_environment_is_the_same_from_call_to_call():
    facts = environment.describe()
    assert facts == environment.describe() == json.loads(json.dumps(facts))
    assert facts["device"]["count"] >= 1
    assert facts["packages"]["jax"]
    assert facts["packages"]["rnnscan"]
    assert facts["cpu"]["count"] >= 1
    assert environment.device_name(facts)


def test_records_come_back_as_written(folder):
    point = {"value": 1}
    record = {
        "list": np.arange(3),
        "number": np.float32(0.5),
        "array": jnp.ones((2, 1)),
        "nan": float("nan"),
        "inf": -np.inf,
    }
    with writing(folder) as writer:
        writer.append(point, [record])
    (found,) = folder.records()
    assert found.pop("nan") != 0
    assert found == {
        "list": [0, 1, 2],
        "number": 0.5,
        "array": [[1.0], [1.0]],
        "inf": -np.inf,
        "point": point,
        "line": 1,
        "lines": 1,
    }


@pytest.mark.parametrize("cut", range(1, 110, 9))
def test_a_torn_tail_loses_the_torn_point_alone(folder, cut):
    append(folder, 1, 2)
    whole = folder.results.read_bytes()
    first = sum(len(line) for line in whole.splitlines(keepends=True)[:2])
    assert cut < len(whole) - first
    folder.results.write_bytes(whole[:-cut])
    assert [record["point"]["value"] for record in folder.records()] == [1, 1]
    append(folder, 3)
    assert [record["point"]["value"] for record in folder.records()] == [1, 1, 3, 3]
    assert folder.results.read_bytes().startswith(whole[:first])


def test_a_broken_line_in_the_middle_is_no_torn_tail(folder):
    append(folder, 1, 2)
    lines = folder.results.read_bytes().splitlines(keepends=True)
    folder.results.write_bytes(b"".join([lines[0], b"{broken\n", *lines[2:]]))
    with pytest.raises(RunFolderError, match="line 2 is not JSON"):
        folder.records()


def test_a_folder_that_is_written_to_is_unfinished(folder):
    append(folder, 1)
    folder.mark_finished({"points": 1})
    assert folder.finished
    append(folder, 2)
    assert not folder.finished


def test_two_processes_cannot_measure_into_one_folder(folder):
    with (
        writing(folder),
        pytest.raises(RunFolderError, match="another process"),
        writing(RunFolder(folder.path)),
    ):
        pass


def test_the_latest_folder_is_the_one_last_measured(tmp_path):
    with pytest.raises(RunFolderError, match="holds no run yet"):
        run_folder.latest(tmp_path)
    one, two = (
        run_folder.make(tmp_path, "toy", toy.Config(label=label), ENVIRONMENT) for label in "ab"
    )
    for folder, age in ((one, 100), (two, 200)):
        append(folder, 1)
        for path in folder.path.iterdir():
            _set_age(path, age)
    assert run_folder.latest(tmp_path) == one
    _set_age(two.results, 50)
    assert run_folder.latest(tmp_path) == two


def _set_age(path, seconds):
    moment = 1_700_000_000 - seconds
    os.utime(path, (moment, moment))


REFUSED = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO]


@pytest.mark.parametrize("number", REFUSED)
def test_a_disk_that_refuses_is_told_with_the_cure_and_loses_no_finished_point(
    folder, monkeypatch, number
):
    append(folder, 1)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(RunFolderError) as error:
            append(folder, 2)
    for expected in (str(folder.path), os.strerror(number), "same command again", "--runs"):
        assert expected in str(error.value)
    assert ("free space" in str(error.value)) == (number in (errno.ENOSPC, errno.EDQUOT))
    append(folder, 3)
    assert [record["point"]["value"] for record in folder.records()][:2] == [1, 1]

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        with pytest.raises(RunFolderError, match=r"finished\.json"):
            folder.mark_finished({})
    assert not folder.finished
    assert {path.name for path in folder.path.iterdir()} == {
        "config.json",
        "environment.json",
        "results.jsonl",
    }


def test_a_point_that_a_full_disk_tore_is_dropped(folder):
    append(folder, 1)
    whole = folder.results.read_bytes()
    limit = len(whole) + 30
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(RunFolderError, match=r"File too large.*ulimit -f"):
            append(folder, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folder.results.stat().st_size == limit
    assert [record["point"]["value"] for record in folder.records()] == [1, 1]
    append(folder, 3)
    assert folder.results.read_bytes().startswith(whole)
    assert [record["point"]["value"] for record in folder.records()] == [1, 1, 3, 3]


@pytest.mark.parametrize("root", ["/dev/null", "/proc", "a\0b", "a" * 300])
def test_a_place_that_takes_no_folder_is_refused(root):
    with pytest.raises(RunFolderError, match="cannot be written"):
        run_folder.make(Path(root), "toy", toy.Config(), ENVIRONMENT)


@pytest.mark.parametrize("line", ["3", "[]", "{}", '{"point": 1, "line": 1}', "[" * 100_000])
def test_a_line_that_is_no_record_is_told(folder, line):
    append(folder, 1)
    whole = folder.results.read_bytes()
    folder.results.write_bytes(line.encode() + b"\n" + whole)
    with pytest.raises(RunFolderError, match="line 1 is no"):
        folder.records()


@pytest.mark.parametrize("text", ["3", "{}", "[" * 100_000, '{"device": {}}'])
def test_an_environment_that_says_nothing_is_told(folder, text):
    (folder.path / "environment.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"environment\.json: "):
        print(folder.environment)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"a": 1, "seen": {1}}, "'seen'"),
        ({"z": np.array([1j])}, "'z'"),
        ({"deep": {"in": [b"x"]}}, "'deep'"),
        ({(1, 2): 3}, r"\(1, 2\)"),
        ([1], "no dict"),
    ],
)
def test_what_json_cannot_hold_is_named(record, field):
    assert re.search(field, run_folder.unwritable(record))
    assert not run_folder.unwritable({"a": [1, None, "x", 0.5], "b": np.float32(1)})


def test_a_full_disk_under_standard_output_is_no_traceback():
    command = [sys.executable, "-m", "experiments", "list"]
    with open("/dev/full", "w") as full:
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert found.returncode != 0
    assert "No space left on device: free space there and run it again" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_file_system_without_locks_is_refused_in_words(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(run_folder.fcntl, "flock", flock)
    (tmp_path / "a").mkdir()
    with (
        pytest.raises(run_folder.RunFolderError, match="cannot be locked: Function not"),
        run_folder.writing(run_folder.RunFolder(tmp_path / "a")),
    ):
        pass
