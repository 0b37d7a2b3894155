"""The data sets of this project's configs, under $DETECTRON2_DATASETS (default ./datasets; see datasets/README.md)."""

import os

from defcn_ext.data.crowdhuman import OFFICIAL_IMAGES, register_crowdhuman
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances

# name -> (json, image folder), relative to the root of the data sets
PREDEFINED = {
    "quick_train": ("quick/train.json", "quick/images"),
    "quick_val": ("quick/val.json", "quick/images"),
    "bccd_train": ("bccd/train.json", "bccd/images"),
    "bccd_val": ("bccd/val.json", "bccd/images"),
}
# folder of train and val in CrowdHuman's own layout -> (prefix of the two names, how many images they must have)
CROWDHUMAN = {"CrowdHuman": ("crowdhuman", OFFICIAL_IMAGES), "quick_crowd": ("quick_crowd", {})}


def register_all(root: str) -> None:
    """Registers all of them; files are read when a data set is first used. Known names are left alone."""
    for name, (json_file, images) in PREDEFINED.items():
        if name not in DatasetCatalog:
            register_coco_instances(name, {}, os.path.join(root, json_file), os.path.join(root, images))
    for folder, (prefix, expected) in CROWDHUMAN.items():
        for split in ("train", "val"):
            if f"{prefix}_{split}" not in DatasetCatalog:
                odgt = os.path.join(root, folder, f"annotation_{split}.odgt")
                images = os.path.join(root, folder, "Images")
                register_crowdhuman(f"{prefix}_{split}", odgt, images, expected.get(split))


register_all(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
