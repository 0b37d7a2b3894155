"""Towers from the config, for the model and for branches with towers of their own."""

from __future__ import annotations

from defcn_ext.layers.towers import SharedHead
from detectron2.config import CfgNode


def build_towers(cfg: CfgNode, in_channels: int, *, level_scales: bool) -> SharedHead:
    """The towers that `MODEL.DEFCN` describes."""
    options = cfg.MODEL.DEFCN
    return SharedHead(
        in_channels=in_channels,
        num_levels=len(options.IN_FEATURES),
        num_convs=options.NUM_CONVS,
        norm=options.NORM,
        conv_bias=options.CONV_BIAS,
        level_scales=level_scales,
        deform=options.DEFORM_TOWERS,
        shuffle=(options.PYRAMID_SHUFFLE.CLS, options.PYRAMID_SHUFFLE.BOX),
        shuffle_share=options.PYRAMID_SHUFFLE.SHARE,
    )
