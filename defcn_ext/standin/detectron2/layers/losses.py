"""IoU losses that also see boxes which do not overlap (Distance-IoU loss, Zheng et al., 2020)."""

import math

import torch
from torch import Tensor


def diou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - IoU + squared distance of the centres, relative to the diagonal of the enclosing box.

    Args:
        boxes1, boxes2: (..., 4), x1, y1, x2, y2, with x1 <= x2 and y1 <= y2 (AssertionError).
        reduction: "none", "sum" or "mean"; the mean over nothing is 0.
    """
    iou, distance = _iou_and_distance(boxes1, boxes2, eps)
    return _reduce(1 - iou + distance, reduction)


def ciou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """`diou_loss` with a further term for the aspect ratio; nan for two boxes of no extent."""
    iou, distance = _iou_and_distance(boxes1, boxes2, eps)
    angle1, angle2 = (torch.atan((b[..., 2] - b[..., 0]) / (b[..., 3] - b[..., 1])) for b in (boxes1, boxes2))
    aspect = (angle1 - angle2).square() * (4 / math.pi**2)
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect + eps)
    return _reduce(1 - iou + distance + weight * aspect, reduction)


def _iou_and_distance(boxes1: Tensor, boxes2: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    for boxes in (boxes1, boxes2):
        assert (boxes[..., 2:] >= boxes[..., :2]).all(), "box loss: a box with x2 < x1 or y2 < y1"
    size1, size2 = boxes1[..., 2:] - boxes1[..., :2], boxes2[..., 2:] - boxes2[..., :2]
    low = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    high = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    intersection = (high - low).clamp(min=0).prod(dim=-1)
    union = size1.prod(dim=-1) + size2.prod(dim=-1) - intersection
    around = torch.maximum(boxes1[..., 2:], boxes2[..., 2:]) - torch.minimum(boxes1[..., :2], boxes2[..., :2])
    centers = (boxes1[..., :2] + boxes1[..., 2:] - boxes2[..., :2] - boxes2[..., 2:]) / 2
    distance = centers.square().sum(dim=-1) / (around.square().sum(dim=-1) + eps)
    return intersection / (union + eps), distance


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return loss.mean() if loss.numel() > 0 else 0.0 * loss.sum()
    return loss.sum() if reduction == "sum" else loss
