import json
import sys
from types import SimpleNamespace

import pytest

from detectron2.config import CfgNode, configurable
from tests.conftest import FACTS
from tests.standin import says

GOLDEN = json.loads((FACTS / "golden_behaviours.json").read_text())


class Plain:
    """Constructor (a, b=2, c=3); from_config gives a=-1, b from `x`."""

    @configurable
    def __init__(self, a, b=2, c=3):
        self.values = [a, b, c]

    @classmethod
    def from_config(cls, cfg, x=0):
        return {"a": -1, "b": x}


class Overridable(Plain):
    """Takes everything that from_config knows under other names."""

    @configurable
    def __init__(self, a, b=2, c=3):
        super().__init__(a=a, b=b, c=8)

    @classmethod
    def from_config(cls, cfg):
        return {"a": -1, "b": 0}


class TakesAll:
    @configurable
    def __init__(self, names, number):
        self.values = [names, number]

    @classmethod
    def from_config(cls, cfg, **kwargs):
        return {"names": sorted(kwargs), "number": 9}


def with_from_config(method):
    namespace = {"__init__": configurable(_init)}
    if method is not None:
        namespace["from_config"] = method
    return type("Made", (), namespace)


def __init__(self, a=1):
    self.values = [a]


_init = __init__


@configurable(from_config=lambda cfg, x=1: {"p": -1, "q": x})
def function(p, q=0, r=0):
    return [p, q, r]


def result(call):
    try:
        made = call()
    except Exception as error:
        return {"ok": False, "raises": type(error).__name__}
    return getattr(made, "values", made)


CFG = CfgNode({"A": 1})
CONFIGURABLE = {
    "normal": lambda: Plain(1, 2),
    "cfg": lambda: Plain(CFG),
    "cfg_keyword": lambda: Plain(cfg=CFG),
    "cfg_plus_from_config_arg": lambda: Plain(CFG, x=5),
    "cfg_plus_init_arg": lambda: Plain(CFG, c=7),
    "init_arg_overrides_from_config": lambda: Plain(CFG, b=6),
    "cfg_positional_second": lambda: Plain(CFG, 4),
    "unknown_kwarg": lambda: Plain(CFG, nonsense=1),
    "no_from_config": lambda: with_from_config(None)(CFG),
    "static_from_config": lambda: with_from_config(staticmethod(lambda cfg: {}))(CFG),
    "first_arg_not_named_cfg": lambda: with_from_config(classmethod(lambda cls, config: {}))(CFG),
    "from_config_with_var_kwargs": lambda: TakesAll(CFG, y=1, z=2),
    "subclass_super_call": lambda: Overridable(CFG),
    "function_normal": lambda: function(1),
    "function_cfg": lambda: function(CFG),
    "function_cfg_x": lambda: function(CFG, x=4),
    "function_cfg_r": lambda: function(CFG, r=5),
    "function_has_from_config": lambda: hasattr(function, "from_config"),
}


@pytest.mark.parametrize("name", CONFIGURABLE)
def test_configurable(name):
    assert result(CONFIGURABLE[name]) == GOLDEN["configurable"][name]


def test_a_class_without_a_proper_from_config_is_refused_in_every_call():
    with pytest.raises(AttributeError, match=says("from_config")):
        with_from_config(None)(a=1)
    with pytest.raises(TypeError, match=says("classmethod")):
        with_from_config(lambda self, cfg: {})(a=1)


@pytest.mark.standin_only("omegaconf is optional: this one is made up")
def test_configurable_takes_a_dict_config_of_omegaconf(monkeypatch):
    fake = SimpleNamespace(DictConfig=type("DictConfig", (dict,), {}))
    monkeypatch.setitem(sys.modules, "omegaconf", fake)
    assert Plain(fake.DictConfig(), x=5).values == [-1, 5, 3]


def test_configurable_with_empty_parentheses_is_a_decorator():
    facts = GOLDEN["configurable"]
    assert type(configurable()).__name__ == facts["parenthesised_decorator"]["value"]
    assert set(facts) == {*CONFIGURABLE, "omegaconf_counts_as_cfg", "parenthesised_decorator"}
