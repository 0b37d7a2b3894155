"""Weights written before branches had a registry: the same names, losses and detections."""

from pathlib import Path

import pytest
import torch

from detectron2.modeling import build_model
from tests.branches.old_detectors import OLD, SMALL, observed
from tests.tiny import batch, tiny_cfg

FILE = Path(__file__).parents[1] / "data" / "before_registry.pth"


@pytest.fixture(scope="module")
def written():
    return torch.load(FILE, weights_only=True)


@pytest.mark.parametrize("name", OLD)
def test_it_evaluates_to_the_same_digits(written, name):
    model = build_model(tiny_cfg(*OLD[name], *SMALL))
    model.load_state_dict(written[name]["model"], strict=True)
    losses, detections = observed(model, batch())
    assert losses == pytest.approx(written[name]["losses"], rel=1e-5)
    for (boxes, scores, classes), (old_boxes, old_scores, old_classes) in zip(
        detections, written[name]["detections"], strict=True
    ):
        assert len(scores) > 5 and torch.equal(classes, old_classes)
        torch.testing.assert_close(boxes, old_boxes, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(scores, old_scores, rtol=1e-5, atol=1e-6)


def test_the_dump_of_an_old_config_is_read_again(written, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(written["o2f"]["config"])
    cfg = tiny_cfg()
    cfg.merge_from_file(str(path))
    assert cfg.MODEL.DEFCN.ONE_TO_ONE.TYPE == "weighted" and cfg.MODEL.DEFCN.ONE_TO_MANY.NEG_GAMMA == 2.0
    build_model(cfg).load_state_dict(written["o2f"]["model"], strict=True)
