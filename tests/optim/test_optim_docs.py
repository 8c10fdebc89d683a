"""The examples in the docstrings of the solvers run, and the public names are documented."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

from innv_ext import optim

MODULES = sorted(m.name for m in pkgutil.walk_packages(optim.__path__, "innv_ext.optim."))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_examples_of_the_page():
    page = Path(__file__).parents[2] / "docs/api/optim.rst"
    tried = doctest.testfile(str(page), module_relative=False)
    assert tried.failed == 0 and tried.attempted > 10


def test_most_modules_have_examples():
    tried = {n: doctest.testmod(importlib.import_module(n)).attempted for n in MODULES}
    assert sum(count > 0 for count in tried.values()) >= 9


def test_public_names():
    assert sorted(optim.__all__) == list(optim.__all__)
    for name in optim.__all__:
        thing = getattr(optim, name)
        assert name == "Objective" or thing.__doc__
