import torch
from torch import Tensor
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms

from .rotated_boxes import pairwise_iou_rotated

__all__ = ["batched_nms", "batched_nms_rotated", "nms", "nms_rotated"]


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression that only compares boxes of the same class.

    Args:
        boxes: (R, 4), x1, y1, x2, y2.
        scores: (R,).
        idxs: (R,), the class of each box.
        iou_threshold: boxes overlapping a better one by more than this are dropped.

    Returns:
        Indices of the kept boxes, best first.
    """
    assert boxes.shape[-1] == 4, f"batched_nms: boxes must be (R, 4), got {boxes.shape}"
    # In half precision the per-class offsets that torchvision adds would swallow the coordinates.
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression of rotated boxes (R, 5): centre x, y, width, height, degrees counterclockwise.

    Returns:
        Indices of the kept boxes, best first.
    """
    rest = scores.argsort(descending=True, stable=True)
    kept = [rest[:0]]
    while rest.numel() > 0:
        kept.append(rest[:1])
        iou = pairwise_iou_rotated(boxes[rest[:1]], boxes[rest[1:]])[0]
        rest = rest[1:][iou <= iou_threshold]
    return torch.cat(kept)


def batched_nms_rotated(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`batched_nms` of rotated boxes (R, 5): centre x, y, width, height, degrees counterclockwise."""
    assert boxes.shape[-1] == 5, f"batched_nms_rotated: boxes must be (R, 5), got {boxes.shape}"
    if boxes.numel() == 0:
        return idxs.new_zeros((0,)).long()
    # Every class on a plane of its own; in double precision the offsets cost no digits.
    moved = boxes.double().clone()
    radius = torch.hypot(moved[:, 2], moved[:, 3])[:, None]
    extent = (moved[:, :2] + radius).max() - (moved[:, :2] - radius).min()
    moved[:, 0] += idxs * extent
    return nms_rotated(moved, scores, iou_threshold)
