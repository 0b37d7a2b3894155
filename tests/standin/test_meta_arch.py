"""RetinaNet and FCOS as Detectron2 builds them."""

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
    build_backbone,
    build_model,
)
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from tests.standin import says
from tests.standin.dense_models import LEVELS, STRIDES


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
