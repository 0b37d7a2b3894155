"""Whether BatchNorm has more than one value a channel to take its statistics of."""

from collections.abc import Iterable

from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from defcn_ext.config import UserError
from defcn_ext.meta_arch import DeFCN
from detectron2.config import CfgNode
from detectron2.data import transforms as T


def check_batch_norm(cfg: CfgNode, model: nn.Module, records: Iterable[dict], images: int) -> None:
    """
    Args:
        model: in train mode.
        records: what it is trained on, with their sizes.
        images: how many go through it together in one process.

    Raises:
        UserError: an image is so small that a BatchNorm layer gets a single value of it.
    """
    if images > 1 or not isinstance(model, DeFCN) or not get_bn_modules(model) or cfg.INPUT.SCALE_JITTER:
        return
    stride, short = _coarsest(model), min(cfg.INPUT.MIN_SIZE_TRAIN)
    pad = max(1, model.backbone.size_divisibility)
    for record in records:
        size = record.get("height", 0), record.get("width", 0)
        if short and min(size) > 0:
            size = T.ResizeShortestEdge.get_output_shape(*size, short, cfg.INPUT.MAX_SIZE_TRAIN)
        if 0 < min(size) and max(-(-side // pad) * pad for side in size) <= stride:
            raise UserError(
                f"DATASETS.TRAIN: {record['file_name']}: {size[1]}x{size[0]} pixels as the model sees it, which is one "
                f"cell at stride {stride}, and BatchNorm cannot take statistics of one value: raise "
                f"INPUT.MIN_SIZE_TRAIN above {stride}, or train several images a process (SOLVER.IMS_PER_BATCH)"
            )


def _coarsest(model: DeFCN) -> int:
    """The stride of the coarsest map that goes through a BatchNorm."""
    bottom_up = getattr(model.backbone, "bottom_up", model.backbone)
    inside = {id(layer) for layer in get_bn_modules(bottom_up)}
    above = [layer for layer in get_bn_modules(model) if id(layer) not in inside]
    shapes = bottom_up.output_shape()
    return max(model.strides) if above else max(shape.stride for shape in shapes.values())
