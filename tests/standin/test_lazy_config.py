"""Configs that describe objects. Most of it needs omegaconf, which this project does not require."""

import sys

import pytest
import torch
from torch import nn

from detectron2.config import LazyCall, LazyConfig, instantiate


class Pair:
    def __init__(self, first, second=0):
        self.values = first, second


def test_what_is_described_is_made_inside_out():
    inner = {"_target_": "torch.nn.ReLU", "inplace": True}
    made = instantiate({"_target_": Pair, "first": inner, "second": [inner, {"a": inner}]})
    first, (second, plain) = made.values
    assert type(first) is type(second) is nn.ReLU and first.inplace
    assert plain == {"a": inner}  # a mapping without a target is a value
    assert instantiate(3) == 3 and instantiate("torch.nn.ReLU") == "torch.nn.ReLU"


@pytest.mark.parametrize(
    "cfg, error",
    [
        ({"_target_": "torch.nn.NoSuchLayer"}, ImportError),
        ({"_target_": Pair, "third": 1, "first": 1}, TypeError),
    ],
)
def test_what_cannot_be_made(cfg, error):
    with pytest.raises(error):
        instantiate(cfg)


@pytest.mark.standin_only("omegaconf is optional")
def test_without_omegaconf_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "omegaconf", None)
    with pytest.raises(ImportError, match="pip install omegaconf"):
        LazyCall(Pair)(first=1)
    with pytest.raises(ImportError, match="pip install omegaconf"):
        LazyConfig.load(str(tmp_path / "a.py"))


def test_only_calls_are_described():
    with pytest.raises(TypeError):
        LazyCall(3)


COMMON = """
from torch import nn
from detectron2.config import LazyCall as L
model = L(nn.Linear)(in_features=2, out_features=3)
train = dict(lr=0.1, steps=[1, 2])
_hidden = dict(a=1)
"""
MAIN = """
from .common.base import model, train as training
model.out_features = 5
number = 3
"""


@pytest.fixture
def files(tmp_path):
    pytest.importorskip("omegaconf")
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "base.py").write_text(COMMON)
    (tmp_path / "main.py").write_text(MAIN)
    return tmp_path


def test_python_files_import_copies_of_others(files):
    cfg = LazyConfig.load(str(files / "main.py"))
    assert sorted(cfg) == ["model", "training"]
    assert instantiate(cfg.model)(torch.rand(1, 2)).shape == (1, 5)
    assert LazyConfig.load(str(files / "common" / "base.py"), "model").out_features == 3
    model, training = LazyConfig.load(str(files / "main.py"), ("model", "training"))
    assert training.lr == 0.1 and model.in_features == 2
    (files / "lost.py").write_text("from .nowhere import x")
    with pytest.raises(ImportError):
        LazyConfig.load(str(files / "lost.py"))


def test_overrides(files):
    cfg = LazyConfig.load(str(files / "main.py"))
    LazyConfig.apply_overrides(cfg, ["model.out_features=7", "training.steps=[3]", "training.new.key=abc"])
    assert cfg.model.out_features == 7 and list(cfg.training.steps) == [3] and cfg.training.new.key == "abc"
    with pytest.raises(KeyError):
        LazyConfig.apply_overrides(cfg, ["training.lr.x=1"])


def test_what_is_written_can_be_read(files):
    cfg = LazyConfig.load(str(files / "main.py"))
    LazyConfig.save(cfg, str(files / "saved.yaml"))
    again = LazyConfig.load(str(files / "saved.yaml"))
    assert again.training == cfg.training
    assert instantiate(again.model).weight.shape == (5, 2)
    assert "Linear(" in LazyConfig.to_py(cfg) and "0.1" in LazyConfig.to_py(cfg)
