"""Each notebook: the source and the stored page tell the same story, and it runs."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

jupytext = pytest.importorskip("jupytext", reason="needs rnnscan[notebooks]")
nbformat = pytest.importorskip("nbformat", reason="needs rnnscan[notebooks]")
pytest.importorskip("nbclient", reason="needs rnnscan[notebooks]")

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
LARGEST = 200_000  # bytes of a stored notebook

# What tests/conftest.py demands of every test, here of the reader's code; not of the kernel's own.
STRICT = """
import os
import warnings
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
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


@each_notebook
def test_notebook_runs(source, make):
    notebook = make.read_source(source)
    expected = [kinds(cell) for cell in code_cells(stored(source))]
    notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
    make.execute(notebook)  # raises what a cell raises, and when a cell takes too long
    assert [kinds(cell) for cell in code_cells(notebook)[1:]] == expected
