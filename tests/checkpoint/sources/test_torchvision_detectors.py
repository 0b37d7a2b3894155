"""torchvision's detectors and the same after conversion: the boxes and scores of one picture."""

import re
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import (
    FCOS,
    RetinaNet,
    fcos_resnet50_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead, _default_anchorgen
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from defcn_ext.checkpoint import Checkpoint
from defcn_ext.checkpoint.convert import convert
from defcn_ext.checkpoint.sources.torchvision_detectors import UNUSED_IDS
from defcn_ext.config import UserError
from detectron2.data import MetadataCatalog
from tests.checkpoint.sources.detections import (
    assert_close,
    assert_same_detections,
    calibrated,
    command,
    converted,
    everywhere,
    load,
    picture,
    randomised,
)

CHANNELS = 32


IMAGE = picture(96, 160)  # no multiple of 128, so that cells of P6 and P7 are odd
CLS, BOXES = "head.classification_head.cls_logits", "head.regression_head.bbox_reg"
OUTPUTS = {CLS: (-2.0, 1.5), "head.regression_head.bbox_ctrness": (0.5, 1.0), BOXES: (2.0, 1.5)}
DELTAS = {CLS: (-3.5, 1.5), BOXES: (0.0, 0.3)}


def small_backbone(p6=CHANNELS, norm=nn.BatchNorm2d):
    """Of torchvision's parts: ResNet-18 and a narrow pyramid."""
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    extra = LastLevelP6P7(p6, CHANNELS)
    return BackboneWithFPN(resnet18(norm_layer=norm), layers, [128, 256, 512], CHANNELS, extra_blocks=extra)


def small(kind, p6=CHANNELS, head_norm=None):
    if kind == "fcos":
        return prepared(FCOS(small_backbone(), 5, head=FCOSHead(CHANNELS, 1, 5)))
    head = RetinaNetHead(CHANNELS, 9, 5, norm_layer=head_norm)
    return prepared(RetinaNet(small_backbone(p6), 5, head=head, anchor_generator=_default_anchorgen()))


def prepared(model, image=IMAGE):
    return calibrated(randomised(model), lambda: look(model, image), OUTPUTS if isinstance(model, FCOS) else DELTAS)


def look(model, image):
    """torchvision's own detections on an image that keeps its size."""
    model.transform.min_size, model.transform.max_size = (min(image.shape[:2]),), max(image.shape[:2])
    with torch.no_grad():
        (found,) = model([torch.from_numpy(image).permute(2, 0, 1).float() / 255])
    return found["boxes"], found["scores"], found["labels"]


@torch.no_grad()
def everywhere_there(model, image):
    """(R, 4) boxes and (R, K) scores at all of torchvision's points, in its order."""
    images, _ = model.transform([torch.from_numpy(image).permute(2, 0, 1).float() / 255])
    maps = list(model.backbone(images.tensors).values())
    out, (anchors,) = model.head(maps), model.anchor_generator(images, maps)
    scores = out["cls_logits"][0].sigmoid()
    if isinstance(model, FCOS):
        scores = (scores * out["bbox_ctrness"][0].sigmoid()).sqrt()
        return model.box_coder.decode(out["bbox_regression"][0], anchors), scores
    return model.box_coder.decode_single(out["bbox_regression"][0], anchors), scores


MODELS = {
    "fcos": partial(small, "fcos"),
    "retinanet": partial(small, "retinanet"),
    "retinanet_v2": partial(small, "retinanet", p6=512, head_norm=partial(nn.GroupNorm, 32)),
}


@pytest.mark.parametrize("name", ["fcos", "retinanet", pytest.param("retinanet_v2", marks=pytest.mark.slow)])
def test_detections_are_torchvisions(name, tmp_path):
    """All boxes and scores, and what is left of them by threshold, NMS and number."""
    model = MODELS[name]()
    done = converted(tmp_path / "out.pth", model.state_dict())
    assert done.source == "torchvision" and done.cfg.MODEL.DEFCN.NUM_CLASSES == 5
    ours = load(tmp_path / "out.pth", IMAGE)
    assert_close(*everywhere(ours, IMAGE), *everywhere_there(model, IMAGE))
    assert_same_detections(ours(IMAGE).instances, *look(model, IMAGE), at_least=50)


@pytest.mark.slow
@pytest.mark.parametrize("build", [fcos_resnet50_fpn, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2])
def test_the_models_of_its_builders_with_cocos_ids(build, tmp_path):
    """ResNet-50, 91 channels of which 11 are never labels; there they would otherwise be found."""
    image = picture(160, 224, seed=1)
    model = prepared(build(weights=None, weights_backbone=None), image)
    bias = model.get_submodule(CLS).bias.data.view(-1, 91)
    bias[:, UNUSED_IDS] = -1e4
    torch.save(model.state_dict(), tmp_path / "in.pth")
    status, report = command(tmp_path / "in.pth", tmp_path / "out.pth")
    assert status == 0 and "the 80 in use are kept" in report and "MODEL.RESNETS.DEPTH 50" in report
    ours = load(tmp_path / "out.pth", image)
    assert ours.class_names[:2] == ["person", "bicycle"] and ours.class_names[-1] == "toothbrush"
    boxes, scores, labels = look(model, image)
    contiguous = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    labels = torch.tensor([contiguous[label] for label in labels.tolist()])
    assert_same_detections(ours(image).instances, boxes, scores, labels, at_least=50)


def test_the_channels_of_cocos_ids_become_classes():
    """Channel = anchor * 91 + id there, anchor * 80 + class here; 91 can be kept."""
    model = RetinaNet(small_backbone(), 91, head=RetinaNetHead(CHANNELS, 9, 91), anchor_generator=_default_anchorgen())
    state = model.state_dict()
    state[f"{CLS}.bias"] = torch.arange(9 * 91.0)
    done = convert(Checkpoint("in.pth", state, {}))
    bias = done.model["branches.one_to_many.cls_score.bias"].view(9, 80)
    ids = sorted(MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id)
    assert torch.equal(bias, torch.tensor([[91.0 * a + n for n in ids] for a in range(9)]))
    assert list(done.cfg.DATASETS.TEST) == ["coco_2017_val"] and done.cfg.MODEL.DEFCN.NUM_CLASSES == 80
    kept = convert(Checkpoint("in.pth", state, {}), opts=["MODEL.DEFCN.NUM_CLASSES", "91"])
    assert torch.equal(kept.model["branches.one_to_many.cls_score.bias"], state[f"{CLS}.bias"])


def test_an_eps_of_zero_is_in_the_variances():
    """Released RetinaNets have frozen norms, which torchvision runs without the eps that Detectron2 adds."""
    frozen = partial(FrozenBatchNorm2d, eps=0.0)
    backbone = small_backbone(norm=frozen)
    head = RetinaNetHead(CHANNELS, 9, 5)
    state = randomised(RetinaNet(backbone, 5, head=head, anchor_generator=_default_anchorgen())).state_dict()
    state["backbone.body.bn1.running_var"] *= 1e-4  # where an eps of 1e-5 counts
    done = convert(Checkpoint("in.pth", state, {}))
    old, new = (x.double() for x in (state["backbone.body.bn1.running_var"], variance_of(done)))
    torch.testing.assert_close(new + 1e-5, old, rtol=1e-6, atol=0)
    assert any("an eps of 0" in note for note in done.notes)
    trained = {**state, "backbone.body.bn1.num_batches_tracked": torch.tensor(7)}
    assert torch.equal(variance_of(convert(Checkpoint("in.pth", trained, {}))), old.float())


def variance_of(conversion):
    return conversion.model["backbone.bottom_up.stem.conv1.norm.running_var"]


def test_the_names_of_the_first_files():
    """Before convs of a pyramid and of RetinaNet's towers were blocks of conv and norm."""
    model = RetinaNet(small_backbone(), 5, head=RetinaNetHead(CHANNELS, 9, 5), anchor_generator=_default_anchorgen())
    state = randomised(model).state_dict()
    old = {}
    for key, value in state.items():
        key = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", key)
        old[re.sub(r"_head\.conv\.(\d)\.0\.", lambda m: f"_head.conv.{2 * int(m[1])}.", key)] = value
    assert "head.regression_head.conv.6.weight" in old and "backbone.fpn.inner_blocks.2.bias" in old
    new, same = (convert(Checkpoint("in.pth", x, {})).model for x in (state, old))
    assert new.keys() == same.keys() and all(torch.equal(new[key], same[key]) for key in new)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("head.classification_head.module_list.0.weight", "torchvision's SSD"),
        ("roi_heads.box_head.fc6.weight", "two stages"),
        ("backbone.fpn.inner_blocks.3.0.weight", "pyramid from P2"),
        ("backbone.body.0.0.weight", "other than a ResNet"),
    ],
)
def test_others_of_its_detectors_are_refused_with_what_they_are(key, message):
    state = {key: torch.zeros(1), f"{CLS}.weight": torch.zeros(1)}
    with pytest.raises(UserError, match=message):
        convert(Checkpoint("in.pth", state, {}))


def test_another_number_of_anchors_is_refused_with_it():
    generator = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    model = RetinaNet(small_backbone(), 5, head=RetinaNetHead(CHANNELS, 3, 5), anchor_generator=generator)
    with pytest.raises(UserError, match="in.pth: torchvision's RetinaNet with 3 anchors a cell; its own have 9"):
        convert(Checkpoint("in.pth", model.state_dict(), {}))
