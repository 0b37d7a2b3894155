"""Max filtering that looks at boxes: the highest score around a point among those whose boxes cover the same place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from defcn_ext.structures import Points

SCORE, LABEL = 4, 5  # channels of the maps, after the box


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
        points: of the R locations; of a level `2^d` times as coarse there are as many cells, rounded up.
        iou: rivals overlap by more than this, in [0, 1).
        tau: number of neighbouring levels taken in, half of them on each side; even.
        kernel: side of the window, in cells of the coarser of two levels; odd.

    Returns:
        (N, R) of the type of `scores`.
    """
    known = torch.where(scores == scores, scores, -torch.inf)  # of operators that every runtime has
    told = torch.cat([boxes, known[..., None].to(boxes), labels[..., None].to(boxes)], dim=-1)
    levels = [_as_map(x, size, points.per_cell) for x, size in zip(told.split(points.counts, dim=1), points.sizes)]
    highest = [_within(level, level[:, SCORE], iou, kernel) for level in levels]
    for fine in range(len(levels)):
        for coarse in range(fine + 1, min(len(levels), fine + tau // 2 + 1)):
            seen = _between(levels[fine], levels[coarse], 2 ** (coarse - fine), iou, kernel)
            highest[fine], highest[coarse] = map(torch.maximum, (highest[fine], highest[coarse]), seen)
    return torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in highest], dim=1).to(scores)


def _as_map(told: Tensor, size: tuple[int, int], per_cell: int) -> Tensor:
    """(N, H W A, C) -> (N, C, A, H, W)."""
    return told.reshape(told.shape[0], *size, per_cell, -1).permute(0, 4, 3, 1, 2)


def _within(level: Tensor, highest: Tensor, iou: float, kernel: int) -> Tensor:
    """The highest around each point of one level (N, C, A, H, W). Of a pair each learns about the other at once."""
    reach = kernel // 2
    half = [(y, x) for y, x in _window(reach) if (y, x) > (0, 0)] + ([(0, 0)] if level.shape[2] > 1 else [])
    if not half:
        return highest
    mine, yours = _compare(level, _moved(level, half), iou)
    return torch.maximum(torch.maximum(highest, mine), _moved_back(yours, half))


def _between(fine: Tensor, coarse: Tensor, factor: int, iou: float, kernel: int) -> tuple[Tensor, Tensor]:
    """The highest of the coarser level for each point of the finer one, and the other way round."""
    window, (height, width) = _window(kernel // 2), fine.shape[-2:]
    places = _moved(coarse, window)
    rows, columns = places.shape[-2:]
    repeated = places[..., None, :, None].expand(*places.shape[:-1], factor, columns, factor)
    whole = repeated.reshape(*places.shape[:-2], rows * factor, columns * factor)[..., :height, :width]
    mine, yours = _compare(fine, whole, iou)
    rest = (0, factor - 1, 0, factor - 1)  # more than the last cells lack; the pooling leaves out what is too much
    pooled = F.max_pool2d(F.pad(yours, rest, value=-torch.inf).flatten(1, 2), factor)
    return mine, _moved_back(pooled.reshape(*yours.shape[:3], *pooled.shape[-2:]), window)


def _window(reach: int) -> list[tuple[int, int]]:
    return [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]


def _moved(level: Tensor, steps: list[tuple[int, int]]) -> Tensor:
    """(N, C, A, H, W) -> (N, C, J, A, H, W): what lies so many rows and columns further on.

    Beyond the map there are empty boxes, which overlap nothing.
    """
    reach = max(abs(step) for pair in steps for step in pair)
    height, width = level.shape[-2:]
    padded = F.pad(level, (reach, reach, reach, reach))
    parts = [padded[..., reach + y : reach + y + height, reach + x : reach + x + width] for y, x in steps]
    return torch.stack(parts, dim=2)


def _moved_back(found: Tensor, steps: list[tuple[int, int]]) -> Tensor:
    """(N, J, A, H, W), told from so many rows and columns away, -> (N, A, H, W): the highest that each is told."""
    reach = max(abs(step) for pair in steps for step in pair)
    height, width = found.shape[-2:]
    padded = F.pad(found, (reach, reach, reach, reach), value=-torch.inf)
    parts = [
        padded[:, j, :, reach - y : reach - y + height, reach - x : reach - x + width] for j, (y, x) in enumerate(steps)
    ]
    return torch.stack(parts, dim=1).amax(1)


def _compare(own: Tensor, others: Tensor, iou: float) -> tuple[Tensor, Tensor]:
    """(N, C, A, H, W) against (N, C, J, A, H, W).

    Returns:
        (N, A, H, W), the highest score of the others that are rivals of each, and (N, J, A, H, W), the highest of its
        own for each of the others; minus infinity where there is none.
    """
    mine, yours = own[:, :, None, :, None], others[:, :, :, None]  # (N, C, 1, A, 1, H, W), (N, C, J, 1, A, H, W)
    width = (torch.minimum(mine[:, 2], yours[:, 2]) - torch.maximum(mine[:, 0], yours[:, 0])).clamp(min=0)
    height = (torch.minimum(mine[:, 3], yours[:, 3]) - torch.maximum(mine[:, 1], yours[:, 1])).clamp(min=0)
    # IoU > t without a division, which would be 0 / 0 for empty boxes
    overlap = width * height * (1 + iou) > iou * _area(own)[:, None, :, None] + iou * _area(others)[:, :, None]
    rival = overlap & (mine[:, LABEL] == yours[:, LABEL])
    of_others = torch.where(rival, yours[:, SCORE], -torch.inf).amax((1, 3))
    of_own = torch.where(rival, mine[:, SCORE], -torch.inf).amax(2)
    return of_others, of_own


def _area(told: Tensor) -> Tensor:
    return (told[:, 2] - told[:, 0]).clamp(min=0) * (told[:, 3] - told[:, 1]).clamp(min=0)
