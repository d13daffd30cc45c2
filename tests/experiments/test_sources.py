"""The key of a run folder holds what its numbers depend on, and nothing else."""

import shutil

import pytest

from experiments.harness import environment, run_folder, sources
from rnnscan.scan.cpu_kernel import library
from tests.experiments import toy

FACTS = {
    "device": {"platform": "cpu", "kind": "cpu", "count": 1},
    "cpu": {"model": "a", "count": 2, "memory_bytes": 8},
    "system": "Linux",
    "packages": {"jax": "1", "matplotlib": "1", "rnnscan": "1"},
    "git": {"commit": "a", "dirty": False},
    "source": "0",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of the sources, to change files in."""
    for name in ("rnnscan", "experiments"):
        shutil.copytree(
            sources.ROOT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("*.png", "*.so", "__pycache__"),
        )
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    monkeypatch.setattr(sources, "FOLDER", tmp_path / "experiments")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("experiments/digits/present.py", True),
        ("experiments/harness/training.py", True),  # by way of study.py
        ("experiments/__init__.py", True),
        ("rnnscan/scan/linear.py", True),
        ("rnnscan/scan/cuda_kernel/linear.h", True),
        ("experiments/recall/experiment.py", False),
        ("experiments/harness/timing.py", False),
        ("experiments/digits/README.md", False),
        ("experiments/__main__.py", False),
    ],
)
def test_the_digest_is_of_what_an_experiment_imports(tree, file, changes):
    before = sources.digest("digits")
    with (tree / file).open("a") as changed:
        changed.write("\n")
    assert (sources.digest("digits") != before) == changes


def test_what_times_is_told_from_what_does_not():
    assert sources.times("wallclock")
    assert sources.times("any_length")  # by way of limits.py
    assert sources.times("quickstart")  # by one of its parts
    assert not sources.times("digits")
    assert not sources.times("gradient_decay")


def test_a_folder_of_ones_own_counts_with_all_its_files_and_what_they_import(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "experiment.py").write_text("from .work import square\n")
    (folder / "work.py").write_text(
        "from shared.tools import a\ndef square():\n    from experiments.harness.timing import a\n"
    )
    (folder / "unused.py").write_text("def broken(:\n")
    files = set(folder.iterdir())
    (folder / ".venv").mkdir()
    (folder / ".venv" / "other.py").write_text("")
    # Beside it, where Python looks too: what it imports of that, and no more.
    (tmp_path / "shared").mkdir()
    for name in ("shared/__init__.py", "shared/tools.py", "shared/unused.py", "unused.py"):
        (tmp_path / name).write_text("import json\n")
    found = sources.of(str(folder))
    shared = {tmp_path / "shared" / name for name in ("__init__.py", "tools.py")}
    assert {path for path in found if path.is_relative_to(tmp_path)} == files | shared
    assert sources.FOLDER / "harness" / "timing.py" in found
    assert sources.times(str(folder))
    before = sources.digest(str(folder))
    (folder / "unused.py").write_text("")
    assert sources.digest(str(folder)) != before


def key(name, **changes):
    return run_folder.key_of(name, toy.Config(), {**FACTS, **changes})


@pytest.mark.parametrize("name", ["digits", "wallclock"])
def test_a_commit_and_what_only_draws_cost_no_measurement(name):
    assert key(name) == key(name, git={"commit": "b", "dirty": True})
    packages = {"jax": "1", "matplotlib": "2", "rnnscan": "2"}
    assert key(name) == key(name, packages=packages)
    assert key(name) != key(name, packages={**packages, "jax": "2"})
    assert key(name) != key(name, source="1")
    assert key(name) != key(name, cpu={**FACTS["cpu"], "model": "b"})
    assert key(name) != key(name, device={**FACTS["device"], "kind": "b"})


def test_processors_and_memory_count_where_something_is_timed():
    for changes in ({"cpu": {"model": "a", "count": 4, "memory_bytes": 9}}, {"system": "other"}):
        assert key("digits") == key("digits", **changes)
        assert key("wallclock") != key("wallclock", **changes)


@pytest.mark.parametrize("name", ["digits", "wallclock"])
def test_the_cpu_kernel_and_what_it_is_made_of_tell_runs_apart(name):
    kernels = [
        None,
        {"instruction_set": "x86-64-v4", "compiler": "GCC 12.2.0"},
        {"instruction_set": "x86-64-v3", "compiler": "GCC 12.2.0"},
        {"instruction_set": "x86-64-v3", "compiler": "Clang 14.0.6"},
    ]
    assert len({key(name, kernel=kernel) for kernel in kernels}) == len(kernels)


def test_the_environment_names_the_kernel_that_is_there(monkeypatch):
    found = environment.describe()["kernel"]
    if library.why_not():
        assert found is None
    else:
        assert found["instruction_set"] == library.instruction_set()
        assert found["compiler"].startswith(("GCC", "Clang", "Apple"))
    monkeypatch.setattr(library, "why_not", lambda: "none was compiled")
    assert environment.describe()["kernel"] is None


def test_the_threads_that_others_may_use_count_where_something_is_timed(monkeypatch):
    before = environment.describe()["threads"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    after = environment.describe()["threads"]
    assert after == {**before, "OMP_NUM_THREADS": "7"}
    for name, counts in (("digits", False), ("wallclock", True)):
        assert (key(name, threads=before) != key(name, threads=after)) == counts


def test_a_peer_that_is_installed_meanwhile_counts_where_something_is_timed():
    packages = {**FACTS["packages"], "torch": "2.13.0"}
    assert key("digits") == key("digits", packages=packages)
    assert key("wallclock") != key("wallclock", packages=packages)


def test_the_environment_still_has_all_of_it():
    facts = environment.describe("digits")
    assert {"git", "system"} <= facts.keys()
    assert facts["source"] == sources.digest("digits") != environment.describe()["source"]
