"""Every example runs to the line that it prints; its own assertions are the test of it.

In this process, where an import is paid once. Warnings are errors for an example and for rnnscan,
but not for the libraries that it uses; nor does optax live without the promotion of dtypes.
"""

import ast
import re
import runpy
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "examples" / "README.md", ROOT / "docs" / "episodes.md"]
OLDEST = sys.version_info[:2] == (3, 11)  # here every library has a release that fits JAX


def needs_other_libraries(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    known = {"jax", "numpy", "rnnscan", *sys.stdlib_module_names}
    return not {name.partition(".")[0] for name in names} <= known


@pytest.mark.filterwarnings("default", "error:::__main__", "error:::rnnscan")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, capsys):
    others = needs_other_libraries(path)
    try:
        with jax.numpy_dtype_promotion("standard" if others else "strict"):
            runpy.run_path(str(path), run_name="__main__")
    except ImportError as fault:
        if OLDEST or not others:
            raise
        pytest.skip(f"not with JAX {jax.__version__}: {fault}")
    assert capsys.readouterr().out.strip()


def test_the_page_on_episodes_runs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGES[1].read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, "docs/episodes.md", "exec"), {})


def test_the_pages_name_every_example_and_link_to_what_there_is():
    named = set()
    for page in PAGES:
        targets = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        found = {(page.parent / target).resolve() for target in targets}
        assert all(path.exists() for path in found), page
        named |= found
    assert set(EXAMPLES) <= named
