"""Step one for anchors: those that overlap an object enough to matter."""

from __future__ import annotations

import torch
from torch import Tensor

from defcn_ext.structures import Pairs, Points

from .candidates import Candidates, Quality, rectangles
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
        if points.anchors is None:
            raise ValueError("overlapping_anchors: the branch has no anchors; set its BOX_FORM to delta")
        shape, stride, size = _shapes(points)
        own = padded(scene.image_sizes).flip(-1)[scene.image][:, None] / stride[:, None]
        size = torch.minimum(size, own.ceil())  # (G, M, 2)
        middle = (scene.gt_boxes[:, None, :2] + scene.gt_boxes[:, None, 2:]) / 2 / stride[:, None] - points.offset
        extent = (scene.gt_boxes[:, None, 2:] - scene.gt_boxes[:, None, :2]).clamp(min=0)
        reach = _reach(middle, extent, shape, stride, size, low)  # (G, M, 2), cells; negative where there are none
        slack = 1e-3
        first = (middle - reach - slack).ceil().clamp(min=0).minimum(size).long()
        last = ((middle + reach + slack).floor() + 1).clamp(min=0).minimum(size).long()
        last = torch.where(reach < 0, first, last)
        index, column, row = rectangles(first.flatten(0, 1), last.flatten(0, 1))
        return _pairs(scene, index, column, row)

    return candidates


def _shapes(points: Points) -> tuple[Tensor, Tensor, Tensor]:
    """For the M = L A shapes, level by level: (M, 2) width and height, (M,) stride, (M, 2) columns and rows."""
    device, count = points.xy.device, points.per_cell
    start = points.starts
    corners = points.anchors[start[:, None] + torch.arange(count, device=device)].flatten(0, 1)
    size = torch.tensor([(w, h) for h, w in points.sizes], device=device).repeat_interleave(count, dim=0)
    stride = torch.tensor(points.strides, dtype=torch.float32, device=device).repeat_interleave(count)
    return corners[:, 2:] - corners[:, :2], stride, size


def _reach(middle: Tensor, extent: Tensor, shape: Tensor, stride: Tensor, size: Tensor, low: float) -> Tensor:
    """How far from the object's centre, in cells, anchors of each shape count; see `overlapping_anchors`."""
    overlap = torch.minimum(extent, shape)  # (G, M, 2), the most that each axis can overlap
    reach_sum, flat = (extent + shape) / 2, (extent - shape).abs() / 2
    area = extent.prod(-1) + shape.prod(-1)

    needed = low / (1 + low) * area[..., None] / overlap.flip(-1).clamp(min=1e-6)
    enough = torch.where((needed <= overlap).all(-1, keepdim=True), reach_sum - needed, -stride[:, None])

    nearest = middle.round().clamp(min=0).minimum(size - 1)
    distance = (nearest - middle).abs() * stride[:, None]
    intersection = torch.minimum(overlap, reach_sum - distance).clamp(min=0).prod(-1)
    iou = intersection / (area - intersection).clamp(min=1e-6)
    best = (iou >= iou.amax(-1, keepdim=True) * (1 - TIE)) & (iou > 0)
    claimed = torch.where(best[..., None], torch.maximum(distance, flat), -stride[:, None])
    return torch.maximum(enough, claimed) / stride[:, None]


def _pairs(scene: Scene, index: Tensor, column: Tensor, row: Tensor) -> Pairs:
    """From the index into (G, L, A) of each visited cell to pairs."""
    points = scene.points
    count, num_levels = points.per_cell, len(points.sizes)
    anchor, level = index % count, index.div(count, rounding_mode="floor") % num_levels
    object = index.div(count * num_levels, rounding_mode="floor")
    width = torch.tensor([w for _, w in points.sizes], device=index.device)
    start = points.starts
    location = start[level] + (row * width[level] + column) * count + anchor
    covered = torch.zeros(scene.num_objects, dtype=torch.bool, device=index.device)
    covered[object] = True
    return Pairs(location + scene.image[object] * len(points), object, covered=covered)
