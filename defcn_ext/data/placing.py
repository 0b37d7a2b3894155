"""A training sample, or a part of it, put somewhere else: scaled, moved and cut off at the border of a window."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detectron2.data.detection_utils import filter_empty_instances
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks

MIN_VISIBLE = 0.1  # share of an object's box; of less nobody could tell what it is


@dataclass(frozen=True)
class Placing:
    """Where a picture comes to lie.

    Attributes:
        size: (height, width) that it is resized to, pixels.
        corner: (x, y) of its upper left corner on the canvas, whole pixels, perhaps negative.
        window: (x1, y1, x2, y2) of the canvas, outside of which nothing of it is seen.
        canvas: (height, width).
    """

    size: tuple[int, int]
    corner: tuple[int, int]
    window: tuple[int, int, int, int]
    canvas: tuple[int, int]

    def image(self, image: Tensor) -> Tensor:
        """The part of an image (C, H, W) that is seen in the window, (C, h, w), of the same type."""
        moved = resize(image, self.size)
        (x, y), (x1, y1, x2, y2) = self.corner, self.window
        return moved[:, y1 - y : y2 - y, x1 - x : x2 - x]

    def instances(self, instances: Instances) -> Instances:
        """Objects of the picture that are seen, in pixels of the canvas; boxes, masks and keypoints are cut off.

        Those of which less than `MIN_VISIBLE` is seen are left out.
        """
        height, width = instances.image_size
        scale = torch.tensor([self.size[1] / width, self.size[0] / height])
        corner = torch.tensor(self.corner, dtype=torch.float32)
        boxes = instances.gt_boxes.tensor * scale.repeat(2) + corner.repeat(2)
        window = torch.tensor(self.window, dtype=torch.float32)
        cut = torch.cat([boxes[:, :2].maximum(window[:2]), boxes[:, 2:].minimum(window[2:])], 1)
        cut[:, 2:] = cut[:, 2:].maximum(cut[:, :2])
        seen = _area(cut) >= MIN_VISIBLE * _area(boxes)
        fields = {**instances.get_fields(), "gt_boxes": Boxes(cut)}
        if instances.has("gt_masks"):
            fields["gt_masks"] = self._masks(instances.gt_masks, scale.tolist())
        if instances.has("gt_keypoints"):
            fields["gt_keypoints"] = self._keypoints(instances.gt_keypoints.tensor, scale, corner, window)
        return filter_empty_instances(Instances(self.canvas, **fields)[seen])

    def _masks(self, masks: BitMasks | PolygonMasks, scale: list[float]) -> BitMasks | PolygonMasks:
        if isinstance(masks, BitMasks):
            x1, y1, x2, y2 = self.window
            moved = torch.zeros((len(masks), *self.canvas), dtype=torch.bool)
            moved[:, y1:y2, x1:x2] = self.image(masks.tensor)
            return BitMasks(moved)
        window, corner = np.array(self.window, dtype=float), np.array(self.corner, dtype=float)
        polygons = [[p.reshape(-1, 2) * scale + corner for p in of_object] for of_object in masks.polygons]
        return PolygonMasks([[c.ravel() for p in x if len(c := clip_polygon(p, window)) >= 3] for x in polygons])

    @staticmethod
    def _keypoints(points: Tensor, scale: Tensor, corner: Tensor, window: Tensor) -> Keypoints:
        """What is not seen has no label any more: 0, 0, 0, as Detectron2 has it."""
        xy = points[..., :2] * scale + corner
        seen = ((xy >= window[:2]) & (xy <= window[2:])).all(-1) & (points[..., 2] > 0)
        return Keypoints(torch.cat([xy, points[..., 2:]], -1) * seen[..., None])


def covering(picture: tuple[int, int], window: tuple[int, int, int, int], canvas: tuple[int, int]) -> Placing:
    """A picture (height, width) in the middle of a window that it fills, cut off where its shape is another."""
    x1, y1, x2, y2 = window
    height, width = y2 - y1, x2 - x1
    scale = max(height / picture[0], width / picture[1])
    size = max(height, round(scale * picture[0])), max(width, round(scale * picture[1]))
    return Placing(size, (x1 - (size[1] - width) // 2, y1 - (size[0] - height) // 2), window, canvas)


def fitting(picture: tuple[int, int], canvas: tuple[int, int], where: tuple[float, float]) -> Placing:
    """A picture (height, width) whole on a canvas, shrunk if need be.

    Args:
        where: shares of the free space that are left of it and above it.
    """
    scale = min(1.0, canvas[0] / picture[0], canvas[1] / picture[1])
    height, width = (max(1, math.floor(scale * side)) for side in picture)
    x, y = round(where[0] * (canvas[1] - width)), round(where[1] * (canvas[0] - height))
    return Placing((height, width), (x, y), (x, y, x + width, y + height), canvas)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W) -> (C, *size): smoothed where it shrinks; bool masks by their nearest pixel."""
    if tuple(image.shape[1:]) == tuple(size):
        return image
    if not len(image):  # masks of no object
        return image.new_zeros((0, *size))
    planes = image[:, None].float()
    if image.dtype == torch.bool:
        return F.interpolate(planes, size, mode="nearest-exact")[:, 0] > 0.5
    smooth = F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=True)[:, 0]
    return smooth.round().clamp(0, 255).to(image.dtype)


def clip_polygon(corners: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The part of a polygon (N, 2) inside of a window (x1, y1, x2, y2), (M, 2): Sutherland and Hodgman 1974.

    Where a border cuts it in two, these stay joined along the border, which no pixel shows.
    """
    for axis, limit, sign in ((0, window[0], 1), (1, window[1], 1), (0, window[2], -1), (1, window[3], -1)):
        if not len(corners):
            break
        following = np.roll(corners, -1, axis=0)
        depth, depth_after = sign * (corners[:, axis] - limit), sign * (following[:, axis] - limit)
        kept = []
        for here, there, d, e in zip(corners, following, depth, depth_after):
            if d >= 0:
                kept.append(here)
            if (d >= 0) != (e >= 0):
                kept.append(here + (there - here) * (d / (d - e)))
        corners = np.array(kept).reshape(-1, 2)
    return corners


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)
