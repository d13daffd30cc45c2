"""What a user relies on before calling anything: imports, documentation, clean files."""

import ast
import importlib
import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from typing import get_args

import pytest

import rnnscan
from rnnscan.scan.cell_kinds import CELLS, CellKind

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "rnnscan").rglob("*.py"))
# What a plain `pip install rnnscan` brings.
JAX_FAMILY = {"jax", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "scipy"}
# Optional packages, imported only inside the functions that need them.
OPTIONAL = {"sklearn": {"rnnscan/tasks/digits.py"}}
# Which parts of the package a part may import, itself included.
MAY_IMPORT = {
    "scan": {"scan"},
    "layer_parts": {"scan", "layer_parts"},
    "layers": {"scan", "layer_parts", "layers"},
    "gradients": {"scan", "layers", "gradients"},
    "tasks": {"tasks"},
}
# Rooms that others enter by their door alone, `from rnnscan.scan import ...`.
BY_THE_DOOR = {"scan"}
SCANS = ("linear", "matrix", "cell", "nonlinear", "selective")
PUBLIC = [
    (module, name)
    for module in ("rnnscan", "rnnscan.gradients", "rnnscan.tasks")
    for name in getattr(importlib.import_module(module), "__all__", ())
]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path):
    """(dotted name, whether it runs when the module is imported) of every import in a file."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]

    def walk(node, at_import):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                base = [*base, child.module] if child.module else base
                yield from ((".".join([*base, alias.name]), at_import) for alias in child.names)
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, at_import and not is_function)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


IMPORT_ALL = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is no dependency of rnnscan")

modules, blocked = (set(argument.split()) for argument in sys.argv[1:])
sys.meta_path.insert(0, Blocked())
for module in sorted(modules):
    importlib.import_module(module)

import jax
try:
    jax.devices()
except RuntimeError:
    print("no backend was started by importing")
"""


def test_imports_with_jax_alone_and_starts_no_backend():
    # A platform that does not exist: whatever asks for a device fails, and only the last line may.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "no_such_platform"}
    modules = [module_name(path) for path in SOURCES]
    installed = set(importlib.metadata.packages_distributions())
    blocked = {"experiments"} | installed - JAX_FAMILY - {"rnnscan", *sys.stdlib_module_names}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, " ".join(modules), " ".join(blocked)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "no backend was started by importing\n"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_follow_the_plan_of_the_house(path):
    relative = path.relative_to(ROOT).as_posix()
    room = path.relative_to(ROOT / "rnnscan").parts[0]
    for name, at_import in imports(path):
        top, *rest = name.split(".")
        where = f"{relative} imports {name}"
        assert not (top in JAX_FAMILY and any(part.startswith("_") for part in rest)), where
        if top == "rnnscan":
            assert room not in MAY_IMPORT or {*rest[:1]} & MAY_IMPORT[room], where
            assert rest[0] == room or rest[0] not in BY_THE_DOOR or len(rest) == 2, where
        elif relative in OPTIONAL.get(top, ()):
            assert not at_import, f"{where} outside the function that needs it"
        else:
            assert top in {"jax", "numpy", *sys.stdlib_module_names}, where


def test_imports_run_downhill():
    """No module imports, by way of others, itself."""
    modules = {module_name(path): path for path in SOURCES}
    needs = {
        name: {
            found
            for dotted, _ in imports(path)
            for found in (dotted, dotted.rpartition(".")[0])
            if found in modules and found != name and not name.startswith(f"{found}.")
        }
        for name, path in modules.items()
    }
    TopologicalSorter(needs).prepare()  # raises CycleError


def foreign_names(path: Path):
    """Every underscore name of another module that a file imports or reads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules |= {alias.asname or alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module != "__future__":
                yield from (alias.name for alias in node.names if alias.name.startswith("_"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_") and node.attr not in OF_NAMED_TUPLES
            if private and not node.attr.startswith("__") and node.value.id in modules:
                yield f"{node.value.id}.{node.attr}"


OF_NAMED_TUPLES = {"_replace", "_asdict", "_fields", "_make"}


@pytest.mark.parametrize("room", ["rnnscan", "experiments", "scripts"])
def test_nobody_uses_the_private_names_of_another_module(room):
    found = {
        path.relative_to(ROOT).as_posix(): names
        for path in sorted((ROOT / room).rglob("*.py"))
        if (names := list(foreign_names(path)))
    }
    assert not found


def test_the_folder_of_layers_shows_layers():
    exported = {module for module in vars(rnnscan.layers).values() if inspect.isclass(module)}
    homes = {layer.__module__.rpartition(".")[2] for layer in exported}
    assert homes == {path.stem for path in (ROOT / "rnnscan/layers").glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("scan", SCANS)
def test_the_names_that_an_editor_completes_are_those_of_the_table(scan):
    names = getattr(rnnscan.scan, f"{scan.title()}MethodName")
    assert get_args(names) == ("auto", *getattr(rnnscan.scan, f"{scan}_table").names)
    signature = inspect.signature(getattr(rnnscan, f"{scan}_scan"))
    assert signature.parameters["method"].annotation == names


def test_the_kinds_of_cells_are_those_of_the_files():
    assert get_args(CellKind) == tuple(CELLS)
    files = {path.stem for path in (ROOT / "rnnscan/scan/cell_kinds").glob("*.py")}
    assert files - {"__init__", "cell"} == set(CELLS)


def test_public_names():
    scans = {f"{prefix}{name}_scan" for name in SCANS for prefix in ("", "explain_")}
    assert scans | {"RNN", "LinearRNN", "LRU"} <= set(rnnscan.__all__)
    assert len(rnnscan.__all__) == len(set(rnnscan.__all__))


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_public_names_show_an_example(module, name):
    documentation = getattr(importlib.import_module(module), name).__doc__
    assert documentation, f"{module}.{name} has no docstring"
    assert ">>> " in documentation, f"{module}.{name} shows no example"


@pytest.mark.parametrize("name", [name for module, name in PUBLIC if module == "rnnscan"])
def test_an_editor_can_complete_what_is_chosen_by_name(name):
    """No option is a plain string: a `Literal` says which there are."""
    public = getattr(rnnscan, name)
    methods = [public, *(vars(public).values() if inspect.isclass(public) else ())]
    for method in methods:
        function = getattr(method, "__func__", method)
        if inspect.isfunction(function):
            for parameter in inspect.signature(function).parameters.values():
                assert parameter.annotation not in (str, str | None), f"{function}: {parameter}"


def test_help_begins_with_what_there_is():
    described = set(re.findall(r"\w+", rnnscan.__doc__))
    listed = {name for name in rnnscan.__all__ if not name.startswith("explain_")}
    assert listed <= described


def test_one_version_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert rnnscan.__version__ in (version, "0+unknown")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_no_tracked_file_names_a_machine():
    forbidden = [
        *(re.escape(f"{place}/") + r"[[:alnum:]._]" for place in (ROOT, Path.home())),
        r"/(home|Users)/[a-z]",
        r"(index|find-links)[-_]url",
        r"pythonhosted|pypi\.|/simple/",
    ]
    pattern = "|".join(forbidden)
    found = subprocess.run(
        ["git", "grep", "-nIE", pattern, "--", ".", ":!tests/test_package.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode > 1:
        pytest.skip(f"not a git checkout: {found.stderr.strip()}")
    assert not found.stdout
