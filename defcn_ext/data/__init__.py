"""Data: registration, cleaning, mapping and loading. Importing it registers the data sets of this project's configs."""

from defcn_ext.data import builtin  # noqa: F401  (registers)
from defcn_ext.data.augmentation import build_train_augmentation
from defcn_ext.data.cleaning import clean_dataset_dicts
from defcn_ext.data.coco_json import load_coco
from defcn_ext.data.config import add_data_config
from defcn_ext.data.headers import probe_headers
from defcn_ext.data.loaders import build_test_loader, build_train_loader
from defcn_ext.data.mapper import RobustMapper
from defcn_ext.data.pixels import UnreadableImageError
from defcn_ext.data.register import check_num_classes, register_from_config

__all__ = [
    "RobustMapper",
    "UnreadableImageError",
    "add_data_config",
    "build_test_loader",
    "build_train_augmentation",
    "build_train_loader",
    "check_num_classes",
    "clean_dataset_dicts",
    "load_coco",
    "probe_headers",
    "register_from_config",
]
