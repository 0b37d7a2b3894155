from detectron2.layers import ShapeSpec
from detectron2.utils.left_out import left_out

from .anchor_generator import ANCHOR_GENERATOR_REGISTRY, build_anchor_generator
from .backbone import (
    BACKBONE_REGISTRY,
    FPN,
    Backbone,
    ResNet,
    ResNetBlockBase,
    SwinTransformer,
    build_backbone,
    build_resnet_backbone,
    make_stage,
)
from .meta_arch import FCOS, META_ARCH_REGISTRY, RetinaNet, build_model
from .postprocessing import detector_postprocess

_REASON = "only dense one-stage detectors are built here"
DatasetMapperTTA = left_out("DatasetMapperTTA", __name__, _REASON)
GeneralizedRCNN = left_out("GeneralizedRCNN", __name__, _REASON)
GeneralizedRCNNWithTTA = left_out("GeneralizedRCNNWithTTA", __name__, _REASON)
PanopticFPN = left_out("PanopticFPN", __name__, _REASON)
ProposalNetwork = left_out("ProposalNetwork", __name__, _REASON)
SemanticSegmentor = left_out("SemanticSegmentor", __name__, _REASON)

__all__ = [
    "DatasetMapperTTA",
    "GeneralizedRCNN",
    "GeneralizedRCNNWithTTA",
    "PanopticFPN",
    "ProposalNetwork",
    "SemanticSegmentor",
    "ANCHOR_GENERATOR_REGISTRY",
    "BACKBONE_REGISTRY",
    "FCOS",
    "FPN",
    "META_ARCH_REGISTRY",
    "Backbone",
    "ResNet",
    "ResNetBlockBase",
    "RetinaNet",
    "ShapeSpec",
    "SwinTransformer",
    "build_anchor_generator",
    "build_backbone",
    "build_model",
    "build_resnet_backbone",
    "detector_postprocess",
    "make_stage",
]
