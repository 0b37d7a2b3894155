"""Overlap of paired boxes, and the losses made of it."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps
MIN_IOU = 1e-6  # below it the logarithm of the IoU is cut off


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

    Example:
        >>> paired_iou(torch.tensor([0.0, 0, 10, 10]), torch.tensor([[0.0, 0, 10, 5], [10, 0, 20, 10]]))
        tensor([0.5000, 0.0000])
    """
    intersection, union = _intersection_and_union(a, b)
    return intersection / union.clamp(min=EPS)


def paired_giou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of boxes pair by pair (Rezatofighi et al. 2019), in [-1, 1].

    Args:
        a, b: (..., 4) boxes; the leading dimensions broadcast.

    Example:
        >>> paired_giou(torch.tensor([0.0, 0, 10, 10]), torch.tensor([[0.0, 0, 10, 5], [20, 0, 30, 10]]))
        tensor([ 0.5000, -0.3333])
    """
    intersection, union = _intersection_and_union(a, b)
    low = torch.minimum(a[..., :2], b[..., :2])
    high = torch.maximum(a[..., 2:], b[..., 2:])
    hull = _area(torch.cat([low, high], dim=-1))
    return intersection / union.clamp(min=EPS) - (hull - union) / hull.clamp(min=EPS)


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """`1 - GIoU` of each pair (Rezatofighi et al. 2019), in [0, 2], in float32.

    Args:
        predicted, target: (P, 4) boxes.

    Returns:
        (P,) losses.

    Raises:
        ValueError: the shapes differ or are not (P, 4).

    Example:
        >>> giou_loss(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 10, 5]]))
        tensor([0.5000])
    """
    _check_pairs("giou_loss", predicted, target)
    return 1 - paired_giou(predicted.float(), target.float())


def iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """`-log IoU` of each pair (Yu et al. 2016), in float32; constant below an IoU of 1e-6 (20-date, section 3).

    Arguments, result and errors are those of `giou_loss`.

    Example:
        >>> iou_loss(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 10, 5]]))
        tensor([0.6931])
    """
    _check_pairs("iou_loss", predicted, target)
    return -paired_iou(predicted.float(), target.float()).clamp(min=MIN_IOU).log()


def normalized_l1(a: Tensor, b: Tensor, image_sizes: Tensor, form: str = "cxcywh") -> Tensor:
    """L1 distance of boxes as shares of their image, summed over the four coordinates (DETR, Eq. 9; 20-date).

    Args:
        a, b: (..., 4) boxes; the leading dimensions broadcast.
        image_sizes: (..., 2) height and width of the image of each pair, pixels.
        form: the coordinates that are compared, "cxcywh" (DATE) or "xyxy" (OneNet).

    Example:
        >>> size = torch.tensor([100.0, 200.0])
        >>> normalized_l1(torch.tensor([0.0, 0, 10, 10]), torch.tensor([0.0, 0, 20, 10]), size)
        tensor(0.0750)
    """
    width_height = image_sizes.flip(-1)
    difference = (a - b) / torch.cat([width_height, width_height], dim=-1)
    if form == "cxcywh":
        low, high = difference.chunk(2, dim=-1)
        difference = torch.cat([(low + high) / 2, high - low], dim=-1)
    x, y, width, height = difference.abs().unbind(-1)
    return x + y + width + height  # in this order for every layout, so that equal boxes have equal distances


def _check_pairs(name: str, predicted: Tensor, target: Tensor) -> None:
    if predicted.shape != target.shape or predicted.shape[-1:] != (4,):
        raise ValueError(f"{name} wants two (P, 4) tensors, got {tuple(predicted.shape)}, {tuple(target.shape)}")
