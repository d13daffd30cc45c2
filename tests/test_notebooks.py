"""Each notebook: the source, the stored page and a fresh run tell the same story."""

import ast
import importlib.metadata
import re
import runpy
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from rnnscan import explain_linear_scan
from tests import quick

jupytext = pytest.importorskip("jupytext", reason="needs rnnscan[notebooks]")
nbformat = pytest.importorskip("nbformat", reason="needs rnnscan[notebooks]")
pytest.importorskip("nbclient", reason="needs rnnscan[notebooks]")

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
LARGEST = 200_000  # bytes of a stored notebook
DIFFERS = "# differs by machine: "  # in a cell, with the reason: its numbers are not compared
# Fewer steps where the numbers that are learned are not compared: of a notebook, what for what.
SHORTER = {
    "03_what_replaced_the_rnn": [("len(data), (300, 32)", "len(data), (30, 32)")],
}
NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?: ?(?:µs|ms|s)\b)?")

# What tests/conftest.py demands of every test, here of the reader's code; not of the kernel's own.
STRICT = f"""
import os
import warnings
os.environ["XLA_FLAGS"] += " {quick.FLAGS}"
import jax
warnings.simplefilter("error")
warnings.filterwarnings("default", module="ipykernel|IPython|tornado|zmq|traitlets")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
"""

each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


@pytest.fixture(scope="module")
def make():
    """The script behind `make notebooks`."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "make_notebooks.py")))


def stored(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a reader sees below a cell: text, tables, figures."""
    return [sorted(output.get("data", [output.output_type])) for output in cell.outputs]


def test_every_stored_notebook_has_a_source():
    pages = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert SOURCES
    assert pages == [source.with_suffix(".ipynb") for source in SOURCES]


@each_notebook
def test_page_and_source_are_in_sync(source):
    written, page = jupytext.read(source, fmt="py:percent"), stored(source)
    assert [(cell.cell_type, cell.source) for cell in page.cells] == [
        (cell.cell_type, cell.source) for cell in written.cells
    ], "run `make notebooks`"


@each_notebook
def test_page_was_run_once_from_the_top_and_tells_nothing_of_the_machine(source, make):
    page = stored(source)
    nbformat.validate(page)
    assert page.metadata == make.read_source(source).metadata
    code = code_cells(page)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "execute_result"}
    assert all(output.get("name") != "stderr" for output in outputs)
    assert not any(cell.metadata for cell in page.cells)

    text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST
    assert not [word for word in ("/home/", "/root/", "/tmp/", "/usr/", "C:\\") if word in text]
    assert str(ROOT) not in text


def words(output):
    """The text of an output as a reader sees it; a figure says only that it is one."""
    data = output.get("data", {})
    if "image/png" in data:
        return "a figure"
    return output.get("text") or data.get("text/markdown") or data["text/plain"]


def of_any_machine(text):
    """Without the lines that depend on which kernels this machine has; the page's has a CPU's."""
    dropped = [r"\| cuda, cuda "]  # says what is missing, and where it was looked for
    if not is_available("native", "cpu"):
        dropped += ["native", "kernel", r"\| cpu, "]
    if is_available("cuda", "cuda"):
        dropped += [r"\| cuda, "]
    return "\n".join(line for line in text.split("\n") if not re.search("|".join(dropped), line))


def is_available(method, platform):
    a = jax.ShapeDtypeStruct((64, 8), jnp.float32)
    rows = explain_linear_scan(a, a, platform=platform)
    return next(row.available for row in rows if row.method == method)


def same_number(found, page):
    """Counts are equal; decimals to a unit of their last digit or 2 %; 3e-07 to its power of ten.

    What is below 1e-5 in size is a rounding error, on the page or here.
    """
    found, page = found.replace(",", ""), page.replace(",", "")
    if found == page:
        return True
    if "e" in page:
        low, high = sorted((abs(float(found)), abs(float(page))))
        return high < 1e-5 or high < 10 * low
    if "." in page:
        unit = 10.0 ** -len(page.partition(".")[2])
        return abs(float(found) - float(page)) < 1.01 * unit + 0.02 * abs(float(page))
    return False


def differences(found, page, numbers=True):
    """Where two texts differ, line by line: in a word, or in a number by more than may be."""
    lines, expected = found.split("\n"), page.split("\n")
    if len(lines) != len(expected):
        return [f"{len(lines)} lines, on the page {len(expected)}"]
    return [
        f"{line!r}, on the page {other!r}"
        for line, other in zip(lines, expected, strict=True)
        if NUMBER.sub("#", line) != NUMBER.sub("#", other)
        or (numbers and not all(map(same_number, NUMBER.findall(line), NUMBER.findall(other))))
    ]


@pytest.mark.parametrize(
    ("found", "page", "same"),
    [
        ("| a | 1e-07 |", "| a | 8e-07 |", True),
        ("| a | 1e-02 |", "| a | 2e-01 |", False),
        ("| a | 0e+00 |", "| a | 3e-16 |", True),
        ("0.51 and 1,023", "0.50 and 1,023", True),
        ("0.53", "0.50", False),
        ("1,024", "1,023", False),
        ("| cpu, native | **yes** |", "| cpu, native |  |", False),
        ("| cpu, native |\n| cpu, blocked |", "| cpu, native |", False),
    ],
)
def test_a_stale_text_is_told_from_one_rounded_differently(found, page, same):
    assert (not differences(found, page)) == same


def test_where_numbers_differ_by_machine_words_are_still_compared():
    assert not differences("| tree | 3.1 ms |", "| tree | 739 µs |", numbers=False)
    assert differences("| tree | 3.1 ms |", "| loop | 3.1 ms |", numbers=False)


@each_notebook
def test_fresh_run_says_what_the_page_says(source, make):
    notebook, page = make.read_source(source), code_cells(stored(source))
    for long, short in SHORTER.get(source.stem, ()):
        (cell,) = (cell for cell in notebook.cells if long in cell.source)
        assert DIFFERS in cell.source
        cell.source = cell.source.replace(long, short)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
    make.execute(notebook)  # raises what a cell raises, and when a cell takes too long
    fresh = code_cells(notebook)[1:]
    assert [kinds(cell) for cell in fresh] == [kinds(cell) for cell in page]
    found = {
        cell.id: differences(
            of_any_machine(words(output)), of_any_machine(words(other)), DIFFERS not in cell.source
        )
        for cell, on_page in zip(fresh, page, strict=True)
        for output, other in zip(cell.outputs, on_page.outputs, strict=True)
    }
    assert not {cell: found[cell] for cell in found if found[cell]}, "stale: run `make notebooks`"


def test_the_extra_holds_what_the_notebooks_import():
    """By the requirements of rnnscan[notebooks], with those of the extras that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras, needed = project["optional-dependencies"], list(project["dependencies"])
    open_extras = ["notebooks"]
    while open_extras:
        for requirement in extras[open_extras.pop()]:
            own = re.match(r"rnnscan\[(.*)\]", requirement)
            open_extras += own[1].split(",") if own else []
            needed += [] if own else [requirement]
    needed = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in needed}

    imported = set()
    for source in SOURCES:
        for node in ast.parse(source.read_text(encoding="utf-8")).body:  # not what is behind an if
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
    imported -= {"rnnscan", "experiments", *sys.stdlib_module_names}
    distributions = importlib.metadata.packages_distributions()
    missing = {name for name in imported if not needed & {d.lower() for d in distributions[name]}}
    assert missing <= {"IPython", "numpy"}  # which ipykernel and jax bring
