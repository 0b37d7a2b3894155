"""The code bases whose weights can be read, a module each; their order is the order in which names are asked."""

from . import mmdet, onenet, adelaidet, torchvision_detectors, cvpods, detectron2_zoo  # isort: skip
from .registry import SOURCES, Detected, Renamed, Source, is_classifier, register_source, rename, which_source

__all__ = [
    "SOURCES",
    "Detected",
    "Renamed",
    "Source",
    "adelaidet",
    "cvpods",
    "detectron2_zoo",
    "is_classifier",
    "mmdet",
    "onenet",
    "register_source",
    "rename",
    "torchvision_detectors",
    "which_source",
]
