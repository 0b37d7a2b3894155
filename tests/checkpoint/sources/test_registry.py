"""A code base of one's own: one class, one registration, one module that the command line names."""

import re
from pathlib import Path

import pytest
import torch

import defcn_ext.checkpoint
from defcn_ext.checkpoint import Checkpoint
from defcn_ext.checkpoint.convert import convert, known_sources, target_shapes
from defcn_ext.checkpoint.sources import SOURCES
from defcn_ext.config import UserError
from defcn_ext.engine.preflight import load_config
from defcn_ext.engine.stored_config import config_of
from tests.checkpoint.sources.detections import command
from tests.tiny import tiny_cfg

README = Path(defcn_ext.checkpoint.__file__).parent / "README.md"
IMPORTS = ("MODEL.DEFCN.IMPORTS", "['my_source']")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The module that the README shows."""
    (code,) = re.findall(r"\n\n((?:    .*\n|\n)*?    @register_source\n(?:    .*\n|\n)+)", README.read_text())
    (tmp_path / "my_source.py").write_text("".join(line[4:] or "\n" for line in code.splitlines(keepends=True)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_source", raising=False)
    yield
    SOURCES.pop("mine", None)


def state():
    """Our own names in a guise: POTO with 64 channels on ResNet-18."""
    new = {"branches.one_to_one.cls_score": "net.labels", "branches.one_to_one.bbox_pred": "net.sides"}
    shapes = target_shapes(tiny_cfg("MODEL.DEFCN.NUM_CONVS", 2))
    names = {
        key: next((n + key[len(o) :] for o, n in new.items() if key.startswith(o)), f"net.{key}") for key in shapes
    }
    return {names[key]: torch.ones(shape) for key, shape in shapes.items()}


def test_a_source_from_outside_converts_by_the_command_line(module, tmp_path):
    torch.save(state(), tmp_path / "in.pth")
    status, report = command(tmp_path / "in.pth", tmp_path / "out.pth", *IMPORTS)
    assert status == 0 and "mine" in known_sources() and "a detector of mine, 3 classes" in report
    written, beside = config_of(str(tmp_path / "out.pth"), []), load_config(str(tmp_path / "out.yaml"), [])
    assert written.MODEL.DEFCN == beside.MODEL.DEFCN and beside.MODEL.DEFCN.NUM_CONVS == 2
    assert beside.MODEL.WEIGHTS == str(tmp_path / "out.pth") and beside.INPUT.FORMAT == "RGB"


def test_it_is_unknown_without_the_module(tmp_path):
    with pytest.raises(UserError, match="weights of no code base known here"):
        convert(Checkpoint("in.pth", state(), {}))
    with pytest.raises(UserError, match="--from mine: no such source; known: mmdet, .*defcn_ext"):
        convert(Checkpoint("in.pth", {"branches.x.y": torch.zeros(1)}, {}), "mine")
