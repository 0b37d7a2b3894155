"""Step two: how good a pair is. Larger is better.

A quality step takes the scene and index tensors of points and objects that broadcast against each other: (P,) and (P,)
for pairs, (1, R) and (g, 1) for a dense chunk. A prediction that is not finite gets the worst quality, never NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .candidates import Quality
from .scene import Scene


def poto(alpha: float = 0.8, combine: str = "mul") -> Quality:
    """`p^(1-alpha) IoU^alpha`, or `(1-alpha) p + alpha IoU`, in [0, 1] (DeFCN Eq. 4, Table 4).

    Args:
        alpha: share of the box; 0 looks at the class alone, 1 at the box alone.
        combine: "mul" or "add".
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"poto: alpha must lie in [0, 1], got {alpha}")
    if combine not in ("mul", "add"):
        raise ValueError(f"poto: combine must be 'mul' or 'add', got {combine!r}")

    def quality(scene: Scene, point: Tensor, object: Tensor) -> Tensor:
        score, iou = scene.score(point, object), scene.iou(point, object)
        if combine == "add":
            value = (1 - alpha) * score + alpha * iou
        else:
            value = score ** (1 - alpha) * iou**alpha
        # x ** 0 is 1 even for NaN, so both are asked again
        return torch.nan_to_num(value + 0 * (score + iou), nan=0.0)

    return quality


def smallest_area() -> Quality:
    """Minus the area of the object, in square pixels: of several objects the smallest wins (FCOS, section 3.2)."""

    def quality(scene: Scene, point: Tensor, object: Tensor) -> Tensor:
        size = scene.gt_boxes[:, 2:] - scene.gt_boxes[:, :2]
        return -(size.prod(-1)[object] + torch.zeros_like(point, dtype=torch.float32))

    return quality
