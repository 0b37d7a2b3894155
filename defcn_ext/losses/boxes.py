"""Overlap of paired boxes, and the losses made of it."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps


def _area(boxes: Tensor) -> Tensor:
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    intersection = _area(torch.cat([low, high], dim=-1))
    return intersection, _area(a) + _area(b) - intersection


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes pair by pair, 0 where both have no area.

    Args:
        a, b: (..., 4) boxes; the leading dimensions broadcast.
    """
    intersection, union = _intersection_and_union(a, b)
    return intersection / union.clamp(min=EPS)


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """`1 - GIoU` of each pair (Rezatofighi et al. 2019), in [0, 2], in float32.

    Args:
        predicted, target: (P, 4) boxes.

    Returns:
        (P,) losses.

    Raises:
        ValueError: the shapes differ or are not (P, 4).
    """
    if predicted.shape != target.shape or predicted.shape[-1:] != (4,):
        raise ValueError(f"giou_loss wants two (P, 4) tensors, got {tuple(predicted.shape)}, {tuple(target.shape)}")
    predicted, target = predicted.float(), target.float()
    intersection, union = _intersection_and_union(predicted, target)
    low = torch.minimum(predicted[..., :2], target[..., :2])
    high = torch.maximum(predicted[..., 2:], target[..., 2:])
    hull = _area(torch.cat([low, high], dim=-1))
    giou = intersection / union.clamp(min=EPS) - (hull - union) / hull.clamp(min=EPS)
    return 1 - giou
