"""Max filtering that looks at boxes: the highest score around a point among those whose boxes cover the same place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from defcn_ext.structures import Points


def max_over_rivals(
    scores: Tensor, boxes: Tensor, labels: Tensor, points: Points, *, iou: float, tau: int = 2, kernel: int = 3
) -> Tensor:
    """The highest score of each point and its rivals: neighbours of its label whose boxes overlap its own.

    Two points are neighbours where one lies in the window around the other: on one level `|dx|, |dy| <= kernel // 2`
    cells; on two levels the cell of the coarser that holds the finer point lies in the window around the coarser point.
    So of two neighbours each sees the other. Anchors of one cell are neighbours. Every point looks at a fixed number of
    others, all at once: no sort, no loop over boxes, no size that depends on the data.

    >>> points = Points.from_sizes([(1, 3)], strides=[8])
    >>> boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [9, 0, 19, 10]]])
    >>> max_over_rivals(torch.tensor([[0.9, 0.5, 0.6]]), boxes, torch.zeros(1, 3, dtype=torch.long), points, iou=0.6)
    tensor([[0.9000, 0.9000, 0.6000]])

    Args:
        scores: (N, R), any numbers that compare; NaN counts as minus infinity.
        boxes: (N, R, 4) x1, y1, x2, y2; what is not finite overlaps nothing.
        labels: (N, R) integers.
        points: of the R locations.
        iou: rivals overlap by more than this, in [0, 1).
        tau: number of neighbouring levels taken in, half of them on each side; even.
        kernel: side of the window, in cells of the coarser of two levels; odd.

    Returns:
        (N, R) of the type of `scores`.
    """
    known = scores.nan_to_num(nan=-torch.inf)
    told = torch.cat([boxes, known[..., None].to(boxes), labels[..., None].to(boxes)], dim=-1)
    levels = [_as_map(x, size, points.per_cell) for x, size in zip(told.split(points.counts, dim=1), points.sizes)]
    reach, out = tau // 2, []
    for level, own in enumerate(levels):
        others: list[Tensor] = []
        for other in range(max(0, level - reach), min(len(levels), level + reach + 1)):
            others += _neighbours(levels[other], own.shape[-2:], kernel, other - level)
        highest = _highest(own, torch.cat(others, dim=2), iou)
        out.append(highest.permute(0, 2, 3, 1).flatten(1))
    return torch.maximum(torch.cat(out, dim=1).to(scores), known)


def _as_map(told: Tensor, size: tuple[int, int], per_cell: int) -> Tensor:
    """(N, H W A, C) -> (N, C, A, H, W)."""
    cells: Tensor = told.unflatten(1, (size[0], size[1], per_cell))
    return cells.permute(0, 4, 3, 1, 2)


def _neighbours(other: Tensor, size: Sequence[int], kernel: int, coarser: int) -> Iterator[Tensor]:
    """What lies in the window of another level, (N, C, A, H, W) for each place of the window.

    Args:
        other: (N, C, A, H', W') of the other level.
        size: (H, W) of the own one.
        coarser: how many levels the other is above the own.
    """
    height, width = size
    if coarser < 0:  # as many maps of the own size as a cell has finer ones in it
        factor = 2**-coarser
        bottom, right = factor * height - other.shape[-2], factor * width - other.shape[-1]
        whole = _padded(other, 0, right, 0, bottom)
        for i in range(factor):
            for j in range(factor):
                yield from _shifted(whole[..., i::factor, j::factor], kernel)
        return
    for place in _shifted(other, kernel):
        if coarser:
            factor = 2**coarser
            place = place.repeat_interleave(factor, -2).repeat_interleave(factor, -1)[..., :height, :width]
        yield place


def _shifted(level: Tensor, kernel: int) -> Iterator[Tensor]:
    height, width = level.shape[-2:]
    reach = kernel // 2
    padded = _padded(level, reach, reach, reach, reach)
    for i in range(kernel):
        for j in range(kernel):
            yield padded[..., i : i + height, j : j + width]


def _padded(level: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Beyond the map there are empty boxes, which overlap nothing."""
    return F.pad(level, (left, right, top, bottom))


def _highest(own: Tensor, others: Tensor, iou: float) -> Tensor:
    """(N, C, A, H, W) and (N, C, J, H, W) -> (N, A, H, W): of each the highest rival, or minus infinity."""
    mine, yours = own[:, :, :, None], others[:, :, None]
    left_top, right_bottom = torch.maximum(mine[:, :2], yours[:, :2]), torch.minimum(mine[:, 2:4], yours[:, 2:4])
    sides = (right_bottom - left_top).clamp(min=0)
    common = sides[:, 0] * sides[:, 1]
    # IoU > t without a division, which would be 0 / 0 for empty boxes
    overlap = common * (1 + iou) > iou * (_area(mine) + _area(yours))
    rival = overlap & (mine[:, 5] == yours[:, 5])
    return torch.where(rival, yours[:, 4], -torch.inf).amax(2)


def _area(told: Tensor) -> Tensor:
    return (told[:, 2] - told[:, 0]).clamp(min=0) * (told[:, 3] - told[:, 1]).clamp(min=0)
