"""Step one for anchors and squares: those that overlap an object enough to matter."""

from __future__ import annotations

import torch
from torch import Tensor

from defcn_ext.structures import Pairs, Points

from .candidates import Candidates, Quality, check_one_point_a_cell, covering, rectangles
from .scene import Scene
from .steps import register_step

# Relative difference of IoU that counts as none: anchors that hold a whole object overlap it equally wherever they lie.
TIE = 1e-5
# Cells behind an image's own size, padded to a multiple of so many pixels, have no anchors (20-date, section 3).
PADDING = 32


def padded(image_sizes: Tensor) -> Tensor:
    """(N, 2) sizes of images, pixels, each padded by itself."""
    return (image_sizes / PADDING).ceil() * PADDING


@register_step("candidates")
def overlapping_anchors(low: float = 0.4) -> Candidates:
    """All anchors that may reach an IoU of `low` with the object, and those of its highest IoU, however low.

    For an anchor shape of a level, the IoU falls with the horizontal and with the vertical distance of the centres. So
    both kinds lie in a rectangle of cells around the object, empty for most shapes, and nothing else is visited.
    """
    if not 0 < low <= 1:
        raise ValueError(f"overlapping_anchors: low must lie in (0, 1], got {low}")

    def candidates(scene: Scene, quality: Quality) -> Pairs:
        points = scene.points
        anchors = points.anchors
        if anchors is None:
            raise ValueError("overlapping_anchors: the branch has no anchors; set its BOX_FORM to delta")
        shape, step, size = _shapes(points, anchors)
        own = padded(scene.image_sizes).flip(-1)[scene.image][:, None] / step
        return _visited(scene, shape, step, torch.minimum(size, own.ceil()), low)

    return candidates


@register_step("candidates")
def best_squares(scale: float = 4.0) -> Candidates:
    """Of the squares around the points, `scale` strides wide, all that may have the object's highest IoU of all levels.

    Squares inside the object have it together, and so have those that hold it. One that meets no square has none.
    """
    if scale <= 0:
        raise ValueError(f"best_squares: scale must be positive (strides), got {scale}")

    def candidates(scene: Scene, quality: Quality) -> Pairs:
        points = scene.points
        check_one_point_a_cell(points, "best_squares")
        stride = torch.tensor(points.strides, dtype=torch.float32, device=points.xy.device)
        size = torch.tensor([[(w, h) for h, w in points.sizes]], device=points.xy.device)
        shape = (scale * stride)[:, None].expand(-1, 2)
        return _visited(scene, shape, points.steps, size.expand(scene.num_objects, -1, -1), None)

    return candidates


def _visited(scene: Scene, shape: Tensor, step: Tensor, size: Tensor, low: float | None) -> Pairs:
    """The pairs in the rectangles of cells that count; see `_reach`.

    Args:
        shape: (M, 2) width and height of each shape, pixels.
        step: (M, 2) distances of the points of its level, pixels.
        size: (G, M, 2) columns and rows that have it.
    """
    corner, opposite = scene.gt_boxes[:, None].chunk(2, dim=-1)
    middle = (corner + opposite) / 2 / step - scene.points.offset
    reach = _reach(middle, (opposite - corner).clamp(min=0), shape, step, size, low)
    slack = 1e-3
    first = (middle - reach - slack).ceil().clamp(min=0).minimum(size).long()
    last = ((middle + reach + slack).floor() + 1).clamp(min=0).minimum(size).long()
    last = torch.where(reach < 0, first, last)
    return _pairs(scene, *rectangles(first.flatten(0, 1), last.flatten(0, 1)))


def _shapes(points: Points, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For the M = L A shapes, level by level: (M, 2) width and height, (M, 2) steps, (M, 2) columns and rows."""
    device, count = points.xy.device, points.per_cell
    start = points.starts
    corners = anchors[start[:, None] + torch.arange(count, device=device)].flatten(0, 1)
    size = torch.tensor([(w, h) for h, w in points.sizes], device=device).repeat_interleave(count, dim=0)
    return corners[:, 2:] - corners[:, :2], points.steps.repeat_interleave(count, dim=0), size


def _reach(middle: Tensor, extent: Tensor, shape: Tensor, step: Tensor, size: Tensor, low: float | None) -> Tensor:
    """(G, M, 2) how far from the object's centre, in cells, boxes of each shape count; negative where none does.

    Those count that have the highest IoU of all shapes or, where `low` is given, an IoU of `low`.
    """
    overlap = torch.minimum(extent, shape)  # (G, M, 2), the most that each axis can overlap
    reach_sum, flat = (extent + shape) / 2, (extent - shape).abs() / 2
    area = extent.prod(-1) + shape.prod(-1)

    nearest = middle.round().clamp(min=0).minimum(size - 1)
    distance = (nearest - middle).abs() * step
    intersection = torch.minimum(overlap, reach_sum - distance).clamp(min=0).prod(-1)
    iou = intersection / (area - intersection).clamp(min=1e-6)
    best = (iou >= iou.amax(-1, keepdim=True) * (1 - TIE)) & (iou > 0)
    reach = torch.where(best[..., None], torch.maximum(distance, flat), -step)
    if low is not None:
        needed = low / (1 + low) * area[..., None] / overlap.flip(-1).clamp(min=1e-6)
        enough = torch.where((needed <= overlap).all(-1, keepdim=True), reach_sum - needed, -step)
        reach = torch.maximum(reach, enough)
    return reach / step


def _pairs(scene: Scene, index: Tensor, column: Tensor, row: Tensor) -> Pairs:
    """From the index into (G, L, A) of each visited cell to pairs."""
    points = scene.points
    count, num_levels = points.per_cell, len(points.sizes)
    anchor, level = index % count, index.div(count, rounding_mode="floor") % num_levels
    object = index.div(count * num_levels, rounding_mode="floor")
    width = torch.tensor([w for _, w in points.sizes], device=index.device)
    start = points.starts
    location = start[level] + (row * width[level] + column) * count + anchor
    return covering(scene, Pairs(location + scene.image[object] * len(points), object))
