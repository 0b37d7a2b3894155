"""Images with their objects, ready to be drawn on, and which of a data set to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from defcn_ext.data import UnreadableImageError
from defcn_ext.data.headers import UNREADABLE
from defcn_ext.data.pixels import read_image
from defcn_ext.evaluation.outcomes import objects_of
from detectron2.structures import Instances, pairwise_iou
from detectron2.structures.boxes import pairwise_intersection

CROWDED_IOU = 0.2


@dataclass(frozen=True)
class Scene:
    """An image and its objects.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        objects: `gt_boxes` and `gt_classes`, pixels of this image.
        name: what to call the image.
    """

    image: np.ndarray
    objects: Instances
    name: str = ""


def load_scene(record: dict[str, Any]) -> Scene:
    """The image of a dataset dict, and its objects without the crowd regions.

    Raises:
        UnreadableImageError: the image cannot be read.
    """
    try:
        image = read_image(record["file_name"], "RGB")
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}"
        raise UnreadableImageError(f"{record['file_name']}: cannot be read ({reason})") from error
    objects = objects_of(record.get("annotations", []), image.shape[:2])
    return Scene(image, objects, Path(record["file_name"]).stem)


def spread(records: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Records with objects, evenly spread over the data set."""
    filled = [r for r in records if r.get("annotations")] or list(records)
    count = min(count, len(filled))
    return [filled[(2 * i + 1) * len(filled) // (2 * count)] for i in range(count)]


def most_crowded(
    records: Sequence[dict[str, Any]], count: int, *, max_objects: int | None = None
) -> list[dict[str, Any]]:
    """Records with the most visible overlap of objects of one class, the most crowded first, unreadable ones left out.

    Args:
        max_objects: images with more objects, which are hard to read, come after all others.

    Raises:
        UnreadableImageError: no image can be read.
    """
    ranks, broken = [], None
    for index, record in enumerate(records):
        try:
            crowd = crowding(load_scene(record))
        except UnreadableImageError as error:
            broken = error
            continue
        few = max_objects is None or len(record.get("annotations", [])) <= max_objects
        ranks.append((few, crowd, -index))
    if broken and not ranks:
        raise broken
    return [records[-index] for _, _, index in sorted(ranks, reverse=True)[:count]]


def crowding(scene: Scene) -> float:
    """Sides of the intersections of all pairs of one class that overlap, relative to the image, added up."""
    boxes, classes = scene.objects.gt_boxes, scene.objects.gt_classes
    pairs = (pairwise_iou(boxes, boxes) > CROWDED_IOU) & (classes[:, None] == classes[None])
    area = scene.image.shape[0] * scene.image.shape[1]
    return float((pairwise_intersection(boxes, boxes)[pairs.triu(1)] / area).sqrt().sum())
