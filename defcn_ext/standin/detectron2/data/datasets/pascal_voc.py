"""PASCAL VOC's layout: `ImageSets/Main/SPLIT.txt`, `Annotations/ID.xml`, `JPEGImages/ID.jpg`."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

__all__ = ["load_voc_instances", "register_pascal_voc"]

CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def load_voc_instances(dirname: str, split: str, class_names: Sequence[str]) -> list[dict]:
    """The records of one split, in the order of its list.

    Args:
        dirname: holds the three folders.
        split: "train", "val", "trainval" or "test".
        class_names: in the order of their ids.

    Returns:
        Records with string image ids and boxes in XYXY_ABS; difficult objects are there too.
    """
    with PathManager.open(os.path.join(dirname, "ImageSets", "Main", f"{split}.txt")) as f:
        image_ids = f.read().split()
    annotation_root = PathManager.get_local_path(os.path.join(dirname, "Annotations"))
    return [_load_record(dirname, annotation_root, image_id, class_names) for image_id in image_ids]


def _load_record(dirname: str, annotation_root: str, image_id: str, class_names: Sequence[str]) -> dict:
    with PathManager.open(os.path.join(annotation_root, f"{image_id}.xml")) as f:
        tree = ElementTree.parse(f)
    return {
        "file_name": os.path.join(dirname, "JPEGImages", f"{image_id}.jpg"),
        "image_id": image_id,
        "height": int(tree.findtext("./size/height")),
        "width": int(tree.findtext("./size/width")),
        "annotations": [_load_object(element, class_names) for element in tree.findall("object")],
    }


def _load_object(element: ElementTree.Element, class_names: Sequence[str]) -> dict:
    x1, y1, x2, y2 = (float(element.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    return {
        "category_id": class_names.index(element.findtext("name")),
        # VOC counts pixels from 1 and includes the last one: 1..w becomes 0..w.
        "bbox": [x1 - 1.0, y1 - 1.0, x2, y2],
        "bbox_mode": BoxMode.XYXY_ABS,
    }


def register_pascal_voc(
    name: str, dirname: str, split: str, year: int, class_names: Sequence[str] = CLASS_NAMES
) -> None:
    """Registers one split of one year; the files are read when the data set is first asked for."""
    DatasetCatalog.register(name, lambda: load_voc_instances(dirname, split, class_names))
    MetadataCatalog.get(name).set(thing_classes=list(class_names), dirname=dirname, year=year, split=split)
