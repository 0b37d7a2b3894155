"""The records of registered data sets: loading, filtering, checking, counting."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.utils.data as torchdata
from tabulate import tabulate
from termcolor import colored

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.structures import BoxMode
from detectron2.utils.array_pickle import load_arrays
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n

# Detectron2's name for these messages, which log filters know.
logger = logging.getLogger("detectron2.data.build")

HISTOGRAM_COLUMNS = 6


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """The records with an annotation that is not a crowd."""
    kept = [record for record in dataset_dicts if any(anno.get("iscrowd", 0) == 0 for anno in record["annotations"])]
    removed = len(dataset_dicts) - len(kept)
    logger.info("Removed %d images with no usable annotations. %d images left.", removed, len(kept))
    return kept


def filter_images_with_few_keypoints(dataset_dicts: list[dict], min_keypoints_per_image: int) -> list[dict]:
    """The records with at least this many visible keypoints."""

    def visible(record: dict) -> int:
        return sum(
            int((np.asarray(anno["keypoints"][2::3]) > 0).sum())
            for anno in record["annotations"]
            if "keypoints" in anno
        )

    kept = [record for record in dataset_dicts if visible(record) >= min_keypoints_per_image]
    removed = len(dataset_dicts) - len(kept)
    logger.info("Removed %d images with fewer than %d keypoints.", removed, min_keypoints_per_image)
    return kept


def load_proposals_into_dataset(dataset_dicts: list[dict], proposal_file: str) -> list[dict]:
    """Adds precomputed proposals to the records, best first, in place.

    The file is a pickled dict of lists over images: `ids`, `boxes` (n, 4), `objectness_logits` (n,), and optionally
    one `bbox_mode`, XYXY_ABS by default. The older names `indexes` and `scores` work too.
    """
    logger.info("Loading proposals from %s", proposal_file)
    with PathManager.open(proposal_file, "rb") as f:
        proposals = load_arrays(f)
    for old, new in (("indexes", "ids"), ("scores", "objectness_logits")):
        if old in proposals:
            proposals[new] = proposals.pop(old)
    position = {str(image_id): i for i, image_id in enumerate(proposals["ids"])}
    for record in dataset_dicts:
        i = position[str(record["image_id"])]
        order = proposals["objectness_logits"][i].argsort()[::-1]
        record["proposal_boxes"] = proposals["boxes"][i][order]
        record["proposal_objectness_logits"] = proposals["objectness_logits"][i][order]
        record["proposal_bbox_mode"] = BoxMode(proposals.get("bbox_mode", BoxMode.XYXY_ABS))
    return dataset_dicts


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: Sequence[str]) -> None:
    """Logs how many objects each class has, crowds not counted.

    Raises:
        AssertionError: a category outside the list of classes.
    """
    classes = np.array(
        [
            anno["category_id"]
            for record in dataset_dicts
            for anno in record["annotations"]
            if not anno.get("iscrowd", 0)
        ],
        dtype=int,
    )
    if len(classes):
        assert classes.min() >= 0, f"category_id {classes.min()} is negative"
        assert classes.max() < len(class_names), f"category_id {classes.max()}, but {len(class_names)} classes"
    counts = np.bincount(classes, minlength=len(class_names)).tolist()
    short = [name if len(name) <= 13 else f"{name[:11]}.." for name in class_names]
    cells: list[Any] = list(itertools.chain.from_iterable(zip(short, counts)))
    columns = min(HISTOGRAM_COLUMNS, len(cells))
    cells += [None] * (columns - len(cells) % columns)
    if len(class_names) > 1:
        cells += ["total", sum(counts)]
    table = tabulate(
        itertools.zip_longest(*(cells[i::columns] for i in range(columns))),
        headers=["category", "#instances"] * (columns // 2),
        tablefmt="pipe",
        numalign="left",
        stralign="center",
    )
    text = f"Distribution of instances among all {len(class_names)} categories:\n" + colored(table, "cyan")
    log_first_n(logging.INFO, text, name=logger.name, key="message")


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> list[dict] | torchdata.Dataset:
    """Loads data sets and puts them behind one another.

    Args:
        names: registered data sets.
        filter_empty: whether images without annotations, or with crowds only, are dropped. Data without the
            `annotations` key is never filtered; the first record decides.
        min_keypoints: images with fewer visible keypoints are dropped.
        proposal_files: one file for each name.
        check_consistency: whether the data sets must agree in their classes.

    Returns:
        The records; if the data sets are torch datasets, their concatenation, as it is.

    Raises:
        AssertionError: no names, an empty data set, nothing left, a category outside the classes.
        ValueError: different classes.
    """
    names = [names] if isinstance(names, str) else list(names)
    assert names, "get_detection_dataset_dicts needs at least one data set, got none"
    parts = [DatasetCatalog.get(name) for name in names]
    if isinstance(parts[0], torchdata.Dataset):
        return torchdata.ConcatDataset(parts) if len(parts) > 1 else parts[0]
    for name, part in zip(names, parts):
        assert len(part), f"Dataset '{name}' is empty"
    if proposal_files is not None:
        assert len(proposal_files) == len(names), f"{len(names)} data sets, but {len(proposal_files)} proposal files"
        parts = [load_proposals_into_dataset(part, file) for part, file in zip(parts, proposal_files)]

    records = list(itertools.chain.from_iterable(parts))
    has_annotations = "annotations" in records[0]
    if filter_empty and has_annotations:
        records = filter_images_with_only_crowd_annotations(records)
    if min_keypoints > 0 and has_annotations:
        records = filter_images_with_few_keypoints(records, min_keypoints)
    if check_consistency and has_annotations:
        _check_classes(names, records)
    assert records, f"No valid data left in {', '.join(names)}"
    return records


def _check_classes(names: list[str], records: list[dict]) -> None:
    class_names = MetadataCatalog.get(names[0]).get("thing_classes")
    # Data sets without class names, such as those for semantic segmentation, have nothing to compare.
    if class_names is not None and all(hasattr(MetadataCatalog.get(name), "thing_classes") for name in names):
        check_metadata_consistency("thing_classes", names)
        print_instances_class_histogram(records, class_names)
