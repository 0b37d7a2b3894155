from torch import Tensor
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms

__all__ = ["batched_nms", "nms"]


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
    assert boxes.shape[-1] == 4, f"batched_nms: boxes must be (R, 4), got {tuple(boxes.shape)}"
    # In half precision the per-class offsets that torchvision adds would swallow the coordinates.
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
