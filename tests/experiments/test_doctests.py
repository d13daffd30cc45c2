"""The examples in the docstrings of the harness are right."""

import doctest
import importlib
import pkgutil

import pytest

from experiments import harness


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(harness.__path__)])
def test_examples(name):
    results = doctest.testmod(importlib.import_module(f"experiments.harness.{name}"))
    assert results.failed == 0
