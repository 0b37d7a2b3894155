"""Greedy NMS that may only compare boxes whose points lie near each other (DeFCN, Table 2)."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256  # rows of the largest matrix, of boxes against better boxes


def greedy_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    *,
    xy: Tensor | None = None,
    reach: Tensor | None = None,
) -> Tensor:
    """By decreasing score, keeps every box that no kept box of its group overlaps by more than the threshold.

    Where `xy` and `reach` are given, two boxes are compared only if `max(|dx|, |dy|)` of their points is below the
    larger of their two reaches. Of equal scores the earlier counts as the better. Memory grows with M, not its square.
    Equal to Detectron2's `batched_nms` where nothing limits it, down to IoUs that lie at the threshold.

    >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    >>> greedy_nms(boxes, torch.tensor([0.8, 0.9, 0.7]), torch.zeros(3, dtype=torch.long), 0.5).tolist()
    [1, 2]

    Args:
        boxes: (M, 4).
        scores: (M,).
        groups: (M,) integers; boxes of different groups never meet.
        iou_threshold: IoU that is still allowed.
        xy: (M, 2) points of the boxes, pixels.
        reach: (M,) pixels.

    Returns:
        Indices of the kept boxes by decreasing score.
    """
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[groups[by_score].argsort(stable=True)]  # group by group, inside a group by decreasing score
    limits = () if xy is None or reach is None else (xy[order], reach[order])
    conflicts = _Conflicts(boxes[order].float(), groups[order], iou_threshold, *limits)
    first_of_group = torch.searchsorted(groups[order], groups[order][::BLOCK].contiguous()).tolist()
    kept = torch.zeros(len(order), dtype=torch.bool, device=boxes.device)
    for start, first in zip(range(0, len(order), BLOCK), first_of_group):
        block = torch.arange(start, min(start + BLOCK, len(order)), device=boxes.device)
        better = first + kept[first:start].nonzero().squeeze(1)
        free = ~conflicts(block, better).any(1)
        kept[block] = _settle(conflicts(block, block).tril(-1), free)
    return by_score[torch.zeros_like(kept).index_put((order,), kept)[by_score]]


def _settle(conflicts: Tensor, free: Tensor) -> Tensor:
    """Greedy choice among B boxes, best first, as the fixed point of "kept if free and no kept better box conflicts".

    After t rounds the first t boxes are right whatever happened before, so it is reached, and only one exists; in
    practice it takes as many rounds as the longest chain of suppressions.

    Args:
        conflicts: (B, B) bool, strictly lower triangular.
        free: (B,) bool, not suppressed from outside.
    """
    kept = free
    while True:
        following = free & ~(conflicts & kept).any(1)
        if torch.equal(following, kept):
            return kept
        kept = following


class _Conflicts:
    """Which boxes cannot both be kept, asked for by two lists of indices."""

    def __init__(
        self, boxes: Tensor, groups: Tensor, iou_threshold: float, xy: Tensor | None = None, reach: Tensor | None = None
    ):
        self.corners = boxes.unbind(1)
        self.area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        self.groups, self.xy, self.reach = groups, xy, reach
        # torch would round the threshold to float32; batched_nms compares the float32 IoU with the exact number
        threshold = torch.tensor(iou_threshold, dtype=torch.float32)
        if threshold.item() > iou_threshold:
            threshold = torch.nextafter(threshold, torch.tensor(-torch.inf))
        self.threshold = threshold.item()

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """(A,), (B,) indices to (A, B) bool."""
        found = self._overlap(a, b) & (self.groups[a, None] == self.groups[b])
        return found if self.xy is None else found & self._near(a, b)

    def _overlap(self, a: Tensor, b: Tensor) -> Tensor:
        x1, y1, x2, y2 = self.corners
        width = (torch.minimum(x2[a, None], x2[b]) - torch.maximum(x1[a, None], x1[b])).clamp_(min=0)
        height = (torch.minimum(y2[a, None], y2[b]) - torch.maximum(y1[a, None], y1[b])).clamp_(min=0)
        intersection = width.mul_(height)
        union = (self.area[a, None] + self.area[b]).sub_(intersection)
        return intersection.div_(union) > self.threshold  # 0 / 0 is no overlap

    def _near(self, a: Tensor, b: Tensor) -> Tensor:
        assert self.xy is not None and self.reach is not None
        dx = (self.xy[a, None, 0] - self.xy[b, 0]).abs_()
        dy = (self.xy[a, None, 1] - self.xy[b, 1]).abs_()
        return torch.maximum(dx, dy) < torch.maximum(self.reach[a, None], self.reach[b])
