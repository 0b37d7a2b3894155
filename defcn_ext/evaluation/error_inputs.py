"""What `find_errors` takes, of the files that evaluations write and of the annotations."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from defcn_ext.config import UserError
from defcn_ext.data.crowdhuman_files import ResultLine, read_results
from detectron2.data import MetadataCatalog

from .crowdhuman import crowdhuman_truth
from .crowdhuman_metrics import GroundTruth
from .image_results import ImageResult

Ids = Mapping[Any, Any]


def coco_images(
    content: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    original: Mapping[str, Ids] | None = None,
    max_detections: int = 100,
) -> list[ImageResult]:
    """
    Args:
        content: of a COCO json.
        results: of COCO's form: image_id, category_id, bbox, score.
        original: for "image_id" and "category_id" the id in `results` of one in `content`, where they differ.
        max_detections: of an image and class, that count.

    Raises:
        ValueError: results are of other images, or of another form.
    """
    theirs = original or {}
    image_ids, category_ids = theirs.get("image_id", {}), theirs.get("category_id", {})
    images = {image_ids.get(x["id"], x["id"]): ([], []) for x in content["images"]}
    classes = {category_ids.get(x["id"], x["id"]): i for i, x in enumerate(content["categories"])}
    own = {x["id"]: i for i, x in enumerate(content["categories"])}
    for x in content["annotations"]:
        row = (*x["bbox"], own[x["category_id"]], bool(x.get("iscrowd", 0)), x.get("area", math.prod(x["bbox"][2:])))
        images[image_ids.get(x["image_id"], x["image_id"])][0].append(row)
    for x in results:
        try:
            number, label, row = x["image_id"], x["category_id"], (*map(float, x["bbox"]), float(x["score"]))
        except (KeyError, TypeError, ValueError):
            raise ValueError("a result needs image_id, category_id, bbox and score") from None
        if number not in images:
            raise ValueError(f"image_id {number!r} is not in the annotations")
        if label in classes:
            images[number][1].append((*row, classes[label]))
    return [_of_rows(*rows, max_detections) for rows in images.values()]


def _of_rows(objects: list[tuple], found: list[tuple], max_detections: int) -> ImageResult:
    truth = np.array(objects, dtype=np.float64).reshape(-1, 7)
    rows = np.array(found, dtype=np.float64).reshape(-1, 6)
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    labels = rows[:, 5].astype(np.int64)
    rank = np.zeros(len(rows), dtype=np.int64)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    kept = rank < max_detections
    boxes, scores = rows[kept, :4], rows[kept, 4]
    return ImageResult(
        boxes, scores, labels[kept], truth[:, :4], truth[:, 4].astype(np.int64), truth[:, 5] > 0, truth[:, 6]
    )


def crowdhuman_images(truth: Mapping[str, GroundTruth], results: Sequence[ResultLine]) -> list[ImageResult]:
    """Persons are one class; what is ignored counts as a crowd."""
    found = {line.id: line for line in results}
    images = []
    for name, x in truth.items():
        boxes, scores = (found[name].boxes, found[name].scores) if name in found else (np.zeros((0, 4)), np.zeros(0))
        areas, labels = x.boxes[:, 2] * x.boxes[:, 3], np.zeros(len(x.boxes), dtype=np.int64)
        images.append(
            ImageResult(boxes, scores, np.zeros(len(boxes), dtype=np.int64), x.boxes, labels, x.ignored, areas)
        )
    return images


def read_images(dataset: str, path: Path, max_detections: int = 100) -> list[ImageResult]:
    """The images of a registered data set with the detections of a file that its evaluation wrote.

    Raises:
        UserError: the file is of other images or of another form, or the data set has no COCO file.
    """
    metadata = MetadataCatalog.get(dataset)
    if metadata.get("evaluator_type") == "crowdhuman":
        return crowdhuman_images(crowdhuman_truth(dataset), read_results(str(path)))
    if not metadata.get("json_file"):
        raise UserError(f"{dataset}: has no COCO file; give --annotations and the file of results")
    content = _read_json(metadata.json_file)
    options = {"original": metadata.get("original_ids") or {}, "max_detections": max_detections}
    return _of_coco(content, path, **options)


def read_results_json(annotations: Mapping[str, Any], path: Path, max_detections: int = 100) -> list[ImageResult]:
    """The images of a COCO json's content with the detections of a file of COCO's results.

    Raises:
        UserError: it cannot be read, or is of other images or of another form.
    """
    return _of_coco(annotations, path, max_detections=max_detections)


def _of_coco(content: Mapping[str, Any], path: Path, **options: Any) -> list[ImageResult]:
    results = _read_json(path)
    if not isinstance(results, list) or not all(isinstance(x, dict) for x in results):
        raise UserError(f"{path}: expected a list of COCO results")
    try:
        return coco_images(content, results, **options)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _read_json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid json ({error})") from None
