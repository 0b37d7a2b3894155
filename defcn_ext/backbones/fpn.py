"""The ResNet-FPN of FCOS and DeFCN: P3 to P7, with P6 made from P5."""

from __future__ import annotations

from torch import Tensor

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7


class LinearP6P7(LastLevelP6P7):
    """Two more levels by convs of stride 2, without a ReLU between them (mmdetection's stock RetinaNet)."""

    def forward(self, c5: Tensor) -> list[Tensor]:
        p6 = self.p6(c5)
        return [p6, self.p7(p6)]


@BACKBONE_REGISTRY.register()
def build_defcn_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """ResNet with an FPN whose P6 comes from `MODEL.DEFCN.P6_FEATURE`, and P7 from P6, by `MODEL.DEFCN.P7_RELU`.

    Detectron2's own RetinaNet builder hard-wires "res5"; all released DeFCN and DATE weights use "p5".

    Raises:
        ValueError: `MODEL.DEFCN.P6_FEATURE` is neither "p5" nor "res5".
    """
    bottom_up = build_resnet_backbone(cfg, input_shape)
    feature, channels = cfg.MODEL.DEFCN.P6_FEATURE, cfg.MODEL.FPN.OUT_CHANNELS
    if feature not in ("p5", "res5"):
        raise ValueError(f"MODEL.DEFCN.P6_FEATURE: must be 'p5' or 'res5', got {feature!r}")
    from_channels = channels if feature == "p5" else bottom_up.output_shape()["res5"].channels
    top_block = LastLevelP6P7 if cfg.MODEL.DEFCN.P7_RELU else LinearP6P7
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block(from_channels, channels, in_feature=feature),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
