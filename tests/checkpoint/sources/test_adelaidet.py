"""AdelaiDet's FCOS: all boxes and scores, and the final ones, by an obvious forward pass."""

import pytest
import torch

from defcn_ext.checkpoint import Checkpoint
from defcn_ext.checkpoint.convert import convert
from defcn_ext.config import UserError
from tests.checkpoint.sources import reference
from tests.checkpoint.sources.detections import assert_close, assert_same_detections, converted, everywhere, load
from tests.checkpoint.sources.files import CLASSES, WIDTH, Drawer, detectron2_backbone
from tests.checkpoint.sources.test_detectron2_zoo import IMAGE, LIMIT, LIMITS, pixels

HEAD = "proposal_generator.fcos_head."
WANTED = {f"{HEAD}cls_logits": (-2.0, 1.5), f"{HEAD}bbox_pred": (2.0, 1.5), f"{HEAD}ctrness": (0.0, 2.0)}


def adelaidet(shared, own):
    """A file with `shared` convs for both towers and `own` ones of each."""
    draw = Drawer()
    for name, count in (("share_tower", shared), ("cls_tower", own), ("bbox_tower", own)):
        for index in range(count):
            draw.conv(f"{HEAD}{name}.{3 * index}", WIDTH)
            draw.norm(f"{HEAD}{name}.{3 * index + 1}")
    for name, out in (("cls_logits", CLASSES), ("bbox_pred", 4), ("ctrness", 1)):
        draw.conv(HEAD + name, out)
    draw.scales(f"{HEAD}scales", (1,))
    state = detectron2_backbone("p5") | draw.state
    state["backbone.bottom_up.stem.conv1.norm.running_mean"].zero_()
    state["backbone.bottom_up.stem.conv1.weight"] /= 30
    reference.calibrate(state, lambda: list(forward(state, pixels(), shared, own)), WANTED)
    return state


@torch.no_grad()
def forward(s, image, shared, own):
    """Of each level boxes (R, 4), class scores (R, K) and centerness (R, 1)."""

    def tower(name, count, x):
        convs, norms = ([f"{HEAD}{name}.{3 * n + part}" for n in range(count)] for part in (0, 1))
        return reference.tower(s, convs, norms, x)

    maps = reference.detectron2_pyramid(s, image, from_p5=True)
    for level, (x, stride) in enumerate(zip(maps, reference.STRIDES)):
        common = tower("share_tower", shared, x)
        cls, box = tower("cls_tower", own, common), tower("bbox_tower", own, common)
        raw = reference.rows(reference.conv(s, f"{HEAD}bbox_pred", box), 4) * s[f"{HEAD}scales.{level}.scale"]
        boxes = reference.ltrb_boxes(reference.grid(x, stride, 0.5), raw.relu() * stride)
        scores = reference.rows(reference.conv(s, f"{HEAD}cls_logits", cls), CLASSES).sigmoid()
        yield boxes, scores, reference.rows(reference.conv(s, f"{HEAD}ctrness", box), 1).sigmoid()


@pytest.mark.slow
@pytest.mark.parametrize(("shared", "own"), [(0, 2), (1, 1)])
def test_detections_are_adelaidets(shared, own, tmp_path):
    """The threshold is for the class score, the order and the end for that with the centerness."""
    state = adelaidet(shared, own)
    levels = list(forward(state, pixels(), shared, own))
    done = converted(tmp_path / "out.pth", state)
    assert done.source == "adelaidet" and done.cfg.MODEL.DEFCN.NUM_CONVS == 2
    assert any("both towers share" in note for note in done.notes) == bool(shared)
    ours = load(tmp_path / "out.pth", IMAGE, *LIMITS)
    final = [(cls * centerness).sqrt() for _, cls, centerness in levels]
    assert_close(*everywhere(ours, IMAGE), torch.cat([x[0] for x in levels]), torch.cat(final))
    read = [(boxes, score, score, cls > 0.05) for (boxes, cls, _), score in zip(levels, final)]
    assert_same_detections(ours(IMAGE).instances, *reference.select(read, LIMIT, IMAGE.shape[:2], 0.6))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("mask_branch.refine.0.0.weight", "AdelaiDet's CondInst"),
        ("basis_module.refine.0.0.weight", "AdelaiDet's BlendMask"),
        (f"{HEAD}cls_tower.9.conv.weight", "deformable towers"),
        (f"{HEAD}cls_tower.1.0.weight", "a batch norm for each level"),
        ("roi_heads.box_head.fc1.weight", "two stages"),
        ("proposal_generator.yolo.weight", "another kind"),
        ("pixel_mean", "without P6 and P7, as in FCOS-RT"),
    ],
)
def test_others_of_its_models_are_refused_with_what_they_are(key, message):
    names = [f"{HEAD}cls_logits.weight", f"{HEAD}bbox_pred.weight", key]
    with pytest.raises(UserError, match=f"in.pth: .*{message}"):
        convert(Checkpoint("in.pth", {name: torch.zeros(1) for name in names}, {}))
