"""Execute every notebook from its py:percent source and store the .ipynb beside it.

    python scripts/make_notebooks.py            # all of notebooks/
    python scripts/make_notebooks.py 01         # those whose names begin like this

What is stored depends on the source and the results alone: cells are numbered instead of named at
random, and neither times nor versions of the machine are kept. Figures keep 256 colours, which no
eye misses and which makes them three times smaller. An error stores nothing.
"""

import base64
import io
import os
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
SECONDS_PER_CELL = 120


def sources() -> list[Path]:
    return sorted(FOLDER.glob("*.py"))


def read_source(source: Path) -> NotebookNode:
    """The notebook that a source describes, without outputs."""
    notebook = jupytext.read(source, fmt="py:percent")
    kernel = notebook.metadata["kernelspec"]
    notebook.metadata = NotebookNode(
        jupytext={"formats": "ipynb,py:percent"},
        kernelspec=kernel,
        language_info={"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
    )
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"], cell["metadata"] = f"cell-{number:02d}", NotebookNode()
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def execute(notebook: NotebookNode) -> NotebookNode:
    """Runs every cell in place, as Jupyter does from the notebook's folder.

    The kernel is the Python that runs this, whatever kernels are installed under its name. The
    packages come from this working tree, installed or not.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    metadata = notebook.metadata.copy()
    with tempfile.TemporaryDirectory() as sockets:
        manager = AsyncKernelManager(
            kernel_name="python3",
            # Nothing is found here, and then "python3" is this interpreter.
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        )
        if os.name == "posix":  # sockets in the file system: no ports that another run may take
            manager.transport, manager.ip = "ipc", os.path.join(sockets, "kernel")
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=SECONDS_PER_CELL,
            record_timing=False,
            resources={"metadata": {"path": str(FOLDER)}},
        )
        client.execute(env={**os.environ, "PYTHONPATH": path}, cleanup_kc=True)
    notebook.metadata = metadata  # without the kernel's version of Python
    return join_streams(notebook)


def join_streams(notebook: NotebookNode) -> NotebookNode:
    """Makes one output of what a cell prints in a row, in place: chance decides where it is cut."""
    for cell in notebook.cells:
        joined = []
        for output in cell.get("outputs", ()):
            before = joined[-1] if joined else {}
            if output.output_type == "stream" and before.get("name") == output.name:
                before["text"] += output.text
            else:
                joined.append(output)
        if "outputs" in cell:
            cell["outputs"] = joined
    return notebook


def shrink_figures(notebook: NotebookNode) -> NotebookNode:
    """Gives every PNG output a palette, in place."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if encoded := output.get("data", {}).get("image/png"):
                figure = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
                figure = figure.quantize(256, dither=Image.Dither.NONE)
                small = io.BytesIO()
                figure.save(small, "PNG", optimize=True)
                output["data"]["image/png"] = base64.b64encode(small.getvalue()).decode()
    return notebook


def main(beginnings: list[str]) -> None:
    for source in sources():
        if not beginnings or source.name.startswith(tuple(beginnings)):
            print(source.relative_to(ROOT), flush=True)
            notebook = shrink_figures(execute(read_source(source)))
            nbformat.validate(notebook)
            nbformat.write(notebook, source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
