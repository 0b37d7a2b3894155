"""Registers COCO and PASCAL VOC under their usual names.

Paths are below $DETECTRON2_DATASETS, read once at import, or below `datasets` in the working directory.
"""

from __future__ import annotations

import os

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.data.datasets.coco import register_coco_instances
from detectron2.data.datasets.pascal_voc import register_pascal_voc

__all__ = ["DatasetCatalog", "MetadataCatalog", "register_all_coco", "register_all_pascal_voc"]

# Name after the prefix -> folder of images, and what the annotation file's name ends in.
_COCO_2014 = {
    "2014_train": ("train2014", "train2014"),
    "2014_val": ("val2014", "val2014"),
    "2014_minival": ("val2014", "minival2014"),
    "2014_valminusminival": ("val2014", "valminusminival2014"),
}
_COCO_2017 = {
    "2017_train": ("train2017", "train2017"),
    "2017_val": ("val2017", "val2017"),
    "2017_val_100": ("val2017", "val2017_100"),
}
_COCO_UNLABELLED = {
    "2017_test": ("test2017", "test2017"),
    "2017_test-dev": ("test2017", "test-dev2017"),
}


def register_all_coco(root: str) -> None:
    """Boxes and masks of 80 classes, and persons with keypoints."""
    groups = (
        ("coco", "coco", "instances", {**_COCO_2014, **_COCO_2017}),
        ("coco", "coco", "image_info", _COCO_UNLABELLED),
        ("keypoints_coco", "coco_person", "person_keypoints", {**_COCO_2014, **_COCO_2017}),
    )
    for prefix, metadata, file_prefix, splits in groups:
        for split, (image_folder, suffix) in splits.items():
            register_coco_instances(
                f"{prefix}_{split}",
                _get_builtin_metadata(metadata),
                os.path.join(root, "coco/annotations", f"{file_prefix}_{suffix}.json"),
                os.path.join(root, "coco", image_folder),
            )


def register_all_pascal_voc(root: str) -> None:
    for year, splits in ((2007, ("trainval", "train", "val", "test")), (2012, ("trainval", "train", "val"))):
        for split in splits:
            name = f"voc_{year}_{split}"
            register_pascal_voc(name, os.path.join(root, f"VOC{year}"), split, year)
            MetadataCatalog.get(name).evaluator_type = "pascal_voc"


_root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
register_all_coco(_root)
register_all_pascal_voc(_root)
