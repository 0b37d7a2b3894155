"""IoU of boxes in numpy, given as planes of their coordinates: each call costs a third of one of torch's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from defcn_ext.losses.boxes import EPS

Floats = NDArray[np.float32]

NO_BOX = np.array([[np.inf], [np.inf], [-np.inf], [-np.inf]], dtype=np.float32)


def finite_planes(boxes: Floats, num_points: int) -> tuple[Floats, bool]:
    """(N R, 4) -> (N, 4, R), and whether all are finite; boxes that are not overlap nothing."""
    planes = np.ascontiguousarray(boxes.reshape(-1, num_points, 4).transpose(0, 2, 1))
    finite = np.isfinite(planes)
    if finite.all():
        return planes, True
    image, location = np.nonzero(~finite.all(1))
    planes[image, :2, location], planes[image, 2:, location] = np.inf, -np.inf
    return planes, False


def plane_iou(a: Floats, b: Floats) -> Floats:
    """IoU of boxes given as four planes each, that broadcast."""
    overlap: Floats = np.minimum(a[2], b[2])
    overlap -= np.maximum(a[0], b[0])
    np.maximum(overlap, 0, out=overlap)
    height = np.minimum(a[3], b[3])
    height -= np.maximum(a[1], b[1])
    np.maximum(height, 0, out=height)
    overlap *= height
    union = np.maximum(a[2] - a[0], 0) * np.maximum(a[3] - a[1], 0)
    union += np.maximum(b[2] - b[0], 0) * np.maximum(b[3] - b[1], 0)
    union -= overlap
    np.maximum(union, EPS, out=union)
    overlap /= union
    return overlap


def plane_iou_of_few(a: Floats, b: Floats) -> Floats:
    """`plane_iou` by the same operations on both axes at once: fewer calls, but slower where there are many boxes."""
    sides = np.minimum(a[2:], b[2:])
    sides -= np.maximum(a[:2], b[:2])
    np.maximum(sides, 0, out=sides)
    overlap: Floats = sides[0]
    overlap *= sides[1]
    union = _area(a) + _area(b)
    union -= overlap
    np.maximum(union, EPS, out=union)
    overlap /= union
    return overlap


def _area(boxes: Floats) -> Floats:
    sides = boxes[2:] - boxes[:2]
    np.maximum(sides, 0, out=sides)
    area: Floats = sides[0]
    area *= sides[1]
    return area
