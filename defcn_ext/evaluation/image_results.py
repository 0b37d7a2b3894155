"""Detections and objects of an image as COCO sees them: overlaps, who takes which object, and which objects count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pycocotools import mask as coco_mask

NEAR = 0.1  # IoU from which a detection is taken to be meant for an object
CROWDED = 0.3  # IoU above which objects crowd each other
EPSILON = 1e-10  # COCO takes an IoU of 1 for above a threshold of 1


@dataclass(frozen=True)
class ImageResult:
    """Detections and objects of one image, boxes as (x, y, width, height).

    Attributes:
        boxes, scores, classes: (D, 4), (D,), (D,).
        objects, object_classes: (G, 4), (G,).
        crowd: (G,) bool: regions on which detections do not count.
        areas: (G,) what COCO's sizes go by.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    objects: np.ndarray
    object_classes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray

    @cached_property
    def overlap(self) -> np.ndarray:
        """(D, G) IoU; with a crowd, the share of the detection that lies in it."""
        return _iou(self.boxes, self.objects, self.crowd)

    @cached_property
    def same(self) -> np.ndarray:
        """(D, G) whether the classes are the same."""
        return self.classes[:, None] == self.object_classes

    @cached_property
    def crowded(self) -> np.ndarray:
        """(G,) whether an object overlaps another, of any class, with IoU above `CROWDED`."""
        iou = _iou(self.objects, self.objects, np.zeros(len(self.objects)))
        iou[:, self.crowd] = 0
        np.fill_diagonal(iou, 0)
        return iou.max(1, initial=0) > CROWDED

    def better_than(self, score: float) -> ImageResult:
        """The same image with the detections that score more."""
        kept = self.scores > score
        truth = (self.objects, self.object_classes, self.crowd, self.areas)
        return ImageResult(self.boxes[kept], self.scores[kept], self.classes[kept], *truth)


def _iou(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)))
    form = [np.ascontiguousarray(x, dtype=np.float64) for x in (boxes, others)]
    return np.asarray(coco_mask.iou(*form, crowd.astype(np.uint8).tolist()))


# (G,) objects that count, crowds aside; and (D,) detections that count where they match none.
Subset = Callable[[ImageResult], tuple[np.ndarray, np.ndarray]]


def everything(image: ImageResult) -> tuple[np.ndarray, np.ndarray]:
    return np.ones(len(image.objects), dtype=bool), np.ones(len(image.boxes), dtype=bool)


def of_size(low: float, high: float) -> Subset:
    """Areas from `low` to `high` square pixels, as COCO's APs, APm and APl have them."""

    def choose(image: ImageResult) -> tuple[np.ndarray, np.ndarray]:
        areas = image.boxes[:, 2] * image.boxes[:, 3]
        return (image.areas >= low) & (image.areas <= high), (areas >= low) & (areas <= high)

    return choose


def of_crowding(crowded: bool) -> Subset:
    """Objects that overlap another, or the others; detections by the object nearest to them, and all near none."""

    def choose(image: ImageResult) -> tuple[np.ndarray, np.ndarray]:
        counts = image.crowded == crowded
        if not len(counts):
            return everything(image)
        iou = np.where(image.crowd, -1, image.overlap)
        return counts, counts[iou.argmax(1)] | (iou.max(1) < NEAR)

    return choose


SUBSETS: dict[str, Subset] = {
    "all": everything,
    "small": of_size(0, 32**2),
    "medium": of_size(32**2, 96**2),
    "large": of_size(96**2, 1e10),
    "crowded": of_crowding(True),
    "apart": of_crowding(False),
}


def match(image: ImageResult, counts: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(T, D) the object that each detection takes, or -1: COCO's matching, best score first, all classes at once.

    Args:
        counts: (G,) objects that count; others are taken where none that counts is free, crowds by any number.
    """
    least = np.minimum(thresholds, 1 - EPSILON)[:, None]
    overlap = np.where(image.same, image.overlap, -1.0)
    taken = np.zeros((len(thresholds), len(counts)), dtype=bool)
    matched = np.full((len(thresholds), len(overlap)), -1)
    near = overlap.max(1, initial=-1.0) >= least.min()
    for d in (d for d in np.argsort(-image.scores, kind="stable") if near[d]):
        free = (overlap[d] >= least) & (~taken | image.crowd)
        allowed = free & (counts == (free & counts).any(1, keepdims=True))
        best = len(counts) - 1 - np.where(allowed, overlap[d], -1.0)[:, ::-1].argmax(1)  # of equal ones the last
        hit = allowed.any(1).nonzero()[0]
        matched[hit, d] = best[hit]
        taken[hit, best[hit]] = True
    return matched
