"""Whole detectors, and the registry that `MODEL.META_ARCHITECTURE` looks into."""

from .build import META_ARCH_REGISTRY, build_model
from .dense_detector import DenseDetector
from .fcos import FCOS
from .retinanet import RetinaNet

__all__ = ["META_ARCH_REGISTRY", "build_model", "DenseDetector", "FCOS", "RetinaNet"]
