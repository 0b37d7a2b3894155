import math

import numpy as np
import pytest
import torch
from torch import nn

from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    FCOS,
    META_ARCH_REGISTRY,
    Backbone,
    RetinaNet,
    build_backbone,
    build_model,
)
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.dense_detector import DenseDetector, permute_to_N_HWA_K
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from tests.standin import says

STRIDES = (8, 16, 32)
LEVELS = [ShapeSpec(channels=8, stride=stride) for stride in STRIDES]
PIXELS = {"pixel_mean": [10.0, 20.0, 30.0], "pixel_std": [1.0, 2.0, 4.0]}


class TinyBackbone(Backbone):
    """Three levels of eight channels: the averages over the cells, convolved."""

    size_divisibility = 32

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self._out_features = ["p3", "p4", "p5"]
        self._out_feature_strides = dict(zip(self._out_features, STRIDES))
        self._out_feature_channels = dict.fromkeys(self._out_features, 8)

    def forward(self, x):
        return {
            name: self.conv(nn.functional.avg_pool2d(x, stride)) for name, stride in self._out_feature_strides.items()
        }


def retinanet(**options):
    return RetinaNet(
        backbone=TinyBackbone(),
        head=RetinaNetHead(input_shape=LEVELS, num_classes=3, num_anchors=1, conv_dims=[8]),
        head_in_features=["p3", "p4", "p5"],
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[16], [32], [64]], aspect_ratios=[1.0], strides=STRIDES, offset=0.0
        ),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=3,
        **PIXELS,
        **options,
    )


def fcos(**options):
    head = FCOSHead(input_shape=LEVELS, num_classes=3, conv_dims=[8])
    return FCOS(backbone=TinyBackbone(), head=head, num_classes=3, **PIXELS, **options)


MODELS = [retinanet, fcos]


def objects(boxes=(), classes=(), size=(64, 64)):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes, dtype=torch.int64))


def image(height=64, width=64):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


# ---- Construction, against what Detectron2 built ----


def fcos_r50():
    bottom_up = ResNet(
        BasicStem(3, 64, norm="FrozenBN"),
        ResNet.make_default_stages(50, stride_in_1x1=True, norm="FrozenBN"),
        out_features=["res3", "res4", "res5"],
        freeze_at=2,
    )
    backbone = FPN(bottom_up, ["res3", "res4", "res5"], 256, top_block=LastLevelP6P7(256, 256, in_feature="p5"))
    levels = [ShapeSpec(channels=256)] * 5
    head = FCOSHead(input_shape=levels, num_classes=80, conv_dims=[256] * 4, norm="GN")
    return FCOS(backbone=backbone, head=head, num_classes=80, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)


def retinanet_r50():
    cfg = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


@pytest.mark.parametrize(
    "make, file", [(retinanet_r50, "state_dict_retinanet_R50.json"), (fcos_r50, "state_dict_fcos_R50.json")]
)
def test_state_dict(facts, make, file):
    golden = facts(file)
    model = make()
    parameters = dict(model.named_parameters())
    rows = [
        [
            name,
            list(value.shape),
            str(value.dtype).removeprefix("torch."),
            "parameter" if name in parameters else "buffer",
            name in parameters and parameters[name].requires_grad,
        ]
        for name, value in model.state_dict().items()
    ]
    assert rows == golden["entries"]
    assert len(rows) == golden["num_entries"]
    assert sum(p.numel() for p in parameters.values()) == golden["num_parameters"]
    assert sum(p.numel() for p in parameters.values() if p.requires_grad) == golden["num_trainable_parameters"]
    assert sum(value.numel() for value in model.state_dict().values()) == golden["num_state_dict_elements"]
    hidden = [[name, list(b.shape)] for name, b in model.named_buffers() if name not in model.state_dict()]
    assert hidden == golden["non_persistent_buffers"]
    shapes = {name: {"channels": s.channels, "stride": s.stride} for name, s in model.backbone.output_shape().items()}
    assert shapes == golden["output_shape"]
    assert model.backbone.size_divisibility == golden["size_divisibility"]
    assert model.backbone.padding_constraints == golden["padding_constraints"]


@BACKBONE_REGISTRY.register()
class ShapeRecordingBackbone(Backbone):
    seen = None

    def __init__(self, cfg, input_shape):
        super().__init__()
        ShapeRecordingBackbone.seen = input_shape
        self.weight = nn.Parameter(torch.zeros(1))
        self._out_features = ["x"]
        self._out_feature_channels = {"x": 3}
        self._out_feature_strides = {"x": 2}

    def forward(self, x):
        return {"x": x[..., ::2, ::2]}


@BACKBONE_REGISTRY.register()
def build_something_else(cfg, input_shape):
    return nn.Identity()


@META_ARCH_REGISTRY.register()
class OnlyABackbone(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.backbone = build_backbone(cfg)


def test_building_models(facts):
    golden = facts("golden_behaviours.json")["models"]
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "OnlyABackbone"
    cfg.MODEL.BACKBONE.NAME = "ShapeRecordingBackbone"
    cfg.MODEL.WEIGHTS = "/no/such/file.pkl"
    model = build_model(cfg)
    assert model.training == golden["build_model_training_flag"]
    assert golden["build_model_loads_weights"] is False  # or the missing file would have been an error
    shape = ShapeRecordingBackbone.seen
    assert [shape.channels, shape.height, shape.width, shape.stride] == golden["input_shape_passed"]
    shapes = {name: [s.channels, s.stride] for name, s in model.backbone.output_shape().items()}
    assert shapes == golden["default_output_shape"]
    assert model.backbone.size_divisibility == golden["default_size_divisibility"]
    assert model.backbone.padding_constraints == golden["default_padding_constraints"]
    empty = ShapeSpec()
    assert [empty.channels, empty.height, empty.width, empty.stride] == golden["ShapeSpec_defaults"]

    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [1.0, 2.0], [1.0, 1.0]
    build_model(cfg)
    assert ShapeRecordingBackbone.seen.channels == golden["channels_follow_PIXEL_MEAN_length"]


ERRORS = {"KeyError": KeyError, "AssertionError": AssertionError}


@pytest.mark.parametrize(
    "fact, options",
    [
        ("unknown_meta_arch", ["MODEL.META_ARCHITECTURE", "NoSuchArch"]),
        ("unknown_backbone", ["MODEL.BACKBONE.NAME", "no_such_backbone"]),
        ("backbone_not_subclass", ["MODEL.BACKBONE.NAME", "build_something_else"]),
        ("r18_wrong_res2_channels", ["MODEL.RESNETS.DEPTH", 18]),
        (
            "r18_deform",
            [
                *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
                *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
            ],
        ),
        (
            "r18_groups",
            ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.NUM_GROUPS", 32],
        ),
        ("depth_33", ["MODEL.RESNETS.DEPTH", 33]),
        ("dilation_3", ["MODEL.RESNETS.RES5_DILATION", 3]),
    ],
)
def test_models_that_cannot_be_built(facts, fact, options):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "OnlyABackbone"
    cfg.merge_from_list(options)
    with pytest.raises(ERRORS[facts("golden_behaviours.json")["models"][fact]["raises"]]):
        build_model(cfg)


def test_retinanet_reads_its_config():
    cfg = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    cfg.merge_from_list(
        """MODEL.DEVICE cpu MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.FPN.OUT_CHANNELS 16
        MODEL.RETINANET.NUM_CLASSES 7 MODEL.RETINANET.NUM_CONVS 2 MODEL.RETINANET.PRIOR_PROB 0.2
        MODEL.RETINANET.SCORE_THRESH_TEST 0.3 MODEL.RETINANET.TOPK_CANDIDATES_TEST 11
        MODEL.RETINANET.NMS_THRESH_TEST 0.7 TEST.DETECTIONS_PER_IMAGE 13 MODEL.RETINANET.FOCAL_LOSS_GAMMA 1.5
        MODEL.RETINANET.FOCAL_LOSS_ALPHA 0.4 MODEL.RETINANET.SMOOTH_L1_LOSS_BETA 0.6 INPUT.FORMAT RGB
        MODEL.RETINANET.BBOX_REG_LOSS_TYPE giou VIS_PERIOD 5""".split()
    )
    model = build_model(cfg)
    assert (model.num_classes, model.focal_loss_gamma, model.focal_loss_alpha) == (7, 1.5, 0.4)
    assert (model.smooth_l1_beta, model.box_reg_loss_type, model.vis_period) == (0.6, "giou", 5)
    assert (model.test_score_thresh, model.test_topk_candidates, model.test_nms_thresh) == (0.3, 11, 0.7)
    assert (model.max_detections_per_image, model.input_format) == (13, "RGB")
    assert model.head.cls_score.out_channels == 9 * 7 and len(model.head.cls_subnet) == 4
    torch.testing.assert_close(model.head.cls_score.bias.sigmoid(), torch.full((63,), 0.2))
    assert model.anchor_matcher.allow_low_quality_matches


# ---- Heads ----


def test_heads_predict_on_every_level():
    features = [torch.rand(2, 8, 64 // stride, 64 // stride) for stride in STRIDES]
    logits, deltas = RetinaNetHead(input_shape=LEVELS, num_classes=3, num_anchors=5, conv_dims=[8])(features)
    assert [x.shape for x in logits] == [(2, 15, n, n) for n in (8, 4, 2)]
    assert [x.shape for x in deltas] == [(2, 20, n, n) for n in (8, 4, 2)]
    logits, deltas, centerness = FCOSHead(input_shape=LEVELS, num_classes=3, conv_dims=[8])(features)
    assert [x.shape[1] for x in (logits[0], deltas[1], centerness[2])] == [3, 4, 1]


def test_initial_scores_are_the_prior():
    head = RetinaNetHead(input_shape=LEVELS, num_classes=3, num_anchors=1, conv_dims=[8], prior_prob=0.03)
    logits, _ = head([torch.zeros(1, 8, 4, 4)] * 3)
    torch.testing.assert_close(logits[0].sigmoid(), torch.full((1, 3, 4, 4), 0.03))
    assert head.bbox_pred.weight.std().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_batch_norm_in_heads_has_statistics_of_each_level(norm):
    head = RetinaNetHead(input_shape=LEVELS, num_classes=3, num_anchors=1, conv_dims=[8, 8], norm=norm)
    layer = head.cls_subnet[4]
    assert len(layer) == 3 and len({id(x) for x in layer}) == 3 and layer.weight.shape == (8,)
    if norm == "BN":
        head([torch.full((2, 8, 4, 4), float(level)) + torch.rand(2, 8, 4, 4) for level in range(3)])
        means = [x.running_mean for x in head.bbox_subnet[1]]
        assert not torch.allclose(means[0], means[1]) and not torch.allclose(means[1], means[2])
    with pytest.raises(AssertionError, match=says("2 features for 3 levels")):
        head([torch.zeros(2, 8, 4, 4)] * 2)


# ---- Training ----


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize(
    "targets",
    [
        [objects([[4, 4, 20, 22], [20, 20, 60, 60]], [0, 2]), objects([[30, 8, 62, 40]], [1])],
        [objects([[4, 4, 20, 22]], [0]), objects()],
        [objects(), objects()],
        [objects([[5, 5, 5.2, 5.2]], [0]), objects([[0.0, 0, 0.3, 0.3], [-9, -9, 99, 99]], [1, 1])],
    ],
    ids=["objects", "one empty image", "no objects", "tiny and huge objects"],
)
def test_training_step(make, targets):
    model = make()
    with EventStorage() as storage:
        losses = model([{"image": image(), "instances": x} for x in targets])
        positive = storage.latest()["num_pos_anchors"][0]
    assert set(losses) in ({"loss_cls", "loss_box_reg"}, {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"})
    assert all(torch.isfinite(loss) and loss >= 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.head.cls_score.weight.grad.abs().sum() > 0
    if not any(len(x) for x in targets):
        assert positive == 0
        assert all(loss == 0 for name, loss in losses.items() if "cls" not in name)


@pytest.mark.parametrize("make", MODELS)
def test_training_lowers_the_loss(make):
    model = make()
    batch = [{"image": image(), "instances": objects([[8, 8, 40, 40]], [1])}]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    history = []
    with EventStorage():
        for _ in range(20):
            loss = sum(model(batch).values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            # The normalizer falls from its initial value, so compare at the first one.
            history.append(loss.item() * model.loss_normalizer)
    assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize("make", MODELS)
def test_low_precision_keeps_boxes_exact(make):
    model = make(test_score_thresh=0.0)
    batch = [{"image": image(), "instances": objects([[4, 4, 20, 22]], [0])}]
    with torch.autocast("cpu", dtype=torch.bfloat16), EventStorage():
        losses = model(batch)
        found = model.eval()(batch)[0]["instances"]
    assert all(torch.isfinite(loss) and loss.dtype == torch.float32 for loss in losses.values())
    assert found.pred_boxes.tensor.dtype == torch.float32 and len(found) > 10


def test_training_needs_instances():
    with pytest.raises(AssertionError, match=says("instances")):
        retinanet()([{"image": image()}])


def test_loss_normalizer_is_a_moving_average():
    model = retinanet()
    # 0.9 x 100 + 0.1 x 50, then 0.9 x 95 + 0.1 x 5.
    assert model._ema_update("loss_normalizer", 50, 100) == pytest.approx(95)
    assert model._ema_update("loss_normalizer", 5, 100) == pytest.approx(86)
    assert "loss_normalizer" not in model.state_dict()


def test_retinanet_labels_by_hand():
    model = retinanet()
    anchors = [Boxes([[0.0, 0, 10, 10], [0, 0, 10, 4.5]]), Boxes([[50.0, 50, 60, 60], [0, 0, 10, 20]])]
    gt = [objects([[0, 0, 10, 10], [0, 0, 10, 22]], [2, 1]), objects()]
    labels, boxes = model.label_anchors(anchors, gt)
    # IoUs with object 0: 1, 0.45 (ignored), 0, 0.5; with object 1: 0.45, 0.2, 0, 0.91.
    assert labels[0].tolist() == [2, -1, 3, 1] and labels[1].tolist() == [3, 3, 3, 3]
    assert boxes[0][[0, 3]].tolist() == [[0, 0, 10, 10], [0, 0, 10, 22]]
    assert boxes[1].shape == (4, 4) and not boxes[1].any()


def test_retinanet_losses_by_hand():
    model = retinanet(focal_loss_alpha=0.25, focal_loss_gamma=2.0)
    anchors = [Boxes([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])]
    labels, boxes = [torch.tensor([1, 3, -1])], [torch.tensor([[5.0, 0, 15, 10]] * 3)]
    with EventStorage() as storage:
        losses = model.losses(anchors, [torch.zeros(1, 3, 3)], labels, [torch.zeros(1, 3, 4)], boxes)
        assert storage.latest()["num_pos_anchors"][0] == 1
    # At logit 0: 0.5^2 log 2, times 0.25 for the positive and 0.75 for the five negatives; the third is ignored.
    normalizer = 0.9 * 100 + 0.1 * 1
    assert losses["loss_cls"].item() == pytest.approx(0.25 * math.log(2) * (0.25 + 5 * 0.75) / normalizer, rel=1e-5)
    assert losses["loss_box_reg"].item() == pytest.approx(0.5 / normalizer, rel=1e-5)


def points(*centers, stride):
    return Boxes([[x - stride / 2, y - stride / 2, x + stride / 2, y + stride / 2] for x, y in centers])


def test_fcos_labels_by_hand():
    model = fcos()
    anchors = [
        points((10, 10), (20, 20), (33, 20), (60, 20), stride=8),
        points((20, 20), (43, 20), stride=16),
        points((16, 16), stride=32),
    ]
    gt = objects([[0, 0, 40, 40], [18, 18, 24, 24], [18, 0, 218, 300]], [0, 1, 2])
    labels, boxes = model.label_anchors(anchors, [gt, objects()])
    # Stride 8: (10, 10) lies 10 < 12 from the centre of object 0, and 30 < 64 from its far sides; (20, 20) lies in
    # objects 0 and 1, and 1 is smaller; (33, 20) is 13 away from object 0's centre; (60, 20) is in 2, but far away.
    assert labels[0][:4].tolist() == [0, 1, 3, 3]
    # Stride 16 is for sides 64 to 128 away: object 0 is too small for it, and stride 32 is too far from object 2.
    assert labels[0][4:].tolist() == [3, 3, 3]
    assert boxes[0][:2].tolist() == [[0, 0, 40, 40], [18, 18, 24, 24]] and not boxes[0][2:].any()
    assert labels[1].tolist() == [3] * 7 and boxes[1].shape == (7, 4)


def test_fcos_size_ranges():
    model = fcos(center_sampling_radius=100.0)
    anchors = [points((150, 150), stride=stride) for stride in STRIDES]
    # Half sizes 63, 65, 127, 129, and 1000 for the last level, whose range has no end.
    expected = {63: [0, 3, 3], 65: [3, 0, 3], 127: [3, 0, 3], 129: [3, 3, 0], 1000: [3, 3, 0]}
    for half, labels in expected.items():
        box = [[150 - half, 150 - half, 150 + half, 150 + half]]
        assert model.label_anchors(anchors, [objects(box, [0])])[0][0].tolist() == labels, half


def test_fcos_losses_by_hand():
    model = fcos(focal_loss_alpha=0.25, focal_loss_gamma=2.0)
    anchors = [points((20, 20), (60, 60), stride=8)]
    labels, boxes = [torch.tensor([1, 3])], [torch.tensor([[10.0, 10, 50, 40], [0, 0, 0, 0]])]
    # Sides 10, 10, 30, 20 away: centerness sqrt(10/30 x 10/20).
    target = math.sqrt(1 / 6)
    centerness = model.compute_ctrness_targets(anchors, boxes)
    assert centerness.shape == (1, 2) and centerness[0, 0].item() == pytest.approx(target, rel=1e-5)
    # Predicted sides 10, 10, 10, 20: box 20 x 30 in 40 x 30, GIoU 0.5.
    deltas = torch.tensor([[[10.0, 10, 10, 20], [0, 0, 0, 0]]]) / 8
    logit = torch.full((1, 2, 1), 0.4)
    with EventStorage() as storage:
        losses = model.losses(anchors, [torch.zeros(1, 2, 3)], labels, [deltas], boxes, [logit])
        assert storage.latest()["num_pos_anchors"][0] == 1
    normalizer = 0.9 * 300 + 0.1 * 1
    p = 1 / (1 + math.exp(-0.4))
    ctr = -target * math.log(p) - (1 - target) * math.log(1 - p)
    cls = 0.25 * math.log(2) * (0.25 + 5 * 0.75)  # as for RetinaNet above
    assert losses["loss_fcos_cls"].item() == pytest.approx(cls / normalizer, rel=1e-5)
    assert losses["loss_fcos_loc"].item() == pytest.approx(0.5 / normalizer, rel=1e-5)
    assert losses["loss_fcos_ctr"].item() == pytest.approx(ctr / normalizer, rel=1e-5)


# ---- Inference ----


def crafted(kinds, size=64):
    """Predictions of one image with nothing in them, to be filled in: per kind, per level, (1, dim, H, W)."""
    values = {"logits": (-20.0, 3), "deltas": (0.0, 4), "centerness": (20.0, 1)}
    maps = [size // stride for stride in STRIDES]
    return [[torch.full((1, values[k][1], n, n), values[k][0]) for n in maps] for k in kinds]


def infer(model, predictions, size=(64, 64)):
    images = ImageList(torch.zeros(1, 3, 64, 64), [size])
    features = [torch.zeros(1, 8, 64 // stride, 64 // stride) for stride in STRIDES]
    return model.forward_inference(images, features, predictions)[0]


def test_retinanet_decodes_by_hand():
    model = retinanet(test_nms_thresh=0.5)
    logits, deltas = crafted(["logits", "deltas"])
    # Stride 16, row 1, column 2: a 32 pixel anchor around (32, 16).
    logits[1][0, 2, 1, 2] = math.log(9)
    deltas[1][0, :, 1, 2] = torch.tensor([0.25, 0, math.log(0.5), 0])
    # Nearly the same box on stride 32 (64 pixel anchor around (32, 0)): suppressed in class 2, kept in class 0.
    logits[2][0, [0, 2], 0, 1] = math.log(4)
    deltas[2][0, :, 0, 1] = torch.tensor([0.125, 0.25, math.log(0.25), math.log(0.5)])
    # Below the threshold of 0.05.
    logits[0][0, 1, 0, 0] = math.log(0.04 / 0.96)
    found = infer(model, [logits, deltas])
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8]))
    assert found.pred_classes.tolist() == [2, 0]
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[32.0, 0, 48, 32]] * 2))
    assert found.image_size == (64, 64)


def test_fcos_decodes_by_hand():
    model = fcos(test_nms_thresh=0.6, max_detections_per_image=2)
    logits, deltas, centerness = crafted(["logits", "deltas", "centerness"])
    # Stride 8, row 2, column 3: the point (28, 20). Sides in strides, of which a negative one counts as 0.
    logits[0][0, 1, 2, 3] = math.log(9)
    centerness[0][0, 0, 2, 3] = math.log(4)
    deltas[0][0, :, 2, 3] = torch.tensor([1.0, 2.0, 0.5, -3.0])
    # Stride 32, the point (48, 16).
    logits[2][0, 0, 0, 1] = 20
    deltas[2][0, :, 0, 1] = torch.tensor([1.0, 0.5, 0.25, 0.5])
    logits[1][0, 0, 0, 0] = math.log(0.3 / 0.7)  # score 0.55: third, so cut off
    deltas[1][0, :, 0, 0] = 0.5
    found = infer(model, [logits, deltas, centerness])
    torch.testing.assert_close(found.scores, torch.tensor([1.0, math.sqrt(0.72)]))
    assert found.pred_classes.tolist() == [0, 1]
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[16.0, 0, 56, 32], [20, 4, 32, 20]]))


def test_topk_is_taken_on_every_level_before_nms():
    model = retinanet(test_topk_candidates=2, test_nms_thresh=1.0)
    logits, deltas = crafted(["logits", "deltas"])
    for level, scores in enumerate([[0.3, 0.2, 0.1], [0.9, 0.8, 0.7], [0.6]]):
        for i, score in enumerate(scores):
            logits[level][0, i, 0, i % 2] = math.log(score / (1 - score))
    found = infer(model, [logits, deltas])
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8, 0.6, 0.3, 0.2]))


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("make, kinds", [(retinanet, 2), (fcos, 3)])
def test_non_finite_predictions_do_not_fail(make, kinds, value):
    model = make()
    predictions = crafted(["logits", "deltas", "centerness"][:kinds])
    found = infer(model, [[torch.full_like(x, value) for x in levels] for levels in predictions])
    assert not torch.isfinite(found.pred_boxes.tensor).any()


@pytest.mark.parametrize("make", MODELS)
def test_inference_reports_in_the_size_asked_for(make):
    model = make(test_score_thresh=0.0).eval()
    inputs = [{"image": image(64, 50)}, {"image": image(40, 64), "height": 80, "width": 192}]
    with torch.no_grad():
        small, large = (x["instances"] for x in model(inputs))
    assert small.image_size == (64, 50) and large.image_size == (80, 192)
    # Boxes that end up outside of the image are dropped after the cut at 100.
    assert 10 < len(small) <= 100 and 10 < len(large) <= 100
    assert (small.scores.diff() <= 0).all()
    assert large.pred_boxes.tensor[:, 2].max() <= 192 and large.pred_boxes.tensor[:, 2].max() > 64
    with torch.no_grad():
        model.test_score_thresh = 1.0
        assert [len(x["instances"]) for x in model(inputs)] == [0, 0]


def test_images_are_normalised_before_they_are_padded():
    model = retinanet()
    images = model.preprocess_image([{"image": torch.full((3, 40, 30), 50, dtype=torch.uint8)}])
    assert images.tensor.shape == (1, 3, 64, 32) and images.image_sizes == [(40, 30)]
    # (50 - mean) / std
    assert images.tensor[0, :, 20, 20].tolist() == [40, 15, 5]
    assert not images.tensor[:, :, 40:].any() and not images.tensor[:, :, :, 30:].any()


def test_permute_follows_the_order_of_anchors():
    maps = torch.arange(2 * 2 * 3 * 2 * 3).reshape(2, 6, 2, 3)
    flat = permute_to_N_HWA_K(maps, 3)
    assert flat.shape == (2, 12, 3)
    # Cell (1, 2), anchor 1: channels 3 to 5.
    assert flat[1, (1 * 3 + 2) * 2 + 1].tolist() == maps[1, 3:6, 1, 2].tolist()
    with pytest.raises(AssertionError, match=says("4 dimensions|A \\* K")):
        permute_to_N_HWA_K(maps[0], 3)


def test_dense_detector_takes_all_features_by_stride():
    backbone = TinyBackbone()
    backbone._out_features = ["p5", "p3", "p4"]
    model = DenseDetector(backbone, nn.Identity(), **PIXELS)
    assert model.head_in_features == ["p3", "p4", "p5"]
    assert model.device == torch.device("cpu")
    with pytest.raises(NotImplementedError):
        model([{"image": image(), "instances": objects()}])
    with pytest.raises(NotImplementedError):
        model.eval()([{"image": image()}])


@pytest.mark.standin_only("pictures are alike, not equal pixel by pixel, and Detectron2's need OpenCV")
def test_pictures_of_the_training():
    model = retinanet(vis_period=2, input_format="RGB", test_score_thresh=0.0)
    picture = image(64, 48)
    batch = [{"image": picture, "instances": objects([[4, 4, 20, 22]], [0], (64, 48))}]
    with EventStorage() as storage:
        for _ in range(3):
            storage.clear_images()
            model(batch)
            drawn = storage._vis_data
            assert len(drawn) == (1 if storage.iter % 2 == 0 else 0)
            storage.step()
    pixels = torch.as_tensor(np.array(drawn[0][1]))
    assert pixels.shape == (3, 64, 96) and pixels.dtype == torch.uint8
    # The left half has the image's own pixels apart from one frame.
    assert (pixels[:, :, :48] == picture).all(dim=0).float().mean() > 0.8
    assert (pixels[:, 4, 6:18] != picture[:, 4, 6:18]).any(dim=0).all()


# ---- Postprocessing ----


def test_detector_postprocess(facts):
    golden, z = facts("golden_structures.json")["postprocess"], facts("golden_structures.npz")
    boxes = torch.from_numpy(z["post/boxes_in"])

    def results(**fields):
        return Instances(tuple(golden["input_image_size"]), **fields)

    given = results(pred_boxes=Boxes(boxes.clone()), scores=torch.linspace(0.9, 0.4, 6), pred_classes=torch.arange(6))
    out = detector_postprocess(given, *golden["output_hw"])
    assert list(out.image_size) == golden["out_image_size"] and len(out) == golden["kept"]
    np.testing.assert_allclose(out.pred_boxes.tensor, z["post/boxes_out_150x160"], rtol=1e-5)
    np.testing.assert_allclose(given.pred_boxes.tensor, golden["input_after"], rtol=1e-5)
    assert len(given) == golden["input_instances_len_unchanged"]
    proposals = results(proposal_boxes=Boxes(boxes.clone()))
    assert len(detector_postprocess(proposals, 150, 160)) == golden["uses_proposal_boxes_when_no_pred_boxes"]
    assert golden["without_boxes"]["raises"] == "AssertionError"
    with pytest.raises(AssertionError):
        detector_postprocess(results(scores=torch.zeros(2)), 150, 160)
    assert len(detector_postprocess(results(pred_boxes=Boxes(boxes[:0])), 150, 160)) == golden["empty"]


def test_postprocess_scales_keypoints_and_semantics():
    keypoints = torch.tensor([[[10.0, 10.0, 2.0]]])
    given = Instances((20, 40), pred_boxes=Boxes([[0.0, 0, 10, 10]]), pred_keypoints=keypoints)
    assert detector_postprocess(given, 60, 80).pred_keypoints.tolist() == [[[20, 30, 2]]]
    scores = torch.zeros(1, 8, 8)
    scores[:, :4, :6] = 1.0
    assert sem_seg_postprocess(scores, (4, 6), 8, 12).shape == (1, 8, 12)
    assert (sem_seg_postprocess(scores, (4, 6), 8, 12) == 1).all()
