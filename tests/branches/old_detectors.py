"""Detectors small enough for a file of weights in the repository, of every kind that there was in one.

`tests/data/before_registry.pth` holds, for each of them, what the code before the registry of branches made of it:
its state dict, losses and detections on `batch()`; of one also the dump of its config.
"""

import torch
from torch import nn

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from tests.tiny import ALL, BOTH, DATE_R, DW_REFINE, MANY, O2F, ONE

WIDE, NARROW = ("MODEL.FPN.OUT_CHANNELS", 32), ("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.DEFCN.NORM", "")
ALL_TOLD = ("MODEL.DEFCN.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 12, "MODEL.DEFCN.NUM_CONVS", 1)
NO_TOWERS = ("MODEL.DEFCN.NUM_CONVS", 0)
TWO_ANCHORS = (
    *(MANY + "ANCHORS.SCALES", [4.0, 6.0], MANY + "ANCHORS.RATIOS", [1.0]),
    *(MANY + "RULE", "RetinaNet(ties=near)"),  # equal ones were not told from near ones then
)

OLD = {
    "poto_3dmf_aux": (*ALL["poto_3dmf_aux"], *WIDE, *ALL_TOLD, *NO_TOWERS),
    "fcos_beside_poto": (*BOTH, *NARROW, MANY + "CENTERNESS", "reg", *ALL_TOLD, *NO_TOWERS),
    "date_r_own_towers": (*DATE_R, *TWO_ANCHORS, "MODEL.DEFCN.SHARE_TOWERS", False, *NARROW, *ALL_TOLD),
    "o2f": (*O2F, ONE + "QUALITY.CONVS", 1, *NARROW, *ALL_TOLD, *NO_TOWERS),
    "dw_refine": (*DW_REFINE, *NARROW, *ALL_TOLD, *NO_TOWERS),
}


class OneConv(Backbone):
    """A conv of stride 8, and its means over 2 x 2 cells: p3 and p4."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 8, stride=8)

    @property
    def size_divisibility(self):
        return 16

    def forward(self, x):
        fine = self.conv(x)
        return {"p3": fine, "p4": nn.functional.avg_pool2d(fine, 2)}

    def output_shape(self):
        channels = self.conv.out_channels
        return {"p3": ShapeSpec(channels=channels, stride=8), "p4": ShapeSpec(channels=channels, stride=16)}


if "tests_one_conv" not in BACKBONE_REGISTRY:

    def tests_one_conv(cfg, input_shape):
        return OneConv(cfg.MODEL.FPN.OUT_CHANNELS)

    BACKBONE_REGISTRY.register(tests_one_conv)

SMALL = ("MODEL.BACKBONE.NAME", "tests_one_conv", "MODEL.DEFCN.IN_FEATURES", ["p3", "p4"])


def observed(model, inputs):
    """Losses, then the detections of the same model: boxes, scores, classes."""
    losses = {name: value.item() for name, value in model.train()(inputs).items()}
    with torch.no_grad():
        found = [x["instances"] for x in model.eval()(inputs)]
    return losses, [(x.pred_boxes.tensor, x.scores, x.pred_classes) for x in found]
