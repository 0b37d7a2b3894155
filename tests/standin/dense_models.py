"""RetinaNet and FCOS on a backbone of one conv, and inputs for them."""

import torch
from torch import nn

from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    FCOS,
    Backbone,
    RetinaNet,
)
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, Instances

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
