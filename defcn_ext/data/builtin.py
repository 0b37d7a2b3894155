"""The data sets of this project's configs, under $DETECTRON2_DATASETS (default ./datasets; see datasets/README.md)."""

import os

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances

# name -> (json, image folder), relative to the root of the data sets
PREDEFINED = {
    "quick_train": ("quick/train.json", "quick/images"),
    "quick_val": ("quick/val.json", "quick/images"),
    "bccd_train": ("bccd/train.json", "bccd/images"),
    "bccd_val": ("bccd/val.json", "bccd/images"),
}


def register_all(root: str) -> None:
    """Registers what PREDEFINED names; files are read when a data set is first used. Known names are left alone."""
    for name, (json_file, images) in PREDEFINED.items():
        if name not in DatasetCatalog:
            register_coco_instances(name, {}, os.path.join(root, json_file), os.path.join(root, images))


register_all(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
