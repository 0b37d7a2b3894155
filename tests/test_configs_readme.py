"""The tables of rules, steps and keys in configs/README.md against the code."""

import inspect
import re
from fractions import Fraction
from pathlib import Path

import pytest

from defcn_ext.assignment import build_rule, rules, steps
from defcn_ext.assignment.rules import _RULES
from defcn_ext.assignment.steps import KINDS
from defcn_ext.branches import BRANCH_REGISTRY, branch_node, build_branches
from detectron2.config import CfgNode
from tests.tiny import DATE_R, MANY, tiny_cfg

TEXT = (Path(__file__).parents[1] / "configs" / "README.md").read_text(encoding="utf-8")
SECTION = TEXT.split("## The keys")[1].split("\n## ")[0]


def table(header):
    """First cell -> the others."""
    lines = SECTION.split(header + "\n")[1].splitlines()[1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("")]]
    return {row[0]: row[1:] for row in rows}


def written_rules():
    rows = table("| rule | `TYPE` | options |")
    return {name: cells for names, cells in rows.items() for name in re.findall(r"\w+", names)}


def same(text, default):
    if isinstance(default, (bool, str)) or default is None:
        return text == str(default)
    return float(Fraction(text)) == pytest.approx(default)


def test_every_rule_stands_there_with_its_options_and_defaults():
    assert sorted(written_rules()) == rules()
    for name, (_, options) in written_rules().items():
        parameters = inspect.signature(_RULES[name]).parameters
        found = re.findall(r"`(\w+)(?:=([^`]*))?`", options)
        assert [key for key, _ in found] == list(parameters), name
        for key, value in found:
            default = parameters[key].default
            assert (default is inspect.Parameter.empty) == (value == ""), (name, key)
            assert value == "" or same(value, default), (name, key, value)


@pytest.mark.parametrize("name", [name for name in rules() if name != "Combine"])
def test_a_branch_of_the_type_takes_the_rule(name):
    kind = re.search(r"\w+", written_rules()[name][0]).group()
    anchors = DATE_R if "anchors" in written_rules()[name][0] else ()
    opts = (*anchors, "MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY"], MANY + "TYPE", kind, MANY + "RULE", name)
    assert list(build_branches(tiny_cfg(*opts), 64)) == ["one_to_many"]
    hard = build_rule(name).weighting is None
    assert hard == (kind == "point")


def test_every_step_stands_there():
    rows = table("| kind | steps |")
    assert list(rows) == list(KINDS)
    for kind, (text,) in rows.items():
        names = set(re.findall(r"`(\w+)(?:\(prior=...\))?`", text)) - {"weighted"}
        assert names == set(steps(kind))


def test_every_key_of_a_branch_stands_there():
    keys = {key for names in table("| keys | values | |") for key in re.findall(r"\w+", names)}
    node = tiny_cfg().MODEL.DEFCN.ONE_TO_ONE
    assert keys == set(node) - {"RULE"}
    assert set(tiny_cfg().MODEL.DEFCN.AUX) == {"TYPE", "RULE", "CLS_WEIGHT", "LOSS_WEIGHT", "BASE"}
    of_selector = {key for names in table("| keys of `selector` | values | |") for key in re.findall(r"\w+", names)}
    assert of_selector | {"TYPE", "RULE", "LOSS_WEIGHT", "TOWERS"} == set(branch_node("selector"))
    of_peaks = {key for names in table("| keys of `peaks` | values | |") for key in re.findall(r"\w+", names)}
    assert of_peaks | {"TYPE"} == set(branch_node("peaks"))
    types = re.findall(r"`(\w+)`", table("| keys | values | |")["`TYPE`"][0])
    assert sorted(types) == sorted(name for name, _ in BRANCH_REGISTRY)
    for key, value in [*node.items(), *branch_node("selector").items()]:
        if isinstance(value, CfgNode):
            assert all(f"`{inner}`" in SECTION for inner in value), key


def test_every_key_of_the_detector_is_told_in_the_section_or_below():
    written = TEXT.split("<!--")[0]
    assert [key for key in tiny_cfg().MODEL.DEFCN if key not in written] == []
