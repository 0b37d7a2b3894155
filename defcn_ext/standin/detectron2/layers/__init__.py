from .aspp import ASPP
from .batch_norm import CycleBatchNormList, FrozenBatchNorm2d, LayerNorm, NaiveSyncBatchNorm, get_norm
from .blocks import CNNBlockBase, DepthwiseSeparableConv2d
from .deform_conv import DeformConv, ModulatedDeformConv
from .losses import ciou_loss, diou_loss
from .mask_ops import paste_masks_in_image
from .nms import batched_nms, batched_nms_rotated, nms, nms_rotated
from .roi_align import ROIAlign, roi_align
from .shape_spec import ShapeSpec
from .wrappers import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Linear,
    cat,
    cross_entropy,
    empty_input_loss_func_wrapper,
    interpolate,
    move_device_like,
    nonzero_tuple,
    shapes_to_tensor,
)

__all__ = [
    "ASPP",
    "batched_nms",
    "batched_nms_rotated",
    "BatchNorm2d",
    "cat",
    "ciou_loss",
    "CNNBlockBase",
    "Conv2d",
    "ConvTranspose2d",
    "cross_entropy",
    "CycleBatchNormList",
    "DeformConv",
    "DepthwiseSeparableConv2d",
    "diou_loss",
    "empty_input_loss_func_wrapper",
    "FrozenBatchNorm2d",
    "get_norm",
    "interpolate",
    "LayerNorm",
    "Linear",
    "ModulatedDeformConv",
    "move_device_like",
    "NaiveSyncBatchNorm",
    "nms",
    "nms_rotated",
    "nonzero_tuple",
    "paste_masks_in_image",
    "roi_align",
    "ROIAlign",
    "shapes_to_tensor",
    "ShapeSpec",
]
