"""What became of each detection: it found an object, repeats another detection, or is on no object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou

SCORE = 0.3  # what pictures and counts of duplicates take for a detection


class Outcome(IntEnum):
    FOUND = 0  # the best-scored detection on its object
    DUPLICATE = 1  # on objects that better-scored detections have found already
    WRONG = 2  # on no object of its class


@dataclass(frozen=True)
class Tally:
    """Counts over the detections of one or more images."""

    objects: int = 0
    found: int = 0
    duplicates: int = 0
    wrong: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.objects + other.objects,
            self.found + other.found,
            self.duplicates + other.duplicates,
            self.wrong + other.wrong,
        )

    @property
    def detections(self) -> int:
        return self.found + self.duplicates + self.wrong

    @property
    def duplicates_per_object(self) -> float:
        """Duplicates over the objects that were found; 0 where none was."""
        return self.duplicates / self.found if self.found else 0.0


def objects_of(annotations: Sequence[dict[str, Any]], size: tuple[int, int]) -> Instances:
    """The objects among an image's annotations, without crowd regions, as `gt_boxes` and `gt_classes`.

    Args:
        annotations: Detectron2's, with boxes in pixels.
        size: height and width of the image.
    """
    kept = [a for a in annotations if not a.get("iscrowd", 0)]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in kept]
    objects = Instances(size)
    objects.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    objects.gt_classes = torch.tensor([a["category_id"] for a in kept], dtype=torch.long)
    return objects


def judge(detections: Instances, objects: Instances, iou_thresh: float = 0.5) -> Tensor:
    """Goes through the detections of one image by decreasing score, as COCO's evaluation does.

    A detection is on an object of its class if their IoU is above `iou_thresh`. It finds the one of highest IoU among
    those not found yet, so that a detector is not blamed for true objects that overlap.

    Args:
        detections: with `pred_boxes`, `scores`, `pred_classes`.
        objects: with `gt_boxes`, `gt_classes`.

    Returns:
        an `Outcome` for each detection, in their order.
    """
    outcomes = torch.full((len(detections),), int(Outcome.WRONG))
    iou = pairwise_iou(Boxes(detections.pred_boxes.tensor.cpu()), Boxes(objects.gt_boxes.tensor.cpu()))
    same_class = detections.pred_classes.cpu()[:, None] == objects.gt_classes.cpu()[None]
    on = (iou > iou_thresh) & same_class
    free = torch.ones(len(objects), dtype=torch.bool)
    for index in detections.scores.cpu().argsort(descending=True, stable=True).tolist():
        if not on[index].any():
            continue
        candidates = on[index] & free
        if candidates.any():
            free[(iou[index] * candidates).argmax()] = False
            outcomes[index] = int(Outcome.FOUND)
        else:
            outcomes[index] = int(Outcome.DUPLICATE)
    return outcomes


def tally(outcomes: Tensor, num_objects: int) -> Tally:
    counts = torch.bincount(outcomes, minlength=len(Outcome)).tolist()
    return Tally(num_objects, *counts)
