from fvcore.common.config import CfgNode

from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry

from .backbone import Backbone

BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = """
Backbones by name: callables of (cfg, ShapeSpec of the input) that return a `Backbone`.
"""


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """The backbone that `MODEL.BACKBONE.NAME` names.

    Args:
        input_shape: of the images; by default as many channels as `MODEL.PIXEL_MEAN` has numbers.

    Raises:
        KeyError: an unknown name.
        AssertionError: what was built is no `Backbone`.
    """
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    assert isinstance(backbone, Backbone), f"{cfg.MODEL.BACKBONE.NAME} built no Backbone: {type(backbone).__name__}"
    return backbone
