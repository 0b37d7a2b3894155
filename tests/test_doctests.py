"""The examples in docstrings of the core give what they say, and every public class of it has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import defcn_ext

ROOMS = ("structures", "assignment", "losses", "layers", "inference", "branches")
MODULES = [
    module.name
    for room in ROOMS
    for module in pkgutil.walk_packages([f"{defcn_ext.__path__[0]}/{room}"], f"defcn_ext.{room}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    torch.manual_seed(0)
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("room", ["structures", "layers", "inference"])
def test_every_public_class_has_an_example(room):
    package = importlib.import_module(f"defcn_ext.{room}")
    classes = [getattr(package, name) for name in package.__all__ if inspect.isclass(getattr(package, name))]
    assert [x.__name__ for x in classes if ">>>" not in x.__doc__ and not issubclass(x, tuple)] == []
