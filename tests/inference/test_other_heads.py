import logging

import pytest

from defcn_ext.inference import other_heads
from defcn_ext.inference.other_heads import THRESHOLDS, score_threshold, tell_idle_keys
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tests.tiny import tiny_cfg


@pytest.fixture
def told(monkeypatch):
    lines = []
    monkeypatch.setattr(other_heads, "log_first_n", lambda level, message, **options: lines.append((level, message)))
    return lines


def test_nothing_is_said_of_the_defaults(told):
    tell_idle_keys(tiny_cfg("MODEL.DEFCN.SCORE_THRESH_TEST", 0.3))
    assert score_threshold(tiny_cfg("MODEL.DEFCN.SCORE_THRESH_TEST", 0.3)) == 0.3 and not told


@pytest.mark.parametrize(
    "key, value, advice",
    [
        ("MODEL.RETINANET.SCORE_THRESH_TEST", 0.3, "; set MODEL.DEFCN.SCORE_THRESH_TEST"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 3, "; set MODEL.DEFCN.NUM_CLASSES"),
        ("MODEL.RETINANET.NMS_THRESH_TEST", 0.7, "; set MODEL.DEFCN.NMS_THRESH_TEST"),
        ("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.7, "; set MODEL.DEFCN.SCORE_THRESH_TEST"),
        ("MODEL.RPN.NMS_THRESH", 0.6, ""),
        ("TEST.AUG.ENABLED", True, ""),
        ("MODEL.LOAD_PROPOSALS", True, ""),
    ],
)
def test_a_key_of_another_head_has_no_effect_and_is_told(told, key, value, advice):
    cfg = tiny_cfg(key, value)
    assert score_threshold(cfg) == 0.05
    tell_idle_keys(cfg)
    assert told == [(logging.WARNING, f"{key} {value!r} has no effect on the meta-architecture DeFCN{advice}")]


@pytest.mark.parametrize("value", [0.5, 0.3])
def test_the_confidence_threshold_of_detectron2s_demos_has_an_effect(told, value):
    """They set these three, after the options of the command line, and no key of this project."""
    cfg = tiny_cfg("MODEL.DEFCN.SCORE_THRESH_TEST", 0.1)
    for key in THRESHOLDS:
        node: CfgNode = cfg
        *path, leaf = key.split(".")
        for name in path:
            node = node[name]
        node[leaf] = value
    assert build_model(cfg).inference.score_thresh == value
    assert [level for level, _ in told] == [logging.INFO] and f"taken to be {value}" in told[0][1]
