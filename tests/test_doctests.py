"""The examples in docstrings run, and what one calls has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import defcn_ext
from defcn_ext import layers, losses, structures
from defcn_ext.assignment import rules
from defcn_ext.assignment.rules import _RULES

ROOMS = ("structures", "assignment", "losses", "layers", "inference", "branches")
MODULES = sorted(
    module.name
    for room in ROOMS
    for module in pkgutil.iter_modules([f"{defcn_ext.__path__[0]}/{room}"], f"defcn_ext.{room}.")
)


def examples(thing) -> int:
    found = doctest.DocTestFinder(exclude_empty=True).find(thing)
    return sum(len(test.examples) for test in found)


@pytest.mark.parametrize("name", [n for n in MODULES if examples(importlib.import_module(n))])
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0 and result.attempted > 0


def test_there_are_examples():
    assert sum(examples(importlib.import_module(name)) for name in MODULES) >= 40


@pytest.mark.parametrize("name", rules())
def test_every_rule_has_one(name):
    assert examples(_RULES[name])


@pytest.mark.parametrize(
    "thing",
    [
        *(getattr(room, name) for room in (losses, layers) for name in room.__all__),
        *(structures.Points, structures.Objects, structures.Pairs, structures.DensePredictions, structures.ScoreView),
    ],
    ids=lambda x: x.__name__,
)
def test_every_loss_layer_and_structure_has_one(thing):
    assert examples(thing), f"{inspect.getsourcefile(thing)}: {thing.__name__} has no example"
