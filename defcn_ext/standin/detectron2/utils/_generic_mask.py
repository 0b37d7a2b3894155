"""Masks of objects as the visualizer needs them: bitmaps and outlines, each from the other."""

from functools import cached_property
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from contourpy import FillType, contour_generator


class GenericMask:
    """The mask of one object, from what is at hand and as what is needed.

    Args:
        mask_or_polygons: a bitmap (H, W), an RLE dict, or a list of polygons [x0, y0, x1, y1, ...], in pixels.
        height, width: of the image.
    """

    def __init__(self, mask_or_polygons: np.ndarray | list | dict, height: int, width: int) -> None:
        self.height = height
        self.width = width
        given = mask_or_polygons
        if isinstance(given, dict):
            assert "counts" in given and "size" in given, f"an RLE needs counts and size, got {sorted(given)}"
            rle = mask_util.frPyObjects(given, *given["size"]) if isinstance(given["counts"], list) else given
            given = mask_util.decode(rle)
        if isinstance(given, np.ndarray):
            assert given.shape == (height, width), f"mask of shape {given.shape} on an image of {(height, width)}"
            self.mask = given.astype(np.uint8)
        else:
            self.polygons = [np.asarray(polygon, dtype=np.float64).reshape(-1) for polygon in given]
            self.has_holes = False

    @cached_property
    def mask(self) -> np.ndarray:
        """(H, W) uint8, 0 or 1."""
        return self.polygons_to_mask(self.polygons)

    @cached_property
    def polygons(self) -> list[np.ndarray]:
        """Outlines [x0, y0, x1, y1, ...]; holes are lost."""
        return self._outlines[0]

    @cached_property
    def has_holes(self) -> bool:
        return self._outlines[1]

    @cached_property
    def _outlines(self) -> tuple[list[np.ndarray], bool]:
        return self.mask_to_polygons(self.mask)

    def mask_to_polygons(self, mask: np.ndarray) -> tuple[list[np.ndarray], bool]:
        """The outlines of the connected parts of a bitmap, and whether any of them has a hole."""
        # A frame of background closes the outlines of parts that touch the border.
        padded = np.pad(mask != 0, 1).astype(np.float64)
        centers = [np.arange(n) - 0.5 for n in padded.shape]
        contours = contour_generator(*centers[::-1], padded, fill_type=FillType.OuterOffset)
        parts, offsets = contours.filled(0.5, 2.0)
        # The first and the last point of a closed line are the same.
        outlines = [points[: offset[1] - 1].reshape(-1) for points, offset in zip(parts, offsets)]
        return outlines, any(len(offset) > 2 for offset in offsets)

    def polygons_to_mask(self, polygons: list[np.ndarray]) -> np.ndarray:
        """(H, W) uint8: the union of polygons, by the rule of the COCO tools."""
        if len(polygons) == 0:
            return np.zeros((self.height, self.width), dtype=np.uint8)
        rles = mask_util.frPyObjects([list(polygon) for polygon in polygons], self.height, self.width)
        return mask_util.decode(mask_util.merge(rles))

    def area(self) -> int:
        """Pixels."""
        return int(self.mask.sum())

    def bbox(self) -> np.ndarray:
        """(4,) x1, y1, x2, y2 around the polygons; 0 if there are none."""
        if len(self.polygons) == 0:
            return np.zeros(4)
        points = np.concatenate(self.polygons).reshape(-1, 2)
        return np.concatenate([points.min(axis=0), points.max(axis=0)])


def to_generic_masks(masks: Any, height: int, width: int) -> list[GenericMask]:
    """One `GenericMask` an object, from BitMasks, PolygonMasks, an array (N, H, W), or a list of anything it takes."""
    masks = getattr(masks, "polygons", getattr(masks, "tensor", masks))
    if hasattr(masks, "cpu"):
        masks = masks.cpu().numpy()
    return [mask if isinstance(mask, GenericMask) else GenericMask(mask, height, width) for mask in masks]
