"""Detectron2's FCOS and RetinaNet: all boxes and scores, and the final ones, by an obvious forward pass."""

import json
from pathlib import Path

import pytest
import torch

from defcn_ext.checkpoint import Checkpoint
from defcn_ext.checkpoint.convert import convert
from tests.checkpoint.sources import reference
from tests.checkpoint.sources.detections import (
    assert_close,
    assert_same_detections,
    converted,
    everywhere,
    load,
    picture,
)
from tests.checkpoint.sources.files import CLASSES, WIDTH, Drawer, detectron2_backbone

DATA = Path(__file__).parents[2] / "data" / "detectron2"
IMAGE = picture(96, 160)
BGR = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
LIMIT = 60  # of candidates a level, so that their order matters
LIMITS = ("MODEL.DEFCN.TOPK_CANDIDATES_TEST", str(LIMIT))


def pixels():
    return (torch.from_numpy(IMAGE[:, :, ::-1].copy()).permute(2, 0, 1).float() - BGR)[None]


def zoo(kind):
    """A file with two convs a tower."""
    draw, norm = Drawer(), kind == "fcos"
    step, per_cell = (3, 1) if norm else (2, 9)
    for name in ("cls_subnet", "bbox_subnet"):
        for index in (0, 1):
            draw.conv(f"head.{name}.{step * index}", WIDTH)
            if norm:
                draw.norm(f"head.{name}.{step * index + 1}")
    draw.conv("head.cls_score", per_cell * CLASSES)
    draw.conv("head.bbox_pred", per_cell * 4)
    wanted = {"head.cls_score": (-3.0, 1.5), "head.bbox_pred": (0.0, 0.3)}
    if norm:
        draw.conv("head.ctrness", 1)
        wanted = {"head.cls_score": (-2.0, 1.5), "head.bbox_pred": (2.0, 1.5), "head.ctrness": (0.5, 1.0)}
    state = detectron2_backbone("p5" if norm else "res5") | draw.state
    # the stem's statistics are MSRA's, whose input is BGR
    state["backbone.bottom_up.stem.conv1.norm.running_mean"].zero_()
    state["backbone.bottom_up.stem.conv1.weight"] /= 30  # pixels of up to 255
    reference.calibrate(state, lambda: list(forward(state, kind, pixels())), wanted)
    return state


@torch.no_grad()
def forward(s, kind, image):
    """Of each level boxes (R, 4) and final scores (R, K)."""
    convs, norms = ([0, 3], [1, 4]) if kind == "fcos" else ([0, 2], [])
    for x, stride in zip(reference.detectron2_pyramid(s, image, from_p5=kind == "fcos"), reference.STRIDES):
        cls, box = (
            reference.tower(s, [f"head.{t}.{n}" for n in convs], [f"head.{t}.{n}" for n in norms], x)
            for t in ("cls_subnet", "bbox_subnet")
        )
        scores = reference.rows(reference.conv(s, "head.cls_score", cls), CLASSES).sigmoid()
        raw = reference.rows(reference.conv(s, "head.bbox_pred", box), 4)
        if kind == "fcos":
            centerness = reference.rows(reference.conv(s, "head.ctrness", box), 1).sigmoid()
            yield (
                reference.ltrb_boxes(reference.grid(x, stride, 0.5), raw.relu() * stride),
                (scores * centerness).sqrt(),
            )
        else:
            sides = [[a * 4 * stride * 2 ** (i / 3) for a in (r**-0.5, r**0.5)] for i in range(3) for r in (0.5, 1, 2)]
            centres = reference.grid(x, stride, 0.0).repeat_interleave(9, dim=0)
            yield reference.delta_boxes(centres, torch.tensor(sides).repeat(len(centres) // 9, 1), raw), scores


def by_ratio(values):
    """Anchors of a cell from Detectron2's order, scale by scale, to ours."""
    return values.view(-1, 3, 3, values.shape[-1]).transpose(1, 2).reshape(values.shape)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "threshold", "iou"), [("fcos", 0.2, 0.6), ("retinanet", 0.05, 0.5)])
def test_detections_are_detectron2s(kind, threshold, iou, tmp_path):
    state = zoo(kind)
    levels = list(forward(state, kind, pixels()))
    done = converted(tmp_path / "out.pth", state)
    assert done.source == "detectron2" and done.cfg.INPUT.FORMAT == "BGR" and not any("WARN" in x for x in done.notes)
    ours = load(tmp_path / "out.pth", IMAGE, *LIMITS)
    boxes, scores = (torch.cat(x) for x in zip(*levels))
    if kind == "retinanet":
        boxes, scores = by_ratio(boxes), by_ratio(scores)
    assert_close(*everywhere(ours, IMAGE), boxes, scores)
    expected = reference.select([(b, s, s, s > threshold) for b, s in levels], LIMIT, IMAGE.shape[:2], iou)
    assert_same_detections(ours(IMAGE).instances, *expected)


@pytest.mark.parametrize(("name", "config"), [("fcos", "Base-FCOS-centerness"), ("retinanet", "Base-DATE-RetinaNet")])
def test_every_entry_of_the_real_ones_has_its_place(name, config):
    """Names and shapes as Detectron2 lists them, of ResNet-50."""
    entries = json.loads((DATA / f"state_dict_{name}_R50.json").read_text())["entries"]
    state = {key: torch.ones(()).expand(shape) for key, shape, *_ in entries}
    done = convert(Checkpoint("in.pth", state, {}))
    assert len(done.model) == len(state) and Path(done.base).stem == config
    assert done.cfg.MODEL.DEFCN.P6_FEATURE == ("p5" if name == "fcos" else "res5")
    assert done.cfg.MODEL.DEFCN.NUM_CLASSES == 80 and list(done.cfg.DATASETS.TEST) == ["coco_2017_val"]


def test_cvpods_may_be_named_where_the_names_are_the_same():
    state = zoo("retinanet")
    theirs, same = (convert(Checkpoint("in.pth", state, {}), name) for name in ("detectron2", "cvpods"))
    assert all(torch.equal(theirs.model[key], same.model[key]) for key in theirs.model)
