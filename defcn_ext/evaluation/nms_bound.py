"""What NMS costs even a perfect detector, and how crowded a data set is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from defcn_ext.data.coco_json import load_coco
from defcn_ext.data.crowdhuman_files import read_annotations, with_sizes
from defcn_ext.evaluation.crowdhuman_report import image_sizes
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

CROWDED = 0.5  # IoU from which objects count as overlapping
Objects = tuple[np.ndarray, np.ndarray]  # (G, 4) corners and (G,) classes of one image


@dataclass(frozen=True)
class Bound:
    """Counts over a data set; crowds and ignored boxes are no objects."""

    num_images: int
    num_objects: int
    num_crowded: int  # objects that overlap another of their class with IoU > 0.5
    num_pairs: int  # such pairs
    kept: dict[float, int]  # objects that survive NMS, by its threshold


def overlapping_pairs(boxes: np.ndarray, classes: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of one class with IoU > `least`: (P, 2) indices, the first the smaller, ordered by it; and (P,) IoU."""
    low, high = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    common = (high - low).clip(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(-1)
    union = area[:, None] + area - common
    iou = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    pairs = np.argwhere(np.triu(iou > least, 1) & (classes[:, None] == classes))
    return pairs, iou[pairs[:, 0], pairs[:, 1]]


def num_suppressed(pairs: np.ndarray) -> int:
    """How many of the objects greedy NMS removes, the first in the file first; `pairs` as `overlapping_pairs`."""
    removed: set[int] = set()
    for better, worse in pairs.tolist():
        if better not in removed:
            removed.add(worse)
    return len(removed)


def nms_bound(images: Iterator[Objects], thresholds: Sequence[float]) -> Bound:
    """Counts over all images, which are looked at one by one."""
    num_images = num_objects = num_crowded = num_pairs = 0
    suppressed = dict.fromkeys(thresholds, 0)
    for boxes, classes in images:
        num_images, num_objects = num_images + 1, num_objects + len(boxes)
        pairs, iou = overlapping_pairs(boxes, classes, min(CROWDED, *thresholds))
        close = pairs[iou > CROWDED]
        num_crowded, num_pairs = num_crowded + len(np.unique(close)), num_pairs + len(close)
        for threshold in thresholds:
            suppressed[threshold] += num_suppressed(pairs[iou > threshold])
    kept = {threshold: num_objects - count for threshold, count in suppressed.items()}
    return Bound(num_images, num_objects, num_crowded, num_pairs, kept)


def load_objects(source: str, sizes: str | None = None) -> Iterator[Objects]:
    """The objects of all images of a source, as the command takes it.

    Raises:
        OSError, ValueError: it cannot be read, is none, or, at its end, has no object.
    """
    counts = []
    for boxes, classes in _load(source, sizes):
        counts.append(len(boxes))
        yield boxes, classes
    if not any(counts):
        raise ValueError(f"{source}: has no object in {len(counts)} images, apart from crowds and ignored ones")


def _load(source: str, sizes: str | None) -> Iterator[Objects]:
    if source.endswith(".odgt"):
        return _of_odgt(source, sizes)
    if sizes is not None:
        raise ValueError("--sizes: only an .odgt lacks sizes")
    if source.endswith(".json"):
        return _of_records(load_coco(source, os.path.dirname(source)))
    if source not in DatasetCatalog:
        known = ", ".join(sorted(DatasetCatalog.list()))
        raise ValueError(f"{source}: no .odgt or .json file and no registered data set; known: {known}")
    return _of_records(DatasetCatalog.get(source))


def _of_odgt(path: str, folder: str | None) -> Iterator[Objects]:
    lines = read_annotations(path)
    if folder is not None:
        lines = with_sizes(lines, image_sizes(folder, [x.id for x in lines if x.height is None or x.width is None]))
    for line in lines:
        boxes = np.array([x.fbox for x in line.boxes if not x.ignored]).reshape(-1, 4)
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        if line.height is not None and line.width is not None:
            boxes = boxes.clip(0, [line.width, line.height] * 2)
        yield boxes, np.zeros(len(boxes))


def _of_records(records: list[dict]) -> Iterator[Objects]:
    for record in records:
        objects = [x for x in record.get("annotations", []) if not x.get("iscrowd", 0)]
        boxes = [BoxMode.convert(list(x["bbox"]), x["bbox_mode"], BoxMode.XYXY_ABS) for x in objects]
        yield np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array([x["category_id"] for x in objects])


def report(bound: Bound) -> str:
    """Crowding statistics and a markdown table of the recall."""
    images, objects = max(bound.num_images, 1), max(bound.num_objects, 1)
    rows = [
        f"{bound.num_images} images, {bound.num_objects} objects, {bound.num_objects / images:.2f} an image",
        f"{100 * bound.num_crowded / objects:.1f} % of the objects overlap another of their class with "
        f"IoU > {CROWDED}; {bound.num_pairs / images:.2f} such pairs an image",
        "",
        "| NMS at IoU | objects kept | recall |",
        "|---|---|---|",
    ]
    return "\n".join([*rows, *(f"| {t:g} | {n} | {100 * n / objects:.1f} |" for t, n in bound.kept.items())])
