"""COCO's segmentations and keypoints as people write them, and the boxes that masks have."""

import math
from typing import Any

from pycocotools import mask as mask_api

from defcn_ext.data.numbers import as_box, as_floats, as_index, as_size, holds_text

Mask = list | dict


def read_mask(value: Any) -> Mask | None:
    """Polygons of which at least one has three corners, or run lengths, with numbers in place of text; else None."""
    if isinstance(value, dict):
        return _read_runs(value)
    if not isinstance(value, list):
        return None
    polygons = [read_numbers(polygon) for polygon in value]
    if None in polygons or not any(len(p) >= 6 and len(p) % 2 == 0 for p in polygons):
        return None
    return polygons


def _read_runs(value: dict) -> dict | None:
    counts, size = value.get("counts"), value.get("size")
    if not isinstance(counts, (list, str)) or not isinstance(size, list) or len(size) != 2:
        return None
    sides = as_size(*size)
    if sides is None:
        return None
    if isinstance(counts, list):
        counts = [as_index(run) for run in counts]
        if None in counts or sum(counts) != sides[0] * sides[1]:
            return None
    return {**value, "size": list(sides), "counts": counts}


def read_numbers(values: Any) -> list | None:
    """A list of finite numbers, the same one if none is text; None if it is something else."""
    if not isinstance(values, list):
        return None
    if set(map(type, values)) <= {int, float}:  # files without flaws are large
        try:
            return values if all(map(math.isfinite, values)) else None
        except OverflowError:
            return None
    floats = as_floats(values, len(values))
    return floats if floats is not None and holds_text(values) else values if floats is not None else None


def read_keypoints(value: Any) -> list | None:
    """x, y and visibility of each point, or None if it is something else."""
    numbers = read_numbers(value)
    return None if numbers is None or len(numbers) % 3 else numbers


def box_of_mask(mask: Mask) -> list[float] | None:
    """x, y, width, height around a mask of `read_mask`; None if it is empty or its text cannot be run lengths."""
    if isinstance(mask, dict):
        if isinstance(mask["counts"], str) and not _is_compressed(mask["counts"]):
            return None
        runs = mask_api.frPyObjects(mask, *mask["size"]) if isinstance(mask["counts"], list) else mask
        box = as_box(mask_api.toBbox(runs))
    else:
        polygons = [p for p in mask if len(p) >= 6 and len(p) % 2 == 0]
        xs, ys = [x for p in polygons for x in p[0::2]], [y for p in polygons for y in p[1::2]]
        box = as_box([min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)])
    return box if box is not None and min(box[2:]) > 0 else None


def _is_compressed(counts: str) -> bool:
    """Whether it can be COCO's text of run lengths: characters of six bits, whose last one ends a number."""
    return bool(counts) and all("0" <= c <= "o" for c in counts) and not (ord(counts[-1]) - 48) & 0x20


def turned_box(box: list[float], degrees: float) -> list[float]:
    """x, y, width, height around a box that is turned about its middle."""
    x, y, w, h = box
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    width, height = w * cosine + h * sine, w * sine + h * cosine
    return [x + (w - width) / 2, y + (h - height) / 2, width, height]


def turned_rectangle(mask: Mask, box: list[float], degrees: float) -> Mask | None:
    """The mask turned about the middle of its box, if it is that very box as a polygon; None if it is another shape.

    Angles count clockwise as one sees the image, as CVAT's do.
    """
    if not isinstance(mask, list) or len(mask) != 1 or len(mask[0]) not in (8, 10):
        return None
    x, y, w, h = box
    points = list(zip(mask[0][0::2], mask[0][1::2]))
    if not all(min(abs(px - x), abs(px - x - w)) < 1 and min(abs(py - y), abs(py - y - h)) < 1 for px, py in points):
        return None
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    middle = x + w / 2, y + h / 2
    offsets = [(px - middle[0], py - middle[1]) for px, py in points]
    turned = [(middle[0] + dx * cosine - dy * sine, middle[1] + dx * sine + dy * cosine) for dx, dy in offsets]
    return [[value for point in turned for value in point]]
