"""RetinaNet's weights: the order of the anchors, and what its pyramid lacks."""

from pathlib import Path

import torch

from defcn_ext.branches import build_branches
from defcn_ext.checkpoint import Checkpoint
from defcn_ext.checkpoint.convert import convert
from defcn_ext.checkpoint.sources.shared import to_ratio_major
from tests.checkpoint import layouts
from tests.checkpoint.layouts import MANY, weights

CONFIGS = Path(__file__).parents[2] / "configs"


def run(entries, *args, extras=None, state=None, **kwargs):
    state = weights(entries) if state is None else state
    return convert(Checkpoint("in.pth", state, extras or {}), *args, **kwargs)


def test_retinanet_of_mmdetection_has_another_pyramid():
    """Its stock P7 has no ReLU before it, which no entry tells; the file's own config can, or the user."""
    entries = layouts.resnet() + layouts.mmdet_neck() + layouts.mmdet_towers(True, norm=False)
    entries += layouts.conv("bbox_head.retina_cls", f"{MANY}cls_score", 720)
    entries += layouts.conv("bbox_head.retina_reg", f"{MANY}bbox_pred", 36)
    stock = run(entries)
    assert stock.cfg.MODEL.DEFCN.P7_RELU is False and any("no ReLU before P7" in note for note in stock.notes)
    done = run(entries, extras={"meta": {"config": "neck=dict(type='FPN', relu_before_extra_convs=True)"}})
    assert done.cfg.MODEL.DEFCN.P7_RELU is True and not any("no ReLU" in note for note in done.notes)
    given = weights(entries)
    for x in entries:  # mmdetection's anchors are ordered as ours
        assert not x.ours or done.model[x.ours].flatten()[0] == given[x.theirs].flatten()[0]
    forced = run(
        entries,
        config=str(CONFIGS / "Base-DATE-RetinaNet.yaml"),
        opts=["MODEL.DEFCN.CONV_BIAS", "True", "MODEL.DEFCN.NORM", "", "MODEL.DEFCN.LEVEL_SCALES", "False"],
    )
    assert forced.cfg.MODEL.DEFCN.P7_RELU is True and forced.model.keys() == done.model.keys()


def test_anchors_of_detectron2_become_ratio_major():
    """Channel = (scale * 3 + ratio) * 2 + class there, (ratio * 3 + scale) * 2 + class here."""
    value = torch.arange(18.0).view(18, 1)
    out = to_ratio_major(value, 3, 3).flatten()
    for scale in range(3):
        for ratio in range(3):
            for label in range(2):
                assert out[(ratio * 3 + scale) * 2 + label] == (scale * 3 + ratio) * 2 + label


def test_retinanet_of_cvpods_scores_the_anchors_it_was_trained_with():
    """The nine anchors of a cell, each in the order of its library, keep their channel."""
    entries = layouts.cvpods_retinanet(p6=2048, classes=2)
    state = weights(entries)
    sizes = [(scale, ratio) for scale in (4.0, 5.039684, 6.349604) for ratio in (0.5, 1.0, 2.0)]
    state["head.cls_score.bias"] = torch.tensor([s * 10 + r for s, r in sizes]).repeat_interleave(2)
    state["head.bbox_pred.bias"] = torch.tensor([s * 10 + r for s, r in sizes]).repeat_interleave(4)
    done = run(None, state=state)
    branch = build_branches(done.cfg, 256)["one_to_many"]
    area, ratio = branch.shapes.prod(1), branch.shapes[:, 1] / branch.shapes[:, 0]
    expected = area.sqrt() * 10 + ratio
    bias = done.model[f"{MANY}cls_score.bias"].view(9, 2)
    torch.testing.assert_close(bias, expected[:, None].expand(9, 2))
    torch.testing.assert_close(done.model[f"{MANY}bbox_pred.bias"].view(9, 4), expected[:, None].expand(9, 4))
    assert done.cfg.MODEL.DEFCN.P6_FEATURE == "res5" and not done.cfg.MODEL.DEFCN.LEVEL_SCALES
