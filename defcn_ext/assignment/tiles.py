"""Bounds of a quality over whole tiles of points.

Rules that look at all points ask one thing of most of them: are you worse than the best few? Points that lie side by
side predict much the same, so they are asked together, 16 at a time: a tile takes part as one point that has the
highest scores of its points and overlaps an object as well as any box between theirs could. A quality that can only
rise with score, IoU and GIoU and fall with the L1 distance is then never larger at a point than at its tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from defcn_ext.losses.boxes import EPS
from defcn_ext.structures import Points, ScoreView

from .scene import Scene

SIDE = 4  # of a tile, in cells
SLACK = 1e-5  # by which bounds are raised; more than the rounding of either side
AnyQuality = TypeVar("AnyQuality", bound=Callable[[Scene, Tensor, Tensor], Tensor])


def rises_with_fit(quality: AnyQuality) -> AnyQuality:
    """Declares that a quality reads predictions only through `Scene.score` and `.logit`, `.iou` and `.giou`, with all
    of which it rises or stays, and `.l1`, with which it falls or stays. Only then can tiles bound it."""
    setattr(quality, "rises_with_fit", True)  # noqa: B010  (mypy knows no such name)
    return quality


def below_iou(exponent: float) -> Callable[[AnyQuality], AnyQuality]:
    """Declares that a quality is between 0 and `IoU^exponent` wherever the prediction is finite, and below 0 elsewhere.

    Only points whose box overlaps the object can then be worth anything. The quality may ask `Scene.iou` only for the
    pairs that it is asked for itself.
    """

    def declare(quality: AnyQuality) -> AnyQuality:
        setattr(quality, "iou_exponent", exponent)  # noqa: B010
        return quality

    return declare


@dataclass(frozen=True)
class TileScene(Scene):
    """A scene whose B tiles of every image take the place of points; its answers are the best of each tile.

    Attributes:
        low, high: (N B, 9) range of `_features` of the predicted boxes in the tile.
    """

    low: Tensor
    high: Tensor

    def iou(self, point: Tensor, object: Tensor) -> Tensor:
        return self._iou(self.low[point], self.high[point], _features(self.gt_boxes)[object])

    def giou(self, point: Tensor, object: Tensor) -> Tensor:
        low, high, box = self.low[point], self.high[point], _features(self.gt_boxes)[object]
        width = torch.maximum(low[..., 2], box[..., 2]) - torch.minimum(high[..., 0], box[..., 0])
        height = torch.maximum(low[..., 3], box[..., 3]) - torch.minimum(high[..., 1], box[..., 1])
        filled = (high[..., 8] + box[..., 8]) / (width.clamp(min=0) * height.clamp(min=0))  # of the hull, at most
        return self._iou(low, high, box) - 1 + filled.nan_to_num(nan=1.0).clamp(max=1) + SLACK

    def l1(self, point: Tensor, object: Tensor, form: str) -> Tensor:
        columns = slice(4, 8) if form == "cxcywh" else slice(0, 4)
        target = _features(self.gt_boxes)[:, columns][object]
        distance = torch.maximum(self.low[:, columns][point] - target, target - self.high[:, columns][point])
        size = self.image_sizes[self.image[object]].flip(-1)
        share = distance.clamp(min=0) / torch.cat([size, size], dim=-1)
        return share.sum(-1).nan_to_num(nan=0.0) * (1 - SLACK) - SLACK

    @staticmethod
    def _iou(low: Tensor, high: Tensor, box: Tensor) -> Tensor:
        width = torch.minimum(high[..., 2], box[..., 2]) - torch.maximum(low[..., 0], box[..., 0])
        height = torch.minimum(high[..., 3], box[..., 3]) - torch.maximum(low[..., 1], box[..., 1])
        intersection = (width.clamp(min=0) * height.clamp(min=0)).minimum(high[..., 8])
        area, least = box[..., 8], low[..., 8]
        union = (area + least - intersection).maximum(area).maximum(least).clamp(min=EPS)
        return (intersection / union).nan_to_num(nan=1.0).clamp(max=1) * (1 + SLACK)


def tile_points(points: Points) -> tuple[Tensor, list[int]]:
    """Cuts every level into squares of cells.

    Returns:
        (B, T) the points of each tile, level by level, -1 where a tile juts out; the number of tiles of each level.
    """
    tiles, counts = cut_levels(points.sizes, points.per_cell)
    return tiles.to(points.xy.device), list(counts)


@lru_cache(maxsize=64)
def cut_levels(sizes: tuple[tuple[int, int], ...], per_cell: int) -> tuple[Tensor, tuple[int, ...]]:
    """`tile_points` of points of such sizes, on the CPU."""
    tiles, first = [], 0
    for h, w in sizes:
        grid = torch.arange(first, first + h * w * per_cell).view(h, w, per_cell)
        grid = F.pad(grid, (0, 0, 0, -w % SIDE, 0, -h % SIDE), value=-1)
        grid = grid.view(-(-h // SIDE), SIDE, -(-w // SIDE), SIDE, per_cell)
        tiles.append(grid.permute(0, 2, 4, 1, 3).reshape(-1, SIDE * SIDE))
        first += h * w * per_cell
    return torch.cat(tiles), tuple(len(x) for x in tiles)


def tile_scene(scene: Scene, tiles: Tensor) -> TileScene:
    """The scene of the tiles (B, T) of every image."""
    num_images = len(scene.boxes) // len(scene.points)
    within = tiles.where(tiles >= 0, tiles[:, :1])  # a tile's first cell never juts out
    start = torch.arange(num_images, device=tiles.device) * len(scene.points)
    point = (start[:, None, None] + within).flatten(0, 1)
    features = _features(scene.boxes)[point]
    return TileScene(
        points=scene.points,
        scores=_highest(scene.scores, point),
        boxes=scene.boxes,
        gt_boxes=scene.gt_boxes,
        gt_classes=scene.gt_classes,
        image=scene.image,
        image_sizes=scene.image_sizes,
        low=features.amin(1),
        high=features.amax(1),
    )


def _features(boxes: Tensor) -> Tensor:
    """(..., 4) boxes -> (..., 9) corners, centre, width and height, area; a box without area has area 0."""
    low, high = boxes.chunk(2, dim=-1)
    area = (high - low).clamp(min=0).prod(-1, keepdim=True)
    return torch.cat([boxes, (low + high) / 2, high - low, area], dim=-1)


def _highest(scores: Tensor | ScoreView, point: Tensor) -> Tensor | ScoreView:
    if isinstance(scores, ScoreView):
        return scores.highest(point)
    parts = [scores[part].amax(1).float() for part in point.split(256)]  # few at a time, so that they stay in the cache
    return torch.cat(parts).nan_to_num(nan=1.0)
