"""mmdetection's ATSS and RetinaNet: all boxes and scores, and the final ones, by an obvious forward pass."""

import pytest
import torch

from tests.checkpoint.sources import reference
from tests.checkpoint.sources.detections import assert_close, assert_same_detections, converted, everywhere, load
from tests.checkpoint.sources.files import CLASSES, WIDTH, Drawer, mmdet_backbone
from tests.checkpoint.sources.test_detectron2_zoo import IMAGE, LIMIT, LIMITS

MEAN = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
STD = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
WANTED = {
    "atss": {
        "bbox_head.atss_cls": (-2.0, 1.5),
        "bbox_head.atss_reg": (0.0, 2.0),
        "bbox_head.atss_centerness": (0.0, 2.0),
    },
    "retina": {"bbox_head.retina_cls": (-3.0, 1.5), "bbox_head.retina_reg": (0.0, 0.3)},
}


def mmdet(kind):
    """A file with two convs a tower, and the ResNet."""
    draw, atss = Drawer(), kind == "atss"
    for name in ("cls_convs", "reg_convs"):
        for index in (0, 1):
            draw.conv(f"bbox_head.{name}.{index}.conv", WIDTH, bias=not atss)
            if atss:
                draw.norm(f"bbox_head.{name}.{index}.gn")
    draw.conv(f"bbox_head.{kind}_cls", CLASSES if atss else 9 * CLASSES)
    draw.conv(f"bbox_head.{kind}_reg", 4 if atss else 36)
    if atss:
        draw.conv("bbox_head.atss_centerness", 1)
        draw.scales("bbox_head.scales", ())
    for index, channels in enumerate((128, 256, 512)):
        draw.conv(f"neck.lateral_convs.{index}.conv", WIDTH, channels, 1)
    for index in range(5):
        draw.conv(f"neck.fpn_convs.{index}.conv", WIDTH, 512 if index == 3 and not atss else WIDTH)
    backbone, resnet = mmdet_backbone()
    state = backbone | draw.state
    reference.calibrate(state, lambda: list(forward(state, kind, resnet)), WANTED[kind])
    return state, resnet


@torch.no_grad()
def forward(s, kind, resnet):
    """Of each level boxes (R, 4), class scores (R, K) and centerness (R, 1)."""
    x = ((torch.from_numpy(IMAGE).permute(2, 0, 1).float() - MEAN) / STD)[None]
    x, stages = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x)))), []
    for index in range(1, 5):
        x = getattr(resnet, f"layer{index}")(x)
        stages.append(x)
    names = [[f"neck.{part}.{n}.conv" for n in range(3)] for part in ("lateral_convs", "fpn_convs")]
    tops = "neck.fpn_convs.3.conv", "neck.fpn_convs.4.conv"
    maps = reference.pyramid(s, stages[1:], *names, *tops, from_p5=kind == "atss", relu=False)
    for level, (x, stride) in enumerate(zip(maps, reference.STRIDES)):
        cls, reg = (
            reference.tower(
                s,
                [f"bbox_head.{name}.{n}.conv" for n in (0, 1)],
                [f"bbox_head.{name}.{n}.gn" for n in (0, 1)] if kind == "atss" else [],
                x,
            )
            for name in ("cls_convs", "reg_convs")
        )
        scores = reference.rows(reference.conv(s, f"bbox_head.{kind}_cls", cls), CLASSES).sigmoid()
        deltas = reference.rows(reference.conv(s, f"bbox_head.{kind}_reg", reg), 4)
        centres, centerness = reference.grid(x, stride, 0.0), torch.ones(len(scores), 1)
        if kind == "atss":
            sides = torch.full((len(centres), 2), 8.0 * stride)
            deltas = deltas * s[f"bbox_head.scales.{level}.scale"] * torch.tensor([0.1, 0.1, 0.2, 0.2])
            centerness = reference.rows(reference.conv(s, "bbox_head.atss_centerness", reg), 1).sigmoid()
        else:
            nine = [[a * 4 * stride * 2 ** (i / 3) for a in (r**-0.5, r**0.5)] for r in (0.5, 1, 2) for i in range(3)]
            sides, centres = torch.tensor(nine).repeat(len(centres), 1), centres.repeat_interleave(9, dim=0)
        yield reference.delta_boxes(centres, sides, deltas), scores, centerness


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "iou"), [("atss", 0.6), ("retina", 0.5)])
def test_detections_are_mmdetections(kind, iou, tmp_path):
    """The class score counts for threshold and order; centerness, which ATSS gives each anchor, at the end; boxes are
    cut off before NMS."""
    state, resnet = mmdet(kind)
    levels = list(forward(state, kind, resnet))
    done = converted(tmp_path / "out.pth", state)
    assert done.cfg.INPUT.FORMAT == "RGB" and not done.cfg.MODEL.DEFCN.P7_RELU
    ours = load(tmp_path / "out.pth", IMAGE, *LIMITS)
    boxes, cls, centerness = (torch.cat(x) for x in zip(*levels))
    assert_close(*everywhere(ours, IMAGE), boxes, cls * centerness)
    read = [(boxes, cls * centerness, cls, cls > 0.05) for boxes, cls, centerness in levels]
    expected = reference.select(read, LIMIT, IMAGE.shape[:2], iou, clip_first=True)
    assert_same_detections(ours(IMAGE).instances, *expected)
